"""The tables of an export: their columns, and how answers of the REST API v1 become their rows. Pure: no I/O.

``conversations``, ``participants``, ``transcript_segments`` and ``insights`` come of conversations; ``users``,
``teams``, ``team_members`` and ``departments`` are the directory as it stood. What the API says beyond the columns is
kept in ``extra``, and so is what does not fit the type of its column: no answer breaks a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum
from importlib import import_module
from math import isfinite
from typing import Any, TypeAlias

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.models.base import listed
from airflow_provider_dstny.api.models.transcripts import (
    END_KEYS,
    SPEAKER_KEYS,
    START_KEYS,
    TEXT_KEYS,
    Transcript,
)
from airflow_provider_dstny.api.times import aware_time, iso_time, utc_time

#: Values by column, in the order of the columns; times are datetimes in UTC.
Row: TypeAlias = dict[str, Any]
#: Names of fields, from the outermost to the innermost.
Path: TypeAlias = tuple[str, ...]

#: Hex digits of a hash: 128 bits, so that no two rows of a lake share one by chance.
_HASH_LENGTH = 32
#: Whole numbers beyond are not exact as JSON numbers.
_LARGEST_INTEGER = 2**53


class Type(Enum):
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

    def found(self, item: Any) -> Iterator[tuple[Path, Any]]:
        """Yield the places of an item that have something for this column, whether it fits or not."""
        for path in self.sources:
            value = item
            for name in path:
                value = value.get(name) if isinstance(value, dict) else None
            if value is not None:
                yield path, value

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

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, in the order of files."""
        return (*self.fields, *_LAST_COLUMNS)

    def arrow_schema(self) -> Any:
        """Return the columns as a ``pyarrow.Schema``.

        :raises DstnyValidationError: pyarrow is not installed.
        """
        arrow = import_pyarrow()
        types = {
            Type.TEXT: arrow.string(),
            Type.NUMBER: arrow.float64(),
            Type.INTEGER: arrow.int64(),
            Type.BOOLEAN: arrow.bool_(),
            Type.TIME: arrow.timestamp("us", tz="UTC"),
        }
        return arrow.schema([(column.name, types[column.type]) for column in self.columns])

    def row(self, item: Any, stamp: Stamp, **known: Any) -> Row:
        """Return the row of one item of an answer.

        :param known: values of columns that the item does not tell, as the columns hold them.
        """
        shown = {
            column.name: known[column.name] if column.name in known else column.read(item) for column in self.fields
        }
        content = {**shown, "extra": self._extra(item, shown)}
        return {
            **content,
            "_dstny_synced_at": stamp.synced_at,
            "_dstny_source": stamp.source,
            "_dstny_run_id": stamp.run_id,
            "_dstny_hash": hashlib.sha256(json_text(content).encode()).hexdigest()[:_HASH_LENGTH],
        }

    def _extra(self, item: Any, shown: Mapping[str, Any]) -> str | None:
        """Return what the columns do not show, as JSON; None if they show everything."""
        left = _without(item, self._taken(item, shown)) if isinstance(item, dict) else item
        try:
            return json_text(left, sort_keys=True) if left not in (None, {}) else None
        except RecursionError:
            # Nobody nests like this but to break something.
            return None

    def _taken(self, item: dict[str, Any], shown: Mapping[str, Any]) -> set[Path]:
        # Of two fields that may fill a column, the one that did not stays, unless it says the same.
        return {
            path
            for column in self.fields
            for path, value in column.found(item)
            if value == "" or ((fitting := column.type.read(value)) is not None and fitting == shown[column.name])
        }


def _column(name: str, type_: Type, *sources: str, said: bool = False) -> Column:
    """Return a column; ``sources`` are dotted, and its own name if there are none."""
    return Column(name, type_, tuple(tuple(source.split(".")) for source in sources or (name,)), said)


_CONVERSATION_ID = Column("conversation_id", Type.TEXT)
# Not called date: that is the name of the partitions, and readers of both would see only one.
_OCCURRED_AT = Column("occurred_at", Type.TIME)
_POSITION = Column("position", Type.INTEGER)

_LAST_COLUMNS = (
    Column("extra", Type.TEXT),
    Column("_dstny_synced_at", Type.TIME),
    Column("_dstny_source", Type.TEXT),
    Column("_dstny_run_id", Type.TEXT),
    Column("_dstny_hash", Type.TEXT),
)

