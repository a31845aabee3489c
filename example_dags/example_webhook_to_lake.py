"""Seconds after Dstny has finished a conversation, it is in the lake: no polling, no list, one request each.

The DAG is scheduled on the asset on which the conversations of a connection arrive. Its events come of signed webhooks
(``[dstny] webhooks_enabled``, or the stand-alone receiver). A run takes all events that wait; those that come meanwhile
are the next run's. For a run per conversation, Airflow 3.2 and later have
``schedule=PartitionedAssetTimetable(assets=conversations(...))``.

A webhook may get lost: let an export without ``conversation_ids`` run once a day on the same path, in the same format
and at another time, and it lands what is missing.

Needs a connection ``dstny_rest_default`` with ``webhook_secrets``, whose token has the scopes ``conversations``,
``transcripts`` and ``insights``.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import Param, dag, get_current_context, task

from airflow_provider_dstny.assets import conversation_ids, conversations
from airflow_provider_dstny.transfers.object_storage import DstnyToObjectStorageOperator

TABLES = ["conversations", "participants", "transcript_segments", "insights"]


@dag(
    schedule=[conversations("dstny_rest_default")],
    catchup=False,
    max_active_runs=1,
    default_args={"dstny_conn_id": "dstny_rest_default", "retries": 2, "retry_delay": timedelta(seconds=30)},
    params={"output_path": Param(f"file://{Path.home()}/dstny/webhooks", type="string")},
    tags=["dstny"],
    doc_md=__doc__,
)
def example_webhook_to_lake() -> None:
    @task
    def completed() -> list[str]:
        return conversation_ids(get_current_context()["triggering_asset_events"])

    DstnyToObjectStorageOperator(
        task_id="land",
        path="{{ params.output_path }}",
        conversation_ids=completed(),  # type: ignore[arg-type]
        tables=TABLES,
        retry_exponential_backoff=True,
    )


example_webhook_to_lake()
