"""A secrets audit: every example and a bad day on one Airflow at DEBUG level, and what is left behind is searched.

What must not be found is taken from what the simulated APIs were sent and what they answered.
"""

from __future__ import annotations

import asyncio
import base64
import html
import json
import logging
import re
import secrets
import shutil
import sqlite3
import time
from collections import defaultdict
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import quote, quote_plus

import httpx
import pytest
from cryptography.fernet import Fernet

from airflow_provider_dstny.api import DstnyClient
from airflow_provider_dstny.api.errors import DstnyApiError
from airflow_provider_dstny.simulator import Fault, Simulator
from airflow_provider_dstny.simulator.rest import SCOPES
from demo.local_airflow import COMPONENTS, LocalAirflow, free_port, sample_calls
from tests.system.waiting import wait_for

EXAMPLES = Path(__file__).parents[2] / "example_dags"
ON_WEBHOOKS = "example_webhook_to_lake"
DAGS = sorted(path.stem for path in EXAMPLES.glob("example_*.py"))
#: Airflow itself keeps httpx at WARNING, whatever its settings say.
LOUD_PLUGIN = """
import logging

for name in ("airflow_provider_dstny", "httpx", "httpcore"):
    logging.getLogger(name).setLevel(logging.DEBUG)
"""
FERNET_KEY = Fernet.generate_key().decode()
TOKEN, FAILING_TOKEN, WRONG_TOKEN = (f"eyJhbGciOiJIUzI1NiJ9.{secrets.token_hex(16)}" for _ in range(3))
REST_TOKEN, POOR_TOKEN, FAILING_REST_TOKEN = (f"mt_{secrets.token_hex(16)}" for _ in range(3))
CASEY_TOKEN = f"sk_live_{secrets.token_hex(16)}"
WEBHOOK_SECRET, PATH_SECRET = (f"{secrets.token_hex(8)}/{secrets.token_hex(8)}" for _ in range(2))
STORE_PASSWORDS = [f"{secrets.token_hex(8)}/{secrets.token_hex(8)}" for _ in range(2)]
SECRETS = {
    "token": {TOKEN, FAILING_TOKEN, WRONG_TOKEN, REST_TOKEN, POOR_TOKEN, FAILING_REST_TOKEN, CASEY_TOKEN},
    "secret of webhooks": {WEBHOOK_SECRET, PATH_SECRET},
    "password of throttle_url": set(STORE_PASSWORDS),
}
USERS_ADDRESS = "e-mail address of a user"
#: Of the payloads that stand in a DAG: Airflow shows all of these but numbers and signatures.
OWNER = "owner.of.a.payload@example.com"
#: Stands in an example, as the default of a param.
COLLEAGUE = "nils.sund@example.com"
PHONE = "+46 70-174 06 99"
#: Each task meets something else that goes wrong, but for the last two, which send payloads that stand in the DAG.
BAD_DAY = """
import json
from pathlib import Path

from airflow.sdk import DAG

from airflow_provider_dstny.operators.conversations import (
    DstnyCreateCallConversationOperator,
    DstnyUploadCallsOperator,
)
from airflow_provider_dstny.sensors.transcripts import DstnyTranscriptSensor
from airflow_provider_dstny.transfers.object_storage import DstnyRecordingToObjectStorageOperator

HERE = Path(__file__).parent / "data"
CALLS = [json.loads(line) for line in (HERE / "calls.jsonl").read_text().splitlines()]
failing = {"dstny_conn_id": "dstny_failing"}

with DAG("bad_day", schedule=None, params={"call": "", "video": "", "failing_call": "", "failing_video": ""}):
    DstnyTranscriptSensor(
        task_id="wrong_token", dstny_conn_id="dstny_wrong", conversation_ids="{{ params.call }}", deferrable=True
    )
    DstnyRecordingToObjectStorageOperator(
        task_id="no_scope",
        dstny_conn_id="dstny_rest_poor",
        conversation_ids=["{{ params.video }}"],
        path=f"file://{HERE}/none",
    )
    DstnyTranscriptSensor(
        task_id="forbidden",
        conversation_ids="{{ params.failing_call }}",
        deferrable=True,
        poke_interval=3,
        **failing,
    )
    DstnyRecordingToObjectStorageOperator(
        task_id="slow",
        dstny_conn_id="dstny_rest_failing",
        conversation_ids=["{{ params.failing_video }}"],
        path=f"file://{HERE}/none",
    )
    DstnyCreateCallConversationOperator(task_id="broken", call={**CALLS[1], "call_title": "{{ no.such.thing }}"})
    DstnyCreateCallConversationOperator(task_id="invalid", call=f"{HERE}/shifted.jsonl#1", **failing)
    refused = DstnyCreateCallConversationOperator(task_id="refused", call=f"{HERE}/calls.jsonl#1", **failing)
    literal = DstnyCreateCallConversationOperator(
        task_id="literal", call={**CALLS[1], "call_title": "{{ run_id }}"}, trigger_rule="all_done", **failing
    )
    several = DstnyUploadCallsOperator(
        task_id="several", calls=CALLS[2:4], results_path=f"file://{HERE}/results.jsonl", **failing
    )
    refused >> literal >> several
"""
BAD_DAY_STATES = {
    **dict.fromkeys(("wrong_token", "no_scope", "forbidden", "slow", "broken", "invalid", "refused"), "failed"),
    **dict.fromkeys(("literal", "several"), "success"),
}


