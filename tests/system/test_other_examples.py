"""The other example DAGs, of all three APIs, at once on one real Airflow; v1 at its 60 requests a minute."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from airflow_provider_dstny.api import DstnyClient
from demo.local_airflow import LocalAirflow, free_port, running_simulator, sample_calls
from tests.system.waiting import wait_for

AT_ONCE = ("example_rest_transcripts", "example_tellcasey", "example_notetaker", "example_directory_sync")
LATER = ("example_agents", "example_upload_calls", "example_new_colleague", RETRIES := "example_retry_policy")
DAGS = (*AT_ONCE, *LATER)
CALLS = 6
UPLOADED = 25
TOKEN = "eyJhbGciOiJIUzI1NiJ9.system-test-token-two"
EXAMPLES = Path(__file__).parents[2] / "example_dags"
REST_TOKEN = "mt_system_test_token"
CASEY_TOKEN = "sk_test_system_test_key"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run of each DAG, with everything that it left behind."""
    folder = tmp_path_factory.mktemp("system")
    options = {
        "token": TOKEN,
        "rest_token": REST_TOKEN,
        "tellcasey_token": CASEY_TOKEN,
        "transcript_after": 40,
        "jitter": 5,
    }
    with running_simulator(free_port(), folder / "simulator.log", samples=10, fresh=4, **options) as url:
        airflow = LocalAirflow(
            folder / "airflow",
            dags=EXAMPLES,
            port=free_port(),
            connections={
                "dstny_default": {"conn_type": "dstny", "host": url, "password": TOKEN},
                "dstny_rest_default": {"conn_type": "dstny_rest", "host": url, "password": REST_TOKEN},
                "tellcasey_default": {"conn_type": "tellcasey", "host": url, "password": CASEY_TOKEN},
            },
        )
        with DstnyClient(url, TOKEN) as dstny:
            send_calls(dstny, url)
        with airflow:
            conf = {"output_path": f"file://{folder}/results"}
            confs = {
                "example_rest_transcripts": {**conf, "days": 2},
                "example_tellcasey": conf,
                "example_notetaker": {**conf, "meeting_url": "https://us02web.zoom.us/j/123"},
                "example_agents": conf,
                "example_directory_sync": {"dry_run": False},
                "example_upload_calls": {**conf, "calls_path": str(sample_calls(folder / "recorded_calls.csv", url))},
                "example_new_colleague": {"team": "Sales"},
                RETRIES: {},
            }
            runs = {dag_id: airflow.trigger(dag_id, confs[dag_id]) for dag_id in AT_ONCE}

            def ended():
                return all(
                    airflow.run_state(dag_id, run_id) in {"success", "failed"} for dag_id, run_id in runs.items()
                )

            wait_for(ended, 300, "the end of the runs")
            # By now the calls have their transcripts, without which no agent runs.
            runs |= {dag_id: airflow.trigger(dag_id, confs[dag_id]) for dag_id in LATER}
            wait_for(ended, 180, "the end of the agents and of the upload")
            again = airflow.trigger("example_upload_calls", confs["example_upload_calls"])
            refuse = {"kind": "status", "operation": "list_conversations", "status": 403, "api": "dstny_rest"}
            httpx.post(f"{url}/_simulator/faults", json=refuse, trust_env=False).raise_for_status()
            refused = airflow.trigger(RETRIES, {})
            wait_for(lambda: airflow.run_state("example_upload_calls", again) == "success", 120, "the second upload")
            wait_for(lambda: airflow.run_state(RETRIES, refused) in {"success", "failed"}, 60, "the refused task's end")
            pause = {
                "kind": "status",
                "operation": "list_conversations",
                "status": 429,
                "retry_after": 600,
                "api": "dstny_rest",
            }
            httpx.post(f"{url}/_simulator/faults", json=pause, trust_env=False).raise_for_status()
            paused = airflow.trigger(RETRIES, {})

            def waits():
                return [one["state"] for one in airflow.task_instances(RETRIES, paused)] == ["up_for_retry"]

            wait_for(waits, 60, "the wait for a retry")
            yield {
                "folder": folder,
                "states": {dag_id: airflow.run_state(dag_id, run_id) for dag_id, run_id in runs.items()},
                "tasks": {
                    (dag_id, one["task_id"]): (one["state"], one["try_number"])
                    for dag_id, run_id in runs.items()
                    for one in airflow.task_instances(dag_id, run_id)
                },
                "link": lambda dag_id, task_id: airflow.get(
                    f"/dags/{dag_id}/dagRuns/{runs[dag_id]}/taskInstances/{task_id}/links"
                )["extra_links"]["Open in Dstny"],
                "xcom": lambda dag_id, task_id: airflow.xcom(dag_id, runs[dag_id], task_id),
                "refused": airflow.task_instances(RETRIES, refused),
                "paused": paused,
                "members": DstnyClient(url, TOKEN).list_team_users,
                "uploaded_again": airflow.xcom("example_upload_calls", again, "upload"),
                "books": httpx.get(f"{url}/_simulator/books", trust_env=False).json(),
            }


