"""Remembers deliveries, so that each counts once: over restarts, and over several processes that share a database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from sqlalchemy import (
    Column,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from airflow_provider_dstny.webhooks.verify import WebhookEvent

if TYPE_CHECKING:
    # Airflow 3.0 and 3.1 have SQLAlchemy 1.4, which has them elsewhere.
    from sqlalchemy import ColumnElement, Connection, Engine, Insert, Update

#: Senders list their deliveries for seven days, and may send them again as long.
REMEMBERED = timedelta(days=14)
#: So long whoever has begun to hand a delivery on is left to it.
_CLAIMED = timedelta(seconds=60)
#: Old deliveries are forgotten as often, in each process.
_TIDY_EVERY = timedelta(hours=1)
_Moment = TypeVar("_Moment", datetime, None)
_tidied: WeakKeyDictionary[Engine, datetime] = WeakKeyDictionary()

_METADATA = MetaData()
_DELIVERIES = Table(
    "dstny_webhook_deliveries",
    _METADATA,
    Column("dstny_conn_id", String(250), primary_key=True),
    Column("delivery_id", String(140), primary_key=True),
    Column("event", String(100), nullable=False),
    Column("conversation_id", String(128), nullable=False),
    Column("told_at", DateTime(timezone=True)),
    Column("received_at", DateTime(timezone=True), nullable=False, index=True),
    Column("tried_at", DateTime(timezone=True)),
    Column("handed_at", DateTime(timezone=True), index=True),
    Column("tries", Integer, nullable=False, default=0),
)
#: Connections of which something was handed on that not all DAGs were seen to have taken.
_LOOKS = Table(
    "dstny_webhook_looks",
    _METADATA,
    Column("dstny_conn_id", String(250), primary_key=True),
    Column("due_at", DateTime(timezone=True), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery that was received.

    :param tries: how often it was begun to be handed on.
    """

    dstny_conn_id: str
    event: WebhookEvent
    received_at: datetime
    tries: int


@dataclass(frozen=True, slots=True)
class Look:
    """A look at whether the DAGs on a connection's asset have taken what was handed on.

    :param due_at: when; it says which look it is, too.
    """

    dstny_conn_id: str
    due_at: datetime


def create_table(engine: Engine | Connection) -> None:
    """Create the table of deliveries if there is none."""
    _create(engine, _DELIVERIES)


def create_tables(engine: Engine) -> None:
    """Create the tables of those who hand on later: of deliveries, and of looks."""
    _create(engine, _DELIVERIES, _LOOKS)


def add(connection: Connection, dstny_conn_id: str, event: WebhookEvent, now: datetime, *, handed: bool) -> bool:
    """Remember a delivery within the caller's transaction; tell whether it is new.

    :param handed: it is handed on in the same transaction.
    """
    row = {
        "dstny_conn_id": dstny_conn_id,
        "delivery_id": event.delivery_id,
        "event": event.event,
        "conversation_id": event.conversation_id,
        "told_at": event.timestamp,
        "received_at": now,
        "handed_at": now if handed else None,
        "tries": 0,
    }
    return _insert_if_new(connection, _DELIVERIES, row)


def pending(connection: Connection, now: datetime, limit: int, without: Collection[str] = ()) -> Sequence[Delivery]:
    """Return deliveries that were not handed on and that nobody is handing on, the oldest first.

    :param without: connections whose deliveries are left out.
    """
    is_free = _DELIVERIES.c.tried_at.is_(None) | (_DELIVERIES.c.tried_at < now - _CLAIMED)
    waiting = (
        select(_DELIVERIES)
        .where(_DELIVERIES.c.handed_at.is_(None) & is_free & _DELIVERIES.c.dstny_conn_id.not_in(without))
        .order_by(_DELIVERIES.c.received_at, _DELIVERIES.c.delivery_id)
        .limit(limit)
    )
    return [
        Delivery(
            row.dstny_conn_id,
            WebhookEvent(row.delivery_id, row.event, row.conversation_id, _utc(row.told_at)),
            _utc(row.received_at),
            row.tries,
        )
        for row in connection.execute(waiting)
    ]