class AuditedAirflow(LocalAirflow):
    """An Airflow that says all there is to say, and whose database keeps each text that was ever in it."""

    def __init__(self, home, *, config, **options):
        config = {"AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG", "AIRFLOW__CORE__FERNET_KEY": FERNET_KEY, **config}
        super().__init__(home, connections={}, config=config, **options)

    def _migrate(self):
        (self.home / "plugins").mkdir()
        (self.home / "plugins" / "loud.py").write_text(LOUD_PLUGIN)
        super()._migrate()
        with closing(sqlite3.connect(self.home / "airflow.db")) as database:
            texts = defaultdict(list)
            for table, column in text_columns(database):
                texts[table].append(column)
            database.execute("CREATE TABLE kept (place TEXT, value)")
            for table, columns in texts.items():
                for event, condition in (("INSERT", "NOT NULL"), ("UPDATE", 'NOT OLD."{}"')):
                    kept = " ".join(
                        f"INSERT INTO kept SELECT '{table}.{column}', NEW.\"{column}\""
                        f' WHERE NEW."{column}" IS {condition.format(column)};'
                        for column in columns
                    )
                    database.execute(
                        f'CREATE TRIGGER "keep_{event}_{table}" AFTER {event} ON "{table}" BEGIN {kept} END'
                    )
            database.commit()

    def connect(self, conn_id, conn_type, host, password, **extra):
        body = {"conn_type": conn_type, "host": host, "password": password, "extra": json.dumps(extra)}
        self._checked(self._http.post("/api/v2/connections", json={"connection_id": conn_id, **body}))
        return self._checked(self._http.post("/api/v2/connections/test", json={"connection_id": conn_id, **body}))

    def set_slots(self, slots):
        pool = {"pool": "default_pool", "slots": slots}
        self._checked(self._http.patch("/api/v2/pools/default_pool", params={"update_mask": "slots"}, json=pool))


def text_columns(database):
    tables = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    ).fetchall()
    for (table,) in tables:
        for _, column, kind, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
            if not re.search("INT|BOOL|TIME|DATE|FLOAT|NUMERIC", kind.upper()):
                yield table, column


def texts_of(home):
    """Yield all that an Airflow left behind, and where; what is encrypted as it is meant, but for connections."""
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.name.startswith("airflow.db"):
            yield str(path.relative_to(home)), path.read_bytes()
    fernet = Fernet(FERNET_KEY)
    values = defaultdict(set)
    with closing(sqlite3.connect(home / "airflow.db")) as database:
        for table, column in text_columns(database):
            if table == "kept":
                rows = database.execute("SELECT DISTINCT place, value FROM kept")
            else:
                rows = database.execute(f'SELECT DISTINCT ?, "{column}" FROM "{table}"', (f"{table}.{column}",))
            for place, value in rows:
                values[place].add(value if isinstance(value, bytes) else str(value).encode())
    for place, found in values.items():
        is_open = not place.startswith("connection.")
        yield place, b"\n".join(fernet.decrypt(one) if is_open and one.startswith(b"gAAAA") else one for one in found)


