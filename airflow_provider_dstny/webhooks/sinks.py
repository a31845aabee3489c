"""Where events of webhooks go: each ends as an event of its connection's asset, once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from airflow_provider_dstny.assets import conversations_uri
from airflow_provider_dstny.webhooks import inbox
from airflow_provider_dstny.webhooks.receiver import StoreError
from airflow_provider_dstny.webhooks.verify import WebhookEvent

if TYPE_CHECKING:
    from sqlalchemy import Engine

#: Deliveries that are handed on together.
_BATCH = 100
#: Seconds after which what could not be handed on is tried again, at the most.
_PAUSE = 15.0
#: Old deliveries are forgotten as often.
_TIDY_EVERY = timedelta(hours=1)
#: Airflow's clock may be behind.
_BEHIND = timedelta(minutes=5)
_log = logging.getLogger(__name__)


class Airflow(Protocol):
    """What hands events to Airflow."""

    async def partition_keys(self, uri: str, event: WebhookEvent) -> Collection[str | None]:
        """Return the partition keys with which the DAGs on an asset want an event; None is for those without."""

    async def create_event(self, uri: str, event: WebhookEvent, partition_key: str | None) -> None:
        """Create an event of an asset."""

    async def has_event(self, uri: str, event: WebhookEvent, partition_key: str | None, since: datetime) -> bool:
        """Tell whether the asset has this event already."""

    async def leave_none_behind(self, uri: str) -> None:
        """See to it that a run takes the latest event of an asset."""


class _UnknownError(Exception):
    """Airflow did not tell whether it has an event."""


class Inbox:
    """Stores events in a database of its own, and hands them on in the background: the sink of the stand-alone app.

    A delivery that was begun to be handed on by a process that died is looked for in Airflow before it is created.
    """

    def __init__(self, engine: Engine, airflow: Airflow) -> None:
        inbox.create_table(engine)
        self._engine = engine
        self._airflow = airflow
        self._news = asyncio.Event()
        self._handed_to: set[str] = set()
        self._tidied = datetime.min.replace(tzinfo=UTC)

    async def store(self, dstny_conn_id: str, event: WebhookEvent) -> bool:
        try:
            is_new = await asyncio.to_thread(self._add, dstny_conn_id, event)
        except SQLAlchemyError as error:
            raise StoreError(type(error).__name__) from None
        if is_new:
            self._news.set()
        return is_new

    async def hand_on(self) -> None:
        """Hand on what was stored, for ever."""
        was_quiet, in_vain = False, 0
        while True:
            self._news.clear()
            stuck: set[str] = set()
            try:
                while await self._hand_on_some(stuck):
                    pass
                if not self._news.is_set() and was_quiet:
                    for uri in sorted(self._handed_to):
                        await self._airflow.leave_none_behind(uri)
                    self._handed_to.clear()
            except Exception as error:
                _log.warning("Events could not be handed to Airflow, trying again: %s", error)
            in_vain = min(in_vain + 1, 10) if stuck else 0
            pause = min(_PAUSE, 2.0 ** (in_vain - 1)) if stuck else _PAUSE
            try:
                await asyncio.wait_for(self._news.wait(), pause)
                was_quiet = False
            except TimeoutError:
                was_quiet = pause == _PAUSE

    async def _hand_on_some(self, stuck: set[str]) -> bool:
        """Hand on some deliveries; tell whether there may be more.

        :param stuck: connections whose events Airflow does not take now; the others need not wait for them.
        """
        waiting = await asyncio.to_thread(self._pending, stuck)
        for delivery in waiting:
            if delivery.dstny_conn_id not in stuck and await asyncio.to_thread(
                self._write, inbox.begin, delivery, datetime.now(UTC)
            ):
                try:
                    await self._create_events(delivery)
                except _UnknownError as error:
                    # Airflow 3.3.2 tells of no events as long as a run that took one of them waits for its turn. It is
                    # looked for again when nobody has it any more; the others go on.
                    _log.warning(
                        "Whether Airflow has delivery %s is not known yet: %s", delivery.event.delivery_id, error
                    )
                except Exception as error:
                    await asyncio.to_thread(self._write, inbox.release, delivery)
                    stuck.add(delivery.dstny_conn_id)
                    told = "Events of %s could not be handed to Airflow, trying again: %s"
                    _log.warning(told, delivery.dstny_conn_id, error)
                else:
                    await asyncio.to_thread(self._write, inbox.handed, delivery, datetime.now(UTC))
        return len(waiting) == _BATCH

    async def _create_events(self, delivery: inbox.Delivery) -> None:
        uri = conversations_uri(delivery.dstny_conn_id)
        for key in await self._airflow.partition_keys(uri, delivery.event):
            # Who began before may have died right after.
            if delivery.tries == 0 or not await self._has_event(uri, delivery, key):
                await self._airflow.create_event(uri, delivery.event, key)
        self._handed_to.add(uri)

    async def _has_event(self, uri: str, delivery: inbox.Delivery, key: str | None) -> bool:
        try:
            return await self._airflow.has_event(uri, delivery.event, key, delivery.received_at - _BEHIND)
        except Exception as error:
            raise _UnknownError(error) from error

    def _add(self, dstny_conn_id: str, event: WebhookEvent) -> bool:
        now = datetime.now(UTC)
        with self._engine.begin() as connection:
            if now - self._tidied > _TIDY_EVERY:
                inbox.forget(connection, now)
                self._tidied = now
            return inbox.add(connection, dstny_conn_id, event, now, handed=False)

    def _pending(self, without: Collection[str]) -> list[inbox.Delivery]:
        with self._engine.begin() as connection:
            return list(inbox.pending(connection, datetime.now(UTC), _BATCH, without=without))

    def _write(self, write: Callable[..., Any], *arguments: Any) -> Any:
        with self._engine.begin() as connection:
            return write(connection, *arguments)


class MetadataDatabase:
    """Stores a delivery and creates its asset event in one transaction of Airflow's database: the plugin's sink."""

    def __init__(self) -> None:
        self._is_prepared = False

    async def store(self, dstny_conn_id: str, event: WebhookEvent) -> bool:
        try:
            return await asyncio.to_thread(self._store, dstny_conn_id, event)
        except SQLAlchemyError as error:
            raise StoreError(type(error).__name__) from None

    def _store(self, dstny_conn_id: str, event: WebhookEvent) -> bool:
        from airflow.utils.session import create_session

        with create_session() as session:
            if not self._is_prepared:
                inbox.create_table(session.get_bind())
                self._is_prepared = True
            is_new = inbox.add(session.connection(), dstny_conn_id, event, datetime.now(UTC), handed=True)
            if is_new:
                _register(conversations_uri(dstny_conn_id), event, session)
        return is_new


def _register(uri: str, event: WebhookEvent, session: Any) -> None:
    """Create the events of an asset that the DAGs on it want."""
    from airflow.assets.manager import asset_manager
    from airflow.models.asset import AssetModel
    from sqlalchemy import select

    asset = session.scalar(select(AssetModel).where(AssetModel.uri == uri))
    if asset is None:
        # No DAG knows it yet. One that comes later finds the events.
        asset = AssetModel(name=uri, uri=uri, group="asset", extra={})
        session.add(asset)
        session.flush()
    dags = [reference.dag for reference in asset.scheduled_dags if reference.dag is not None]
    has_partitions = {dag.dag_id: bool(getattr(dag, "timetable_partitioned", False)) for dag in dags}
    made = []
    for key in keys_for(has_partitions.values(), event):
        # Airflow before 3.2 knows no partitions.
        partition: dict[str, Any] = {} if key is None else {"partition_key": key}
        one = asset_manager.register_asset_change(asset=asset, extra=event.to_json(), session=session, **partition)
        if one is not None and key is None:
            made.append(one)
    _leave_none_behind(asset.id, [dag_id for dag_id, has in has_partitions.items() if not has], made, session)


def _leave_none_behind(asset_id: int, dag_ids: Collection[str], events: Collection[Any], session: Any) -> None:
    """Have the next run of each DAG take these events, too.

    A run takes the events that are later than those of the run before, until the moment of its place in the queue. So
    the moment of that place is now, and so is that of the events, as soon as nobody else can change the place: a run
    that was made meanwhile, and did not see them, would be later than they are.
    """
    from airflow.models.asset import AssetDagRunQueue
    from sqlalchemy import update

    session.flush()
    for dag_id in sorted(dag_ids):
        _hold_place(asset_id, dag_id, session)
    now = datetime.now(UTC)
    for event in events:
        event.timestamp = now
    held = (AssetDagRunQueue.asset_id == asset_id) & AssetDagRunQueue.target_dag_id.in_(dag_ids)
    session.execute(
        update(AssetDagRunQueue).where(held).values(created_at=now).execution_options(synchronize_session=False)
    )


def _hold_place(asset_id: int, dag_id: str, session: Any) -> None:
    """Keep the place of a DAG in the queue, for which others then wait; take one if it has none."""
    from airflow.models.asset import AssetDagRunQueue
    from sqlalchemy import select

    queued = (AssetDagRunQueue.asset_id == asset_id) & (AssetDagRunQueue.target_dag_id == dag_id)
    place = select(AssetDagRunQueue.asset_id).where(queued).with_for_update()
    for _ in range(5):
        if session.scalar(place) is not None or session.scalar(_takes_events(dag_id)) is None:
            return
        # A scheduler has just taken it, and another delivery may be faster to take the next.
        with suppress(IntegrityError), session.begin_nested():
            session.add(AssetDagRunQueue(asset_id=asset_id, target_dag_id=dag_id))


def _takes_events(dag_id: str) -> Any:
    from airflow.models.dag import DagModel
    from sqlalchemy import select

    return select(DagModel.dag_id).where(DagModel.dag_id == dag_id, ~DagModel.is_paused, ~DagModel.is_stale)


def keys_for(partitioned: Iterable[bool], event: WebhookEvent) -> Collection[str | None]:
    """Return with which partition keys an event is wanted.

    Airflow hands an event with a key to DAGs of partitions only, and one without to the others only.

    :param partitioned: of each DAG on the asset, whether it has partitions.
    """
    partitioned = list(partitioned)
    keys: list[str | None] = [None] if not all(partitioned) or not partitioned else []
    return [*keys, event.conversation_id] if any(partitioned) else keys
