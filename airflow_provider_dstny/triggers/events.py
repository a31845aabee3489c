"""Events for DAGs, where no webhook can reach Airflow: an asset watcher looks for what is complete."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Hashable
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

if TYPE_CHECKING:
    from airflow_provider_dstny.waiting.completions import Completion, Fired

#: A look that failed is repeated after the interval, which doubles up to this, in seconds.
_LONGEST_PAUSE = 900.0
#: Seconds after which the triggerer has stored an event for good.
_EVENT_IS_STORED_AFTER = 5.0
_STATE = "dstny_completions"


class DstnyConversationEventTrigger(BaseEventTrigger):
    """Fires for each conversation that is complete, for an ``AssetWatcher``, where webhooks cannot be received.

    .. code-block:: python

        watcher = AssetWatcher(name="dstny", trigger=DstnyConversationEventTrigger(dstny_conn_id="dstny_rest_default"))
        arrived = Asset("dstny_conversations", watchers=[watcher])

    REST API v1: it reads the account's webhook deliveries, one request a look; of an account without, the list of the
    last two days and 25 transcripts a look of what was not complete before, each in turn. There, what took place before
    the first look is left out, since nothing tells when it was completed. tellcasey: the list.

    On Airflow 3.3 and later, watchers of one connection share one stream of looks, and what was told is remembered over
    restarts of the triggerer: nothing is missed, and only a kill within 5 s of an event tells it again. Before, a
    restart begins with what completes then.

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
        """Yield all that is complete of the last days, again and again. A look that fails only delays the next."""
        from airflow_provider_dstny.api.errors import DstnyAuthError, DstnyScopeError, DstnyValidationError
        from airflow_provider_dstny.hooks import aget_client_hook
        from airflow_provider_dstny.waiting.completions import Completions
        from airflow_provider_dstny.waiting.lookout import as_logged
        from airflow_provider_dstny.waiting.wait import utc_now

        hook = await aget_client_hook(kwargs["dstny_conn_id"])
        interval = kwargs["poll_interval"]
        async with hook.get_async_conn() as client:
            completions, pause = Completions(client), interval
            while True:
                try:
                    found = await completions.look(utc_now())
                except (DstnyAuthError, DstnyScopeError, DstnyValidationError):
                    raise
                except Exception as error:
                    pause = min(pause * 2, max(_LONGEST_PAUSE, interval))
                    hook.log.warning("Looking for complete conversations failed: %s", as_logged(error))
                else:
                    pause = interval
                    yield found
                await asyncio.sleep(pause)

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Any]) -> AsyncIterator[TriggerEvent]:
        """Yield an event for each completion that was not told before."""
        from airflow_provider_dstny.api.times import iso_time

        fired = await self._remembered()
        async for found in shared_stream:
            news = fired.news(found)
            for one in news:
                yield TriggerEvent(
                    {"conversation_id": one.conversation_id, "completion": one.key, "timestamp": iso_time(one.at)}
                )
            if news:
                # What is remembered too early would be missed after a kill.
                await asyncio.sleep(_EVENT_IS_STORED_AFTER)
                await self._remember(fired)

    async def _remembered(self) -> Fired:
        from airflow_provider_dstny.waiting.completions import Fired
        from airflow_provider_dstny.waiting.wait import utc_now

        if (store := self._store) is None:
            self.log.warning(
                "Airflow before 3.3 keeps no state of watchers: what completes while no triggerer runs is missed"
            )
            return Fired(utc_now())
        known = Fired.from_json(await store.aget(_STATE))
        if known is None:
            known = Fired(utc_now())
            await store.aset(_STATE, known.to_json())
        return known

    async def _remember(self, fired: Fired) -> None:
        if (store := self._store) is not None:
            await store.aset(_STATE, fired.to_json())

    @property
    def _store(self) -> Any:
        return getattr(self, "asset_state_store", None)
