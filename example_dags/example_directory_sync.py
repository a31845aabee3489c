"""Keep the users and teams of an account as two files declare them.

The first task shows in its log what would change, the second changes it. Nothing is ever removed: who is in the account
but not in the files stays, and is reported. Run again, it changes nothing.

Needs a connection ``dstny_default``.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from airflow.sdk import Param, dag

from airflow_provider_dstny.operators.directory import DstnySyncDirectoryOperator

DATA = Path(__file__).parent / "data"


@dag(
    schedule=None,
    max_active_runs=1,
    default_args={"dstny_conn_id": "dstny_default", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={
        "users_path": Param(str(DATA / "users.csv"), type="string"),
        "teams_path": Param(str(DATA / "teams.yaml"), type="string"),
        "dry_run": Param(False, type="boolean", description="Show the plan only"),
    },
    tags=["dstny"],
    doc_md=__doc__,
)
def example_directory_sync() -> None:
    declared = {"users": "{{ params.users_path }}", "teams": "{{ params.teams_path }}"}
    plan = DstnySyncDirectoryOperator(task_id="plan", dry_run=True, **declared)
    apply = DstnySyncDirectoryOperator(task_id="apply", dry_run="{{ params.dry_run }}", **declared)
    plan >> apply


example_directory_sync()
