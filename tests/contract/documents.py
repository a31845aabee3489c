"""The README and the pages of ``docs``: their blocks of code, their commands, their links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md", "DESIGN.md", "FAULTS.md")] + sorted(
    ROOT.glob("docs/**/*.md")
)
_FENCE = re.compile(r"(?P<indent>\s*)```(?P<kind>\S*)\s*$")
_LINK = re.compile(r"\]\((?![a-z]+:)(?P<file>[^)\s#]*)(?:#(?P<anchor>[^)\s]*))?\)")


@dataclass(frozen=True)
class Block:
    """A block of code.

    :param page: below the root.
    :param kind: what stands behind the fence.
    """

    page: str
    line: int
    kind: str
    source: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(path: Path) -> Iterator[Block]:
    """Yield the blocks of a page. One that is indented is of a kind of its own, since not every renderer takes it."""
    opened: Block | None = None
    lines: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        fence = _FENCE.match(line)
        if opened is None and fence:
            kind = "indented" if fence["indent"] else fence["kind"] or "nothing"
            opened, lines = Block(path.relative_to(ROOT).as_posix(), number, kind, ""), []
        elif opened is not None and fence:
            yield Block(opened.page, opened.line, opened.kind, "".join(f"{one}\n" for one in lines))
            opened = None
        elif opened is not None:
            lines.append(line)
    assert opened is None, f"{opened} does not end"


#: The map of the modules in DESIGN.md is no code.
BLOCKS = [block for page in PAGES if page.name != "DESIGN.md" for block in blocks_of(page)]


def of_kind(*kinds: str) -> list[Block]:
    return [block for block in BLOCKS if block.kind in kinds]


def commands_of(source: str) -> Iterator[list[str]]:
    """Yield the commands of a shell block as words, comments left out."""
    pending = ""
    for line in source.splitlines():
        pending += line
        if pending.endswith("\\"):
            pending = pending[:-1] + " "
            continue
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:
            # A quotation goes on in the next line.
            pending += "\n"
            continue
        if words:
            yield words
        pending = ""
    assert not pending, f"does not end: {pending}"


def prose_of(path: Path) -> str:
    """Return a page without its blocks."""
    return re.sub(r"(?ms)^```.*?^```$", "", path.read_text("utf-8"))


def links_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the relative links of a page: file and anchor."""
    for match in _LINK.finditer(prose_of(path)):
        yield match["file"], match["anchor"] or ""


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts and the site make them."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose_of(path))
    return {re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}
