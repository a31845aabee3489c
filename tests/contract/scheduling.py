"""Deliveries and Airflow's own scheduling of assets, on an Airflow database: what came of each scenario, as JSON.

A program of its own, since Airflow opens its database, that of ``AIRFLOW_HOME``, when it is imported.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from airflow import settings
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models import asset as asset_models
from airflow.models.asset import AssetDagRunQueue, AssetEvent, AssetModel
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import delete, func, select, text
from sqlalchemy.exc import DBAPIError

from airflow_provider_dstny.webhooks import inbox, metadata_database
from airflow_provider_dstny.webhooks.metadata_database import MetadataDatabase
from airflow_provider_dstny.webhooks.receiver import StoreError
from airflow_provider_dstny.webhooks.verify import WebhookEvent

#: Airflow before 3.2 knows no partitions.
PARTITIONS = getattr(asset_models, "AssetPartitionDagRun", None)
DAGS = """
from datetime import datetime, timezone

from airflow import sdk
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset
from airflow_provider_dstny.assets import conversations

def dag(dag_id, schedule, **options):
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with DAG(dag_id, schedule=schedule, start_date=start, is_paused_upon_creation=False, **options):
        EmptyOperator(task_id="nothing")

dag("one_at_a_time", [conversations("solo")], max_active_runs=1)
dag("either", conversations("left") | conversations("right"))
dag("all_at_once", [conversations("mixed")])
dag("own_name", [Asset("my_calls", uri="dstny://named/conversations")])
if hasattr(sdk, "PartitionedAssetTimetable"):
    dag("one_by_one", sdk.PartitionedAssetTimetable(assets=conversations("mixed")))
    dag("not_serialized", sdk.PartitionedAssetTimetable(assets=conversations("broken")))
for number in range(8):
    dag(f"many_{number}", [conversations("many")], max_active_runs=1000)
