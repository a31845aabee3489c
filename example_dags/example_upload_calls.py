"""From a file of thousands of recorded calls to conversations, in one task.

Each row of the file is checked before anything is sent, then the calls are sent at the pace of the connection. A file
of results says what became of each: run the DAG again with the same file of calls, and only what is missing is sent. A
row that is wrong fails the task before anything is sent, unless ``max_failures`` allows it. Phone numbers stay in the
file: the tasks hand on ids, a path and counts.

Needs a connection ``dstny_default``. As it stands, the file of calls is for a simulator on port 8765.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, task

from airflow_provider_dstny.operators.conversations import DstnyUploadCallsOperator
from airflow_provider_dstny.sensors.transcripts import DstnyTranscriptSensor
from airflow_provider_dstny.storage import read_jsonl

# Named after the file of calls and not after the run, so that a later run goes on where this one ended.
RESULTS = "{{ params.output_path }}/{{ params.calls_path.split('/') | last }}.results.jsonl"


@dag(
    schedule=None,
    max_active_runs=1,
    default_args={"dstny_conn_id": "dstny_default", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={
        "calls_path": Param(str(Path(__file__).parent / "data" / "recorded_calls.csv"), type="string"),
        "output_path": Param(f"file://{Path.home()}/dstny", type="string"),
    },
    tags=["dstny"],
    doc_md=__doc__,
)
def example_upload_calls() -> None:
    @task
    def list_conversations(upload: dict[str, Any]) -> list[str]:
        rows = read_jsonl(upload["results_path"])
        return [row["conversation_id"] for row in rows if row["state"] == "sent"]

    upload = DstnyUploadCallsOperator(
        task_id="upload",
        calls_path="{{ params.calls_path }}",
        results_path=RESULTS,
        concurrency=4,
        deferrable=True,
    )
    DstnyTranscriptSensor(
        task_id="ready",
        conversation_ids=list_conversations(upload.output),
        deferrable=True,
        poke_interval=10,
        timeout=60 * 60,
    )


example_upload_calls()
