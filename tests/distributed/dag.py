"""Calls of a file are sent, their transcripts awaited, and all of it landed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import dag, get_current_context, task, task_group

from airflow_provider_dstny.operators.conversations import DstnyCreateCallConversationOperator
from airflow_provider_dstny.sensors.transcripts import DstnyTranscriptSensor
from airflow_provider_dstny.storage import count_rows
from airflow_provider_dstny.transfers.object_storage import DstnyToObjectStorageOperator


@dag(
    schedule=None,
    params={"calls_path": "", "lake": ""},
    # Whoever is killed tries again, when all that was sent before, a late answer included, can be seen.
    default_args={"retries": 100, "retry_delay": timedelta(seconds=6), "dstny_conn_id": "dstny_default"},
)
def distributed() -> None:
    @task
    def list_calls() -> list[str]:
        path = get_current_context()["params"]["calls_path"]
        return [f"{path}#{row}" for row in range(1, count_rows(path) + 1)]

    @task_group
    def transcribe(call: str) -> Any:
        # So what is not found did not arrive.
        create = DstnyCreateCallConversationOperator(task_id="create", call=call, resubmit_ambiguous=True)
        wait = DstnyTranscriptSensor(
            task_id="wait", conversation_ids=create.output, deferrable=True, poke_interval=10, timeout=60 * 60
        )
        return wait.output

    land = DstnyToObjectStorageOperator(
        task_id="land", path="{{ params.lake }}", tables=["conversations", "transcript_segments"]
    )
    transcribe.expand(call=list_calls()) >> land


distributed()