"""
SINK = MetadataDatabase()


def store(conn_id, number):
    event = WebhookEvent(f"d-{number}", "conversation.completed", f"c-{number}", datetime.now(UTC))
    return asyncio.run(SINK.store(conn_id, event))


def schedule():
    """Do what a scheduler does in one loop."""
    runner = SchedulerJobRunner(job=Job())
    with create_session() as session:
        dags, moments = DagModel.dags_needing_dagruns(session)
        # Airflow before 3.2 wants the moments, too.
        told = {} if PARTITIONS else {"triggered_date_by_dag": moments}
        runner._create_dag_runs_asset_triggered(
            dag_models=[dag for dag in dags if dag.dag_id in moments], session=session, **told
        )


def finish_runs():
    with create_session() as session:
        for run in session.scalars(select(DagRun)):
            run.state = DagRunState.SUCCESS


def runs(dag_id):
    """Return the deliveries that each run of a DAG has taken."""
    with create_session() as session:
        of_dag = select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.run_after)
        return [[event.extra["delivery_id"] for event in run.consumed_asset_events] for run in session.scalars(of_dag)]


def forget_all():
    with create_session() as session:
        for table in (AssetEvent, AssetDagRunQueue, PARTITIONS, DagRun):
            if table is not None:
                session.execute(delete(table))
        with suppress(DBAPIError), session.begin_nested():
            session.execute(text("DELETE FROM dstny_webhook_deliveries"))


def while_a_run_is_active():
    store("solo", 1)
    schedule()
    store("solo", 2)
    schedule()
    store("solo", 3)
    finish_runs()
    schedule()
    return runs("one_at_a_time")


def while_another_delivery_is_slow():
    """One delivery has taken its moment, and commits after others."""
    is_slow, may_go_on = threading.Event(), threading.Event()
    queue = metadata_database._queue

    def slow_queue(asset, *arguments):
        queue(asset, *arguments)
        if asset.uri == "dstny://left/conversations":
            is_slow.set()
            may_go_on.wait(10)

    metadata_database._queue = slow_queue
    store("right", 0)
    schedule()
    slow = threading.Thread(target=store, args=("left", 1))
    slow.start()
    assert is_slow.wait(10)
    other = threading.Thread(target=store, args=("right", 2))
    other.start()
    other.join(1)
    schedule()
    may_go_on.set()
    slow.join()
    other.join()
    store("left", 3)
    schedule()
    return runs("either")


def while_this_clock_is_behind():
    with create_session() as session:
        later = datetime.now(UTC) + timedelta(hours=1)
        dag = session.get(DagModel, "one_at_a_time")
    store("solo", 1)
    schedule()
    finish_runs()
    with create_session() as session:
        for run in session.scalars(select(DagRun).where(DagRun.dag_id == dag.dag_id)):
            run.run_after = later
    store("solo", 2)
    schedule()
    return runs("one_at_a_time")


def with_partitions_and_without():
    store("mixed", 1)
    store("mixed", 2)
    schedule()
    with create_session() as session:
        keys = session.scalars(select(AssetEvent.partition_key).order_by(AssetEvent.id)).all()
    return {"keys": keys, "taken": sorted({one for run in runs("all_at_once") for one in run})}


def with_a_name_of_its_own():
    with create_session() as session:
        # As a receiver leaves it that was told before the DAG was there.
        uri = "dstny://named/conversations"
        session.add(AssetModel(name=uri, uri=uri, group="asset", extra={}))
    store("named", 1)
    schedule()
    return runs("own_name")


def with_a_dag_that_breaks():
    with create_session() as session:
        session.execute(delete(SerializedDagModel).where(SerializedDagModel.dag_id == "not_serialized"))
    try:
        store("broken", 1)
    except StoreError as error:
        told = str(error)
    with create_session() as session:
        kept = session.scalar(text("SELECT count(*) FROM dstny_webhook_deliveries"))
        events = session.scalar(select(func.count()).select_from(AssetEvent))
    return {"told": told, "kept": kept, "events": events}


def with_many_dags_and_deliveries():
    """Several processes' worth of deliveries, while a scheduler makes runs."""
    ended = threading.Event()

    def go_on_scheduling():
        while not ended.is_set():
            schedule()

    def deliver(number):
        # SQLite below Airflow before 3.2 is soon too busy, and Dstny sends again what was answered with 503.
        for may_fail in (False,) if PARTITIONS else (True, True, True, False):
            try:
                return "stored" if store("many", number) else "known"
            except StoreError as error:
                if not may_fail:
                    return str(error)
        return None

    store("many", "first")
    scheduler = threading.Thread(target=go_on_scheduling)
    scheduler.start()
    with ThreadPoolExecutor(4) as pool:
        answers = Counter(pool.map(deliver, range(60)))
    ended.set()
    scheduler.join()
    delivered = ["d-first", *(f"d-{number}" for number in range(60))]
    if not PARTITIONS or settings.engine.dialect.name == "sqlite":
        # What comes while they make a run, these may leave to the run of the next delivery: SQLite locks no rows.
        store("many", "last")
        delivered.append("d-last")
    schedule()
    delivered.sort()
    return {
        "answers": answers,
        "whole": [sorted(one for run in runs(f"many_{number}") for one in run) == delivered for number in range(8)],
    }


def old_deliveries():
    store("solo", 1)
    with create_session() as session:
        session.execute(text("UPDATE dstny_webhook_deliveries SET received_at = '2020-01-01 00:00:00+00:00'"))
    inbox._tidied.clear()
    store("solo", 2)
    with create_session() as session:
        return session.scalars(text("SELECT delivery_id FROM dstny_webhook_deliveries")).all()


SCENARIOS = (
    while_a_run_is_active,
    while_another_delivery_is_slow,
    while_this_clock_is_behind,
    *((with_partitions_and_without, with_a_dag_that_breaks) if PARTITIONS else ()),
    with_a_name_of_its_own,
    with_many_dags_and_deliveries,
    old_deliveries,
)

if __name__ == "__main__":
    outcomes = {}
    for scenario in SCENARIOS:
        forget_all()
        try:
            outcomes[scenario.__name__] = scenario()
        except Exception as error:
            outcomes[scenario.__name__] = f"{type(error).__name__}: {error}"
    print(json.dumps(outcomes))