CONVERSATIONS = Table(
    "conversations",
    ("conversation_id",),
    (
        _column("conversation_id", Type.TEXT, "id"),
        _column("occurred_at", Type.TIME, "date"),
        _column("title", Type.TEXT, said=True),
        _column("company", Type.TEXT),
        _column("duration_seconds", Type.NUMBER, "duration"),
        _column("medium", Type.TEXT),
        _column("sentiment", Type.TEXT),
        _column("conversation_type", Type.TEXT),
        _column("summary", Type.TEXT, said=True),
        _column("department_id", Type.TEXT, "department.id"),
        _column("department_name", Type.TEXT, "department.name"),
        _column("user_id", Type.TEXT, "user.id"),
        _column("user_name", Type.TEXT, "user.name", "user.full_name"),
        _column("user_email", Type.TEXT, "user.email"),
        Column("transcript_shape", Type.TEXT),
        Column("deleted", Type.BOOLEAN),
    ),
)
PARTICIPANTS = Table(
    "participants",
    ("conversation_id", "position"),
    (
        _CONVERSATION_ID,
        _OCCURRED_AT,
        _POSITION,
        _column("name", Type.TEXT, "name", "full_name"),
        _column("email", Type.TEXT),
        _column("role", Type.TEXT),
    ),
)
TRANSCRIPT_SEGMENTS = Table(
    "transcript_segments",
    ("conversation_id", "position"),
    (
        _CONVERSATION_ID,
        _OCCURRED_AT,
        _POSITION,
        _column("speaker", Type.TEXT, *SPEAKER_KEYS),
        _column("text", Type.TEXT, *TEXT_KEYS, "message", said=True),
        _column("start_seconds", Type.NUMBER, *START_KEYS),
        _column("end_seconds", Type.NUMBER, *END_KEYS),
    ),
)
INSIGHTS = Table(
    "insights",
    ("conversation_id", "position"),
    (
        _CONVERSATION_ID,
        _OCCURRED_AT,
        _POSITION,
        _column("insight_id", Type.TEXT, "id"),
        _column("insight_type", Type.TEXT),
        _column("insight_text", Type.TEXT, said=True),
        _column("kpi_slug", Type.TEXT),
        _column("kpi_label", Type.TEXT),
        _column("impact", Type.TEXT),
        _column("start_seconds", Type.NUMBER, "start_time_seconds"),
        _column("end_seconds", Type.NUMBER, "end_time_seconds"),
        _column("message_index", Type.INTEGER),
    ),
)
USERS = Table(
    "users",
    ("user_id",),
    (
        _column("user_id", Type.TEXT, "id"),
        _column("full_name", Type.TEXT, "full_name", "name"),
        _column("email", Type.TEXT),
        _column("role", Type.TEXT),
        _column("team_id", Type.TEXT),
        _column("team_name", Type.TEXT),
    ),
)
TEAMS = Table(
    "teams",
    ("team_id",),
    (_column("team_id", Type.TEXT, "id"), _column("name", Type.TEXT), _column("created_at", Type.TIME)),
)
TEAM_MEMBERS = Table(
    "team_members",
    ("team_id", "user_id"),
    (
        Column("team_id", Type.TEXT),
        _column("user_id", Type.TEXT, "id"),
        _column("full_name", Type.TEXT, "full_name", "name"),
        _column("email", Type.TEXT),
    ),
)
DEPARTMENTS = Table(
    "departments",
    ("department_id",),
    (
        _column("department_id", Type.TEXT, "id"),
        _column("name", Type.TEXT),
        _column("slug", Type.TEXT),
        _column("enabled", Type.BOOLEAN),
        _column("display_name", Type.TEXT),
    ),
)

#: The tables of conversations, one file for an interval and a day on which conversations took place.
CONVERSATION_TABLES = (CONVERSATIONS, PARTICIPANTS, TRANSCRIPT_SEGMENTS, INSIGHTS)
#: The tables of the directory, one file a day.
DIRECTORY_TABLES = (USERS, TEAMS, TEAM_MEMBERS, DEPARTMENTS)
#: Every table by its name.
TABLES: Mapping[str, Table] = {table.name: table for table in (*CONVERSATION_TABLES, *DIRECTORY_TABLES)}


