"""Every day, the transcripts and recordings of the day's calls, through the REST API v1.

The list of calls is walked page by page, their transcripts are awaited without holding a worker, and
transcripts (JSON Lines) and recordings (as they are stored at Dstny) land in a folder. All of it keeps to the 60
requests a minute that the API allows one token; each conversation counts once against the daily quota.

Needs a connection ``dstny_rest_default`` whose token has the scopes ``conversations``, ``transcripts`` and
``recordings``, and the setting ``include_recordings=true``.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task

from airflow_provider_dstny.hooks.dstny_rest import DstnyRestHook
from airflow_provider_dstny.sensors.transcripts import DstnyTranscriptSensor
from airflow_provider_dstny.storage import write_jsonl
from airflow_provider_dstny.transfers.object_storage import DstnyRecordingToObjectStorageOperator

FOLDER = "{{ params.output_path }}/run={{ run_id | replace(':', '') | replace('+', '') }}"


@dag(
    schedule="@daily",
    catchup=False,
    max_active_runs=1,
    default_args={"dstny_conn_id": "dstny_rest_default", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={
        "days": Param(1, type="integer", minimum=1, maximum=30),
        "output_path": Param(f"file://{Path.home()}/dstny", type="string"),
    },
    tags=["dstny"],
    doc_md=__doc__,
)
def example_rest_transcripts() -> None:
    @task
    def list_conversations() -> list[str]:
        context = get_current_context()
        until = context["dag_run"].run_after
        since = until - timedelta(days=context["params"]["days"])
        with DstnyRestHook().get_conn() as rest:
            return [str(one.id) for one in rest.iter_conversations(date_from=since, date_to=until, medium="call")]

    @task
    def land_transcripts(ready: dict[str, Any], folder: str) -> dict[str, Any]:
        path = f"{folder}/transcripts.jsonl"
        with DstnyRestHook().get_conn() as rest:
            rows = write_jsonl(path, (rest.get_transcript(one).to_row() for one in ready))
        return {"path": path, "rows": rows}

    conversation_ids = list_conversations()
    ready = DstnyTranscriptSensor(
        task_id="ready", conversation_ids=conversation_ids, deferrable=True, poke_interval=60, timeout=6 * 60 * 60
    )
    recordings = DstnyRecordingToObjectStorageOperator(
        task_id="recordings", conversation_ids=conversation_ids, path=f"{FOLDER}/recordings"
    )
    # One after the other: they share the requests of a token.
    land_transcripts(ready.output, folder=FOLDER) >> recordings


example_rest_transcripts()
