"""Signed webhooks become rows of a lake, on a real Airflow: through its API server, and through a receiver apart."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from signal import SIGKILL

import httpx
import pytest

from airflow_provider_dstny.api import DstnyRestClient
from airflow_provider_dstny.simulator import webhooks
from demo.local_airflow import LocalAirflow, Process, free_port, running_simulator
from tests.system.waiting import wait_for

EXAMPLES = Path(__file__).parents[2] / "example_dags"
DAG = "example_webhook_to_lake"
URI = "dstny://dstny_rest_default/conversations"
SECRET = "system-test-webhook-secret"
TOKEN = "mt_system_test_token"
PASSWORDS = {"boss": "password-of-boss", "hooks": "password-of-hooks"}
#: Makes the API server kill itself where a file says, in the midst of a delivery.
DEADLY_PLUGIN = """
import os, signal
from pathlib import Path
from airflow_provider_dstny.webhooks import metadata_database

FILE = Path(os.environ["AIRFLOW_HOME"], "die_when")
sink = metadata_database.MetadataDatabase
register, store = metadata_database._register, sink._store

def die(when):
    if FILE.exists() and FILE.read_text() == when:
        FILE.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

def deadly_register(*arguments):
    register(*arguments)
    die("storing")

def deadly_store(*arguments):
    is_new = store(*arguments)
    die("stored")
    return is_new

metadata_database._register, sink._store = deadly_register, deadly_store
"""


class AirflowWithUsers(LocalAirflow):
    """An Airflow that lets nobody in without a password: the user *boss* is an admin, *hooks* is of role op."""

    def __enter__(self):
        self.home.mkdir(parents=True)
        (self.home / "passwords.json").write_text(json.dumps(PASSWORDS))
        (self.home / "plugins").mkdir()
        (self.home / "plugins" / "deadly.py").write_text(DEADLY_PLUGIN)
        self._environment |= {
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "boss:admin,hooks:op",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.home / "passwords.json"),
        }
        return super().__enter__()

    def _log_in(self):
        login = {"username": "boss", "password": PASSWORDS["boss"]}
        token = self._checked(self._http.post("/auth/token", json=login))["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    def events(self):
        asset = self.get("/assets", uri_pattern=URI)["assets"][0]["id"]
        found = self.get("/assets/events", asset_id=asset, limit=100)["asset_events"]
        return {event["extra"]["delivery_id"]: event for event in found if "delivery_id" in event["extra"]}, found

    def set_paused(self, is_paused):
        self._checked(self._http.patch(f"/api/v2/dags/{DAG}", json={"is_paused": is_paused}))

    def die(self, when, post):
        """Have the API server killed by a delivery, start it again, and deliver again."""
        (self.home / "die_when").write_text(when)
        with pytest.raises(httpx.TransportError):
            post()
        wait_for(lambda: not self.processes["api-server"].running, 10, "the death")
        self.start("api-server")
        self._wait_until_healthy(60)
        return post()


class ReceiverApart:
    """The stand-alone receiver, which knows a connection and an address, but not Airflow's database."""

    def __init__(self, folder, airflow_url, connection):
        self.url, self.log = f"http://127.0.0.1:{(port := free_port())}", folder / "receiver.log"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            "AIRFLOW_HOME": str(folder / "nothing of Airflow's"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nowhere/airflow.db",
            "AIRFLOW_CONN_DSTNY_REST_DEFAULT": json.dumps(connection),
            "DSTNY_WEBHOOKS_AIRFLOW_PASSWORD": PASSWORDS["hooks"],
        }
        options = {"port": port, "airflow-url": airflow_url, "airflow-user": "hooks"}
        options["store"] = f"sqlite:///{folder}/deliveries.db"
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self._command = [sys.executable, "-m", "airflow_provider_dstny.webhooks", *arguments]

    def start(self):
        self.process = Process(self._command, log=self.log, env=self._environment)

        def answers():
            assert self.process.running, self.process.tail()
            try:
                return httpx.get(f"{self.url}/health").is_success
            except httpx.HTTPError:
                return False

        wait_for(answers, 30, "the start of the receiver")

    @contextmanager
    def running(self):
        self.start()
        try:
            yield self
        finally:
            self.process.stop()


