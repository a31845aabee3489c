"""Where events of webhooks go: each ends as an event of its connection's asset, once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from airflow_provider_dstny.assets import conversations_uri
from airflow_provider_dstny.webhooks import inbox
from airflow_provider_dstny.webhooks.receiver import StoreError
from airflow_provider_dstny.webhooks.verify import WebhookEvent

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from airflow_provider_dstny.webhooks.airflow_api import AirflowApi

#: Deliveries that are handed on together.
_BATCH = 100
#: Seconds after which what could not be handed on is tried again, at the most, and of quiet before a look at the DAGs.
_PAUSE = 15.0
#: Seconds for Airflow to take one delivery: much less than for which a delivery is left to whoever has begun.
_PATIENCE = 20.0
#: Seconds for the store to say that it is there.
_CHECKED_WITHIN = 5.0
#: Airflow's clock may be behind.
_BEHIND = timedelta(minutes=5)
_Found = TypeVar("_Found")
_log = logging.getLogger(__name__)


class NotCreatedError(Exception):
    """Airflow has surely created nothing; trying again doubles nothing."""


class _UnknownError(Exception):
    """Airflow did not tell whether it has an event."""


class Inbox:
    """Stores events in a database of its own, and hands them on in the background: the sink of the stand-alone app.

    What may have been created already, because a process died or an answer was lost, is looked for in Airflow when
    nobody has it any more, and only then created.
    """

    def __init__(self, engine: Engine, airflow: AirflowApi) -> None:
        inbox.create_tables(engine)
        self._engine = engine
        self._airflow = airflow
        self._news = asyncio.Event()

    async def store(self, dstny_conn_id: str, event: WebhookEvent) -> bool:
        try:
            is_new = await self._do(_add, dstny_conn_id, event)
        except SQLAlchemyError as error:
            raise StoreError(type(error).__name__) from None
        if is_new:
            self._news.set()
        return is_new

    async def check(self) -> None:
        """Return if deliveries can be read.

        :raises StoreError: they cannot.
        """
        try:
            async with asyncio.timeout(_CHECKED_WITHIN):
                await self._do(inbox.check)
        except (SQLAlchemyError, TimeoutError) as error:
            raise StoreError(type(error).__name__) from None

    async def hand_on(self) -> None:
        """Hand on what was stored, for ever."""
        in_vain = 0
        while True:
            self._news.clear()
            stuck: set[str] = set()
            try:
                while await self._hand_on_some(stuck):
                    pass
                await self._look_after()
            except Exception as error:
                _log.warning("Events could not be handed to Airflow, trying again: %s", _told(error))
            in_vain = min(in_vain + 1, 10) if stuck else 0
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), min(_PAUSE, 2.0 ** (in_vain - 1)) if stuck else _PAUSE)

    async def _hand_on_some(self, stuck: set[str]) -> bool:
        """Hand on some deliveries; tell whether there may be more.

        :param stuck: connections whose events Airflow does not take now; the others need not wait for them.
        """
        waiting = await self._do(inbox.pending, datetime.now(UTC), _BATCH, stuck)
        for delivery in waiting:
            if delivery.dstny_conn_id not in stuck:
                try:
                    await self._hand_on_one(delivery)
                except _UnknownError as error:
                    # Airflow 3.3.2 tells of no events as long as a run that took one of them waits for its turn.
                    _log.warning("Not known yet whether Airflow has delivery %s: %s", delivery.event.delivery_id, error)
                except Exception as error:
                    stuck.add(delivery.dstny_conn_id)
                    told = "Events of %s could not be handed to Airflow, trying again: %s"
                    _log.warning(told, delivery.dstny_conn_id, _told(error))
        return len(waiting) == _BATCH

    async def _hand_on_one(self, delivery: inbox.Delivery) -> None:
        uri = conversations_uri(delivery.dstny_conn_id)
        keys = await self._airflow.partition_keys(uri, delivery.event)
        try:
            async with asyncio.timeout(_PATIENCE):
                if not await self._do(inbox.begin, delivery, datetime.now(UTC)):
                    return
                for key in keys:
                    # Who began before may have created it, and not have heard of it.
                    if delivery.tries == 0 or not await self._has_event(uri, delivery, key):
                        await self._airflow.create_event(uri, delivery.event, key)
        except NotCreatedError:
            await self._do(inbox.release, delivery)
            raise
        now = datetime.now(UTC)
        await self._do(inbox.handed, delivery, now, now + timedelta(seconds=_PAUSE))

    async def _has_event(self, uri: str, delivery: inbox.Delivery, key: str | None) -> bool:
        try:
            return await self._airflow.has_event(uri, delivery.event, key, delivery.received_at - _BEHIND)
        except NotCreatedError:
            raise
        except Exception as error:
            raise _UnknownError(_told(error)) from error

    async def _look_after(self) -> None:
        """Look whether the DAGs take what was handed on, again and again until they have."""
        for look in await self._do(inbox.looks, datetime.now(UTC)):
            again_at = datetime.now(UTC) + timedelta(seconds=2 * _PAUSE)
            following = await self._do(inbox.begin_look, look, again_at)
            if following is not None:
                try:
                    async with asyncio.timeout(_PATIENCE):
                        is_done = await self._airflow.leave_none_behind(conversations_uri(look.dstny_conn_id))
                except Exception as error:
                    _log.warning("Not known yet whether events of %s are taken: %s", look.dstny_conn_id, _told(error))
                else:
                    if is_done:
                        await self._do(inbox.end_looks, following)
            if self._news.is_set():
                return

    async def _do(self, what: Callable[..., _Found], *given: Any) -> _Found:
        """Read or write in a transaction of its own."""

        def do() -> _Found:
            with self._engine.begin() as connection:
                return what(connection, *given)

        return await asyncio.to_thread(do)


def _add(connection: Connection, dstny_conn_id: str, event: WebhookEvent) -> bool:
    now = datetime.now(UTC)
    inbox.forget(connection, now)
    return inbox.add(connection, dstny_conn_id, event, now, handed=False)


def _told(error: Exception) -> str:
    # That of a database has its statement and what it was given.
    return type(error).__name__ if isinstance(error, SQLAlchemyError) else str(error) or type(error).__name__
