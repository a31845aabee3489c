"""Files in object storage: rows in, rows out, and never a half file under its final name."""

from __future__ import annotations

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_dstny.api.errors import DstnyValidationError

if TYPE_CHECKING:
    from types import TracebackType

    from airflow.providers.common.compat.sdk import ObjectStoragePath

_PARTIAL = re.compile(r"\..+\.[0-9a-f]{12}\.partial")
#: No task writes one file for longer.
_LEFTOVER_AGE = timedelta(days=2)
#: One row of a file, counted from 1.
ROW_REFERENCE = re.compile(r"(?P<path>.+\.(?i:csv|jsonl))#(?P<row>[1-9]\d{0,8})")
#: What a name of a field looks like; another may be a value of a file that has lost its header.
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]{0,40}")
_DOCUMENTS = {".json": "JSON", ".yaml": "YAML", ".yml": "YAML"}


class _ProblemError(Exception):
    """What is wrong with a file; nothing of its values."""


def storage_path(path: str | ObjectStoragePath) -> ObjectStoragePath:
    """Return a path as an ObjectStoragePath: local, ``s3://``, ``gs://`` and what else Airflow knows.

    Its own methods may ask another file system than ``.fs``, with listings of its own: use the functions below.

    :raises DstnyValidationError: nothing is installed for the scheme of the path.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        target = ObjectStoragePath(path)
        target.fs  # noqa: B018 - resolves the scheme
    except (ValueError, TypeError, ImportError) as error:
        raise DstnyValidationError(None, f"The path {path!r} cannot be used: {error}.") from None
    if not str(path).strip():
        raise DstnyValidationError(None, "The path is empty.")
    with suppress(AttributeError):
        # A listing that is kept does not show what other tasks write.
        target.fs.dircache.use_listings_cache = False
    target.fs.invalidate_cache()
    return target


def storage_folder(path: str | ObjectStoragePath) -> ObjectStoragePath:
    """Return the path of a folder, which need not exist, after removing what killed tasks left in it.

    :raises DstnyValidationError: it is a file, or nothing is installed for its scheme.
    """
    folder = storage_path(path)
    if folder.fs.isfile(folder.path):
        raise DstnyValidationError(None, f"{path} is a file; it must be a folder.")
    remove_leftovers(folder)
    return folder


def exists(path: ObjectStoragePath) -> bool:
    return bool(path.fs.exists(path.path))


def read_bytes(path: ObjectStoragePath) -> bytes:
    """Return what a file holds.

    :raises FileNotFoundError: there is none.
    """
    content: bytes = path.fs.cat_file(path.path)
    return content


def files_in(folder: ObjectStoragePath) -> dict[str, dict[str, Any]]:
    """Return the files in a folder by name, each with what the storage tells of it; none if there is no folder."""
    try:
        found = folder.fs.ls(folder.path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {info["name"].rstrip("/").rpartition("/")[2]: info for info in found if info["type"] == "file"}


def remove_file(path: ObjectStoragePath) -> None:
    """Remove a file if it is there."""
    with suppress(FileNotFoundError):
        # Others of its kind take a name for a pattern.
        path.fs.rm_file(path.path)


def remove_folder(folder: ObjectStoragePath) -> None:
    """Remove the files in a folder, and the folder if it is a thing."""
    for name in files_in(folder):
        remove_file(folder / name)
    if is_local(folder):
        with suppress(OSError):
            os.rmdir(folder.path)


def remove_leftovers(folder: ObjectStoragePath) -> None:
    """Remove partial files that nobody can be writing any more. What cannot be looked at or removed stays."""
    oldest = datetime.now(UTC) - _LEFTOVER_AGE
    # Storages have errors of their own.
    with suppress(Exception):
        for name in files_in(folder):
            file = folder / name
            if _PARTIAL.fullmatch(name) and file.fs.modified(file.path) < oldest:
                remove_file(file)


def is_local(path: ObjectStoragePath) -> bool:
    """Tell whether a path is on this machine, where folders are things and files can be renamed."""
    return "file" in (path.fs.protocol if isinstance(path.fs.protocol, tuple) else (path.fs.protocol,))


class PartialFile:
    """A file on its way, under a hidden name of its own until it is kept, so that two tasks never write into one.

    A context manager: what is not kept is removed.

    :param folder: created if it does not exist.
    :param workshop: where the partial file is, if not in the folder itself; in the same file system.
    """

    def __init__(self, folder: ObjectStoragePath, name: str, workshop: ObjectStoragePath | None = None) -> None:
        self._folder = folder
        self._workshop = workshop or folder
        self._path = self._workshop / f".{name}.{token_hex(6)}.partial"
        self._bytes: Any = None
        self._kept = False

    def __enter__(self) -> Self:
        self.restart()
        return self

    def write(self, piece: bytes) -> int:
        return int(self._bytes.write(piece))

    def restart(self) -> None:
        """Forget what was written."""
        if self._bytes is not None:
            self._bytes.close()
        try:
            self._bytes = self._path.fs.open(self._path.path, "wb")
        except FileNotFoundError:
            # Where folders are things. In an object store, this would create a bucket that is misspelt.
            self._path.fs.makedirs(self._workshop.path, exist_ok=True)
            self._bytes = self._path.fs.open(self._path.path, "wb")

    def keep_as(self, name: str) -> ObjectStoragePath:
        """Give the whole file its name and return its path."""
        target = self._folder / name
        self._bytes.close()
        if is_local(target):
            os.makedirs(self._folder.path, exist_ok=True)
            os.replace(self._path.path, target.path)
        else:
            # What moves takes names for patterns, and may put the file into what it takes for a folder.
            self._path.fs.cp_file(self._path.path, target.path)
            self._path.fs.rm_file(self._path.path)
        self._kept = True
        return target

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            # What made the task fail must not be hidden by what cleaning up meets; storages have errors of their own.
            with suppress(Exception):
                self._bytes.close()
                self._path.fs.rm_file(self._path.path)


def write_jsonl(path: str | ObjectStoragePath, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON Lines and return their number. The file appears whole or not at all.

    :raises DstnyValidationError: the path is a folder, or nothing is installed for its scheme.
    """
    target = storage_path(path)
    if target.fs.isdir(target.path):
        raise DstnyValidationError(None, f"{path} is a folder; it must be a file.")
    remove_leftovers(target.parent)
    count = 0
    with PartialFile(target.parent, target.name) as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, default=str) + "\n"
            # Text of an API may hold half a surrogate pair; its escape is valid JSON.
            file.write(line.encode("utf-8", "backslashreplace"))
            count += 1
        file.keep_as(target.name)
    return count