def send_calls(dstny, url):
    started = datetime.now(UTC) - timedelta(hours=1)
    for number in range(CALLS):
        dstny.create_call_conversation(
            {
                "call_external_id": f"pbx-{number}",
                "call_start_time": started,
                "call_duration": 60,
                "call_recording_url": f"{url}/recordings/{number}.wav",
                "call_direction": "incoming",
                "owner_email": "erik@example.com",
                "participant_phone_number": "+46709876543",
            }
        )


def rows_of(xcom):
    path = Path(xcom["path"].removeprefix("file://"))
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert len(rows) == xcom["rows"]
    return rows


def test_every_run_succeeds_within_the_contract(outcome):
    assert outcome["states"] == dict.fromkeys(DAGS, "success"), outcome["tasks"]
    assert outcome["books"]["violations"] == []


def test_the_transcripts_of_the_day_land_once_each(outcome):
    ready = outcome["xcom"]("example_rest_transcripts", "ready")
    rows = rows_of(outcome["xcom"]("example_rest_transcripts", "land_transcripts"))
    assert len(rows) == len(ready) > 0
    assert {row["conversation_id"] for row in rows} == set(ready)
    assert all(row["segments"] for row in rows)


def test_the_recordings_land_whole_and_the_token_stays_with_the_api(outcome):
    xcom = outcome["xcom"]("example_rest_transcripts", "recordings")
    files = [Path(path.removeprefix("file://")) for path in xcom["files"].values()]
    assert len(files) == xcom["downloaded"] > 0
    assert sum(file.stat().st_size for file in files) == xcom["bytes"]
    assert {file.suffix for file in files} <= {".wav", ".mp3", ".mp4", ".bin"}
    assert not list(files[0].parent.glob(".*"))
    assert len(files) + len(xcom["without_recording"]) == len(outcome["xcom"]("example_rest_transcripts", "ready"))
    # The simulator fetches those of the calls that were sent, too.
    assert len(outcome["books"]["downloads"]) == len(files) + CALLS + UPLOADED
    assert not any(download["authorized"] for download in outcome["books"]["downloads"])


def test_tellcasey_conversations_are_awaited_to_their_end(outcome):
    ended = outcome["xcom"]("example_tellcasey", "ended")
    assert len(ended) >= 2
    assert {one["status"] for one in ended.values()} <= {"completed", "abandoned", "archived"}
    assert {row["conversation_id"] for row in rows_of(outcome["xcom"]("example_tellcasey", "land_transcripts"))} == set(
        ended
    )


def test_what_the_notetaker_heard_lands(outcome):
    (row,) = rows_of(outcome["xcom"]("example_notetaker", "land_transcript"))
    assert row["conversation_id"] == outcome["xcom"]("example_notetaker", "find_conversation")
    assert row["segments"]
    asked = [entry for entry in outcome["books"]["entries"] if entry["operation"] == "request_notetaker"]
    assert len(asked) == 1


def test_an_agent_is_tried_run_once_on_each_call_and_deleted(outcome):
    run = outcome["xcom"]("example_agents", "run")
    assert (run["conversations"], run["succeeded"], run["failed"]) == (CALLS, CALLS, [])
    answers = Path(run["output_path"].removeprefix("file://")).read_text("utf-8").splitlines()
    assert len({json.loads(row)["conversation_id"] for row in answers}) == len(answers) == CALLS
    entries = [entry["operation"] for entry in outcome["books"]["entries"] if entry["api"] == "dstny"]
    assert entries.count("run_agent") == CALLS + 1
    assert entries.count("create_agent") == entries.count("update_agent") == entries.count("delete_agent") == 1


