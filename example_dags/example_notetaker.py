"""Send a notetaker into a meeting, and get the transcript of what was said there.

The API does not tell which conversation comes of a notetaker, so that it is found by its title, which is made unique.

Needs a connection ``dstny_rest_default`` whose token has the scopes ``notetaker``, ``conversations`` and
``transcripts``.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, PokeReturnValue, dag, get_current_context, task

from airflow_provider_dstny.hooks.dstny_rest import DstnyRestHook
from airflow_provider_dstny.operators.notetaker import DstnyRequestNotetakerOperator
from airflow_provider_dstny.sensors.transcripts import DstnyTranscriptSensor
from airflow_provider_dstny.storage import write_jsonl

FOLDER = "{{ params.output_path }}/run={{ run_id | replace(':', '') | replace('+', '') }}"
TITLE = "{{ params.title }} ({{ run_id }})"


@dag(
    schedule=None,
    default_args={"dstny_conn_id": "dstny_rest_default", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={
        "meeting_url": Param("https://meet.google.com/abc-defg-hij", type="string"),
        "title": Param("Customer sync", type="string"),
        "output_path": Param(f"file://{Path.home()}/dstny", type="string"),
    },
    tags=["dstny"],
    doc_md=__doc__,
)
def example_notetaker() -> None:
    notetaker = DstnyRequestNotetakerOperator(
        task_id="notetaker", meeting_url="{{ params.meeting_url }}", meeting_title=TITLE
    )

    @task.sensor(poke_interval=20, timeout=3 * 60 * 60, mode="reschedule")
    def find_conversation(title: str) -> PokeReturnValue:
        since = get_current_context()["dag_run"].run_after - timedelta(hours=1)
        with DstnyRestHook().get_conn() as rest:
            found = [one.id for one in rest.iter_conversations(date_from=since, medium="video") if one.title == title]
        return PokeReturnValue(is_done=bool(found), xcom_value=found[0] if found else None)

    @task
    def land_transcript(ready: dict[str, Any], folder: str) -> dict[str, Any]:
        path = f"{folder}/transcript.jsonl"
        with DstnyRestHook().get_conn() as rest:
            rows = write_jsonl(path, (rest.get_transcript(one).to_row() for one in ready))
        return {"path": path, "rows": rows}

    conversation_id = find_conversation(TITLE)
    ready = DstnyTranscriptSensor(
        task_id="ready", conversation_ids=conversation_id, deferrable=True, poke_interval=30, timeout=60 * 60
    )
    notetaker >> conversation_id
    land_transcript(ready.output, folder=FOLDER)


example_notetaker()
