"""The transcripts of tellcasey conversations that are under way, as soon as they have ended.

A conversation that is completed has a whole transcript; one that was abandoned or archived is taken as it is, since
what was said until then may matter. Without ``accept_statuses`` it would fail the wait, and name the reason.

Needs a connection ``tellcasey_default``.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_dstny.hooks.tellcasey import TellcaseyHook
from airflow_provider_dstny.sensors.conversations import DstnyConversationSensor
from airflow_provider_dstny.storage import write_jsonl

FOLDER = "{{ params.output_path }}/run={{ run_id | replace(':', '') | replace('+', '') }}"


@dag(
    schedule=None,
    default_args={"dstny_conn_id": "tellcasey_default", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={"output_path": Param(f"file://{Path.home()}/tellcasey", type="string")},
    tags=["tellcasey"],
    doc_md=__doc__,
)
def example_tellcasey() -> None:
    @task
    def list_open() -> list[str]:
        with TellcaseyHook().get_conn() as casey:
            found = [*casey.iter_conversations(status="pending"), *casey.iter_conversations(status="in_progress")]
        # One that went on between the two lists is in both.
        return sorted({str(conversation.id) for conversation in found})

    @task
    def land_transcripts(ended: dict[str, Any], folder: str) -> dict[str, Any]:
        path = f"{folder}/transcripts.jsonl"
        with TellcaseyHook().get_conn() as casey:
            rows = write_jsonl(
                path, ({**casey.get_transcript(one).to_row(), "status": seen["status"]} for one, seen in ended.items())
            )
        return {"path": path, "rows": rows}

    ended = DstnyConversationSensor(
        task_id="ended",
        conversation_ids=list_open(),
        status="completed",
        accept_statuses=["abandoned", "archived"],
        deferrable=True,
        poke_interval=10,
        timeout=60 * 60,
    )
    land_transcripts(ended.output, folder=FOLDER)


example_tellcasey()
