"""Docstrings as Markdown: the few things of reStructuredText that they use are written as Markdown has them."""

from __future__ import annotations

import re
import textwrap
from typing import Any

from griffe import Extension, Object

_BLOCK = re.compile(r"(?m)^( *)(?:\.\. code-block:: (\w+)|(.*\S)::)\n\n((?:\1 +.*\n?|\n)+)")
_ROLE = re.compile(r":(?:class|func|meth|mod):`~?([^`]+)`")


class Markdown(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    text = _ROLE.sub(lambda match: f"`{match[1].rpartition('.')[2]}`", text)
    return _BLOCK.sub(_fenced, text)


def _fenced(match: re.Match[str]) -> str:
    indent, language, sentence, body = match[1], match[2] or "text", match[3], match[4]
    code = textwrap.indent(textwrap.dedent(body).strip("\n"), indent)
    before = f"{indent}{sentence}:\n\n" if sentence else ""
    return f"{before}{indent}```{language}\n{code}\n{indent}```\n\n"
