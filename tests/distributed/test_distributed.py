"""Calls on an Airflow of many processes, of which one or another is always dead, to an API that fails now and then.

None is lost, none is sent twice.

``DSTNY_TEST_CALLS`` (default 40) calls for each seed of ``DSTNY_TEST_SEEDS`` (default ``1``; more with commas).
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from airflow_provider_dstny.simulator import Simulator
from demo.local_airflow import LocalAirflow
from tests.distributed.cluster import SERVER, TIMEOUT, Killer, Proxy, Weather, cluster, database, redis_server
from tests.system.waiting import wait_for

CALLS = int(os.environ.get("DSTNY_TEST_CALLS", "40"))
SEEDS = [int(seed) for seed in os.environ.get("DSTNY_TEST_SEEDS", "1").split(",")]
TOKEN = "eyJhbGciOiJIUzI1NiJ9.distributed-test-token"
DAG = Path(__file__).with_name("dag.py")


@pytest.fixture(autouse=True)
def _services():
    pytest.importorskip("airflow.providers.celery", reason="needs the dependency group distributed")
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server is installed")
    try:
        psycopg.connect(SERVER, connect_timeout=2).close()
    except psycopg.Error:
        pytest.skip(f"no PostgreSQL at {SERVER}: DSTNY_TEST_POSTGRES may name another")


def write_calls(path: Path, recordings: str) -> None:
    began = datetime.now(UTC) - timedelta(hours=3)
    calls = [
        {
            "call_external_id": f"pbx-{number:05d}",
            "call_start_time": (began + timedelta(seconds=number)).isoformat(),
            "call_duration": 60,
            "call_recording_url": f"{recordings}/recordings/pbx-{number:05d}.wav",
            "call_direction": "incoming",
            "owner_email": "erik.lindqvist@example.com",
            "participant_phone_number": f"+4670{number:07d}",
        }
        for number in range(CALLS)
    ]
    with path.open("w") as file:
        rows = csv.DictWriter(file, calls[0])
        rows.writeheader()
        rows.writerows(calls)


def landed(lake: Path, table: str) -> list[str]:
    return [
        json.loads(line)["conversation_id"]
        for file in lake.glob(f"{table}/*/*.jsonl")
        for line in file.read_text("utf-8").splitlines()
    ]


def failures(airflow: LocalAirflow, run_id: str) -> list[str]:
    instances = airflow.task_instances("distributed", run_id)
    return [f"{one['task_id']}[{one['map_index']}] {one['state']}" for one in instances if one["state"] != "success"]


@pytest.mark.parametrize("seed", SEEDS)
def test_no_call_is_lost_or_sent_twice_while_processes_are_killed_and_the_api_fails(seed, tmp_path):
    dags = tmp_path / "dags"
    dags.mkdir()
    shutil.copy(DAG, dags)
    simulator = Simulator(token=TOKEN, transcript_after=30, jitter=30, visible_after=2, seed=seed, samples=0, fresh=0)
    with simulator, database() as metadata, redis_server(tmp_path) as broker:
        proxy = Proxy(tmp_path, int(simulator.url.rpartition(":")[2]))
        write_calls(tmp_path / "calls.csv", simulator.url)
        connection = {"conn_type": "dstny", "host": proxy.url, "password": TOKEN, "extra": {"timeout": TIMEOUT}}
        airflow = cluster(tmp_path, dags, database=metadata, broker=broker, connections={"dstny_default": connection})
        try:
            with airflow:
                conf = {"calls_path": str(tmp_path / "calls.csv"), "lake": f"file://{tmp_path}/lake"}
                run_id = airflow.trigger("distributed", conf)
                killer, weather = Killer(airflow, proxy, seed, (3, 12)), Weather(simulator.books, seed)
                with killer, weather:
                    wait_for(lambda: len(simulator.state.calls) >= CALLS, 300 + 10 * CALLS, "the last call")
                    wait_for(
                        lambda: airflow.run_state("distributed", run_id) in ("success", "failed"),
                        600 + 10 * CALLS,
                        "the end of the run",
                    )
                unfinished = failures(airflow, run_id)
        finally:
            proxy.process.kill()
    sent = [call["call_external_id"] for call in simulator.state.to_json()]
    ids = {call["conversation_id"] for call in simulator.state.to_json()}
    print(f"\nseed {seed}: {len(sent)} calls, {len(simulator.books.entries)} requests")
    for what, done in (("kills", killer.done), ("faults", weather.done)):
        print(f"{done.total()} {what} {dict(done)}")
    assert unfinished == []
    assert sorted(sent) == [f"pbx-{number:05d}" for number in range(CALLS)]
    assert sorted(landed(tmp_path / "lake", "conversations")) == sorted(ids)
    assert set(landed(tmp_path / "lake", "transcript_segments")) == ids
    assert simulator.books.violations == []