def read_jsonl(path: str | ObjectStoragePath) -> list[Any]:
    """Return the rows of a JSON Lines file, none if there is no such file.

    :raises DstnyValidationError: the path is a folder, or the file is not JSON Lines.
    """
    target = storage_path(path)
    return [row for row, _ in _rows(target)] if exists(target) else []


def count_rows(path: str | ObjectStoragePath) -> int:
    """Return the number of rows of a ``.csv`` or ``.jsonl`` file.

    :raises DstnyValidationError: there is no such file, or it cannot be read as what it is called.
    """
    return sum(1 for _ in _rows(storage_path(path)))


def read_rows(path: str | ObjectStoragePath) -> list[Any]:
    """Return the rows of a ``.csv`` or ``.jsonl`` file, or the list that a ``.json`` or ``.yaml`` file is.

    Cells of a CSV file are text, and an empty cell is no value.

    :raises DstnyValidationError: there is no such file, or it cannot be read as what it is called.
    """
    file = storage_path(path)
    suffix = file.suffix.lower()
    if suffix not in {".csv", ".jsonl", *_DOCUMENTS}:
        raise DstnyValidationError(None, f"{path} must end in .csv, .jsonl, .json, .yaml or .yml.")
    rows = _read_document(file) if suffix in _DOCUMENTS else [row for row, _ in _rows(file)]
    for number, row in enumerate(rows, 1):
        _refuse_nul(row, f"{path} row {number}")
    return rows


def read_row(reference: str) -> dict[str, Any]:
    """Read one row: ``<path>.csv#<row>`` or ``<path>.jsonl#<row>``, counted from 1.

    Cells of a CSV file are text, and an empty cell is no value.

    :raises DstnyValidationError: the reference has another form, or there is no such file or row.
    """
    match = ROW_REFERENCE.fullmatch(reference)
    if match is None:
        raise DstnyValidationError(
            None, "call is not the row of a file: it must be like s3://bucket/calls.csv#1, counted from 1."
        )
    rows = _rows(storage_path(match["path"]))
    row, number = next(islice(rows, int(match["row"]) - 1, None), (None, 0))
    if not number:
        raise DstnyValidationError(None, f"{match['path']} has no row {match['row']}.")
    return check_row(row, f"{reference} (line {number})")