def forms_of(text):
    """Return a text as it is, and as URLs, JSON, JSON within JSON, pages and base64 write it."""
    written = json.dumps(text)[1:-1]
    forms = {text, quote(text), quote(text, safe=""), quote_plus(text), html.escape(text), written}
    forms.add(json.dumps(written)[1:-1])
    found = {form.encode() for form in forms}
    for before in range(3):
        encoded = base64.b64encode(b" " * before + text.encode()).rstrip(b"=")
        # The characters at both ends depend on what stands beside.
        found.add(encoded[(0, 2, 3)[before] : -1])
    return found


def search(texts, needles):
    """Return where which kind of needle is, with some of what stands around it."""
    forms = [(kind, form) for kind, ones in needles.items() for one in ones for form in forms_of(one)]
    return [
        (kind, place, content[max(0, at - 120) : at + len(form) + 40])
        for place, content in texts
        for kind, form in forms
        if (at := content.find(form)) >= 0
    ]


def remember(simulator, told):
    """Keep what the APIs are sent and what they answer."""
    for api in simulator.app.apis:

        def answer(call, token, answer=api.answer):
            answered = answer(call, token)
            told.append(json.dumps({"sent": call.body, "answered": answered}))
            return answered

        api.answer = answer


def leaves(value, path=""):
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(one, f"{path}.{key}")
    elif isinstance(value, str) and value:
        yield path, value


def private_parts(told):
    """Return what is private of all that was told, by kind."""
    found = defaultdict(set)
    for path, text in {leaf for one in told for leaf in leaves(json.loads(one))}:
        name = path.rpartition(".")[2]
        if re.search("phone|mobile", name):
            found["phone number"] |= {text, re.sub(r"\D", "", text)}
        elif "@" in text and re.search("email|username", name):
            is_user = "participant" not in path
            found[USERS_ADDRESS if is_user else "e-mail address of a participant"].add(text)
        elif name in ("text", "content"):
            found["sentence"].add(text)
        elif name in ("summary", "insight_text"):
            found["summary"].add(text)
        elif "recording_url" in name and "?" in text:
            found["signature"].add(text.rpartition("signature=")[2])
    return found


def copy_examples(folder, url):
    """Copy the DAGs, less patient and without a schedule, and their data, with signatures and phone numbers."""
    shutil.copytree(EXAMPLES, folder)
    for path in folder.glob("*.py"):
        text = path.read_text("utf-8").replace("timedelta(seconds=30)", "timedelta(seconds=2)")
        text = re.sub(r'schedule="@\w+"', "schedule=None", text)
        path.write_text(re.sub(r"poke_interval=\d+", "poke_interval=3", text), "utf-8")
    data = folder / "data"
    calls = sample_calls(data / "recorded_calls.csv", url)
    header, *rows = calls.read_text("utf-8").splitlines()
    rows = [row.replace(".wav", f".wav?signature={secrets.token_hex(16)}") for row in rows]
    calls.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    (data / "some.csv").write_text("\n".join([header, *rows[:2]]) + "\n", "utf-8")
    users = data / "users.csv"
    header, *people = users.read_text("utf-8").splitlines()
    people = [f"{one},+4670174{number:04}" for number, one in enumerate(people, 7000)]
    users.write_text("\n".join([f"{header},mobile_number", *people]) + "\n", "utf-8")
    call = {
        "call_start_time": "2026-03-02T08:00:00Z",
        "call_duration": 90,
        "call_direction": "incoming",
        "owner_email": OWNER,
    }
    calls = [
        {
            **call,
            "call_external_id": f"bad-day-{number}",
            "call_recording_url": f"{url}/recordings/{number}.wav?signature={secrets.token_hex(16)}",
            "participant_phone_number": f"+46 70-175 0{number} 00",
        }
        for number in range(4)
    ]
    (data / "calls.jsonl").write_text("\n".join(map(json.dumps, calls)), "utf-8")
    # As if the columns of a file had moved.
    shifted = {**calls[0], "call_direction": PHONE, "call_duration": PHONE, "participant_phone_number": "left"}
    (data / "shifted.jsonl").write_text(json.dumps(shifted), "utf-8")
    (folder / "bad_day.py").write_text(BAD_DAY, "utf-8")
    return folder


