"""Define an AI agent, try it on one conversation, then run it on all of the last days.

The trial persists nothing at Dstny (``is_test_run=True``); the real run does, several conversations at a time and in
the triggerer, so that no worker waits for the answers. A retry runs only what has no result yet. The agent is deleted
at the end, so that the example leaves nothing behind but the results.

Needs a connection ``dstny_default``.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task

from airflow_provider_dstny.hooks.dstny import DstnyHook
from airflow_provider_dstny.operators.agents import (
    DstnyCreateAgentOperator,
    DstnyDeleteAgentOperator,
    DstnyRunAgentOperator,
    DstnyUpdateAgentOperator,
)
from airflow_provider_dstny.storage import read_jsonl

FOLDER = "{{ params.output_path }}/run={{ run_id | replace(':', '') | replace('+', '') }}"
AGENT = {
    "name": "Buying signals ({{ run_id }})",
    "type": "magic_insight",
    "customPrompt": "List what the customer asks for, and what keeps them from buying.",
    "meetingRoleAssignment": "sales",
}


@dag(
    schedule=None,
    default_args={"dstny_conn_id": "dstny_default", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={
        "days": Param(7, type="integer", minimum=1),
        "output_path": Param(f"file://{Path.home()}/dstny", type="string"),
    },
    tags=["dstny"],
    doc_md=__doc__,
)
def example_agents() -> None:
    @task
    def list_calls() -> list[str]:
        context = get_current_context()
        since = context["dag_run"].run_after - timedelta(days=context["params"]["days"])
        with DstnyHook().get_conn() as dstny:
            calls = dstny.list_conversations(recording_types=["call"], global_start=since)
        return [str(call.id) for call in calls]

    @task
    def one_of(conversation_ids: list[str]) -> list[str]:
        return conversation_ids[:1]

    @task
    def count_answers(run: dict[str, Any]) -> int:
        return len(read_jsonl(run["output_path"]))

    conversation_ids = list_calls()
    create = DstnyCreateAgentOperator(task_id="create", agent={**AGENT, "status": "draft"})
    trial = DstnyRunAgentOperator(
        task_id="trial",
        agent_id=create.output,
        conversation_ids=one_of(conversation_ids),
        is_test_run=True,
        output_path=f"{FOLDER}/trial.jsonl",
    )
    activate = DstnyUpdateAgentOperator(task_id="activate", agent_id=create.output, agent={**AGENT, "status": "active"})
    run = DstnyRunAgentOperator(
        task_id="run",
        agent_id=create.output,
        conversation_ids=conversation_ids,
        is_test_run=False,
        output_path=f"{FOLDER}/answers.jsonl",
        concurrency=4,
        deferrable=True,
    )
    delete = DstnyDeleteAgentOperator(task_id="delete", agent_id=create.output, trigger_rule="all_done")
    trial >> activate >> run >> delete
    count_answers(run.output)


example_agents()