def iter_rows(path: str | ObjectStoragePath) -> Iterator[Any]:
    """Yield the rows of a ``.csv`` or ``.jsonl`` file, which is read as they are asked for.

    Cells of a CSV file are text, and an empty cell is no value. See :func:`check_row` for what may be wrong with one.

    :raises DstnyValidationError: there is no such file, or it cannot be read as what it is called.
    """
    file = storage_path(path)
    if file.suffix.lower() not in {".csv", ".jsonl"}:
        raise DstnyValidationError(None, f"{path} must end in .csv or .jsonl.")
    for row, _ in _rows(file):
        yield row


def check_row(row: Any, where: str) -> dict[str, Any]:
    """Return a row that is an object whose texts can be sent.

    :raises DstnyValidationError: it is not, in words that begin with ``where``.
    """
    if not isinstance(row, dict):
        raise DstnyValidationError(None, f"{where} is not an object.")
    if None in row:
        raise DstnyValidationError(None, f"{where} has more cells than the header has names.")
    _refuse_nul(row, where)
    return row


def _refuse_nul(row: Any, where: str) -> None:
    # An escape may be what stands for it.
    waiting, seen = [row], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and "\0" in value:
            raise DstnyValidationError(None, f"{where} has a NUL character.")
        if isinstance(value, Mapping | list) and id(value) not in seen:
            # An anchor of YAML may lead to itself.
            seen.add(id(value))
            waiting += value if isinstance(value, list) else [*value, *value.values()]


def _table(lines: Iterable[str]) -> csv.DictReader[str]:
    table = csv.DictReader(lines)
    header = [name.strip() for name in table.fieldnames or ()]
    if len(header) == 1 and ";" in header[0]:
        raise _ProblemError("has one column only: its cells must be separated by commas, not by semicolons")
    if twice := [name for name, count in Counter(header).items() if name and count > 1]:
        raise _ProblemError(f"has columns of the same name: {', '.join(map(_name_shown, twice))}")
    table.fieldnames = header
    return table


def _name_shown(name: object) -> str:
    return str(name) if _FIELD_NAME.fullmatch(str(name)) else "***"


def _rows(path: ObjectStoragePath) -> Iterator[tuple[Any, int]]:
    """Yield each row with the number of its line."""
    line, is_csv = 0, path.suffix.lower() == ".csv"
    try:
        with path.fs.open(path.path, "r", encoding="utf-8-sig", newline="") as lines:
            if is_csv:
                table = _table(lines)
                for cells in table:
                    line = table.line_num
                    yield {name: cell for name, cell in cells.items() if cell and (name is None or cell.strip())}, line
                return
            for line, text in enumerate(lines, 1):
                if text.strip():
                    yield json.loads(text), line
            return
    except FileNotFoundError:
        problem = "does not exist"
    except (IsADirectoryError, NotADirectoryError):
        problem = "is not a file"
    except UnicodeDecodeError:
        problem = f"is not UTF-8 after line {line}"
    except _ProblemError as error:
        problem = str(error)
    except (ValueError, RecursionError, csv.Error):
        problem = f"cannot be read {'' if is_csv else 'as JSON Lines '}at line {max(line, 1)}"
    # Raised here, because those errors carry the text of the file.
    raise DstnyValidationError(None, f"{path} {problem}.")


def _read_document(path: ObjectStoragePath) -> list[Any]:
    # Comes with Airflow.
    import yaml

    kind = _DOCUMENTS[path.suffix.lower()]
    try:
        text = read_bytes(path).decode("utf-8-sig")
        document = json.loads(text) if kind == "JSON" else _load_yaml(text)
    except FileNotFoundError:
        problem = "does not exist"
    except (IsADirectoryError, NotADirectoryError):
        problem = "is not a file"
    except UnicodeDecodeError:
        problem = "is not UTF-8"
    except _ProblemError as error:
        problem = str(error)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        line = getattr(error, "lineno", 0) if line is None else line + 1
        problem = f"cannot be read as {kind}{f' at line {line}' if line else ''}"
    else:
        if isinstance(document, list):
            return document
        problem = "must be a list of objects"
    # Raised here, because those errors carry the text of the file.
    raise DstnyValidationError(None, f"{path} {problem}.")


def _load_yaml(text: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Refuses keys that are there twice, of which YAML takes the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            # A merge may stand there more than once.
            if twice := [name for name, count in names.items() if count > 1 and name != "<<"]:
                at = node.start_mark.line + 1
                raise _ProblemError(f"has keys of the same name at line {at}: {', '.join(map(_name_shown, twice))}")
            return super().construct_mapping(node, deep)

    return yaml.load(text, Loader)  # noqa: S506 - derived from the safe one