def test_the_calls_of_a_file_are_sent_once_over_two_runs(outcome):
    first, second = outcome["xcom"]("example_upload_calls", "upload"), outcome["uploaded_again"]
    assert (first["calls"], first["sent"], first["skipped"]) == (UPLOADED, UPLOADED, 0)
    assert (second["calls"], second["sent"], second["skipped"]) == (UPLOADED, 0, UPLOADED)
    path = Path(first["results_path"].removeprefix("file://"))
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert {row["state"] for row in rows} == {"sent"}
    assert len(outcome["xcom"]("example_upload_calls", "ready")) == len(rows) == UPLOADED
    sent = [entry for entry in outcome["books"]["entries"] if entry["operation"] == "create_call_conversation"]
    assert len(sent) == CALLS + UPLOADED
    assert not list(path.parent.glob("*.journal"))


def test_no_phone_number_of_an_uploaded_call_is_left_behind(outcome):
    phones = set(re.findall(r"\+(\d{9,})", (outcome["folder"] / "recorded_calls.csv").read_text("utf-8")))
    assert len(phones) > 20
    for folder in ("airflow", "results"):
        for path in (outcome["folder"] / folder).rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert not [phone for phone in phones if phone.encode() in content], path


def test_a_refused_task_is_not_retried_in_vain(outcome):
    counts = outcome["xcom"](RETRIES, "count_conversations")
    assert sum(counts.values()) > 0
    assert [(one["state"], one["try_number"], one["max_tries"]) for one in outcome["refused"]] == [("failed", 1, 5)]


def test_a_task_is_retried_when_the_api_said(outcome):
    query = "SELECT try_number, retry_delay_override FROM task_instance WHERE run_id = ?"
    with closing(sqlite3.connect(outcome["folder"] / "airflow" / "airflow.db")) as database:
        assert database.execute(query, [outcome["paused"]]).fetchall() == [(1, 600.0)]


def test_the_directory_is_planned_and_applied(outcome):
    planned, applied = (outcome["xcom"]("example_directory_sync", task) for task in ("plan", "apply"))
    assert planned["dry_run"] is True
    assert applied["dry_run"] is False
    assert planned["users"] == applied["users"]
    assert applied["users"]["added"] > 0
    phones = re.findall(r"\+?(\d{9,})", (EXAMPLES / "data" / "users.csv").read_text())
    for path in (outcome["folder"] / "airflow").rglob("*"):
        if path.is_file():
            assert not [phone for phone in phones if phone.encode() in path.read_bytes()], path


def test_a_new_colleague_is_in_the_team_that_is_there(outcome):
    user, team = (outcome["xcom"]("example_new_colleague", task) for task in ("user", "team"))
    members = {one.id: one.first_name for one in outcome["members"](team)}
    assert members[user] == "Nils"
    assert len(members) > 1


def test_a_task_links_to_its_conversation(outcome):
    link = outcome["link"]("example_notetaker", "ready")
    assert link.startswith("https://app.meetric.com/recording/")
    assert link.endswith(outcome["xcom"]("example_notetaker", "find_conversation"))


def test_no_token_or_text_is_in_logs_or_database(outcome):
    said = [row["segments"][0]["text"] for row in rows_of(outcome["xcom"]("example_notetaker", "land_transcript"))]
    secrets = [TOKEN, REST_TOKEN, CASEY_TOKEN, "46709876543", "signature=", "switchboard last week", *said]
    left = [path for path in (outcome["folder"] / "airflow").rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in left)
    assert any(path.name == "attempt=1.log" for path in left)
    for path in left:
        content = path.read_bytes()
        found = [secret for secret in secrets if secret.encode() in content]
        assert not found, f"{path} has {found}"


def test_few_requests_are_refused_by_the_limit_and_none_is_lost_by_that(outcome):
    # Tasks and triggerer are processes of their own, each with its pace, so that some may be refused.
    asked = [entry for entry in outcome["books"]["entries"] if entry["api"] == "dstny_rest"]
    refused = [entry for entry in asked if entry["status"] == 429]
    assert len(refused) < len(asked) / 4
