"""The fault matrix: each kind of fault, met by each kind of operation, and what came of it.

What is expected is the table of FAULTS.md; ``python -m tests.contract.faults`` measures it anew and writes it.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
import logging
import os
import re
import shutil
import socket
import sqlite3
import ssl
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from functools import cache, partial
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import httpx
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from airflow_provider_dstny.api import errors
from airflow_provider_dstny.api.downloads import Download
from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyError
from airflow_provider_dstny.api.throttle import Throttle
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.windows import Interval
from airflow_provider_dstny.landing.export import Export, Options
from airflow_provider_dstny.simulator import Simulator
from airflow_provider_dstny.simulator.dstny_calls import default_body
from airflow_provider_dstny.triggers.transcripts import DstnyTranscriptTrigger
from airflow_provider_dstny.waiting.transcripts import TranscriptWait
from airflow_provider_dstny.webhooks import __main__ as receiver_main
from airflow_provider_dstny.webhooks.airflow_api import AirflowApi
from tests.contract.relay import Answer, Exchange, Relay

FAULTS_MD = Path(__file__).parents[2] / "FAULTS.md"
#: Seconds; the shorter one where a fault makes it run out.
_TIMEOUT, _SHORT_TIMEOUT = 10.0, 0.07
#: Seconds between two looks at what is waited for.
_INTERVAL = 150.0
#: What is never to be shown: it stands in answers, in URLs, and in the messages of errors.
TOLD = "words-of-a-conversation"
PHONE = "+46701234567"
_NAME = "api.dstny.test"
_SKEW = timedelta(hours=3)
_SECRET = "secret-of-the-webhooks"
_VERSION_2, _VERSION_1 = "dstny_hinted", "dstny_signed"
_PASSES, _RETRIED, _NOTHING = "passes", "retried, then passes", "passes, and returns nothing"


# The rows.


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    :param title: its row.
    :param commit: what becomes of a request that it hits.
    :param stage: ``connect``, ``name`` or ``tls`` if it hits before there is a request; ``late`` if a timeout makes it;
        ``clock`` if it is none of a single request.
    """

    title: str
    commit: Callable[[Exchange], object] = lambda exchange: exchange.send(exchange.forward())
    stage: str = ""


def _hang(exchange: Exchange) -> None:
    exchange.forward(counted=True)
    exchange.hang()


