"""Whatever is sent to the receiver, over no port: it answers with a status of its own, and tells nobody anything."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dstny.webhooks.receiver import Account, Receiver
from airflow_provider_dstny.webhooks.verify import _ID, WebhookEvent, WebhookRejected, hinted, verify
from tests.unit.fuzzing import MARK, NASTY, any_text, bodies, fuzz, logged, told

NOW = datetime(2026, 2, 8, 0, 1, tzinfo=UTC)
SECRET = "whsec-of-t0day"
ACCOUNTS = {
    "rest": Account("dstny_rest", [SECRET, "0ther-secret"]),
    "v2": Account("dstny", [SECRET]),
    "casey": Account("tellcasey", [SECRET]),
}
SIGNED = {
    "event": "conversation.completed",
    "timestamp": "2026-02-08T00:00:00.000Z",
    "data": {"conversation": {"id": "aaaaaaaa-bbbb", "title": MARK, "transcript": {"segments": []}}},
    "_meta": {"token_prefix": "mt_ab12cd34", "delivery_id": "bbbbbbbb-cccc"},
}
HINTS = (
    {"event_type": "conversation_created", "payload": {"conversation_id": "aaaaaaaa-bbbb"}},
    {
        "event_type": "conversation.completed",
        "event_id": "evt_1",
        "timestamp": "2026-02-08T00:00:00Z",
        "data": {"conversation": {"id": "aaaaaaaa-bbbb", "title": MARK}},
    },
)
HEADERS = {
    "x-webhook-event": "conversation.completed",
    "x-webhook-delivery-id": "bbbbbbbb-cccc",
    "x-webhook-timestamp": str(int(NOW.timestamp())),
}
#: 503: a hint that nothing confirms.
ANSWERS = {200, 400, 401, 404, 405, 413, 415, 503}
loop = asyncio.new_event_loop()
values = (
    st.sampled_from(["", "0", "-1", "1" * 5000, "²", "١٢", "gzip", "identity", "chunked", "sha256=", "99999999999999"])
    | st.sampled_from(NASTY)
    | any_text
)
odd_headers = st.lists(
    st.tuples(
        st.sampled_from([*HEADERS, "x-webhook-signature", "content-length", "content-encoding", "content-type", "host"])
        | any_text,
        values,
    ),
    max_size=3,
)
paths = st.builds(
    "/{}{}".format,
    st.sampled_from([*ACCOUNTS, "nobody", "r\ne", "..", "rest\n", "", "a" * 300]) | any_text,
    st.sampled_from(["", "/", f"/{SECRET}", f"/{SECRET}/", f"//{SECRET}", f"/{SECRET}\n"]) | any_text.map("/{}".format),
)


class Sink:
    def __init__(self):
        self.events = []

    async def store(self, dstny_conn_id, event):
        self.events.append(event)
        return True


async def account_of(dstny_conn_id):
    return ACCOUNTS.get(dstny_conn_id)


async def confirm(dstny_conn_id, hint):
    if hint.conversation_id != "aaaaaaaa-bbbb":
        raise OSError(f"no route to {SECRET}")
    return hint


def signature(body):
    return f"sha256={hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}"


def raw(text):
    return text.encode("utf-8", "surrogatepass")


def post(path, headers, pieces, method="POST"):
    """Send a request as a server hands it on; return the status, the answer, and what was stored."""
    sink = Sink()
    app = Receiver(account_of, sink, confirm=confirm, clock=lambda: NOW).asgi
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": raw(path),
        "query_string": b"",
        "root_path": "",
        "headers": [(raw(name), raw(value)) for name, value in headers],
        "server": ("receiver", 80),
        "client": ("198.51.100.1", 4711),
    }
    coming = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces[:-1]]
    last = pieces[-1]
    ended = {"type": "http.disconnect"} if last is None else {"type": "http.request", "body": last, "more_body": False}
    coming.append(ended)
    sent = []

    async def receive():
        return coming.pop(0)

    async def send(message):
        sent.append(message)

    loop.run_until_complete(app(scope, receive, send))
    content = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], content, sink.events


def check(status, content, events, lines):
    assert status in ANSWERS
    assert len(content) < 100
    assert (status == 200) or not events
    for event in events:
        for one in (event.delivery_id, event.conversation_id):
            assert _ID.fullmatch(one)
        json.dumps(event.to_json(), allow_nan=False).encode()
    for one in (SECRET, MARK):
        assert one.encode() not in content
    assert all("\n" not in line and "\r" not in line for line in lines)


@given(bodies(SIGNED), odd_headers, st.sampled_from([{}, HEADERS]), st.sampled_from([True, True, True, False]))
@fuzz(250)
def test_no_signed_webhook_breaks_the_receiver(body, odd, headers, is_signed):
    given = {**headers, **({"x-webhook-signature": signature(body)} if is_signed else {})}
    with logged(SECRET, MARK) as lines:
        status, content, events = post("/rest", [*given.items(), *odd], [body])
        check(status, content, events, lines)
    assert is_signed or not events


@given(bodies(*HINTS), odd_headers, st.sampled_from(["v2", "casey"]))
@fuzz(200)
def test_no_hint_breaks_the_receiver(body, odd, dstny_conn_id):
    with logged(SECRET, MARK) as lines:
        check(*post(f"/{dstny_conn_id}/{SECRET}", odd, [body]), lines)


@given(
    st.sampled_from(["POST", "POST", "POST", "GET", "HEAD", "PUT", "OPTIONS", "\0"]),
    paths,
    st.lists(st.tuples(any_text, values), max_size=3),
    st.lists(st.binary(max_size=9), max_size=2),
    st.none() | st.binary(max_size=9) | st.just(b"[" * 100_000),
)
@fuzz(200)
def test_no_request_breaks_the_receiver(method, path, headers, pieces, last):
    with logged(SECRET, MARK) as lines:
        check(*post(path, headers, [*pieces, last], method), lines)


_times = st.datetimes(timezones=st.just(UTC)) | st.just(NOW)


@given(bodies(SIGNED, *HINTS), st.dictionaries(st.sampled_from([*HEADERS, "X-Webhook-Signature"]), values), _times)
@fuzz(250)
def test_a_webhook_is_believed_or_refused(body, headers, now):
    asked = (
        lambda: verify(body, {"x-webhook-signature": signature(body), **headers}, [SECRET], now=now, tolerance=10**9),
        lambda: verify(body, headers, [SECRET], now=now, tolerance=timedelta.max),
        lambda: hinted(body),
    )
    for ask in asked:
        try:
            event = ask()
        except WebhookRejected as error:
            told(error, MARK)
        else:
            assert isinstance(event, WebhookEvent)
            assert _ID.fullmatch(event.delivery_id)
            assert event.conversation_id is None or _ID.fullmatch(event.conversation_id)
            json.dumps(event.to_json())
