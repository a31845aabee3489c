"""Remembers deliveries, so that each counts once: over restarts, and over several processes that share a database."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

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
    from sqlalchemy import Connection, Engine, Insert, Update

#: Senders list their deliveries for seven days, and may send them again as long.
REMEMBERED = timedelta(days=14)
#: So long whoever has begun to hand a delivery on is left to it.
_CLAIMED = timedelta(seconds=60)

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


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery that was received.

    :param tries: how often it was begun to be handed on.
    """

    dstny_conn_id: str
    event: WebhookEvent
    received_at: datetime
    tries: int


def create_table(engine: Engine | Connection) -> None:
    """Create the table if there is none."""
    try:
        _METADATA.create_all(engine, checkfirst=True)
    except (IntegrityError, OperationalError, ProgrammingError):
        # Another process may have been faster.
        _METADATA.create_all(engine, checkfirst=True)


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
    added = _insert_if_new(connection.dialect.name).values(row).execution_options(preserve_rowcount=True)
    return connection.execute(added).rowcount == 1


def pending(connection: Connection, now: datetime, limit: int, *, without: Collection[str] = ()) -> Sequence[Delivery]:
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
            _utc(row.received_at) or datetime.now(UTC),
            row.tries,
        )
        for row in connection.execute(waiting)
    ]


def begin(connection: Connection, delivery: Delivery, now: datetime) -> bool:
    """Note that a delivery is about to be handed on; tell whether nobody else has begun to meanwhile."""
    mine = _one(delivery).where(_DELIVERIES.c.tries == delivery.tries).values(tried_at=now, tries=delivery.tries + 1)
    return connection.execute(mine).rowcount == 1


def release(connection: Connection, delivery: Delivery) -> None:
    """Note that a delivery that was begun could not be handed on, so that it need not wait."""
    connection.execute(_one(delivery).values(tried_at=None))


def handed(connection: Connection, delivery: Delivery, now: datetime) -> None:
    """Note that a delivery was handed on."""
    connection.execute(_one(delivery).values(handed_at=now))


def forget(connection: Connection, now: datetime) -> None:
    """Forget deliveries that nobody sends any more."""
    old = (_DELIVERIES.c.received_at < now - REMEMBERED) & _DELIVERIES.c.handed_at.is_not(None)
    connection.execute(delete(_DELIVERIES).where(old))


def _insert_if_new(dialect: str) -> Insert:
    """Return an INSERT that leaves a row alone that is there already.

    Not a savepoint around a plain one: Python's sqlite3 commits when a savepoint that began a transaction ends.
    """
    match dialect:
        case "sqlite":
            return sqlite.insert(_DELIVERIES).on_conflict_do_nothing()
        case "postgresql":
            return postgresql.insert(_DELIVERIES).on_conflict_do_nothing()
    return insert(_DELIVERIES).prefix_with("IGNORE")


def _one(delivery: Delivery) -> Update:
    return update(_DELIVERIES).where(
        _DELIVERIES.c.dstny_conn_id == delivery.dstny_conn_id,
        _DELIVERIES.c.delivery_id == delivery.event.delivery_id,
    )


def _utc(moment: datetime | None) -> datetime | None:
    # SQLite keeps no timezones.
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
