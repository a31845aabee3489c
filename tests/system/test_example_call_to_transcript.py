"""The example DAG on a real Airflow, on a bad day: one row is wrong, and the triggerer is killed."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import httpx
import pytest

from demo.local_airflow import LocalAirflow, free_port, running_simulator, sample_calls
from tests.system.waiting import wait_for

DAG_ID = "example_call_to_transcript"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.system-test-token"
BAD_ROW = 7


def break_row(calls: Path, row: int) -> None:
    lines = calls.read_text("utf-8").splitlines()
    lines[row] = lines[row].replace(",incoming,", ",inbound,").replace(",outgoing,", ",inbound,")
    calls.write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run of the DAG, with everything that it left behind."""
    folder = tmp_path_factory.mktemp("system")
    simulator = running_simulator(free_port(), folder / "simulator.log", token=TOKEN, transcript_after=45, jitter=5)
    with simulator as url:
        calls = sample_calls(folder / "recorded_calls.csv", url)
        break_row(calls, BAD_ROW)
        airflow = LocalAirflow(
            folder / "airflow",
            dags=Path(__file__).parents[2] / "example_dags",
            port=free_port(),
            connections={"dstny_default": {"conn_type": "dstny", "host": url, "password": TOKEN}},
        )
        with airflow:
            conf = {"calls_path": str(calls), "output_path": f"file://{folder}/results"}
            run_id = airflow.trigger(DAG_ID, conf)

            def states(task_id):
                instances = airflow.task_instances(DAG_ID, run_id)
                return {one["map_index"]: one["state"] for one in instances if one["task_id"] == task_id}

            def all_wait():
                return list(states("transcribe.wait").values()).count("deferred") == 24

            wait_for(all_wait, 120, "24 waiting conversations")
            pool = airflow.get("/pools/default_pool")
            airflow.processes["triggerer"].signal(signal.SIGKILL)
            airflow.start("triggerer")
            wait_for(lambda: airflow.run_state(DAG_ID, run_id) in {"success", "failed"}, 240, "the end of the run")
            books = httpx.get(f"{url}/_simulator/books", trust_env=False).json()
            ended = end_a_wait(airflow, folder, calls)
            instances = airflow.task_instances(DAG_ID, run_id)
            yield {
                "folder": folder,
                "pool_while_waiting": pool,
                "instances": {(one["task_id"], one["map_index"]): one for one in instances},
                "run_state": airflow.run_state(DAG_ID, run_id),
                "landed": airflow.xcom(DAG_ID, run_id, "land_transcripts"),
                "agent_run": airflow.xcom(DAG_ID, run_id, "run_agent"),
                "rendered": [
                    airflow.get(f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/transcribe.create/{index}")
                    for index in range(25)
                ],
                "books": books,
                "ended": ended,
            }


def end_a_wait(airflow, folder, calls):
    """Mark the wait of another run's call as failed while it is deferred; return what the triggerer logs."""
    header, row, *_ = calls.read_text("utf-8").splitlines()
    (one := folder / "one_call.csv").write_text(f"{header}\n{row.replace(row.split(',')[0], 'pbx-one', 1)}\n", "utf-8")
    run_id = airflow.trigger(DAG_ID, {"calls_path": str(one), "output_path": f"file://{folder}/one"})

    def state():
        instances = airflow.task_instances(DAG_ID, run_id)
        return next((one["state"] for one in instances if one["task_id"] == "transcribe.wait"), None)

    wait_for(lambda: state() == "deferred", 60, "the wait")
    logs = f"**/run_id={run_id}/task_id=transcribe.wait/**/*.trigger.*.log"
    wait_for(lambda: list((folder / "airflow" / "logs").glob(logs)), 30, "the trigger")
    airflow.mark(DAG_ID, run_id, "transcribe.wait", 0, "failed")
    (log,) = (folder / "airflow" / "logs").glob(logs)
    wait_for(lambda: "ended from outside" in log.read_text("utf-8"), 30, "the triggerer's word")
    assert state() == "failed"
    return log.read_text("utf-8")


def test_the_bad_row_fails_its_own_task_with_the_field_and_the_reason(outcome):
    failed = {key for key, one in outcome["instances"].items() if one["state"] == "failed"}
    assert failed == {("transcribe.create", BAD_ROW - 1), ("check_complete", -1)}
    assert outcome["instances"]["transcribe.create", BAD_ROW - 1]["try_number"] == 1, "there is nothing to retry"
    logs = outcome["folder"] / "airflow" / "logs"
    log = next(logs.glob(f"**/task_id=transcribe.create/map_index={BAD_ROW - 1}/attempt=1.log")).read_text()
    assert re.search(rf"recorded_calls\.csv#{BAD_ROW}: .*call_direction: .*'incoming' or 'outgoing'", log)


def test_the_other_calls_end_with_a_transcript_although_the_triggerer_was_killed(outcome):
    waits = {index: one["state"] for (task, index), one in outcome["instances"].items() if task == "transcribe.wait"}
    assert waits.pop(BAD_ROW - 1) == "upstream_failed"
    assert set(waits.values()) == {"success"}
    assert len(waits) == 24


def test_a_run_with_a_lost_row_is_no_success(outcome):
    assert outcome["run_state"] == "failed"
    assert len(outcome["landed"]) == outcome["agent_run"]["succeeded"] == 24
    logs = outcome["folder"] / "airflow" / "logs"
    (log,) = logs.glob("**/task_id=check_complete/attempt=1.log")
    assert "24 of 25 calls have a transcript." in log.read_text()


def test_every_call_was_sent_once_within_the_contract(outcome):
    books = outcome["books"]
    sent = [call["call_external_id"] for call in books["calls"]]
    assert len(sent) == len(set(sent)) == 24
    assert books["violations"] == []
    assert set(books["recordings_fetched"].values()) == {1}
    assert {call["agent_runs"] for call in books["calls"]} == {1}


def test_no_worker_slot_is_held_while_waiting(outcome):
    pool = outcome["pool_while_waiting"]
    assert pool["deferred_slots"] == 24
    assert pool["running_slots"] == 0


def test_somebody_who_ends_a_wait_is_told_what_goes_on(outcome):
    assert "The task was ended from outside. 1 of 1 transcripts are missing" in outcome["ended"]
    assert "A retry waits for it anew." in outcome["ended"]


def test_rendered_fields_show_which_row_was_sent(outcome):
    rendered = [one["rendered_fields"]["call"] for one in outcome["rendered"]]
    assert rendered == [f"{outcome['folder']}/recorded_calls.csv#{row}" for row in range(1, 26)]


def test_what_landed_is_whole(outcome):
    ids = {call["conversation_id"] for call in outcome["books"]["calls"]}
    assert set(outcome["landed"]) == ids
    results = Path(outcome["agent_run"]["output_path"].removeprefix("file://"))
    transcripts = results.with_name("transcripts.jsonl")
    for path in (results, transcripts):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert {row["conversation_id"] for row in rows} == ids
        assert not list(path.parent.glob(".*"))
    assert all(len(json.loads(row)["segments"]) >= 4 for row in transcripts.read_text("utf-8").splitlines())


def test_no_token_phone_number_or_text_is_in_logs_or_database(outcome):
    calls = (outcome["folder"] / "recorded_calls.csv").read_text("utf-8")
    phones = set(re.findall(r"\+(\d{9,})", calls))
    assert len(phones) > 20
    secrets = [TOKEN, "switchboard last week", "Porting takes about", *phones]
    left = [path for path in (outcome["folder"] / "airflow").rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in left)
    assert sum(path.name == "attempt=1.log" for path in left) > 50
    for path in left:
        content = path.read_bytes()
        found = [secret for secret in secrets if secret.encode() in content]
        assert not found, f"{path} has {found}"
