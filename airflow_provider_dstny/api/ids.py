"""Ids of users' input: checked before anything is sent, and encoded into paths."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from airflow_provider_dstny.api.errors import DstnyValidationError

#: Ids that a message names.
_NAMED = 10
#: What Python's lists, dicts and None look like as text, and ids never do.
_RENDERED = re.compile(r"""[\[\]{}'",]|^\s*None\s*$""")


def encode_id(value: object, name: str) -> str:
    """Percent-encode one id for use as a single path segment.

    :raises DstnyValidationError: the id is empty, a dot segment, or neither a string nor an integer.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise DstnyValidationError(None, f"{name} must be a string or an integer, not {type(value).__name__}.")
    text = str(value).strip()
    if text in {"", ".", ".."}:
        raise DstnyValidationError(None, f"{name} is empty or not an id.")
    try:
        return quote(text, safe="")
    except UnicodeEncodeError:
        raise DstnyValidationError(None, f"{name} has characters that cannot be sent.") from None


def unique_ids(values: object, name: str) -> list[str]:
    """Return one id or many as a list of strings, in order, each once. None at all is an empty list.

    :raises DstnyValidationError: an id is neither a string nor an integer, or no id at all.
    """
    if isinstance(values, (str, int)):
        values = [values]
    if not isinstance(values, Iterable):
        raise DstnyValidationError(None, f"{name} must be an id or a list of ids, not {type(values).__name__}.")
    if isinstance(values, (bytes, bytearray, Mapping)):
        raise DstnyValidationError(None, f"{name} must be an id or a list of ids, not {type(values).__name__}.")
    ids = list(values)
    for one in ids:
        encode_id(one, name)
        if _RENDERED.search(str(one)):
            raise DstnyValidationError(
                None,
                f"{name} has {str(one)[:40]!r}, which is no id but a list or a None that a template rendered to text: "
                "set render_template_as_native_obj=True on the DAG, or give the output of the task itself.",
            )
    return list(dict.fromkeys(str(one).strip() for one in ids))


def some_of(ids: Sequence[str]) -> str:
    """Return the first ids, as text for a message."""
    return ", ".join(ids[:_NAMED]) + (" …" if len(ids) > _NAMED else "")