def send(url, conversation_id, delivery, *, secret=SECRET, conn_id="dstny_rest_default"):
    body = webhooks.completed({"id": conversation_id, "summary": "not to be seen in Airflow"}, delivery, time.time())
    headers = {"X-Webhook-Signature": webhooks.signature(body, secret)}
    return httpx.post(f"{url}/dstny/webhooks/{conn_id}", content=body, headers=headers, timeout=30)


def moment(text):
    return datetime.fromisoformat(text).timestamp()


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("webhooks")
    lake = folder / "dstny" / "webhooks"

    def landed(ids):
        files = list(lake.glob("conversations/*/*.jsonl"))
        return {json.loads(line)["conversation_id"] for file in files for line in file.open()} >= set(ids) and max(
            file.stat().st_mtime for file in files
        )

    port = free_port()
    with running_simulator(
        free_port(),
        folder / "simulator.log",
        samples=10,
        fresh=0,
        visible_after=0,
        transcript_after=3,
        jitter=0,
        rest_token=TOKEN,
        token="t",
        tellcasey_token="s",
        webhook_url=f"http://127.0.0.1:{port}/dstny/webhooks/dstny_rest_default",
        webhook_secret=SECRET,
    ) as simulator:
        with DstnyRestClient(simulator, TOKEN) as rest:
            ids = [str(one.id) for one in rest.iter_conversations()]
        connection = {
            "conn_type": "dstny_rest",
            "host": simulator,
            "password": TOKEN,
            "extra": {"webhook_secrets": SECRET},
        }
        airflow = AirflowWithUsers(
            folder / "airflow",
            dags=EXAMPLES,
            port=port,
            connections={"dstny_rest_default": connection},
            config={"AIRFLOW__DSTNY__WEBHOOKS_ENABLED": "True", "HOME": str(folder)},
        )

        def finished():
            runs = airflow.get(f"/dags/{DAG}/dagRuns")["dag_runs"]
            return all(run["state"] == "success" for run in runs) and runs

        def seconds(url, ids):
            """Deliver, wait for the rows, and tell how long each step took."""
            began = time.time()
            answers = [send(url, one, f"delivery-{one}") for one in ids]
            answered = time.time()
            last = wait_for(lambda: landed(ids), 120, "the landing")
            # Airflow's list of events fails while a run of theirs is queued.
            wait_for(finished, 60, "the end of the runs")
            events, _ = airflow.events()
            events = [events[f"delivery-{one}"] for one in ids]
            starts = [run["start_date"] for event in events for run in event["created_dagruns"]]
            steps = {
                "answered": answered,
                "asset event": max(moment(event["timestamp"]) for event in events),
                "run begun": max(map(moment, starts)),
                "rows": last,
            }
            return answers, {step: round(at - began, 2) for step, at in steps.items()}

        receiver = ReceiverApart(folder, airflow.url, connection)
        with airflow, receiver.running():
            airflow.unpause(DAG)
            answers, through_plugin = seconds(airflow.url, ids[:1])
            # On SQLite, what comes while a run is made may be left to the run of the next event.
            answers += [send(airflow.url, one, f"delivery-{one}") for one in ids[1:4]]
            answers += [
                send(airflow.url, ids[0], f"delivery-{ids[0]}"),
                send(airflow.url, ids[0], "forged", secret="guessed"),
            ]
            apart, through_receiver = seconds(receiver.url, ids[4:5])
            apart += [
                send(receiver.url, ids[4], f"delivery-{ids[4]}"),
                send(receiver.url, ids[4], "forged", secret="guessed"),
            ]
            wait_for(lambda: landed(ids[:5]), 120, "the landing of these")
            # What runs meanwhile would only wait for the API server.
            wait_for(finished, 60, "the end of the runs")
            entries = httpx.get(f"{simulator}/_simulator/books").json()["entries"]
            airflow.set_paused(True)
            apart += [send(receiver.url, one, f"delivery-{one}") for one in ids[5:8]]
            receiver.process.signal(SIGKILL)
            killed = [
                airflow.die(when, lambda one=one: send(airflow.url, one, f"delivery-{one}"))
                for when, one in (("storing", ids[8]), ("stored", ids[9]))
            ]
            receiver.start()
            apart += [send(receiver.url, one, f"delivery-{one}") for one in ids[5:8]]
            wait_for(lambda: len(airflow.events()[0]) == 10, 90, "the handing on of what was stored")
            airflow.set_paused(False)
            with DstnyRestClient(simulator, TOKEN) as rest:
                rest.request_notetaker({"meeting_url": "https://meet.google.com/abc-defg-hij"})
                new = wait_for(lambda: {str(one.id) for one in rest.iter_conversations()} - set(ids), 10, "the meeting")
                ids += new
                wait_for(lambda: landed(ids), 60, "the landing of all")
                deliveries = [one for one in rest.list_webhook_deliveries() if one.resource_id in new]
            runs = wait_for(finished, 60, "the end of the runs")
            yield {
                "ids": ids,
                "answers": answers,
                "apart": apart,
                "killed": killed,
                "seconds": {"through the API server": through_plugin, "through the receiver": through_receiver},
                "runs": runs,
                "entries": entries,
                "deliveries": deliveries,
                "events": airflow.events()[1],
                "lake": lake,
                "receiver's log": receiver.log.read_text(),
            }


