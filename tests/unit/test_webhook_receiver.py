"""The receiver: what it answers to whom, and that only what is stored is answered with success."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from airflow_provider_dstny.webhooks import receiver as receiver_module
from airflow_provider_dstny.webhooks.plugin import DstnyPlugin
from airflow_provider_dstny.webhooks.receiver import LARGEST_BODY, Account, Receiver, StoreError

NOW = datetime(2026, 2, 8, 0, 1, tzinfo=UTC)
ACCOUNTS = {
    "rest": Account("dstny_rest", ["new-secret", "old-secret"]),
    "v2": Account("dstny", ["path-secret"]),
    "casey": Account("tellcasey", ["path-secret"]),
    "bare": Account("dstny_rest", []),
    "base64": Account("dstny", ["/ab/cd+ef=="]),
    "blank": Account("dstny", ["", " "]),
    "blank_rest": Account("dstny_rest", [""]),
}
COMPLETED = "conversation.completed"


class Sink:
    """Remembers what it is given."""

    def __init__(self):
        self.events, self.error = {}, None

    async def store(self, dstny_conn_id, event):
        if self.error is not None:
            raise self.error
        key = dstny_conn_id, event.delivery_id
        is_new = key not in self.events
        self.events[key] = event
        return is_new


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def confirmed():
    return {"c-1"}


@pytest.fixture
def app(sink, confirmed):
    async def account_of(dstny_conn_id):
        if dstny_conn_id == "broken":
            raise RuntimeError("the secrets backend is down: new-secret")
        return ACCOUNTS.get(dstny_conn_id)

    async def confirm(dstny_conn_id, hint):
        if hint.conversation_id == "unreachable":
            raise OSError("no route")
        return hint if hint.conversation_id in confirmed else None

    return Receiver(account_of, sink, confirm=confirm, clock=lambda: NOW).asgi


def post(app, path, content=b"", headers=()):
    async def send():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
            return await client.post(path, content=content, headers=headers)

    return asyncio.run(send())


def body_of(*, delivery="d-1", event=COMPLETED, timestamp=NOW, **changes):
    told = {
        "event": event,
        "timestamp": timestamp.isoformat(),
        "data": {"conversation": {"id": "c-1", "summary": "private"}},
        "_meta": {"delivery_id": delivery},
        **changes,
    }
    return json.dumps(told).encode()


def signed(body, secret="new-secret"):
    return {"X-Webhook-Signature": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"}


def test_a_signed_webhook_is_stored_once(app, sink):
    body = body_of()
    assert post(app, "/rest", body, signed(body)).json() == {"status": "stored"}
    again = post(app, "/rest", body, signed(body, "old-secret"))
    assert (again.status_code, again.json()) == (200, {"status": "known already"})
    assert [event.conversation_id for event in sink.events.values()] == ["c-1"]


def test_another_kind_of_event_is_taken_and_dropped(app, sink):
    body = body_of(event="token.revoked")
    assert post(app, "/rest", body, signed(body)).status_code == 200
    assert sink.events == {}


DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
TWICE = body_of().replace(b'"data"', b'"data": {"conversation": {"id": "c-2"}}, "data"')
FRESH = {"X-Webhook-Timestamp": str(int(NOW.timestamp()))}
UPPER = {"X-Webhook-Signature": signed(body_of())["X-Webhook-Signature"].upper()}
OLD = body_of(timestamp=NOW - timedelta(days=2))


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        pytest.param("/rest", body_of(), {}, 401, id="no signature"),
        pytest.param("/rest", body_of(), signed(body_of(), "guessed"), 401, id="wrong secret"),
        pytest.param("/rest", body_of() + b" ", signed(body_of()), 401, id="tampered body"),
        pytest.param("/rest", OLD, signed(OLD), 401, id="replay of an old body"),
        pytest.param(
            "/rest",
            OLD,
            {**signed(OLD), "X-Webhook-Timestamp": str(int(NOW.timestamp()))},
            401,
            id="with fresh headers",
        ),
        pytest.param(
            "/rest",
            body_of(),
            {"X-Webhook-Signature": signed(body_of())["X-Webhook-Signature"].upper()},
            401,
            id="upper",
        ),
        pytest.param("/rest", body_of(), {"X-Webhook-Signature": "sha256=abcdef"}, 401, id="short hex"),
        pytest.param("/rest", body_of(), {b"X-Webhook-Signature": "sha256=å".encode()}, 401, id="non-ASCII signature"),
        pytest.param("/nobody", body_of(), signed(body_of()), 401, id="unknown connection"),
        pytest.param("/v2", body_of(), signed(body_of(), "path-secret"), 401, id="connection of another type"),
        pytest.param("/bare", body_of(), signed(body_of(), "x"), 401, id="connection without secrets"),
        pytest.param("/..%2Frest", body_of(), signed(body_of()), 401, id="path"),
        pytest.param("/rest/x/y", body_of(), signed(body_of()), 401, id="longer path"),
        pytest.param("/blank_rest", body_of(), signed(body_of(), ""), 401, id="signed with a blank secret"),
        pytest.param("/re st", body_of(), signed(body_of()), 401, id="odd connection"),
        pytest.param("/rest", DEEP, signed(DEEP), 400, id="deep JSON"),
        pytest.param("/rest", TWICE, signed(TWICE), 400, id="duplicate keys"),
        pytest.param("/rest", b"not json", signed(b"not json"), 400, id="not JSON"),
        pytest.param("/rest", b"", signed(b""), 400, id="empty"),
        pytest.param(
            "/rest", body_of(), {**signed(body_of()), "X-Webhook-Delivery-Id": "d-2"}, 400, id="headers that disagree"
        ),
        pytest.param(
            "/rest", gzip.compress(body_of()), {**signed(body_of()), "Content-Encoding": "gzip"}, 415, id="gzip"
        ),
        pytest.param(
            "/rest",
            gzip.compress(b"0" * 50_000_000),
            {**signed(gzip.compress(b"0" * 50_000_000)), "Content-Encoding": "gzip"},
            415,
            id="gzip bomb",
        ),
        pytest.param("/rest", b"0" * (LARGEST_BODY + 1), signed(b""), 413, id="large body"),
        pytest.param("/broken", body_of(), signed(body_of()), 503, id="secrets backend down"),
        pytest.param("/v2/guessed", b"{}", {}, 401, id="wrong secret in the path"),
        pytest.param("/base64//ab/cd+ef", b"{}", {}, 401, id="wrong secret with slashes in the path"),
        pytest.param("/v2/", b"{}", {}, 401, id="no secret in the path"),
        pytest.param("/blank/", b"{}", {}, 401, id="no secret in the path, as in the connection"),
        pytest.param("/blank/%20", b"{}", {}, 401, id="blank secret in the path, as in the connection"),
        pytest.param("/rest/new-secret", b"{}", {}, 401, id="signed API, secret in the path"),
        pytest.param("/nobody/path-secret", b"{}", {}, 401, id="unknown connection, secret in the path"),
        pytest.param("/v2/path-secret", b"{}", {}, 400, id="hint of no form"),
    ],
)
def test_attacks_are_answered_and_make_no_event(app, sink, caplog, path, body, headers, status):
    # Airflow 3.0 lets the test's own client tell its URL.
    caplog.set_level("WARNING", "httpx")
    answer = post(app, path, body, headers)
    assert answer.status_code == status
    assert sink.events == {}
    for told in (answer.text, caplog.text):
        assert not any(secret in told for secret in ("private", "new-secret", "old-secret", "path-secret"))


def test_unknown_and_unsigned_cannot_be_told_apart(app):
    known, unknown = post(app, "/rest", body_of()), post(app, "/nobody", body_of())
    assert (known.status_code, known.content) == (unknown.status_code, unknown.content)
    assert set(known.headers) == set(unknown.headers)


def test_two_signatures_are_none(app, sink):
    body = body_of()
    signature = signed(body)["X-Webhook-Signature"]
    headers = [("X-Webhook-Signature", signature), ("X-Webhook-Signature", signature)]
    assert post(app, "/rest", body, headers).status_code == 401


def test_a_body_without_a_length_is_cut_off(app):
    async def endless():
        for _ in range(LARGEST_BODY // 65536 + 2):
            yield b"0" * 65536

    assert post(app, "/rest", endless()).status_code == 413


def test_a_slow_body_is_not_waited_for(app, monkeypatch):
    monkeypatch.setattr(receiver_module, "_BODY_TIMEOUT", 0.05)

    async def slow():
        yield b"{"
        await asyncio.sleep(5)
        yield b"}"

    assert post(app, "/rest", slow()).status_code == 408


def test_what_is_not_stored_is_not_answered_with_success(app, sink):
    body = body_of()
    sink.error = StoreError("OperationalError")
    assert post(app, "/rest", body, signed(body)).status_code == 503
    sink.error = None
    assert post(app, "/rest", body, signed(body)).json() == {"status": "stored"}


def test_only_post_is_answered(app):
    async def get():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:
            return [(await client.request(method, "/rest")).status_code for method in ("GET", "PUT", "DELETE")]

    assert asyncio.run(get()) == [405, 405, 405]


class TestHints:
    def created(self, conversation_id="c-1"):
        return json.dumps(
            {"event_type": "conversation_created", "payload": {"conversation_id": conversation_id}}
        ).encode()

    def test_a_hint_that_the_api_confirms_is_stored_once(self, app, sink):
        assert post(app, "/v2/path-secret", self.created()).json() == {"status": "stored"}
        assert post(app, "/v2/path-secret", self.created()).json() == {"status": "known already"}
        assert len(sink.events) == 1

    @pytest.mark.parametrize("secret", ["/ab/cd+ef==", "%2Fab%2Fcd%2Bef%3D%3D"])
    def test_a_secret_may_have_slashes(self, app, sink, secret):
        assert post(app, f"/base64/{secret}", self.created()).json() == {"status": "stored"}
        assert len(sink.events) == 1

    @pytest.mark.parametrize("path", ["/base64/ab/cd", "/nobody/ab/cd", "/rest/ab/cd"])
    def test_a_wrong_secret_with_slashes_is_answered_like_any_other(self, app, path):
        wrong, usual = post(app, path, self.created()), post(app, "/v2/guessed", self.created())
        assert (wrong.status_code, wrong.content, wrong.headers) == (401, usual.content, usual.headers)

    @pytest.mark.parametrize("conversation_id", ["made-up", "unreachable"])
    def test_a_hint_that_is_not_confirmed_is_to_be_sent_again(self, app, sink, conversation_id):
        assert post(app, "/v2/path-secret", self.created(conversation_id)).status_code == 503
        assert sink.events == {}

    def test_other_events_of_tellcasey_are_taken_and_dropped(self, app, sink):
        body = json.dumps({"event_type": "test.event", "event_id": "e", "data": {}}).encode()
        assert post(app, "/casey/path-secret", body).status_code == 200
        assert sink.events == {}


def test_an_option_that_is_no_boolean_does_not_stop_the_api_server(monkeypatch, caplog):
    monkeypatch.setenv("AIRFLOW__DSTNY__WEBHOOKS_ENABLED", "maybe")
    assert DstnyPlugin().fastapi_apps == []
    (told,) = (record for record in caplog.records if record.levelname == "ERROR")
    assert "[dstny] webhooks_enabled" in told.getMessage()