def conversation_rows(body: Any, stamp: Stamp) -> dict[str, list[Row]]:
    """Return the rows of one conversation by table, every table of :data:`CONVERSATION_TABLES` included.

    Positions count from 0. ``transcript_shape`` is the shape in which the transcript came, ``empty`` for one without
    text, ``unknown``, or null when the answer has none at all.

    :param body: the answer of *Get conversation* as it came, with the transcript and the insights it was asked for.
    """
    told, lists = _lists_apart(body, "participants", "insights")
    transcript = None
    if isinstance(told, dict):
        transcript = _read_transcript(told["transcript"]) if "transcript" in told else None
        # The server's clock is not content: with it, no row would ever be unchanged.
        told = {name: value for name, value in told.items() if name not in ("transcript", "_meta")}
    shape = transcript.source_shape.partition(":")[0] if transcript is not None else None
    conversation = CONVERSATIONS.row(told, stamp, transcript_shape=shape, deleted=False)
    ids = {name: conversation[name] for name in ("conversation_id", "occurred_at")}
    segments = transcript.segments if transcript is not None else []
    return {
        CONVERSATIONS.name: [conversation],
        PARTICIPANTS.name: [
            PARTICIPANTS.row(item, stamp, **ids, position=position)
            for position, item in enumerate(lists["participants"])
        ],
        TRANSCRIPT_SEGMENTS.name: [
            TRANSCRIPT_SEGMENTS.row(
                segment.raw,
                stamp,
                **ids,
                position=segment.index,
                speaker=_text(segment.speaker),
                text=_text(segment.text),
                start_seconds=segment.start_seconds,
                end_seconds=segment.end_seconds,
            )
            for segment in segments
        ],
        INSIGHTS.name: [
            INSIGHTS.row(item, stamp, **ids, position=position) for position, item in enumerate(lists["insights"])
        ],
    }


def tombstone(body: Any, stamp: Stamp) -> Row:
    """Return the row of ``conversations`` that says of a conversation that it was deleted, and nothing else of it.

    :param body: ``id`` and ``date`` as the API last said them.
    """
    told = {name: body.get(name) for name in ("id", "date")} if isinstance(body, dict) else None
    return CONVERSATIONS.row(told, stamp, deleted=True)


def directory_rows(body: Any, stamp: Stamp) -> dict[str, list[Row]]:
    """Return the rows of *List users*, *List teams* or *List departments* by table.

    A table is there only if the answer has its list, so that no list is not taken for an empty one.

    :param body: ``{"users": […]}``, ``{"teams": […]}``, ``{"departments": […]}``, or all in one.
    """
    answer = body if isinstance(body, dict) else {}
    rows = {
        table.name: [table.row(item, stamp) for item in answer[table.name]]
        for table in (USERS, DEPARTMENTS)
        if isinstance(answer.get(table.name), list)
    }
    if isinstance(answer.get("teams"), list):
        rows[TEAMS.name], rows[TEAM_MEMBERS.name] = [], []
        for team in answer["teams"]:
            told, lists = _lists_apart(team, "members")
            row = TEAMS.row(told, stamp)
            rows[TEAMS.name].append(row)
            rows[TEAM_MEMBERS.name] += [
                TEAM_MEMBERS.row(item, stamp, team_id=row["team_id"]) for item in lists["members"]
            ]
    return rows


def day_of(row: Mapping[str, Any]) -> date | None:
    """Return the UTC day on which the conversation of a row took place, None if it is not known."""
    moment = row.get("occurred_at")
    return moment.date() if isinstance(moment, datetime) else None


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """Return a value as one line of JSON that can be written as UTF-8; times in UTC.

    Half a surrogate pair is kept as its escape. NaN and infinity, which JSON does not have, become null.

    :raises RecursionError: it is nested deeper than Python can follow.
    """

    def dumped(value: Any) -> str:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys, default=iso_time
        )

    try:
        text = dumped(value)
    except ValueError:
        text = dumped(json.loads(json.dumps(value, default=iso_time), parse_constant=lambda _: None))
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


def _lists_apart(item: Any, *names: str) -> tuple[Any, dict[str, list[Any]]]:
    """Return an item without the lists that have tables of their own, and these lists; what is no list stays."""
    lists = {name: listed(item, name) for name in names}
    if not isinstance(item, dict):
        return item, lists
    return {name: value for name, value in item.items() if name not in names or not isinstance(value, list)}, lists


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


def _read_transcript(body: Any) -> Transcript:
    try:
        # In the form of *Get transcript*, in which a text alone is a transcript, too.
        return Transcript.from_answer("", {"transcript": body})
    except RecursionError:
        return Transcript(conversation_id="", source_shape="unknown")


def _text(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    # Half a surrogate pair is no character, and can be written neither as UTF-8 nor to Parquet.
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace").strip() or None


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
