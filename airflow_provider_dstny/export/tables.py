"""The tables of an export: what a column, a table and a row are. Pure: no I/O.

What an API says beyond the columns is kept in ``extra``, and so is what does not fit the type of its column: no answer
breaks a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from importlib import import_module
from math import isfinite
from typing import Any, TypeAlias

import msgspec

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.models.base import listed
from airflow_provider_dstny.api.times import aware_time, iso_time, utc_time

#: Values by column, in the order of the columns; times are datetimes in UTC.
Row: TypeAlias = dict[str, Any]
#: Names of fields, from the outermost to the innermost.
Path: TypeAlias = tuple[str, ...]

#: Hex digits of a hash: 128 bits, so that no two rows of a lake share one by chance.
_HASH_LENGTH = 32
#: Whole numbers beyond are not exact as JSON numbers.
_LARGEST_INTEGER = 2**53


class Type(StrEnum):
    """What a column holds. ``TEXT`` is stripped, and never blank; ``TIME`` is UTC, in microseconds."""

    TEXT = "text"
    NUMBER = "number"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    TIME = "time"

    def read(self, value: Any) -> Any:
        """Return a value of an answer as the column holds it, None if it does not fit."""
        return _READERS[self](value)


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    :param sources: where an answer may have its value, the likeliest first.
    :param said: it holds what people said or wrote.
    """

    name: str
    type: Type
    sources: tuple[Path, ...] = ()
    said: bool = False

    def found(self, item: Any) -> list[tuple[Path, Any]]:
        """Return the places of an item that have something for this column, whether it fits or not."""
        if not isinstance(item, dict):
            return []
        return [(path, value) for path in self.sources if (value := _at(item, path)) is not None]

    def read(self, item: Any) -> Any:
        """Return the first value that fits, None if there is none."""
        fitting = (self.type.read(value) for _, value in self.found(item))
        return next((value for value in fitting if value is not None), None)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where rows come from.

    :param synced_at: the end of the logical interval, so that a repeated run writes the same; timezone-aware.
    :param source: connection id or API.
    :param run_id: the name of the interval.
    :raises DstnyValidationError: the time has no timezone.
    """

    synced_at: datetime
    source: str
    run_id: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "synced_at", aware_time("synced_at", self.synced_at))


@dataclass(frozen=True, slots=True)
class Table:
    """A table.

    :param keys: the columns that tell its rows from each other.
    :param fields: its own columns; ``extra`` and those that begin with ``_dstny_`` follow in every table.
    """

    name: str
    keys: tuple[str, ...]
    fields: tuple[Column, ...]
    # What is looked up for every row of millions.
    _plan: tuple[tuple[str, Callable[[Any], Any], tuple[Path, ...]], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        plan = tuple((column.name, _READERS[column.type], column.sources) for column in self.fields)
        object.__setattr__(self, "_plan", plan)

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, in the order of files."""
        return (*self.fields, *_LAST_COLUMNS)

    def arrow_schema(self) -> Any:
        """Return the columns as a ``pyarrow.Schema``.

        :raises DstnyValidationError: pyarrow is not installed.
        """
        types = arrow_types()
        return import_pyarrow().schema([(column.name, types[column.type]) for column in self.columns])

    def row(self, item: Any, stamp: Stamp, **known: Any) -> Row:
        """Return the row of one item of an answer.

        :param known: values of columns that the item does not tell, as the columns hold them.
        """
        shown: Row = {}
        taken: set[Path] = set()
        for name, read, sources in self._plan:
            is_known, kept = name in known, known.get(name)
            for path in sources if isinstance(item, dict) else ():
                # Most are not there at all, and few are further inside.
                value = item.get(path[0])
                if value is not None and len(path) > 1:
                    value = _at(item, path)
                if value is None:
                    continue
                fitting = read(value)
                if kept is None and not is_known:
                    kept = fitting
                # Of two fields that may fill a column, the one that did not stays, unless it says the same.
                if value == "" or (fitting is not None and fitting == kept):
                    taken.add(path)
            shown[name] = kept
        content = {**shown, "extra": _extra(item, taken)}
        return {
            **content,
            "_dstny_synced_at": stamp.synced_at,
            "_dstny_source": stamp.source,
            "_dstny_run_id": stamp.run_id,
            "_dstny_hash": hashlib.sha256(row_text(content).encode()).hexdigest()[:_HASH_LENGTH],
        }

    def without_text(self, item: Any) -> dict[str, Any]:
        """Return the fields of an item that fit a column, and hold nothing that people said or wrote."""
        kept: dict[str, Any] = {}
        for column in (one for one in self.fields if not one.said):
            for path, value in column.found(item):
                if column.type.read(value) is not None:
                    place = kept
                    for name in path[:-1]:
                        place = place.setdefault(name, {})
                    place[path[-1]] = value
        return kept


def _at(item: dict[str, Any], path: Path) -> Any:
    """Return what an item has at a path, None if nothing."""
    value = item.get(path[0])
    for name in path[1:]:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def column(name: str, type_: Type, *sources: str, said: bool = False) -> Column:
    """Return a column; ``sources`` are dotted, and its own name if there are none."""
    return Column(name, type_, tuple(tuple(source.split(".")) for source in sources or (name,)), said)


