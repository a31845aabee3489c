"""Define an AI agent, try it on one conversation, then run it on all of the last days.

The trial persists nothing at Dstny (``is_test_run=True``); the real run does, several conversations at a time and in
the triggerer, so that no worker waits for the answers. A retry runs only what has no result yet. The agent is deleted
at the end, so that the example leaves nothing behind but the results.

Needs a connection ``dstny_default``.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task

from airflow_provider_dstny.hooks.dstny import DstnyHook
from airflow_provider_dstny.operators import agents

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
    @task(multiple_outputs=True)
    def list_calls() -> dict[str, list[str]]:
        context = get_current_context()
        since = context["dag_run"].run_after - timedelta(days=context["params"]["days"])
        with DstnyHook().get_conn() as dstny:
            calls = [str(call.id) for call in dstny.list_conversations(recording_types=["call"], global_start=since)]
        return {"all": calls, "one": calls[:1]}

    calls = list_calls()
    create = agents.DstnyCreateAgentOperator(task_id="create", agent=AGENT | {"status": "draft"})
    trial = agents.DstnyRunAgentOperator(
        task_id="trial",
        agent_id=create.output,
        conversation_ids=calls["one"],
        is_test_run=True,
        output_path=f"{FOLDER}/trial.jsonl",
    )
    active = agents.DstnyUpdateAgentOperator(
        task_id="activate", agent_id=create.output, agent=AGENT | {"status": "active"}
    )
    run = agents.DstnyRunAgentOperator(
        task_id="run",
        agent_id=create.output,
        conversation_ids=calls["all"],
        is_test_run=False,
        output_path=f"{FOLDER}/answers.jsonl",
        concurrency=4,
        deferrable=True,
    )
    # As a teardown it runs whatever came before, and does not make a failed run a success.
    delete = agents.DstnyDeleteAgentOperator(task_id="delete", agent_id=create.output).as_teardown()
    trial >> active >> run >> delete


example_agents()
