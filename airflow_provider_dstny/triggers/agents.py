"""Running AI agents in the triggerer, which waits for their answers without holding a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_dstny.tasks import RUNS_GO_ON
from airflow_provider_dstny.triggers.base import SAFE_FIRST_LOOK


class DstnyAgentRunTrigger(BaseTrigger):
    """Fires once, when the agent has run on all conversations, or an error would meet all that are left.

    The event is ``{"succeeded": int, "skipped": int, "failures": {conversation id: reason}, "final": bool}``, or
    ``{"error": str, "final": bool}``; results go to the file that the round names. After a restart of the triggerer
    the round goes on where its file ends.

    :param round_of_runs: what to do, see ``agent_runs.AgentRound.to_json``.
    :param dstny_conn_id: a connection of type ``dstny``.
    """

    def __init__(self, *, round_of_runs: dict[str, Any], dstny_conn_id: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.round_of_runs = round_of_runs
        self.dstny_conn_id = dstny_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"round_of_runs": self.round_of_runs, "dstny_conn_id": self.dstny_conn_id},
        )

    async def on_kill(self) -> None:
        """Tell what becomes of the runs; Airflow 3.3 and later call this when somebody ends the task."""
        self.log.warning("The task was ended from outside. %s", RUNS_GO_ON)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        from airflow_provider_dstny.agent_runs import AgentRound, ResultsFile
        from airflow_provider_dstny.api.errors import DstnyError
        from airflow_provider_dstny.hooks import aget_client_hook

        began = time.monotonic()
        try:
            agent_round = AgentRound(**self.round_of_runs)
            file = await asyncio.to_thread(ResultsFile, agent_round.output_path)
            hook = await aget_client_hook(self.dstny_conn_id)
            async with hook.get_async_conn() as dstny:
                event = (await agent_round.run(dstny, file)).to_event()
        except DstnyError as error:
            event = {"error": str(error), "final": error.final}
        except Exception as error:
            # Else it would fail the task at once, which is too soon after a deferral, and without a reason.
            self.log.exception("The agent could not be run")
            event = {"error": f"{type(error).__name__} in the triggerer, whose log tells more.", "final": False}
        await asyncio.sleep(SAFE_FIRST_LOOK - (time.monotonic() - began))
        yield TriggerEvent(event)
