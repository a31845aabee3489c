"""Every hour, what is new at Dstny lands in a lake of Parquet files, and a question of a sales lead is put to it.

The first run reads as much of the last 30 days as the daily quota allows; later runs read what is left, new, changed,
deleted, or has its transcript by now. Then DuckDB runs ``data/account_executives.sql``, and the answer lands, too.

Needs a connection ``dstny_rest_default`` whose token has the scopes ``conversations``, ``transcripts``, ``insights``,
``users``, ``teams`` and ``departments``, and ``pip install 'airflow-provider-dstny[parquet]' duckdb``.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import Asset, ObjectStoragePath, Param, dag, get_current_context, task

from airflow_provider_dstny.storage import write_jsonl
from airflow_provider_dstny.transfers.object_storage import DstnyToObjectStorageOperator

#: DAGs with ``schedule=[LAKE]`` run when there is something new; the events tell the path of the manifest, and counts.
LAKE = Asset("dstny_lake")
QUESTION = Path(__file__).parent / "data" / "account_executives.sql"
# Of tables that no conversation has filled yet.
EMPTY = "SELECT '' conversation_id, '' _dstny_run_id, '' kpi_slug, '' speaker, 0 start_seconds, 0 end_seconds LIMIT 0"


@dag(
    schedule="@hourly",
    catchup=False,
    max_active_runs=1,
    default_args={"dstny_conn_id": "dstny_rest_default", "retries": 2, "retry_delay": timedelta(seconds=30)},
    params={
        "lake": Param(f"file://{Path.home()}/dstny/lake", type="string"),
        "days": Param(30, type="integer", minimum=1),
        "kpi": Param("next_step", type="string", description="Slug of the insight that is counted"),
    },
    tags=["dstny"],
    doc_md=__doc__,
)
def example_lake_export() -> None:
    @task
    def ask(landed: dict[str, Any], lake: str) -> dict[str, Any]:
        import duckdb

        context, folder = get_current_context(), ObjectStoragePath(lake)
        since = context["dag_run"].run_after - timedelta(days=context["params"]["days"])
        variables = {"lake": f"{folder.protocol}://{folder.path}", "since": since, "kpi": context["params"]["kpi"]}
        with duckdb.connect() as database:
            # So it reads where Airflow writes, whatever the storage, with the credentials of Airflow's connection.
            database.register_filesystem(folder.fs)
            for name, value in variables.items():
                database.execute(f"SET VARIABLE {name} = ?", [value])
            for table in ("conversations", "transcript_segments", "insights"):
                files = f"getvariable('lake') || '/{table}/*/*.parquet'"
                found = database.execute(f"FROM glob({files})").fetchall()
                if not found and table == "conversations":
                    raise AirflowSkipException(f"There is no conversation in {lake} yet.")
                rows = f"FROM read_parquet({files}, union_by_name = true)" if found else EMPTY
                # In SQL, because the Python method of that name may hang before DuckDB 2.
                database.execute(f"CREATE VIEW {table} AS {rows}")
            answer = database.execute(QUESTION.read_text("utf-8"))
            names = [column[0] for column in answer.description]
            report = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
        path = f"{lake}/reports/account_executives/{landed['interval']}.jsonl"
        return {"path": path, "rows": write_jsonl(path, report)}

    export = DstnyToObjectStorageOperator(
        task_id="export", path="{{ params.lake }}", format="parquet", deferrable=True, outlets=[LAKE]
    )
    ask(export.output, lake="{{ params.lake }}")


example_lake_export()