def begin(connection: Connection, delivery: Delivery, now: datetime) -> bool:
    """Note that a delivery is about to be handed on; tell whether nobody else has begun to meanwhile."""
    mine = _one(delivery, delivery.tries).values(tried_at=now, tries=delivery.tries + 1)
    return connection.execute(mine).rowcount == 1


def release(connection: Connection, delivery: Delivery) -> None:
    """Note that a delivery that was begun could not be handed on, so that it need not wait."""
    connection.execute(_one(delivery, delivery.tries + 1).values(tried_at=None))


def handed(connection: Connection, delivery: Delivery, now: datetime, look_at: datetime) -> None:
    """Note that a delivery that was begun was handed on, unless somebody else has begun to since.

    :param look_at: when to look whether the DAGs have taken it.
    """
    if connection.execute(_one(delivery, delivery.tries + 1).values(handed_at=now)).rowcount == 1:
        row = {"dstny_conn_id": delivery.dstny_conn_id, "due_at": look_at}
        if not _insert_if_new(connection, _LOOKS, row):
            of_connection = _LOOKS.c.dstny_conn_id == delivery.dstny_conn_id
            connection.execute(update(_LOOKS).where(of_connection).values(due_at=look_at))


def looks(connection: Connection, now: datetime) -> Sequence[Look]:
    """Return the looks that are due, the oldest first."""
    due = select(_LOOKS).where(_LOOKS.c.due_at <= now).order_by(_LOOKS.c.due_at)
    return [Look(row.dstny_conn_id, _utc(row.due_at)) for row in connection.execute(due)]


def begin_look(connection: Connection, look: Look, again_at: datetime) -> Look | None:
    """Note that somebody looks; return the look that follows this one, None if somebody else was faster."""
    mine = update(_LOOKS).where(*_is(look)).values(due_at=again_at)
    return Look(look.dstny_conn_id, again_at) if connection.execute(mine).rowcount == 1 else None


def end_looks(connection: Connection, look: Look) -> None:
    """Note that the DAGs have taken everything, unless something was handed on since this look was planned."""
    connection.execute(delete(_LOOKS).where(*_is(look)))


def forget(connection: Connection, now: datetime) -> None:
    """Forget deliveries that nobody sends any more, if that was not done just before."""
    tidied = _tidied.get(connection.engine)
    if tidied is None or now - tidied > _TIDY_EVERY:
        _tidied[connection.engine] = now
        old = (_DELIVERIES.c.received_at < now - REMEMBERED) & _DELIVERIES.c.handed_at.is_not(None)
        connection.execute(delete(_DELIVERIES).where(old))


def check(connection: Connection) -> None:
    """Read from the table of deliveries.

    :raises SQLAlchemyError: it cannot be read.
    """
    connection.execute(select(_DELIVERIES.c.delivery_id).limit(1)).all()


def _create(engine: Engine | Connection, *tables: Table) -> None:
    try:
        _METADATA.create_all(engine, tables, checkfirst=True)
    except (IntegrityError, OperationalError, ProgrammingError):
        # Another process may have been faster.
        _METADATA.create_all(engine, tables, checkfirst=True)


def _insert_if_new(connection: Connection, table: Table, row: dict[str, Any]) -> bool:
    """Insert a row unless it is there already; tell whether it is new.

    Not a savepoint around a plain INSERT: Python's sqlite3 commits when a savepoint that began a transaction ends.
    """
    added: Insert
    match connection.dialect.name:
        case "sqlite":
            added = sqlite.insert(table).on_conflict_do_nothing()
        case "postgresql":
            added = postgresql.insert(table).on_conflict_do_nothing()
        case _:
            added = insert(table).prefix_with("IGNORE")
    return connection.execute(added.values(row).execution_options(preserve_rowcount=True)).rowcount == 1


def _one(delivery: Delivery, tries: int) -> Update:
    """Change a delivery, as long as it was begun so often and no more."""
    return update(_DELIVERIES).where(
        _DELIVERIES.c.dstny_conn_id == delivery.dstny_conn_id,
        _DELIVERIES.c.delivery_id == delivery.event.delivery_id,
        _DELIVERIES.c.tries == tries,
    )


def _is(look: Look) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return _LOOKS.c.dstny_conn_id == look.dstny_conn_id, _LOOKS.c.due_at == look.due_at


def _utc(moment: _Moment) -> _Moment:
    # SQLite keeps no timezones.
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
