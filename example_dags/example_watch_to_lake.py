"""What is complete is in the lake a minute later, where no webhook can reach Airflow: the triggerer looks.

The DAG is scheduled on an asset that a watcher watches, in the triggerer. A run takes all that became complete since
the last one. What was complete before the DAG was first unpaused is left to an export without ``conversation_ids``.

A look is one request, for the list of webhook deliveries, whatever became of them. Of an account that has none of
the last day, as where Dstny sends no webhooks anywhere, it is also the list and up to 25 transcripts, which count
against the daily quota.

Needs a connection ``dstny_rest_default``, whose token has the scopes ``conversations``, ``transcripts`` and
``insights``.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import Asset, AssetWatcher, Param, dag, get_current_context, task

from airflow_provider_dstny.assets import conversation_ids
from airflow_provider_dstny.transfers.object_storage import DstnyToObjectStorageOperator
from airflow_provider_dstny.triggers.events import DstnyConversationEventTrigger

CONN_ID = "dstny_rest_default"
TABLES = ["conversations", "participants", "transcript_segments", "insights"]
COMPLETE = Asset(
    "dstny_complete",
    watchers=[AssetWatcher(name="dstny", trigger=DstnyConversationEventTrigger(dstny_conn_id=CONN_ID))],
)


@dag(
    schedule=[COMPLETE],
    catchup=False,
    max_active_runs=1,
    default_args={"dstny_conn_id": CONN_ID, "retries": 2, "retry_delay": timedelta(seconds=30)},
    params={"output_path": Param(f"file://{Path.home()}/dstny/watched", type="string")},
    tags=["dstny"],
    doc_md=__doc__,
)
def example_watch_to_lake() -> None:
    @task
    def complete() -> list[str]:
        return conversation_ids(get_current_context()["triggering_asset_events"])

    DstnyToObjectStorageOperator(
        task_id="land",
        path="{{ params.output_path }}",
        conversation_ids=complete(),  # type: ignore[arg-type]
        tables=TABLES,
        retry_exponential_backoff=True,
    )


example_watch_to_lake()
