"""The files of an export: their names, their bytes, and the manifest that commits them. Pure: no I/O.

Names follow from the logical interval and bytes from the rows, so that a repeated run writes the same files again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from typing import Any, BinaryIO, Literal, Self

from pydantic import TypeAdapter, ValidationError

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.times import aware_time
from airflow_provider_dstny.export.tables import Row, Table, import_pyarrow, json_text, row_text

Format = Literal["jsonl", "parquet"]

#: What Hive, Spark, DuckDB and others read as no value.
_NO_DAY = "__HIVE_DEFAULT_PARTITION__"
#: Of manifests; another version is refused.
_VERSION = 1
#: Rows that are held as Python objects before they become columns, and rows of a group of a Parquet file.
_BATCH, _GROUP = 500, 2_000


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


def json_lines(rows: Iterable[Any]) -> Iterator[bytes]:
    """Yield JSON Lines: values in their order, with their fields as they stand."""
    return (f"{json_text(row)}\n".encode() for row in rows)


class TableFile:
    """Rows on their way to a file, which is written as they come.

    JSON Lines have every column in every row, and times as ISO 8601. Parquet is the same within a version of pyarrow.

    :param file: where to write; it is not closed.
    :raises DstnyValidationError: pyarrow is needed and not installed.
    """

    def __init__(self, table: Table, file_format: Format, file: BinaryIO) -> None:
        self.rows = 0
        self._file = file
        self._parquet = _Parquet(table, file) if file_format == "parquet" else None

    def add(self, rows: Iterable[Row]) -> None:
        """Add rows, which come in the order of the table's keys."""
        rows = list(rows)
        self.rows += len(rows)
        if self._parquet is not None:
            self._parquet.add(rows)
        else:
            self._file.writelines(f"{row_text(row)}\n".encode() for row in rows)

    def finish(self) -> None:
        """Write what is still to be written."""
        if self._parquet is not None:
            self._parquet.finish()


class _Parquet:
    """Writes row groups of one size, so that the same rows are the same bytes."""

    def __init__(self, table: Table, file: BinaryIO) -> None:
        self._arrow = import_pyarrow()
        self._schema = table.arrow_schema()
        self._writer = import_module("pyarrow.parquet").ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[Row] = []
        self._batches: list[Any] = []

    def add(self, rows: Iterable[Row]) -> None:
        self._rows += rows
        while len(self._rows) >= _BATCH:
            self._take_batch()
            if len(self._batches) * _BATCH >= _GROUP:
                self._write_group()

    def finish(self) -> None:
        self._take_batch()
        self._write_group()
        self._writer.close()

    def _take_batch(self) -> None:
        rows, self._rows = self._rows[:_BATCH], self._rows[_BATCH:]
        if rows:
            # Columns take a tenth of the memory of rows.
            self._batches.append(self._arrow.RecordBatch.from_pylist(rows, schema=self._schema))

    def _write_group(self) -> None:
        if self._batches:
            self._writer.write_table(self._arrow.Table.from_batches(self._batches), row_group_size=_GROUP)
            self._batches = []


def table_bytes(table: Table, rows: Iterable[Row], file_format: Format) -> bytes:
    """Return rows as a file, sorted by their keys: the same rows are the same bytes, in whatever order they come.

    :raises DstnyValidationError: pyarrow is needed and not installed.
    """
    content = BytesIO()
    file = TableFile(table, file_format, content)
    file.add(sorted(rows, key=_order(table)))
    file.finish()
    return content.getvalue()


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file that was written.

    :param path: below the folder of the lake.
    :param table: its table, or ``raw``.
    :param sha256: of its bytes, hex.
    :param bytes: its size.
    """

    path: str
    table: str
    rows: int
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a run wrote. It is written last: what no manifest names was never committed.

    :param interval: the name of the interval.
    :param counts: how many of what, for people and for the XCom.
    :param requests: requests sent to the API.
    :param ledger: the file of what became known of conversations, one of its entries per line.
    :param redaction: stands for the rules by which it was redacted.
    :param swept_until: UTC, ISO 8601, if the whole list was read: until when.
    :param listed_until: UTC, ISO 8601, until when the list was read, as a whole or its latest part.
    :param snapshot_of: the UTC day of which it has the directory, if it has: ``2026-11-20``.
    :param file_format: of its tables; None of one that only erased.
    :param version: of this form.
    """

    interval: str
    files: tuple[DataFile, ...]
    counts: dict[str, int]
    requests: int
    ledger: str
    redaction: str
    swept_until: str | None = None
    listed_until: str | None = None
    snapshot_of: str | None = None
    file_format: Format | None = None
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
            return _manifests().validate_json(text, strict=True)  # type: ignore[return-value]
        except ValidationError as error:
            place = ".".join(map(str, error.errors(include_url=False, include_input=False)[0]["loc"]))
        raise DstnyValidationError(None, f"The manifest cannot be read: {place} is missing or wrong.")


@lru_cache(maxsize=1)
def _manifests() -> TypeAdapter[Manifest]:
    """Building one takes longer than reading a hundred manifests."""
    return TypeAdapter(Manifest)


def _compact(moment: datetime) -> str:
    fraction = f".{moment.microsecond:06d}" if moment.microsecond else ""
    return f"{moment:%Y%m%dT%H%M%S}{fraction}Z"


def _order(table: Table) -> Callable[[Row], Any]:
    def position(row: Row) -> Any:
        # Rows without a key come first. Rows that share one are in the order of their content.
        return [(row[name] is not None, row[name]) for name in table.keys], row["_dstny_hash"]

    return position
