"""The files of an export: their names, their bytes, and the manifest that commits them. Pure: no I/O.

Names follow from the logical interval and bytes from the rows, so that a repeated run writes the same files again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from importlib import import_module
from io import BytesIO
from typing import Any, Literal, Self

from pydantic import TypeAdapter, ValidationError

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.times import aware_time
from airflow_provider_dstny.export.tables import Row, Table, import_pyarrow, json_text

Format = Literal["jsonl", "parquet"]

#: What Hive, Spark, DuckDB and others read as no value.
_NO_DAY = "__HIVE_DEFAULT_PARTITION__"
#: Of manifests; another version is refused.
_VERSION = 1


def interval_name(start: datetime, end: datetime) -> str:
    """Return the name of an interval: ``20261120T100000Z-20261120T110000Z``, UTC, with microseconds if it has some.

    :raises DstnyValidationError: a time has no timezone, or the end is before the start.
    """
    first, last = aware_time("start", start), aware_time("end", end)
    if first is None or last is None or last < first:
        raise DstnyValidationError(None, "An interval must have a start and an end, and must not end before it starts.")
    return f"{_compact(first)}-{_compact(last)}"


def table_path(table: Table, day: date | None, interval: str, file_format: Format) -> str:
    """Return the path of a file of a table: ``conversations/date=2026-11-20/<interval>.parquet``.

    :param day: the UTC day on which the conversations took place, None if it is not known; of a table of the
        directory the day that the snapshot is of.
    """
    return f"{table.name}/date={_NO_DAY if day is None else day.isoformat()}/{interval}.{file_format}"


def raw_path(interval: str, part: int) -> str:
    """Return the path of a file of raw answers: ``raw/conversations/<interval>/part-00001.jsonl``, counted from 1."""
    return f"raw/conversations/{interval}/part-{part:05d}.jsonl"


def raw_bytes(answers: Iterable[Any]) -> bytes:
    """Return answers as JSON Lines, in their order and with their fields in the order of the API."""
    return _lines(answers)


def table_bytes(table: Table, rows: Iterable[Row], file_format: Format) -> bytes:
    """Return rows as a file, sorted by their keys: the same rows are the same bytes, in whatever order they come.

    JSON Lines have every column in every row, and times as ISO 8601. Parquet is the same within a version of pyarrow.

    :raises DstnyValidationError: pyarrow is needed and not installed.
    """
    ordered = sorted(rows, key=_order(table))
    return _lines(ordered) if file_format == "jsonl" else _parquet(table, ordered)


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that was written.

    :param table: its table, or ``raw``.
    :param sha256: of its bytes, hex.
    :param bytes: its size.
    """

    path: str
    table: str
    rows: int
    sha256: str
    bytes: int


def data_file(path: str, table: str, rows: int, content: bytes) -> DataFile:
    """Describe a file by what is in it."""
    return DataFile(path, table, rows, hashlib.sha256(content).hexdigest(), len(content))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a run wrote. It is written last: what no manifest names was never committed.

    :param interval: the name of the interval.
    :param counts: how many of what, for people and for the XCom.
    :param carried_over: conversations that are left to the next run.
    :param requests: requests sent to the API.
    :param version: of this form.
    """

    interval: str
    files: tuple[DataFile, ...]
    counts: Mapping[str, int]
    carried_over: int
    requests: int
    version: int = _VERSION

    def to_json(self) -> str:
        """Return the manifest as JSON that people can read, the same for the same manifest."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a manifest.

        :raises DstnyValidationError: it is no manifest, or one of a version that is not known.
        """
        try:
            told = json.loads(text)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, dict) or "version" not in told:
            raise DstnyValidationError(None, "The manifest cannot be read: it is no JSON object with a version.")
        if told["version"] != _VERSION:
            raise DstnyValidationError(
                None,
                f"The manifest has version {str(told['version'])[:20]}, and this release of airflow-provider-dstny "
                f"reads version {_VERSION} only: use the release that wrote it, or a later one.",
            )
        try:
            return TypeAdapter(cls).validate_json(text, strict=True)
        except ValidationError as error:
            place = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"]))
        raise DstnyValidationError(None, f"The manifest cannot be read: {place} is missing or wrong.")


def _compact(moment: datetime) -> str:
    fraction = f".{moment.microsecond:06d}" if moment.microsecond else ""
    return f"{moment:%Y%m%dT%H%M%S}{fraction}Z"


def _order(table: Table) -> Callable[[Row], Any]:
    def position(row: Row) -> Any:
        # Rows without a key come first. Rows that share one are in the order of their content.
        return [(row[name] is not None, row[name]) for name in table.keys], row["_dstny_hash"]

    return position


def _lines(rows: Iterable[Any]) -> bytes:
    return "".join(f"{json_text(row)}\n" for row in rows).encode()


def _parquet(table: Table, rows: list[Row]) -> bytes:
    schema, file = table.arrow_schema(), BytesIO()
    content = import_pyarrow().Table.from_pylist(rows, schema=schema)
    import_module("pyarrow.parquet").write_table(content, file, compression="zstd")
    return file.getvalue()
