"""From a file of recorded calls to transcripts and agent results in a folder.

Each row of the file is sent as a call, its transcript is awaited without holding a worker, an AI agent runs on every
conversation, and everything lands as JSON Lines. A row that is wrong fails its own task with the field and the reason;
the others go on, and the run is marked failed after they have landed. Phone numbers stay in the file: the tasks hand on
row references, ids, paths and counts. (Airflow maps at most 1024 rows, see ``[core] max_map_length``.)

Needs a connection ``dstny_default``. ``make demo`` runs this DAG on a real Airflow against the simulator.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import Param, dag, get_current_context, task, task_group

from airflow_provider_dstny.hooks.dstny import DstnyHook
from airflow_provider_dstny.operators.agents import DstnyRunAgentOperator
from airflow_provider_dstny.operators.conversations import DstnyCreateCallConversationOperator
from airflow_provider_dstny.sensors.transcripts import DstnyTranscriptSensor
from airflow_provider_dstny.storage import count_rows, write_jsonl

FOLDER = "{{ params.output_path }}/run={{ run_id | replace(':', '') | replace('+', '') }}"


@dag(
    schedule=None,
    default_args={"dstny_conn_id": "dstny_default", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={
        "calls_path": Param(str(Path(__file__).parent / "data" / "recorded_calls.csv"), type="string"),
        "output_path": Param(f"file://{Path.home()}/dstny", type="string"),
        "agent_id": Param(1, type="integer"),
    },
    tags=["dstny"],
    doc_md=__doc__,
)
def example_call_to_transcript() -> None:
    @task
    def list_calls() -> list[str]:
        path = get_current_context()["params"]["calls_path"]
        return [f"{path}#{row}" for row in range(1, count_rows(path) + 1)]

    @task_group
    def transcribe(call: str) -> Any:
        create = DstnyCreateCallConversationOperator(task_id="create", call=call)
        return DstnyTranscriptSensor(
            task_id="wait", conversation_ids=create.output, deferrable=True, poke_interval=10, timeout=60 * 60
        ).output

    @task(trigger_rule="all_done")
    def land_transcripts(waits: list[dict[str, Any]], path: str) -> list[str]:
        conversation_ids = [conversation_id for wait in waits for conversation_id in wait]
        with DstnyHook().get_conn() as dstny:
            write_jsonl(path, (dstny.get_transcript(one).to_row() for one in conversation_ids))
        return conversation_ids

    @task
    def check_complete(calls: list[str], transcripts: list[str]) -> None:
        if len(transcripts) < len(calls):
            raise AirflowFailException(f"{len(transcripts)} of {len(calls)} calls have a transcript.")

    calls = list_calls()
    transcripts = land_transcripts(transcribe.expand(call=calls), path=f"{FOLDER}/transcripts.jsonl")
    run_agent = DstnyRunAgentOperator(
        task_id="run_agent",
        agent_id="{{ params.agent_id }}",
        conversation_ids=transcripts,
        is_test_run=False,
        output_path=f"{FOLDER}/agent_results.jsonl",
    )
    run_agent >> check_complete(calls, transcripts)


example_call_to_transcript()
