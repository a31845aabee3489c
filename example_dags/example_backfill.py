"""Fill a lake with the last 30 days, within the daily quota: first the plan, then one task that works it off.

The API lists the last 30 days, and a token reads 1,000 conversations a day. A run for each day, as ``airflow backfill
create`` makes them, would gain nothing: the first export into a lake lists all 30 days, whatever its interval. What
the quota does not allow today is left to the days after it, the oldest first, because it leaves the list first.

Trigger it as it is, and the log of ``plan`` tells how many conversations, requests and minutes each day will take.
Trigger it with ``dry_run`` off, and ``fill`` reads until nothing is left: when the day's share is used up it is
deferred until the quota starts anew, which holds no worker, and its log tells how much is left. It ends with
``left: 0`` in its XCom; a retry, or another run, goes on where it was. Then unpause ``example_lake_export``, which goes
on from there. Keep that paused before, because runs on one lake should follow each other.

Needs the same connection and packages as ``example_lake_export``, and a triggerer.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import Param, dag, get_current_context, task

from airflow_provider_dstny.transfers.object_storage import DstnyToObjectStorageOperator


@dag(
    schedule=None,
    max_active_runs=1,
    default_args={"dstny_conn_id": "dstny_rest_default", "retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "lake": Param(f"file://{Path.home()}/dstny/lake", type="string"),
        "dry_run": Param(True, type="boolean", description="Show the plan only"),
    },
    tags=["dstny"],
    doc_md=__doc__,
)
def example_backfill() -> None:
    # What others use of the token, such as colleagues and other DAGs, is left to them.
    work: dict[str, Any] = {"path": "{{ params.lake }}", "format": "parquet", "quota_reserve": 300}

    @task.short_circuit
    def go_on() -> bool:
        return not get_current_context()["params"]["dry_run"]

    plan = DstnyToObjectStorageOperator(task_id="plan", dry_run=True, **work)
    fill = DstnyToObjectStorageOperator(task_id="fill", on_quota="defer", deferrable=True, **work)
    plan >> go_on() >> fill


example_backfill()
