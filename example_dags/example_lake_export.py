"""Every hour, what is new at Dstny lands in a lake of Parquet files, and a question of a sales lead is put to it.

The first run lists the last 30 days and reads as much of them as the daily quota allows; later runs read what is left,
new, changed, deleted, or has its transcript by now. Then DuckDB tells, for each account executive:
how many conversations, in how many of them a next step was agreed, how much of the talk was the customer's, and in
which mood it was. The answer is a small file beside the data; the tasks hand on paths and counts.

Needs a connection ``dstny_rest_default`` whose token has the scopes ``conversations``, ``transcripts``, ``insights``,
``users``, ``teams`` and ``departments``, and ``pip install 'airflow-provider-dstny[parquet]' duckdb``.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import AirflowSkipException
from airflow.sdk import Asset, ObjectStoragePath, Param, dag, get_current_context, task

from airflow_provider_dstny.storage import write_jsonl
from airflow_provider_dstny.transfers.object_storage import DstnyToObjectStorageOperator

#: DAGs with ``schedule=[LAKE]`` run when there is something new; the events tell the path of the manifest, and counts.
LAKE = Asset("dstny_lake")

# A conversation that changes, or gets its transcript later, is landed again: its latest row counts. Its segments and
# insights are those that were landed together with that row; the latest version may have fewer than the one before.
LATEST = """
CREATE VIEW latest AS
SELECT * FROM (
    SELECT * FROM conversations
    QUALIFY row_number() OVER (PARTITION BY conversation_id ORDER BY _dstny_synced_at DESC) = 1
)
WHERE NOT deleted
"""
ACCOUNT_EXECUTIVES = """
WITH talk AS (
    SELECT
        conversation_id,
        sum(end_seconds - start_seconds) AS seconds,
        -- A speaker may be named by the first name only.
        coalesce(sum(end_seconds - start_seconds) FILTER (WHERE NOT starts_with(user_name, speaker)), 0) AS of_customer
    FROM transcript_segments JOIN latest USING (conversation_id, _dstny_run_id)
    GROUP BY conversation_id
),
hits AS (
    SELECT DISTINCT conversation_id
    FROM insights JOIN latest USING (conversation_id, _dstny_run_id)
    WHERE kpi_slug = $kpi
)
SELECT
    coalesce(user_name, 'nobody') AS account_executive,
    count(*) AS conversations,
    count(talk.conversation_id) AS transcribed,
    round(avg((hits.conversation_id IS NOT NULL)::INT) FILTER (WHERE talk.conversation_id IS NOT NULL), 2) AS with_kpi,
    round(sum(of_customer) / nullif(sum(seconds), 0), 2) AS customer_talk,
    round(avg(CASE sentiment WHEN 'positive' THEN 1 WHEN 'neutral' THEN 0 WHEN 'negative' THEN -1 END), 2) AS mood
FROM latest
    LEFT JOIN talk USING (conversation_id)
    LEFT JOIN hits USING (conversation_id)
WHERE occurred_at >= $since
GROUP BY user_id, user_name
ORDER BY conversations DESC, account_executive
"""
# Of tables that no conversation has filled yet.
NO_PARTS = """
SELECT '' AS conversation_id, '' AS _dstny_run_id, '' AS kpi_slug, '' AS speaker, 0 AS start_seconds, 0 AS end_seconds
LIMIT 0
"""
log = logging.getLogger(__name__)


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

        context = get_current_context()
        folder = ObjectStoragePath(lake)
        with duckdb.connect() as database:
            # So it reads where Airflow writes, whatever the storage, with the credentials of Airflow's connection.
            database.register_filesystem(folder.fs)
            database.execute("SET VARIABLE lake = ?", [f"{folder.protocol}://{folder.path}"])
            for table in ("conversations", "transcript_segments", "insights"):
                files = f"getvariable('lake') || '/{table}/*/*.parquet'"
                if database.execute(f"FROM glob({files})").fetchall():
                    # In SQL, because the Python method of that name may hang before DuckDB 2.
                    database.execute(f"CREATE VIEW {table} AS FROM read_parquet({files}, union_by_name = true)")
                elif table == "conversations":
                    raise AirflowSkipException(f"There is no conversation in {lake} yet.")
                else:
                    database.execute(f"CREATE VIEW {table} AS {NO_PARTS}")
            database.execute(LATEST)
            since = context["dag_run"].run_after - timedelta(days=context["params"]["days"])
            answer = database.execute(ACCOUNT_EXECUTIVES, {"kpi": context["params"]["kpi"], "since": since})
            names = [column[0] for column in answer.description]
            rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
        for row in rows:
            log.info("%s", "  ".join(f"{name}: {value}" for name, value in row.items()))
        path = f"{lake}/reports/account_executives/{landed['interval']}.jsonl"
        return {
            "path": path,
            "rows": write_jsonl(path, rows),
            "conversations": sum(row["conversations"] for row in rows),
        }

    export = DstnyToObjectStorageOperator(
        task_id="export",
        path="{{ params.lake }}",
        format="parquet",
        deferrable=True,
        outlets=[LAKE],
    )
    ask(export.output, lake="{{ params.lake }}")


example_lake_export()
