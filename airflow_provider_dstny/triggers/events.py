"""Events for DAGs, where no webhook can reach Airflow: an asset watcher looks for what is complete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from contextlib import AsyncExitStack
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

if TYPE_CHECKING:
    from airflow_provider_dstny.waiting.completions import Completion, Fired

#: A look that failed is repeated after the interval, which doubles up to this, in seconds.
_LONGEST_PAUSE = 900.0
#: Seconds after which the triggerer has stored an event for good.
_EVENT_IS_STORED_AFTER = 5.0
#: What was told is kept under this and the connection id, with each watched asset.
_STATE = "dstny_completions"
_log = logging.getLogger(__name__)


class DstnyConversationEventTrigger(BaseEventTrigger):
    """Fires for each conversation that is complete, for an ``AssetWatcher``, where webhooks cannot be received.

    .. code-block:: python

        watcher = AssetWatcher(name="dstny", trigger=DstnyConversationEventTrigger(dstny_conn_id="dstny_rest_default"))
        arrived = Asset("dstny_conversations", watchers=[watcher])

    REST API v1: it reads the account's webhook deliveries, one request a look; of an account without one of the last
    day, also the list of the last two days and 25 transcripts a look of what else was not complete before, each in
    turn. There, what took place before the first look is left out, since nothing tells when it was completed.
    tellcasey: the list.

    On Airflow 3.3 and later, watchers of one connection share one stream of looks, and what was told is remembered over
    restarts of the triggerer: nothing is missed, and only a kill within 5 s of an event tells it again. Before, a
    restart begins with what completes then. A connection that is refused is resolved anew after up to 900 s.

    The event is ``{"conversation_id", "completion", "timestamp"}``.

    :param dstny_conn_id: a connection of type ``dstny_rest`` or ``tellcasey``.
    :param poll_interval: seconds between two looks.
    """

    def __init__(self, *, dstny_conn_id: str = "dstny_rest_default", poll_interval: float = 60.0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dstny_conn_id = dstny_conn_id
        self.poll_interval = max(float(poll_interval), 1.0)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        arguments = {"dstny_conn_id": self.dstny_conn_id, "poll_interval": self.poll_interval}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look alone, where Airflow has no shared streams."""
        stream = self.open_shared_stream(self.serialize()[1])
        async for event in self.filter_shared_stream(stream):
            yield event

    def shared_stream_key(self) -> Hashable | None:
        return ("dstny", self.dstny_conn_id, self.poll_interval)

    @classmethod
    async def open_shared_stream(cls, kwargs: dict[str, Any]) -> AsyncGenerator[list[Completion], None]:
        """Yield all that is complete of the last days, again and again. A look that fails only delays the next.

        It never raises: the triggerer would start the watcher again every second.
        """
        from airflow_provider_dstny.api.errors import DstnyAuthError, DstnyScopeError, DstnyValidationError
        from airflow_provider_dstny.hooks import aget_client_hook
        from airflow_provider_dstny.waiting.completions import Completions
        from airflow_provider_dstny.waiting.lookout import as_logged
        from airflow_provider_dstny.waiting.wait import utc_now

        conn_id, interval = kwargs["dstny_conn_id"], kwargs["poll_interval"]
        completions, pause = None, interval
        async with AsyncExitStack() as opened:
            while True:
                try:
                    if completions is None:
                        hook = await aget_client_hook(conn_id)
                        completions = Completions(await opened.enter_async_context(hook.get_async_conn()))
                    found = await completions.look(utc_now())
                except Exception as error:
                    pause = min(pause * 2, max(_LONGEST_PAUSE, interval))
                    refused = isinstance(error, DstnyAuthError | DstnyScopeError | DstnyValidationError)
                    _log.log(
                        logging.ERROR if refused else logging.WARNING,
                        "Looking for complete conversations with connection %s failed, the next look is in %.0f s: %s",
                        conn_id,
                        pause,
                        as_logged(error),
                    )
                    if refused:
                        # Somebody may mend the connection meanwhile.
                        completions = None
                        await opened.aclose()
                else:
                    pause = interval
                    yield found
                await asyncio.sleep(pause)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Yield an event for each completion that was not told before."""
        from airflow_provider_dstny.api.times import iso_time

        fired = await self._remembered()
        stored = fired.to_json()
        async for found in shared_stream:
            for one in fired.news(found):
                yield TriggerEvent(
                    {"conversation_id": one.conversation_id, "completion": one.key, "timestamp": iso_time(one.at)}
                )
            if (known := fired.to_json()) != stored:
                # What is remembered too early would be missed after a kill.
                await asyncio.sleep(_EVENT_IS_STORED_AFTER)
                await self._remember(fired)
                stored = known

    async def _remembered(self) -> Fired:
        """Return what any of the watched assets knows; from here on all of them do."""
        from airflow_provider_dstny.waiting.completions import Fired
        from airflow_provider_dstny.waiting.wait import utc_now

        if not (stores := self._stores):
            self.log.warning(
                "Airflow before 3.3 keeps no state of watchers: what completes while no triggerer runs is missed"
            )
        known = [Fired.from_json(await store.aget(self._key)) for store in stores]
        fired = reduce(or_, [one for one in known if one is not None] or [Fired(utc_now())])
        await self._remember(fired)
        return fired

    async def _remember(self, fired: Fired) -> None:
        for store in self._stores:
            try:
                await store.aset(self._key, fired.to_json())
            except Exception as error:
                # As of an asset that no DAG has any more. If it ended the watcher, all would be told again.
                self.log.warning("What was told is not remembered: %s", error)

    @property
    def _key(self) -> str:
        return f"{_STATE}:{self.dstny_conn_id}"

    @property
    def _stores(self) -> list[Any]:
        """What Airflow keeps for each asset that is watched: equal watchers of several assets are one trigger."""
        store = getattr(self, "asset_state_store", None)
        if store is None:
            return []
        # It can only be indexed by assets, which nobody tells a trigger.
        return [*getattr(store, "_by_name", {}).values(), *getattr(store, "_by_uri", {}).values()] or [store]
