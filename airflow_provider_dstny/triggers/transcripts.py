"""Waiting for transcripts in the triggerer, without holding a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

#: Airflow up to 3.3.2 may fail a task whose trigger fires while its worker is still reporting the deferral,
#: which takes up to one worker heartbeat of 5 s. No first look comes sooner than this, in seconds.
SAFE_FIRST_LOOK = 10.0


class DstnyTranscriptTrigger(BaseTrigger):
    """Fires once: when all transcripts are ready, or when waiting for them is pointless.

    The event is ``{"state": "ready" | "failed" | "timed_out" | "gave_up", "reason": str,
    "transcripts": {conversation id: {"ready": True, "segments": int, "waited_seconds": float}}}``.

    :param conversation_ids: the conversations to wait for.
    :param dstny_conn_id: a connection of type ``dstny``.
    :param poll_interval: seconds between two looks; the first comes after at least 10 s.
    :param started_at: ISO 8601 with timezone, when the wait began.
    :param deadline: ISO 8601 with timezone, when it ends; kept over a restart of the triggerer.
    :param not_before: ISO 8601 with timezone, until when the API wants no question.
    :param ready: what was ready before, in the form of the event's ``transcripts``.
    :param last_cause: why it was not over before.
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
        dstny_conn_id: str = "dstny_default",
        poll_interval: float = 60.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conversation_ids = list(conversation_ids)
        self.started_at = started_at
        self.deadline = deadline
        self.not_before = not_before or started_at
        self.ready = ready or {}
        self.last_cause = last_cause
        self.dstny_conn_id = dstny_conn_id
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "conversation_ids": self.conversation_ids,
                "started_at": self.started_at,
                "deadline": self.deadline,
                "not_before": self.not_before,
                "ready": self.ready,
                "last_cause": self.last_cause,
                "dstny_conn_id": self.dstny_conn_id,
                "poll_interval": self.poll_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from airflow_provider_dstny.api.errors import DstnyError
        from airflow_provider_dstny.hooks.dstny import DstnyHook
        from airflow_provider_dstny.waiting.transcripts import Decision, TranscriptWait, WaitState, look, utc_now

        try:
            wait = TranscriptWait.from_json(self.serialize()[1])
            async with DstnyHook(self.dstny_conn_id).get_async_conn() as dstny:
                await asyncio.sleep(max(SAFE_FIRST_LOOK, wait.seconds_to_next_look(utc_now(), self.poll_interval)))
                while (decision := await dstny.arun(look(dstny, wait))).state is WaitState.WAITING:
                    self.log.info("%s", decision.reason)
                    await asyncio.sleep(wait.seconds_to_next_look(utc_now(), self.poll_interval))
        except DstnyError as error:
            decision = Decision(WaitState.FAILED, str(error))
        yield TriggerEvent(decision.to_event())