def told(answers):
    return [(answer.status_code, answer.json()["status"]) for answer in answers]


STORED, KNOWN, REFUSED = (200, "stored"), (200, "known already"), (401, "not authorized")


def test_signed_webhooks_are_taken_and_forged_ones_are_not(outcome):
    assert told(outcome["answers"]) == [STORED] * 4 + [KNOWN, REFUSED]


def test_a_receiver_apart_hands_events_to_airflow_as_a_user_of_role_op(outcome):
    assert told(outcome["apart"][:3]) == [STORED, KNOWN, REFUSED]
    assert "Traceback" not in outcome["receiver's log"]


def test_a_receiver_that_was_killed_has_what_it_answered_for(outcome):
    assert told(outcome["apart"][3:]) == [STORED] * 3 + [KNOWN] * 3


def test_an_api_server_killed_before_it_stored_gets_it_from_the_retry_and_after_that_knows_it(outcome):
    assert told(outcome["killed"]) == [STORED, KNOWN]


def test_a_meeting_that_becomes_complete_is_told_by_the_api_itself(outcome):
    assert [(one.status, one.attempts, one.response_status) for one in outcome["deliveries"]] == [("delivered", 1, 200)]


def test_each_delivery_is_one_event_without_content(outcome):
    extras = [event["extra"] for event in outcome["events"] if event["extra"]["event"] != "reminder"]
    assert sorted(extra["conversation_id"] for extra in extras) == sorted(outcome["ids"])
    content = {"conversation_id", "delivery_id", "event", "timestamp"}
    assert all(set(extra) - {"from_rest_api"} == content for extra in extras)


def test_the_conversations_are_landed_with_one_request_each(outcome):
    for way, seconds in outcome["seconds"].items():
        print(f"seconds after the first POST {way}: {seconds}")
    reads = [
        entry["path"].rpartition("/")[2] for entry in outcome["entries"] if entry["operation"] == "get_conversation"
    ]
    assert sorted(one.partition("?")[0] for one in reads) == sorted(outcome["ids"][:5])
    rows = [json.loads(line) for file in outcome["lake"].glob("transcript_segments/*/*.jsonl") for line in file.open()]
    assert {row["conversation_id"] for row in rows} == set(outcome["ids"])