@contextmanager
def logged(path):
    """Write what the simulators log at DEBUG level."""
    handler = logging.FileHandler(path, encoding="utf-8")
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "airflow_provider_dstny.simulator")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
            logger.removeHandler(handler)
        handler.close()


def deliver(airflow, simulator, conversation_id, call_id):
    """Send webhooks, good and bad ones, to the plugin; return the answers."""
    sent = {}
    for kind in ("wrong_secret", "tampered", "not_json", "good"):
        asked = {"kind": kind, "conversation_id": conversation_id}

        def answered(asked=asked):
            answer = httpx.post(f"{simulator.url}/_simulator/webhooks", json=asked, timeout=30, trust_env=False)
            return answer.json().get("response_status")

        sent[kind] = wait_for(answered, 60, "an answer to a webhook")
    body = {"event_type": "conversation_created", "payload": {"conversation_id": call_id, "phone_number": PHONE}}
    for kind, secret in (("good path", PATH_SECRET), ("wrong path", "guessed")):
        url = f"{airflow.url}/dstny/webhooks/dstny_default/{quote(secret, safe='')}"
        sent[kind] = httpx.post(url, json=body, timeout=30, trust_env=False).status_code
    return sent


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """All DAGs at once, and what they left behind."""
    folder = tmp_path_factory.mktemp("secrets")
    home, told = folder / "airflow", []
    port, airflow_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    airflow = AuditedAirflow(
        home,
        dags=copy_examples(folder / "dags", url),
        port=airflow_port,
        config={"AIRFLOW__DSTNY__WEBHOOKS_ENABLED": "True", "HOME": str(folder)},
    )
    stores = [quote(password, safe="") for password in STORE_PASSWORDS]
    with ExitStack() as stack:
        stack.enter_context(airflow)
        # Made last, because conversations become complete while the DAGs wait for them.
        failing = Simulator(
            token=FAILING_TOKEN, rest_tokens={FAILING_REST_TOKEN: SCOPES}, samples=4, fresh=0, requests_per_minute=None
        )
        simulator = Simulator(
            port=port,
            token=TOKEN,
            rest_tokens={REST_TOKEN: SCOPES, POOR_TOKEN: ["conversations"]},
            tellcasey_token=CASEY_TOKEN,
            requests_per_minute=None,
            samples=12,
            fresh=2,
            dstny_samples=3,
            transcript_after=25,
            webhook_url=f"http://127.0.0.1:{airflow_port}/dstny/webhooks/dstny_rest_default",
            webhook_secret=WEBHOOK_SECRET,
        )
        for context in (logged(home / "simulator.log"), failing, simulator):
            stack.enter_context(context)
        for one in (simulator, failing):
            remember(one, told)
        pace = {"requests_per_minute": 3000}
        tests = [
            airflow.connect("dstny_default", "dstny", url, TOKEN, webhook_secrets=PATH_SECRET),
            airflow.connect(
                "dstny_rest_default",
                "dstny_rest",
                url,
                REST_TOKEN,
                webhook_secrets=WEBHOOK_SECRET,
                throttle_url=f"redis://:{stores[0]}@127.0.0.1:{free_port()}/0",
                **pace,
            ),
            airflow.connect(
                "tellcasey_default",
                "tellcasey",
                url,
                CASEY_TOKEN,
                throttle_url=f"postgresql://airflow:{stores[1]}@127.0.0.1:{free_port()}/pace",
                **pace,
            ),
            airflow.connect("dstny_wrong", "dstny", url, WRONG_TOKEN),
            airflow.connect("dstny_rest_poor", "dstny_rest", url, POOR_TOKEN, **pace),
            airflow.connect("dstny_failing", "dstny", failing.url, FAILING_TOKEN, max_retries=0, timeout=1),
            airflow.connect(
                "dstny_rest_failing", "dstny_rest", failing.url, FAILING_REST_TOKEN, max_retries=0, timeout=1, **pace
            ),
        ]
        # Testing a connection would have met these.
        for fault in (
            # The first look is the worker's, the second one the triggerer's.
            Fault("status", "get_transcript", status=404, message="Transcript not found", api="dstny"),
            Fault("html", "get_transcript", 9, status=403, message=f"Call {PHONE}, {FAILING_TOKEN}", api="dstny"),
            Fault("status", "create_call_conversation", status=400, message=f"participant_phone_number: {PHONE}"),
            Fault("slow", "recording", 9, seconds=3),
        ):
            failing.books.inject(fault)
        call, video = next(iter(simulator.state.calls)), simulator.rest.add().id
        confs = {
            "bad_day": {
                "call": call,
                "video": video,
                "failing_call": failing.state.add().conversation_id,
                "failing_video": next(iter(failing.rest.conversations)),
            },
            "example_agents": {"days": 11},
            "example_backfill": {"dry_run": False, "lake": f"file://{folder}/filled"},
            "example_call_to_transcript": {"calls_path": str(folder / "dags" / "data" / "some.csv")},
        }
        # On SQLite, the start of a task and the audit log of the API server can wait for each other.
        airflow.set_slots(0)
        airflow.unpause(ON_WEBHOOKS)
        deliveries = deliver(airflow, simulator, video, call)
        runs = {
            dag_id: airflow.trigger(dag_id, confs.get(dag_id, {}))
            for dag_id in [*DAGS, "bad_day"]
            if dag_id != ON_WEBHOOKS
        }
        airflow.set_slots(128)

        def ended():
            found = airflow.get("/dags/~/dagRuns", limit=100)["dag_runs"]
            on_webhooks = [run for run in found if run["dag_id"] == ON_WEBHOOKS]
            return on_webhooks and all(run["state"] in {"success", "failed"} for run in found) and found

        ended_runs = wait_for(ended, 300, "the end of the runs")
        # What a triggerer and a scheduler say at the end of a run may come a little later.
        time.sleep(1)
        outcome = {
            "home": home,
            "connection tests": tests,
            "deliveries": deliveries,
            "ids": {*simulator.rest.conversations, *simulator.state.calls, *simulator.tellcasey.conversations},
            "states": {(run["dag_id"], run["state"]) for run in ended_runs},
            "tasks": {
                dag_id: {one["task_id"]: one["state"] for one in airflow.task_instances(dag_id, run_id)}
                for dag_id, run_id in runs.items()
            },
            "violations": simulator.books.violations,
        }
    # Not all of these were sent.
    told += (folder / "dags" / "data" / "calls.jsonl").read_text().splitlines()
    told.append(json.dumps({"phone": PHONE}))
    outcome["needles"] = {**SECRETS, **private_parts(told)}
    outcome["texts"] = list(texts_of(home))
    return outcome


