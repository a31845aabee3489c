"""A watcher on a real Airflow tells of each completion once, whether its triggerer lives, dies or is away."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from airflow_provider_dstny.api import DstnyRestClient
from demo.local_airflow import LocalAirflow, free_port, running_simulator
from tests.system.waiting import wait_for

EXAMPLE = Path(__file__).parents[2] / "example_dags" / "example_watch_to_lake.py"
DAG = EXAMPLE.stem
TOKEN = "mt_system_test_token"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Three meetings, each with what was told after it: while the triggerer looks, while it is dead, and afterwards."""
    folder = tmp_path_factory.mktemp("watcher")
    (folder / "dags").mkdir()
    impatient = EXAMPLE.read_text("utf-8").replace(
        "(dstny_conn_id=CONN_ID)", "(dstny_conn_id=CONN_ID, poll_interval=2)"
    )
    (folder / "dags" / EXAMPLE.name).write_text(impatient, "utf-8")
    options = {"samples": 10, "fresh": 0, "transcript_after": 2, "jitter": 0, "requests_per_minute": 0}
    with running_simulator(free_port(), folder / "simulator.log", rest_token=TOKEN, **options) as url:
        connection = {"conn_type": "dstny_rest", "host": url, "password": TOKEN, "extra": {"requests_per_minute": 3000}}
        airflow = LocalAirflow(
            folder / "airflow",
            dags=folder / "dags",
            port=free_port(),
            connections={"dstny_rest_default": connection},
            config={"HOME": str(folder)},
        )
        rest = DstnyRestClient(url, TOKEN)

        def looks():
            entries = httpx.get(f"{url}/_simulator/books", trust_env=False).json()["entries"]
            return sum(entry["operation"] == "list_webhook_deliveries" for entry in entries)

        def meet():
            """Have a meeting, and return its conversation when it is complete."""
            before = {one.resource_id for one in rest.list_webhook_deliveries()}
            rest.request_notetaker({"meeting_url": "https://meet.google.com/abc-defg-hij"})
            return wait_for(
                lambda: {one.resource_id for one in rest.list_webhook_deliveries()} - before, 30, "the meeting"
            ).pop()

        def landed():
            files = (folder / "dstny" / "watched").glob("conversations/*/*.jsonl")
            return [json.loads(line)["conversation_id"] for file in files for line in file.open()]

        def done():
            runs = airflow.get(f"/dags/{DAG}/dagRuns")["dag_runs"]
            return set(landed()) >= set(meetings) and all(run["state"] == "success" for run in runs)

        def told():
            events = airflow.get("/assets/events", limit=100)["asset_events"]
            return [event["extra"]["payload"] for event in events]

        def remembered():
            with closing(sqlite3.connect(folder / "airflow" / "airflow.db")) as database:
                return str(database.execute("SELECT value FROM asset_state_store").fetchall())

        with rest, airflow:
            airflow.unpause(DAG)
            wait_for(looks, 60, "the first look")
            meetings = [meet()]
            # Airflow's list of events fails while a run of theirs is queued.
            wait_for(done, 90, "the landing of the first meeting")
            wait_for(lambda: meetings[0] in remembered(), 30, "the memory of it")
            airflow.processes["triggerer"].kill()
            meetings.append(meet())
            told_meanwhile = told()
            airflow.start("triggerer")
            wait_for(done, 120, "the landing of the second meeting")
            meetings.append(meet())
            wait_for(done, 90, "the landing of the third meeting")
            yield {
                "meetings": meetings,
                "told meanwhile": told_meanwhile,
                "told": told(),
                "landed": landed(),
            }


def ids(payloads):
    return [payload["conversation_id"] for payload in payloads]


def test_each_meeting_is_told_once_over_a_death_of_the_triggerer(outcome):
    assert ids(outcome["told meanwhile"]) == outcome["meetings"][:1]
    assert sorted(ids(outcome["told"])) == sorted(outcome["meetings"])


def test_each_is_landed_once_and_what_was_complete_before_is_left_out(outcome):
    assert sorted(outcome["landed"]) == sorted(outcome["meetings"])


def test_events_have_ids_and_times_only(outcome):
    assert {frozenset(payload) for payload in outcome["told"]} == {
        frozenset({"conversation_id", "completion", "timestamp"})
    }
