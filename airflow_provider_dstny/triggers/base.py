"""Waiting in the triggerer, without holding a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_dstny.tasks import WAITING_GOES_ON

if TYPE_CHECKING:
    from airflow_provider_dstny.api.errors import DstnyAuthError
    from airflow_provider_dstny.hooks.base import DstnyBaseHook
    from airflow_provider_dstny.waiting.poller import Poller
    from airflow_provider_dstny.waiting.wait import Decision, Wait

#: Airflow up to 3.3.2 may fail a task whose trigger fires while its worker is still reporting the deferral,
#: which takes up to one worker heartbeat of 5 s. No first look comes sooner than this, in seconds.
SAFE_FIRST_LOOK = 10.0
#: A sensor may be told to look without a pause; the triggerer serves many, in seconds.
_SHORTEST_INTERVAL = 1.0
#: Between attempts to read the connection: a secrets backend that is restarted looks like one without it, in seconds.
_CONNECTION_PAUSES = (10, 30, 60, 120, 240)


class DstnyWaitTrigger(BaseTrigger):
    """Fires once: when all that is awaited is ready, or when waiting for it is pointless.

    The event is ``{"state": "ready" | "failed" | "timed_out" | "gave_up", "reason": str,
    "ready": {conversation id: {…, "waited_seconds": float}}}``.

    :param conversation_ids: the conversations to wait for.
    :param started_at: ISO 8601 with timezone, when the wait began.
    :param deadline: ISO 8601 with timezone, when it ends; kept over a restart of the triggerer.
    :param not_before: ISO 8601 with timezone, until when the API wants no question.
    :param ready: what was ready before, in the form of the event's ``ready``.
    :param last_cause: why it was not over before.
    :param accept_statuses: ``abandoned`` and ``archived``, where such a tellcasey conversation counts as well.
    :param dstny_conn_id: a connection of any type of this provider.
    :param poll_interval: seconds between two looks; the first comes after at least 10 s.
    """

    def __init__(
        self,
        *,
        conversation_ids: Sequence[str],
        started_at: str,
        deadline: str,
        not_before: str | None = None,
        ready: dict[str, dict[str, Any]] | None = None,
        last_cause: str = "not asked yet",
        accept_statuses: Sequence[str] = (),
        dstny_conn_id: str = "dstny_default",
        poll_interval: float = 60.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.wait: dict[str, Any] = {
            "conversation_ids": list(conversation_ids),
            "started_at": started_at,
            "deadline": deadline,
            "not_before": not_before or started_at,
            "ready": ready or {},
            "last_cause": last_cause,
            "accept_statuses": list(accept_statuses),
        }
        self.dstny_conn_id = dstny_conn_id
        self.poll_interval = max(poll_interval, _SHORTEST_INTERVAL)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {**self.wait, "dstny_conn_id": self.dstny_conn_id, "poll_interval": self.poll_interval},
        )

    def wait_class(self) -> type[Wait]:
        """Return what decides; imported only where the trigger runs."""
        raise NotImplementedError

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from airflow_provider_dstny.api.errors import DstnyError
        from airflow_provider_dstny.waiting.wait import Decision, WaitState

        try:
            wait = self.wait_class().from_json(self.wait)
            await asyncio.sleep(SAFE_FIRST_LOOK)
            decision = await self._wait_for(wait)
        except DstnyError as error:
            decision = Decision(WaitState.FAILED, str(error))
        yield TriggerEvent(decision.to_event())

    async def on_kill(self) -> None:
        """Tell what becomes of what was waited for; Airflow 3.3 and later call this when somebody ends the task."""
        from airflow_provider_dstny.waiting.wait import utc_now

        wait = self.wait_class().from_json(self.wait)
        self.log.warning("The task was ended from outside. %s %s", wait.decide(utc_now()).reason, WAITING_GOES_ON)

    async def _wait_for(self, wait: Wait) -> Decision:
        """Wait with the token of the connection; one that is refused may have been replaced since."""
        from airflow_provider_dstny.api.errors import DstnyAuthError
        from airflow_provider_dstny.waiting.poller import PollerEndedError
        from airflow_provider_dstny.waiting.wait import utc_now

        refused: dict[str, DstnyAuthError] = {}
        while True:
            # Nothing but the poller is kept: thousands wait here.
            poller = await self._poller(refused)
            self.log.info("%s", wait.decide(utc_now()).reason)
            try:
                return await poller.wait(wait, self.poll_interval)
            except DstnyAuthError as error:
                refused[poller.identity] = error
            except PollerEndedError:
                await asyncio.sleep(wait.seconds_to_next_look(utc_now(), self.poll_interval))

    async def _poller(self, refused: Mapping[str, DstnyAuthError]) -> Poller:
        from airflow_provider_dstny.waiting.poller import poller_of

        client = (await self._hook()).get_conn()
        if client.identity in refused:
            raise refused[client.identity]
        return poller_of(client)

    async def _hook(self) -> DstnyBaseHook[Any]:
        """Resolve the connection; whatever keeps it may fail for a while."""
        from airflow_provider_dstny.api.errors import DstnyError
        from airflow_provider_dstny.hooks import aget_client_hook

        for pause in _CONNECTION_PAUSES:
            try:
                return await aget_client_hook(self.dstny_conn_id)
            except DstnyError:
                raise
            except Exception as error:
                self.log.warning(
                    "Connection %s cannot be read (%s); next attempt in %d s",
                    self.dstny_conn_id,
                    type(error).__name__,
                    pause,
                )
            await asyncio.sleep(pause)
        return await aget_client_hook(self.dstny_conn_id)
