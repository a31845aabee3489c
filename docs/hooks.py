"""What the site takes from files elsewhere in the repository, each of which has one home.

Documents of the root and the example DAGs become pages. Links between files, which work wherever the repository is
browsed, become links between pages.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
#: The page of a wide table has its window for itself.
_WIDE = {"faults.md": "---\nhide:\n  - navigation\n  - toc\n---\n\n"}
#: Which page a file of the repository becomes.
DOCUMENTS = {
    "FAULTS.md": "faults.md",
    "DESIGN.md": "design.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
}
EXAMPLES = {
    path.relative_to(ROOT).as_posix(): f"examples/{path.stem}.md"
    for path in sorted(ROOT.glob("example_dags/example_*.py"))
}
PAGES = {**DOCUMENTS, **EXAMPLES, "README.md#the-simulator": "testing.md#the-simulator", "README.md": "index.md"}
_SOURCES = {page: source for source, page in {**DOCUMENTS, **EXAMPLES}.items()}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_config(config: Any) -> Any:
    for entry in config.nav:
        if "Example DAGs" in entry:
            entry["Example DAGs"] = [{_title(page): page} for page in EXAMPLES.values()]
    return config


def on_files(files: Files, config: Any) -> Files:
    for source, page in DOCUMENTS.items():
        content = _WIDE.get(page, "") + (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=content))
    for source, page in EXAMPLES.items():
        files.append(File.generated(config, page, content=_example(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    own = page.file.src_uri
    source = _SOURCES.get(own, f"docs/{own}")
    return _LINK.sub(lambda match: _linked(match[1], match[2] or "", source, own), markdown)


def _linked(target: str, anchor: str, source: str, own: str) -> str:
    file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    page = PAGES.get(file + anchor) or PAGES.get(file)
    if page is None and file.startswith("docs/"):
        page = file.removeprefix("docs/")
    if page is None:
        return target + anchor
    link = posixpath.relpath(page, posixpath.dirname(own) or ".")
    return link if "#" in link else link + anchor


def _title(page: str) -> str:
    words = Path(page).stem.removeprefix("example_").replace("_", " ")
    return words[0].upper() + words[1:]


def _example(path: Path) -> str:
    """Return a page of an example: what its docstring says, all of its source, and the queries that it reads."""
    source = path.read_text("utf-8")
    told = re.sub("`{2}", "`", ast.get_docstring(ast.parse(source)) or "")
    parts = [f"# {path.stem}", told, f"```python\n{source}```"]
    for query in sorted(path.parent.glob("data/*.sql")):
        if query.name in source:
            parts += [f"`data/{query.name}`:", f"```sql\n{query.read_text('utf-8').strip()}\n```"]
    return "\n\n".join(parts) + "\n"