CONVERSATION_ID = Column("conversation_id", Type.TEXT)
# Not called date: that is the name of the partitions, and readers of both would see only one.
OCCURRED_AT = Column("occurred_at", Type.TIME)
POSITION = Column("position", Type.INTEGER)
DELETED = Column("deleted", Type.BOOLEAN)


def part_table(name: str, *fields: Column) -> Table:
    """Return a table of what a conversation has in order; its rows are what :func:`part_rows` makes."""
    return Table(name, (CONVERSATION_ID.name, POSITION.name), (CONVERSATION_ID, OCCURRED_AT, POSITION, *fields))


def part_rows(table: Table, items: Iterable[Any], conversation: Row, stamp: Stamp) -> list[Row]:
    """Return the rows of the items of a conversation; positions count from 0.

    :param conversation: its row of ``conversations``.
    """
    ids = {one.name: conversation[one.name] for one in (CONVERSATION_ID, OCCURRED_AT)}
    return [table.row(item, stamp, **ids, position=position) for position, item in enumerate(items)]


def fields_of(*places: tuple[Path, Table]) -> frozenset[Path]:
    """Return where an answer may have something for the columns of tables.

    :param places: where the answer has the items of a table, and the table.
    """
    return frozenset((*place, *path) for place, table in places for column in table.fields for path in column.sources)


_LAST_COLUMNS = (
    Column("extra", Type.TEXT),
    Column("_dstny_synced_at", Type.TIME),
    Column("_dstny_source", Type.TEXT),
    Column("_dstny_run_id", Type.TEXT),
    Column("_dstny_hash", Type.TEXT),
)

#: By whether keys are sorted.
_ENCODERS = {False: msgspec.json.Encoder(), True: msgspec.json.Encoder(order="deterministic")}
#: Rows repeat the time of their conversation, and all that of their run. All are UTC.
_time_text = lru_cache(maxsize=64)(iso_time)


def row_text(row: Mapping[str, Any]) -> str:
    """Return a row as one line of JSON: :func:`json_text`, with times as the APIs write them."""
    return json_text({name: _time_text(value) if isinstance(value, datetime) else value for name, value in row.items()})


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """Return JSON as one line that can be written as UTF-8.

    Half a surrogate pair is kept as its escape. NaN and infinity, which JSON does not have, become null.

    :raises RecursionError: it is nested deeper than Python can follow.
    """
    with suppress(UnicodeEncodeError):
        return _ENCODERS[sort_keys].encode(value).decode()
    # Only the standard library takes half a surrogate pair.
    whole = json.loads(json.dumps(value), parse_constant=lambda _: None)
    text = json.dumps(whole, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)
    return text.encode("utf-8", "backslashreplace").decode()


def import_pyarrow() -> Any:
    """Return pyarrow, which is an extra and slow to import.

    :raises DstnyValidationError: it is not installed.
    """
    try:
        return import_module("pyarrow")
    except ImportError:
        raise DstnyValidationError(
            None, "Parquet needs pyarrow: pip install 'airflow-provider-dstny[parquet]', or use JSONL."
        ) from None


def arrow_types() -> dict[Type, Any]:
    """Return what types of columns are in pyarrow.

    :raises DstnyValidationError: it is not installed.
    """
    arrow = import_pyarrow()
    return {
        Type.TEXT: arrow.string(),
        Type.NUMBER: arrow.float64(),
        Type.INTEGER: arrow.int64(),
        Type.BOOLEAN: arrow.bool_(),
        Type.TIME: arrow.timestamp("us", tz="UTC"),
    }


def lists_apart(item: Any, *names: str) -> tuple[Any, dict[str, list[Any]]]:
    """Return an item without the lists that have tables of their own, and these lists; what is no list stays."""
    lists = {name: listed(item, name) for name in names}
    if not isinstance(item, dict):
        return item, lists
    return {name: value for name, value in item.items() if name not in names or not isinstance(value, list)}, lists


def _extra(item: Any, taken: Collection[Path]) -> str | None:
    """Return what the columns did not take, as JSON; None if they took everything."""
    left = _without(item, taken) if isinstance(item, dict) else item
    try:
        return json_text(left, sort_keys=True) if left not in (None, {}) else None
    except RecursionError:
        # Nobody nests like this but to break something.
        return None


def _without(item: dict[str, Any], taken: Collection[Path]) -> dict[str, Any]:
    """Return an item without some of its fields, without nulls, and without objects of which nothing is left."""
    left = {}
    for name, value in item.items():
        if value is None or (name,) in taken:
            continue
        below = {path[1:] for path in taken if path[0] == name}
        remainder = _without(value, below) if below else value
        if remainder != {} or not below:
            left[name] = remainder
    return left


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    text = str(value)
    if not text.isascii():
        # Half a surrogate pair is no character, and can be written neither as UTF-8 nor to Parquet.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text.strip() or None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    if number is None or not number.is_integer() or abs(number) > _LARGEST_INTEGER:
        return None
    return int(number)


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


_READERS: Mapping[Type, Callable[[Any], Any]] = {
    Type.TEXT: _text,
    Type.NUMBER: _number,
    Type.INTEGER: _integer,
    Type.BOOLEAN: _boolean,
    Type.TIME: utc_time,
}
