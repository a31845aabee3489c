"""What ``waiting.py`` sets side by side: triggers, and the deferred tasks that make a triggerer run them.

A process of its own puts the tasks into the database of its ``AIRFLOW_HOME``; the triggerer imports the trigger that
a user would write.

    python benchmarks/contenders.py http 60 < ids.txt
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from airflow.sdk.bases.hook import BaseHook
from airflow.triggers.base import BaseTrigger, TriggerEvent

ENDPOINT = "/api/v1/rest/conversations/{}/transcript"


def ours(conversation_id: str, interval: float) -> BaseTrigger:
    """Return what ``DstnyTranscriptSensor`` defers to, once it has looked."""
    from airflow_provider_dstny.triggers.transcripts import DstnyTranscriptTrigger

    now = datetime.now(UTC)
    return DstnyTranscriptTrigger(
        conversation_ids=[conversation_id],
        started_at=now.isoformat(),
        deadline=(now + timedelta(days=1)).isoformat(),
        dstny_conn_id="dstny_rest_default",
        poll_interval=interval,
    )


def http(conversation_id: str, interval: float) -> BaseTrigger:
    """Return what ``HttpSensor`` defers to; its allowlist is for its own first look and does not reach the trigger."""
    from airflow.providers.http.sensors.http import HttpSensor
    from airflow.sdk.exceptions import TaskDeferred

    class AfterItsFirstLook(HttpSensor):
        def poke(self, context: Any) -> bool:
            return False

    sensor = AfterItsFirstLook(
        task_id="wait",
        endpoint=ENDPOINT.format(conversation_id),
        poke_interval=interval,
        response_error_codes_allowlist=["404", "429"],
        deferrable=True,
    )
    try:
        sensor.execute({})
    except TaskDeferred as deferred:
        return deferred.trigger
    raise AssertionError("HttpSensor did not defer")


def naive(conversation_id: str, interval: float) -> BaseTrigger:
    return NaiveTrigger(ENDPOINT.format(conversation_id), interval)


class NaiveTrigger(BaseTrigger):
    """What one writes in a quarter of an hour; that it outlives a lost connection is already more than usual."""

    def __init__(self, endpoint: str, interval: float) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.interval = interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "contenders.NaiveTrigger", {"endpoint": self.endpoint, "interval": self.interval}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        connection = await BaseHook.aget_connection("http_default")
        async with httpx.AsyncClient(base_url=connection.host, headers=connection.extra_dejson) as client:
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get(self.endpoint)).status_code == 200:
                        break
                await asyncio.sleep(self.interval)
        yield TriggerEvent({"state": "ready"})


def asleep(conversation_id: str, interval: float) -> BaseTrigger:
    return SleepingTrigger()


class SleepingTrigger(BaseTrigger):
    """Does nothing: what it costs is Airflow's."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "contenders.SleepingTrigger", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(1e6)
        yield TriggerEvent({"state": "failed"})


CONTENDERS: dict[str, Callable[[str, float], BaseTrigger]] = {
    "asleep": asleep,
    "ours": ours,
    "http": http,
    "naive": naive,
}


def defer(triggers: list[BaseTrigger]) -> None:
    """Store one deferred task instance per trigger, as a worker leaves them; ``map_index`` counts them."""
    from airflow.models.dag import DagModel
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.dagrun import DagRun
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.providers.standard.operators.empty import EmptyOperator
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState, TaskInstanceState
    from airflow.utils.types import DagRunTriggeredByType, DagRunType

    now = datetime.now(UTC)
    with DAG("waiting", schedule=None) as dag:
        EmptyOperator(task_id="wait")
    with create_session() as session:
        # Each row refers to the one before it, which must be there first.
        for row in (
            DagBundleModel(name="benchmark"),
            DagModel(dag_id="waiting", bundle_name="benchmark", fileloc="waiting.py", is_paused=False),
        ):
            session.add(row)
            session.flush()
        SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), bundle_name="benchmark", session=session)
        session.flush()
        session.add(
            DagRun(
                dag_id="waiting",
                run_id="waiting",
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState.RUNNING,
                run_after=now,
                start_date=now,
            )
        )
        session.flush()
        version = DagVersion.get_latest_version("waiting", session=session).id
        task = SerializedDagModel.get("waiting", session=session).dag.get_task("wait")
        for number, trigger in enumerate(triggers):
            one = TaskInstance(
                task, dag_version_id=version, run_id="waiting", state=TaskInstanceState.DEFERRED, map_index=number
            )
            one.try_number, one.start_date, one.next_method = 1, now, "execute_complete"
            one.trigger = Trigger.from_object(trigger)
            session.add(one)


if __name__ == "__main__":
    make, interval = CONTENDERS[sys.argv[1]], float(sys.argv[2])
    defer([make(conversation_id, interval) for conversation_id in sys.stdin.read().split()])