def test_the_examples_succeed_and_the_bad_day_is_bad(outcome):
    assert outcome["states"] == {("bad_day", "failed"), *((dag_id, "success") for dag_id in DAGS)}, outcome["tasks"]
    assert outcome["tasks"]["bad_day"] == BAD_DAY_STATES
    assert outcome["violations"] == []
    good = {"good": 200, "good path": 200, "not_json": 400}
    assert outcome["deliveries"] == {**dict.fromkeys(("wrong_secret", "tampered", "wrong path"), 401), **good}
    assert [one["status"] for one in outcome["connection tests"]] == [True, True, True, False, True, True, True]


def test_there_is_something_to_look_for_and_to_look_at(outcome):
    assert {kind: len(ones) for kind, ones in outcome["needles"].items() if len(ones) < 2} == {}
    assert len(outcome["needles"]["phone number"]) > 30
    assert len(outcome["needles"]["sentence"]) > 50
    places = {place for place, _ in outcome["texts"]}
    for component in COMPONENTS:
        (log,) = [content for place, content in outcome["texts"] if place == f"{component}.log"]
        assert re.search(rb"(?i)\bdebug\b", log), component
    assert [content for place, content in outcome["texts"] if place == "simulator.log" and content]
    logs = [content for place, content in outcome["texts"] if "/dag_id=" in place]
    for what in (b"HTTP Request: GET", b"HTTP Request: POST", b"Redis at 127", b"PostgreSQL at 127", b"403 Forbidden"):
        assert any(what in log for log in logs), what
    assert {re.search("dag_id=([^/]+)", place)[1] for place in places if "/dag_id=" in place} == {*DAGS, "bad_day"}