def _hang_half_way(exchange: Exchange) -> None:
    answer = exchange.forward(counted=True)
    exchange.send(answer, up_to=len(answer.body) // 2)
    exchange.hang()


def _drip(exchange: Exchange) -> None:
    answer = exchange.forward(counted=True)
    exchange.send(answer.but(body=b" " * 1000 + answer.body), up_to=0)
    for _ in range(1000):
        exchange.connection.sendall(b" ")
        time.sleep(_SHORT_TIMEOUT / 4)


def _reset(exchange: Exchange) -> None:
    exchange.forward(counted=True)
    exchange.reset()


def _cut(exchange: Exchange) -> None:
    answer = exchange.forward(counted=True)
    exchange.send(answer, up_to=len(answer.body) // 2)


def _replaced(exchange: Exchange, body: Callable[[bytes], bytes], **headers: str) -> None:
    answer = exchange.forward(counted=True)
    exchange.send(answer.but(body=body(answer.body), **headers))


def _status(status: int, message: str = "", *, retry_after: int | None = None) -> Callable[[Exchange], None]:
    def commit(exchange: Exchange) -> None:
        if status >= 500:
            # The worst: it was done all the same.
            exchange.forward(counted=True)
        said = {"message": message or f"Simulated for {exchange.headers.get('Authorization')} {PHONE}"}
        headers = {"content-type": "application/json"}
        if retry_after is not None:
            said, headers = {**said, "retryAfter": retry_after}, {**headers, "retry-after": str(retry_after)}
        exchange.send(Answer(status, headers, json.dumps(said).encode()))

    return commit


def _skewed(skew: timedelta) -> Callable[[Exchange], None]:
    def commit(exchange: Exchange) -> None:
        answer = exchange.forward(counted=True)
        now = datetime.now(UTC) + skew
        told = f'"timestamp":"{now.isoformat(timespec="milliseconds").replace("+00:00", "Z")}"'.encode()
        body = answer.body
        if b'"_meta"' in body:
            head, _, meta = body.rpartition(b'"_meta"')
            body = head + b'"_meta"' + re.sub(rb'"timestamp":"[^"]*"', told, meta)
        exchange.send(answer.but(body=body, date=formatdate(now.timestamp(), usegmt=True)))

    return commit


@cache
def _huge() -> bytes:
    return gzip.compress(TOLD.encode() + b" " * 64 * 1024 * 1024)


_PAGE = f"<html><head><title>Sign in</title></head><body>{TOLD}</body></html>".encode()

FAULTS = {
    "refused": Fault("Connection refused", stage="connect"),
    "dns": Fault("Name of the host not found", stage="name"),
    "tls": Fault("Certificate not trusted (self-signed)", stage="tls"),
    "silent": Fault("No answer within `timeout`", _hang, "late"),
    "stalled": Fault("Answer stops half way, until `timeout`", _hang_half_way, "late"),
    "drip": Fault("Answer drips in and does not end within three times `timeout`", _drip, "late"),
    "reset": Fault("Connection reset before the answer", _reset),
    "cut": Fault("Connection closed within the answer", _cut),
    "truncated": Fault("200 with half of the JSON", partial(_replaced, body=lambda body: body[: len(body) // 2])),
    "html": Fault("200 with an HTML page", partial(_replaced, body=lambda body: _PAGE, content_type="text/html")),
    "empty": Fault("200 with an empty body", partial(_replaced, body=lambda body: b"")),
    "type": Fault("200 with JSON, told to be `text/html`", partial(_replaced, body=bytes, content_type="text/html")),
    "huge": Fault(
        "200 with 64 MB that are no JSON (64 kB, compressed)",
        partial(_replaced, body=lambda body: _huge(), content_type="application/json", content_encoding="gzip"),
    ),
    "400": Fault("400", _status(400)),
    "401": Fault("401", _status(401)),
    "403": Fault("403", _status(403)),
    "404": Fault("404", _status(404)),
    "409": Fault("409", _status(409)),
    "422": Fault("422", _status(422)),
    "429 short": Fault("429, `Retry-After: 2`", _status(429, retry_after=2)),
    "429 long": Fault("429, `Retry-After: 600`", _status(429, retry_after=600)),
    "429 quota": Fault(
        "429, the daily quota is used up", _status(429, "Daily conversation quota exceeded", retry_after=7200)
    ),
    "500": Fault("500", _status(500)),
    "502": Fault("502", _status(502)),
    "503": Fault("503", _status(503)),
    "ahead": Fault("Clock of the API 3 hours ahead", _skewed(_SKEW), "clock"),
    "behind": Fault("Clock of the API 3 hours behind", _skewed(-_SKEW), "clock"),
}


# Time, names and certificates.


@dataclass
class Clock:
    now: float = field(default_factory=time.time)

    def __call__(self) -> float:
        return self.now


@contextmanager
def _moved_time(clock: Clock) -> Iterator[None]:
    """Let all that waits move a clock instead."""
    from tests.unit.accounts import Alarms

    alarms = Alarms(clock)

    def sleep(seconds: float) -> None:
        clock.now += seconds

    async def asleep(seconds: float) -> None:
        sleep(seconds)
        await asyncio.sleep(0)

    throttle = Throttle(clock=clock)
    package = "airflow_provider_dstny"
    awaited = SimpleNamespace(sleep=asleep, get_running_loop=asyncio.get_running_loop, timeout=asyncio.timeout)
    with ExitStack() as stack:
        for name, replacement in {
            # Else a fault would take three times as long.
            "api.client._LONGEST_ANSWER": 1,
            "api.client.time": SimpleNamespace(sleep=sleep),
            "api.client.asyncio": awaited,
            "api.client.throttle_for": lambda *account: throttle,
            "api.downloads.time": SimpleNamespace(sleep=sleep),
            "triggers.base.asyncio": awaited,
            "waiting.poller.idle_until": alarms.idle_until,
            "waiting.poller._Alarm": alarms.set,
            **{
                f"waiting.{module}.utc_now": lambda: datetime.fromtimestamp(clock(), UTC)
                for module in ("wait", "lookout", "reading", "poller")
            },
        }.items():
            stack.enter_context(mock.patch(f"{package}.{name}", replacement))
        yield


@contextmanager
def _named(relay: Relay, fault: Fault) -> Iterator[None]:
    """Give this machine the name of the API, as far as the fault lets it be found."""
    find = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in (_NAME, _NAME.encode()):
            return find(host, *arguments, **options)
        if fault.stage == "name" and relay.takes_fault():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return find("127.0.0.1", *arguments, **options)

    with mock.patch("socket.getaddrinfo", getaddrinfo):
        yield


def _certificate(folder: Path, name: str) -> Path:
    """Make a certificate for this machine that is signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now, now + _SKEW)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    file.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file


# The columns.


class World:
    """The accounts, the receiver and the certificates with which all is measured. A context manager."""

    def __enter__(self) -> World:
        with ExitStack() as stack:
            self.folder = Path(tempfile.mkdtemp())
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            options: dict[str, Any] = {"requests_per_minute": None, "daily_conversation_quota": None, "fresh": 0}
            self.simulator = stack.enter_context(Simulator(samples=40, **options))
            self.small = stack.enter_context(Simulator(samples=0, **options))
            for number in range(2):
                self.small.rest.add(date=time.time() - (6 + number) * 3600, title=TOLD)
            self.trusted = _certificate(self.folder, "trusted")
            self.tls = tuple(map(_server_context, (_certificate(self.folder, "other"), self.trusted)))
            self.receiver = stack.enter_context(_receiver(self.folder))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def _server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@contextmanager
def _receiver(folder: Path) -> Iterator[str]:
    """Run the stand-alone receiver; there is no Airflow that it could hand anything on to."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = receiver_main.app(AirflowApi("http://127.0.0.1:1", None, None), f"sqlite:///{folder}/webhooks.db")
    server = uvicorn.Server(uvicorn.Config(app, loop="asyncio", log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/dstny/webhooks"
    server.should_exit = True
    thread.join()
    listener.close()


@dataclass
class Run:
    """One measurement: an operation that meets a fault.

    :param url: where the operation reaches the API, or the host of recordings.
    """

    world: World
    fault: Fault
    relay: Relay
    url: str
    lasts: bool
    asynchronous: bool
    clock: Clock

    @property
    def timeout(self) -> float:
        return _SHORT_TIMEOUT if self.fault.stage == "late" else _TIMEOUT

    @property
    def verify(self) -> bool | str:
        return str(self.world.trusted) if self.fault.stage == "tls" else True

    @property
    def options(self) -> dict[str, Any]:
        return {"timeout": self.timeout, "verify": self.verify, "requests_per_minute": 1e6}

    def client(self, kind: type, simulator: Simulator | None = None) -> Any:
        of = simulator or self.world.simulator
        token = of.token if kind is DstnyClient else of.rest_token
        return kind(self.url, token, **self.options)

    def call(self, kind: type, do: Callable[[Any], Any]) -> Any:
        """Call an operation, blocking or awaiting."""
        if not self.asynchronous:
            with self.client(kind) as client:
                return do(client)()

        async def run() -> Any:
            async with self.client(kind) as client:
                return await do(client).aio()

        return asyncio.run(run())


def _bound(operation: Any, *args: Any, **kwargs: Any) -> Any:
    call = partial(operation, *args, **kwargs)
    call.aio = partial(operation.aio, *args, **kwargs)  # type: ignore[attr-defined]
    return call


def read(run: Run) -> str:
    one = next(iter(run.world.simulator.rest.conversations.values()))
    found = run.call(DstnyRestClient, lambda rest: _bound(rest.get_conversation, one.id))
    return _PASSES if found.id == one.id else _NOTHING


def walk(run: Run) -> str:
    if not run.asynchronous:
        with run.client(DstnyRestClient) as rest:
            found = [row.id for row in rest.iter_conversations()]
    else:

        async def collect() -> list[Any]:
            async with run.client(DstnyRestClient) as rest:
                return [row.id async for row in rest.iter_conversations.aio()]

        found = asyncio.run(collect())
    assert sorted(found) == sorted(one.id for one in run.world.simulator.rest.conversations.values())
    return _PASSES


def create(run: Run) -> str:
    url = f"{run.world.simulator.url}/recordings/a.wav?signature={TOLD}"
    call = {**default_body(0, time.time() - 3600), "call_recording_url": url}
    run.call(DstnyClient, lambda dstny: _bound(dstny.create_call_conversation, call))
    return _PASSES


def update_user(run: Run) -> str:
    user = run.call(DstnyClient, lambda dstny: _bound(dstny.update_user, 1, {"first_name": "Ulla"}))
    return _PASSES if user.id == 1 else _NOTHING


def update_agent(run: Run) -> str:
    agent = {"name": "Agent", "type": "playbook", "status": "draft", "customPrompt": TOLD}
    found = run.call(DstnyClient, lambda dstny: _bound(dstny.update_agent, 2, agent))
    return _PASSES if found.id == 2 else _NOTHING


def run_agent(run: Run) -> str:
    one = run.world.simulator.state.add().conversation_id
    options = {"is_test_run": False, "request_timeout": run.timeout}
    run.call(DstnyClient, lambda dstny: _bound(dstny.run_agent, 1, one, **options))
    return _PASSES


def wait(run: Run) -> str:
    """Wait in the triggerer for a quarter of an hour."""
    simulator = run.world.simulator
    began = datetime.fromtimestamp(run.clock(), UTC)
    waited = TranscriptWait([simulator.rest.add().id], started_at=began, deadline=began + timedelta(minutes=15))
    trigger = DstnyTranscriptTrigger(**waited.to_json(), dstny_conn_id=_VERSION_1, poll_interval=_INTERVAL)

    async def first() -> dict[str, Any]:
        return dict((await anext(aiter(trigger.run()))).payload)

    with _connections({_VERSION_1: ("dstny_rest", run.url, simulator.rest_token, {})}, **run.options):
        event = asyncio.run(first())
    _shows_nothing(event["reason"])
    if event["state"] == "ready":
        return _PASSES if run.clock() - began.timestamp() < _INTERVAL else "waits on, then passes"
    return {
        "timed_out": "waits on until its deadline",
        "gave_up": "gives up, for the pause ends after its deadline",
        "failed": "fails at once",
    }[event["state"]]


def export(run: Run) -> str:
    tables = frozenset({"conversations", "transcript_segments"})
    hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    options = Options(
        interval=Interval(hour - timedelta(hours=1), hour),
        tables=tables,
        file_format="jsonl",
        redaction=Redaction.parse(None),
        source_name="x",
        lookback=timedelta(days=2),
        sweep_every=timedelta(days=7),
        give_up_after=timedelta(days=7),
        concurrency=1,
    )
    folder = Path(tempfile.mkdtemp(dir=run.world.folder))

    async def land() -> Any:
        async with run.client(DstnyRestClient, run.world.small) as rest:
            return await Export(rest, f"file://{folder}", options).run()

    outcome = asyncio.run(land())
    for error in outcome.failures.values():
        _shows_nothing(*traceback.format_exception(error))
    landed = {file.table: file.rows for file in outcome.manifest.files}
    if outcome.failures:
        (kind,) = {_name(error) for error in outcome.failures.values()}
        return f"{kind} for each that fails; the others are landed"
    assert landed["conversations"] == 2
    if outcome.counts["left"]:
        return "lands the rows of the list; the rest is left to later runs"
    if outcome.counts["pending"]:
        return "lands the rows of the list; a later run reads the rest"
    assert outcome.counts["complete"] == 2
    return _PASSES


def download(run: Run) -> str:
    held = bytearray()

    class Target:
        def write(self, piece: bytes) -> None:
            held.extend(piece)

        def restart(self) -> None:
            held.clear()

    simulator = run.world.simulator
    with DstnyRestClient(run.url, simulator.rest_token, timeout=run.timeout, verify=run.verify) as rest:
        Download(rest, "The recording", lambda: f"{run.url}/recordings/a.wav?signature={TOLD}", Target()).run()
    assert bytes(held) == httpx.get(f"{simulator.url}/recordings/a.wav").content
    return _PASSES


def webhook(run: Run) -> str:
    """Tell the receiver that a call of API v2 is there, which it looks up, and again an hour later."""
    simulator = run.world.simulator
    one = simulator.state.add().conversation_id
    secrets = {"webhook_secrets": _SECRET}
    known = {
        _VERSION_2: ("dstny", run.url, simulator.token, secrets),
        _VERSION_1: ("dstny_rest", simulator.url, simulator.rest_token, secrets),
    }
    with _connections(known, **run.options):
        if run.fault.stage == "clock":
            skew = _SKEW if run.fault is FAULTS["ahead"] else -_SKEW

            def tell_by_wrong_clock() -> tuple[int, str]:
                now = datetime.now(UTC)
                return _post_signed(run.world.receiver, one, now + skew if run.relay.takes_fault() else now)

            return _told(tell_by_wrong_clock, lambda: None)
        hint = json.dumps({"event_type": "conversation_created", "payload": {"conversation_id": one}}).encode()

        def later() -> None:
            run.clock.now += 3600

        return _told(lambda: _post(run.world.receiver, f"{_VERSION_2}/{_SECRET}", hint, {}), later)


def _post_signed(receiver: str, conversation_id: str, sent_at: datetime) -> tuple[int, str]:
    """Send a signed webhook of the REST API v1."""
    body = json.dumps(
        {
            "event": "conversation.completed",
            "timestamp": sent_at.isoformat(),
            "data": {"conversation": {"id": conversation_id}},
            "_meta": {"delivery_id": f"d-{conversation_id}"},
        }
    ).encode()
    signature = hmac.new(_SECRET.encode(), body, hashlib.sha256).hexdigest()
    return _post(receiver, _VERSION_1, body, {"X-Webhook-Signature": f"sha256={signature}"})


def _post(receiver: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    url = urlsplit(f"{receiver}/{path}")
    with closing(HTTPConnection(url.netloc, timeout=_TIMEOUT)) as connection:
        connection.request("POST", url.path, body, headers)
        answer = connection.getresponse()
        told = answer.read().decode()
    _shows_nothing(told)
    return answer.status, json.loads(told)["status"]


def _told(tell: Callable[[], tuple[int, str]], meanwhile: Callable[[], object]) -> str:
    """Tell a receiver of something, and again if it did not take it."""
    status, told = tell()
    if status == 200:
        assert told == "stored"
        return _PASSES
    meanwhile()
    again = tell()
    if again == (200, "stored"):
        return f"answers {status}; stored when it is sent again"
    assert again == (status, told)
    return f"answers {status}, each time that it is sent"


@contextmanager
def _connections(known: Mapping[str, tuple[str, str, str, dict[str, Any]]], **common: Any) -> Iterator[None]:
    variables = {
        f"AIRFLOW_CONN_{name.upper()}": json.dumps(
            {"conn_type": kind, "host": url, "password": token, "extra": {**extra, **common}}
        )
        for name, (kind, url, token, extra) in known.items()
    }
    with mock.patch.dict(os.environ, variables):
        yield


@dataclass(frozen=True)
class Operation:
    """A kind of operation.

    :param title: its column.
    :param meant: its requests that a fault hits, a pattern of method and path.
    :param is_once: it must not be done twice.
    :param has_both: it is called blocking and awaiting.
    """

    title: str
    perform: Callable[[Run], str]
    meant: str
    is_once: bool = False
    has_both: bool = True


OPERATIONS = {
    "read": Operation("Read<br>`get_conversation`", read, r"GET /api/v1/rest/conversations/[^/]+$"),
    "walk": Operation(
        "Walk pages<br>`iter_conversations`, from page 2 on", walk, r"GET /api/v1/rest/conversations\?.*cursor="
    ),
    "create": Operation("Create<br>`create_call_conversation`", create, r"POST /api/v2/conversations$", is_once=True),
    "update": Operation("Change<br>`update_user`, PATCH", update_user, r"PATCH /api/v2/users/1$", is_once=True),
    "replace": Operation("Replace<br>`update_agent`, PUT", update_agent, r"PUT /api/v2/ai-agents/2$"),
    "run": Operation("Run an agent<br>`run_agent`", run_agent, r"POST /api/v2/ai-agents/1/.*/run$", is_once=True),
    "wait": Operation(
        "Wait<br>sensor, in the triggerer", wait, r"GET /api/v1/rest/conversations/.*/transcript", has_both=False
    ),
    "export": Operation(
        "Lake export<br>reading a conversation", export, r"GET /api/v1/rest/conversations/[^/]+$", has_both=False
    ),
    "download": Operation("Recording<br>its host fails", download, r"GET /recordings/", has_both=False),
    "webhook": Operation(
        "Webhook<br>the API that confirms it fails", webhook, r"GET /api/v2/conversations/.*/insights$", has_both=False
    ),
}

#: Where a fault means nothing, and why.
NOT_APPLICABLE = {
    ("drip", "download"): "not applicable: a recording may take as long as it gets further",
    ("truncated", "download"): "not applicable: what its host declares to be shorter is whole",
}


# The store of the receiver, which no HTTP reaches.


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    with closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def _overwritten(store: Path) -> Iterator[None]:
    kept = store.read_bytes()
    store.write_bytes(b"x" * len(kept))
    yield
    store.write_bytes(kept)


@contextmanager
def _without_table(store: Path) -> Iterator[None]:
    def rename(name: str, new: str) -> None:
        with closing(sqlite3.connect(store)) as other:
            other.execute(f"ALTER TABLE {name} RENAME TO {new}")

    rename("dstny_webhook_deliveries", "elsewhere")
    yield
    rename("elsewhere", "dstny_webhook_deliveries")


STORE_FAULTS = {
    "Locked by another process for longer than 30 s": _locked,
    "Its file is damaged": _overwritten,
    "Its table is gone": _without_table,
}


def store_cell(title: str) -> tuple[str, str]:
    """Return what a receiver does whose store fails once, and while it fails."""
    told = []
    for lasts in (False, True):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            create_engine = mock.patch.object(receiver_main, "create_engine", _impatient(receiver_main.create_engine))
            known = {_VERSION_1: ("dstny_rest", "http://127.0.0.1:1", "token", {"webhook_secrets": _SECRET})}
            logs = stack.enter_context(_logs())
            for part in (create_engine, _connections(known)):
                stack.enter_context(part)
            receiver = stack.enter_context(_receiver(folder))
            fault = stack.enter_context(ExitStack())
            fault.enter_context(STORE_FAULTS[title](folder / "webhooks.db"))
            meanwhile = (lambda: None) if lasts else fault.close
            told.append(_told(lambda at=receiver: _post_signed(at, "c-1", datetime.now(UTC)), meanwhile))
            _shows_nothing(*logs)
    return told[0], told[1]


def _impatient(create_engine: Callable[..., Any]) -> Callable[..., Any]:
    return lambda url, **options: create_engine(url, **{**options, "connect_args": {"timeout": _SHORT_TIMEOUT}})


# Measuring.


def measure(world: World, fault_name: str, operation_name: str, *, lasts: bool, asynchronous: bool) -> tuple[str, int]:
    """Let an operation meet a fault over a real port; return what came of it, and how often the fault hit.

    :raises AssertionError: something was shown that must not be, or a write was done twice.
    """
    fault, operation = FAULTS[fault_name], OPERATIONS[operation_name]
    upstream = (world.small if operation_name == "export" else world.simulator).url
    relay = Relay(
        upstream,
        operation.meant,
        fault.commit,
        lasts=lasts,
        listens=fault.stage != "connect",
        tls=world.tls if fault.stage == "tls" else None,
    )
    clock = Clock()
    host = _NAME if fault.stage in ("name", "tls") else "127.0.0.1"
    url = f"{'https' if fault.stage == 'tls' else 'http'}://{host}:{relay.port}"
    run = Run(world, fault, relay, url, lasts, asynchronous, clock)
    with relay, relay.refuses(), _named(relay, fault), _moved_time(clock), _logs() as logs:
        try:
            word = operation.perform(run)
        except DstnyError as error:
            _shows_nothing(*traceback.format_exception(error), repr(error))
            word = _name(error)
    _shows_nothing(*logs)
    assert relay.hits, "the fault has hit nothing"
    if operation.is_once:
        assert relay.done <= 1, f"{operation_name} was done {relay.done} times"
        assert word not in (_PASSES, _NOTHING) or relay.done == 1
    was_repeated = fault.stage in ("connect", "name", "tls") or len(set(relay.seen)) < len(relay.seen)
    if word == _PASSES and was_repeated:
        word = _RETRIED
    return word, relay.hits


def cell(world: World, fault_name: str, operation_name: str) -> tuple[str, str]:
    """Return what stands in FAULTS.md for a fault that happens once, and for one that lasts."""
    if (fault_name, operation_name) in NOT_APPLICABLE:
        return (NOT_APPLICABLE[fault_name, operation_name],) * 2
    told = []
    for lasts in (False, True):
        found = {
            measure(world, fault_name, operation_name, lasts=lasts, asynchronous=asynchronous)
            for asynchronous in ((False, True) if OPERATIONS[operation_name].has_both else (False,))
        }
        assert len({word for word, _ in found}) == 1, f"blocking and awaiting differ: {found}"
        word, hits = next(iter(found))
        if lasts:
            assert len(found) == 1, f"blocking and awaiting differ: {found}"
        told.append(f"{word} ({hits} requests)" if lasts and word.endswith("Error`") and hits > 1 else word)
    return told[0], told[1]


def _name(error: DstnyError) -> str:
    return f"`{type(error).__name__}`"


def _shows_nothing(*texts: str) -> None:
    """See that nothing private is told: no token, no number, no word of a conversation."""
    for secret in (TOLD, PHONE, "46701234567", "dstny-simulator-token", "mt_simulator", _SECRET):
        assert not any(secret in text for text in texts), f"{secret} is told"


@contextmanager
def _logs() -> Iterator[list[str]]:
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("airflow_provider_dstny", "httpx", "httpcore")]
    with ExitStack() as stack:
        for logger in loggers:
            logger.addHandler(handler)
            stack.callback(logger.removeHandler, handler)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.INFO)
        yield lines


# FAULTS.md.

_TITLES = ("A fault that happens once", "A fault that lasts")
_INTRO = """\
# Faults

What comes of each kind of fault, by what was being done. This page is measured: a test breaks what passes between the
provider and the [simulator](README.md#the-simulator) in each of these ways, on a real port, and fails if anything else
comes of it than stands here. In short:

- Whatever goes wrong is a success after all, a wait that goes on, or a `DstnyError`; nothing hangs.
- **A write is not done twice.** Creating, changing and running an agent are sent again only where they surely did not
  happen: the API was not reached, or answered 429. `update_agent` replaces an agent (PUT), which may be repeated.
- Reads are sent again, four times (`max_retries`) with random pauses of up to 30 s, or after the pause that the API
  demands; one of more than two minutes is left to the task.
- No error and no line of a log has a token, a phone number, or words of an answer that was a success. Of an error the
  API's message is quoted, shortened.
"""
_STORE_INTRO = """\
A webhook is answered with 2xx only when it is stored. In Airflow's API server the store is Airflow's database: every
error of its transaction is a 503, too. What the receiver cannot hand on to Airflow stays in its store for another try.
"""
_KINDS = (
    (errors.DstnyConnectionError, "not reached, or the connection broke on a read"),
    (errors.DstnyTimeoutError, "a read was not answered in time"),
    (errors.DstnyResponseError, "success, but what came cannot be read"),
    (errors.DstnyAmbiguousError, "a write was sent and its answer was lost: it may have happened"),
    (errors.DstnyAuthError, "the token is refused"),
    (errors.DstnyScopeError, "the token may not do this"),
    (errors.DstnyNotFoundError, "there is no such thing, or not yet"),
    (errors.DstnyValidationError, "the input is refused"),
    (errors.DstnyRateLimitError, "too many requests; `retry_after` says for how long"),
    (errors.DstnyQuotaError, "the daily quota is used up until `resets_at`"),
    (errors.DstnyServerError, "the API or the host failed; a write may have happened all the same"),
    (errors.DstnyApiError, "any other answer, and what the host of a recording refuses"),
)
_RETRIES = {
    errors.DstnyAmbiguousError: "of the task looks for it first where the API can tell, and else says what to check",
    errors.DstnyValidationError: "fails the same way: the task ends at once",
    errors.DstnyNotFoundError: "helps if it is only not there yet",
    errors.DstnyRateLimitError: "passes after the pause, which a deferrable task spends in the triggerer",
    errors.DstnyQuotaError: "passes when the quota starts anew, until when a deferrable task sleeps in the triggerer",
    errors.DstnyResponseError: "helps if it was a hiccup",
    errors.DstnyServerError: "of a read is safe; of a write, look before",
    errors.DstnyApiError: "helps only if something changes; of a recording, it asks for a fresh URL",
}
_WORDS = {
    _PASSES: ("nothing is noticed", "not needed"),
    _RETRIED: ("the request was sent again after a pause", "not needed"),
    _NOTHING: ("an empty answer counts as one without fields: all that is returned is `None`", "is safe"),
    "waits on, then passes": ("the next look, after `poke_interval` or the pause, was the retry", "not needed"),
    "waits on until its deadline": ("the task then times out and names the last cause", "waits anew"),
    "gives up, for the pause ends after its deadline": ("a timeout that is known before", "waits anew"),
    "fails at once": ("no waiting can mend it: the task ends", "fails the same way"),
    "… for each that fails; the others are landed": (
        "the task fails when all else is landed, if more fail than `max_failures`",
        "reads only what is missing",
    ),
    "lands the rows of the list; …": ("the task ends well, and counts what is pending or left", "not needed"),
    "answers 503": ("nothing was stored, and the sender is told to try again", "is the sender's, or `reconcile`'s"),
    "answers 401": ("a signed webhook from more than 5 minutes ahead, or a day ago, is refused", "as above"),
    "not applicable": ("this cannot happen", ""),
}
#: What stands where the name of an operation would, for the receiver's store.
STORE = "store"
Cells = dict[tuple[str, str], tuple[str, str]]


def render(cells: Cells) -> str:
    """Return FAULTS.md.

    :param cells: by the names of a fault and an operation.
    """
    text = _INTRO
    for number, title in enumerate(_TITLES):
        rows = [[fault.title, *(cells[name, one][number] for one in OPERATIONS)] for name, fault in FAULTS.items()]
        text += f"\n## {title}\n\n" + _table(["", *(one.title for one in OPERATIONS.values())], rows)
    stores = [[title, *cells[title, STORE]] for title in STORE_FAULTS]
    text += f"\n## The stand-alone receiver's store fails\n\n{_STORE_INTRO}\n" + _table(["", "once", "lasting"], stores)
    kinds = [[f"`{kind.__name__}`", means, _retry(kind)] for kind, means in _KINDS]
    words = [[word, *told] for word, told in _WORDS.items()]
    text += "\n## What the words mean\n\nThe numbers of requests are those without `max_retries` of your own.\n\n"
    return text + _table(["outcome", "means", "a retry"], [*words, *kinds])


def _retry(kind: type[DstnyError]) -> str:
    return _RETRIES.get(kind) or ("fails the same way: the task ends at once" if kind.final else "is safe")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written() -> Cells:
    """Return the cells of FAULTS.md."""
    _, *parts = FAULTS_MD.read_text("utf-8").split("\n## ")
    tables = [[line.strip("| ").split(" | ") for line in part.splitlines() if line[:1] == "|"][2:] for part in parts]
    found = {}
    for fault, once, lasting in zip(FAULTS, *tables[:2], strict=True):
        for operation, *cells in zip(OPERATIONS, once[1:], lasting[1:], strict=True):
            found[fault, operation] = cells[0], cells[1]
    return found | {(title, STORE): (once, lasting) for title, once, lasting in tables[2]}


def is_explained(told: str) -> bool:
    """Tell whether what stands in a cell stands below the tables, too."""
    known = [*_WORDS, *(f"`{kind.__name__}`" for kind, _ in _KINDS)]
    return any(all(part in told for part in word.split("…")) for word in known)


def main() -> None:
    with World() as world:
        cells = {(fault, operation): cell(world, fault, operation) for fault in FAULTS for operation in OPERATIONS}
    cells |= {(title, STORE): store_cell(title) for title in STORE_FAULTS}
    FAULTS_MD.write_text(render(cells), "utf-8")


if __name__ == "__main__":
    import tests.conftest  # noqa: F401 - Airflow must not find a user's installation.

    main()