def test_what_may_be_shown_is_found_wherever_it_is_shown(outcome):
    found = {place for _, place, _ in search(outcome["texts"], {"id": outcome["ids"]})}
    shown = {
        "xcom.value",
        "trigger.kwargs",
        "rendered_task_instance_fields.rendered_fields",
        "dag_run.conf",
        "asset_event.extra",
        "dstny_webhook_deliveries.conversation_id",
    }
    assert shown <= found
    assert {place.split("/")[0] for place in found} > {"logs"}


@pytest.mark.parametrize(
    "written", [str, quote, json.dumps, lambda text: base64.b64encode(f"-{text}!".encode()).decode()]
)
def test_a_secret_would_be_found_in_a_log_and_in_the_database(outcome, tmp_path, written):
    copy = tmp_path / "airflow"
    (copy / "logs").mkdir(parents=True)
    shutil.copy(outcome["home"] / "airflow.db", copy)
    (copy / "logs" / "task.log").write_text(json.dumps({"event": f"before{written(STORE_PASSWORDS[0])}after"}))
    hidden = Fernet(FERNET_KEY).encrypt(written(STORE_PASSWORDS[0]).encode()).decode()
    with closing(sqlite3.connect(copy / "airflow.db")) as database:
        database.execute("UPDATE log SET extra = ? WHERE id = 1", (written(STORE_PASSWORDS[0]),))
        database.execute("INSERT INTO kept VALUES ('trigger.kwargs', ?)", (hidden,))
        database.commit()
    found = search(texts_of(copy), {"planted": {STORE_PASSWORDS[0]}})
    assert {place for _, place, _ in found} == {"logs/task.log", "log.extra", "trigger.kwargs"}


def test_connections_are_stored_encrypted(outcome):
    with closing(sqlite3.connect(outcome["home"] / "airflow.db")) as database:
        rows = database.execute("SELECT password, extra FROM connection").fetchall()
    stored = {Fernet(FERNET_KEY).decrypt(value.encode()).decode() for row in rows for value in row if value}
    assert SECRETS["token"] <= stored


def test_no_secret_and_nothing_private_is_left_behind(outcome):
    needles = {kind: ones for kind, ones in outcome["needles"].items() if kind != USERS_ADDRESS}
    assert search(outcome["texts"], needles) == []


def test_addresses_of_users_are_where_it_is_documented(outcome):
    addresses, sync = outcome["needles"][USERS_ADDRESS] - {OWNER, COLLEAGUE}, "dag_id=example_directory_sync"
    # With LocalExecutor, the scheduler says again what tasks log.
    others = [
        (place, b"\n".join(line for line in content.splitlines() if sync.encode() not in line))
        for place, content in outcome["texts"]
        if sync not in place
    ]
    assert search(outcome["texts"], {USERS_ADDRESS: addresses})
    assert search(others, {USERS_ADDRESS: addresses}) == []
    shown = {"rendered_task_instance_fields.rendered_fields", "serialized_dag.data"}
    for address in (OWNER, COLLEAGUE):
        assert shown <= {place for _, place, _ in search(outcome["texts"], {USERS_ADDRESS: {address}})}


def test_a_redirect_never_carries_the_token_to_another_host():
    asked = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.headers["Host"].partition(":")[0], self.headers["Authorization"]))
            self.send_response(307 if asked[-1][0] == "127.0.0.1" else 200)
            self.send_header("Location", f"http://localhost:{server.server_port}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with DstnyClient(f"http://127.0.0.1:{server.server_port}", TOKEN, max_retries=0) as dstny:
            for ask in (dstny.list_users, lambda: asyncio.run(dstny.list_users.aio())):
                with pytest.raises(DstnyApiError, match="does not redirect"):
                    ask()
            with dstny.open_url(f"http://127.0.0.1:{server.server_port}/a.wav", {}) as opened:
                assert opened.status == 200
        server.shutdown()
    assert asked == [("127.0.0.1", f"Bearer {TOKEN}")] * 2 + [("127.0.0.1", None), ("localhost", None)]
