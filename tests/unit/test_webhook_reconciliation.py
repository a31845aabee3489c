"""What the API could not deliver becomes events, too, and what has arrived does not again."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest

from airflow_provider_dstny.api.errors import DstnyError
from airflow_provider_dstny.api.models.rest import WebhookDelivery
from airflow_provider_dstny.webhooks import receiver as receiver_module
from airflow_provider_dstny.webhooks.reconcile import reconcile
from airflow_provider_dstny.webhooks.verify import WebhookRejected, verify

SECRET = "whsec"
URL = "http://airflow/dstny/webhooks/dstny_rest_default"


class Account:
    """Lists some deliveries."""

    def __init__(self, *rows):
        self.rows = [WebhookDelivery.read({"event_type": "conversation.completed", **row}) for row in rows]

    def list_webhook_deliveries(self, *, token_id=None):
        self.asked_for = token_id
        return self.rows


ACCOUNT = Account(
    {"id": "d-1", "resource_id": "c-1", "status": "delivered", "delivered_at": "2026-02-07T09:05:00.000Z"},
    {"id": "d-2", "resource_id": "c-2", "status": "failed"},
    {"id": "d-3", "resource_id": "c-3", "status": None},
    {"id": "d-4", "resource_id": "c-4", "status": "failed", "event_type": "other"},
    {"id": "d-5", "resource_id": None, "status": "failed"},
)


def receiver(known, status=200):
    def answer(request):
        event = verify(request.content, request.headers, [SECRET])
        told = "known already" if event.delivery_id in known else "stored"
        known[event.delivery_id] = event.conversation_id
        return httpx.Response(status, json={"status": told})

    return httpx.MockTransport(answer)


def test_missed_deliveries_are_handed_over_once():
    known = {"d-3": "c-3"}
    counts = reconcile(ACCOUNT, URL, SECRET, transport=receiver(known))
    assert counts == {"listed": 5, "missed": 2, "stored": 1, "known": 1, "ignored": 0}
    assert known == {"d-2": "c-2", "d-3": "c-3"}
    assert reconcile(ACCOUNT, URL, SECRET, transport=receiver(known))["stored"] == 0


def test_deliveries_of_another_token_can_be_left_out_and_one_without_an_id_is_told():
    account = Account({"id": None, "resource_id": "c-1", "status": "failed"}, {"id": 17, "resource_id": 5})
    known = {}
    with pytest.raises(DstnyError, match=r"1 of 2 missed deliveries: one without an id\. It stored 1"):
        reconcile(account, URL, SECRET, token_id="t-1", transport=receiver(known))
    assert known == {"17": "5"}
    assert account.asked_for == "t-1"


@pytest.mark.parametrize("status", [401, 503])
def test_a_receiver_that_refuses_is_told_without_the_secret(status):
    with pytest.raises(DstnyError, match=f"it answered {status}") as caught:
        reconcile(ACCOUNT, URL, SECRET, transport=receiver({}, status))
    assert SECRET not in str(caught.value)


def test_a_receiver_that_is_not_reached_is_told():
    def refuse(request):
        raise httpx.ConnectError(json.dumps({"secret": SECRET}))

    with pytest.raises(DstnyError, match="ConnectError") as caught:
        reconcile(ACCOUNT, URL, SECRET, transport=httpx.MockTransport(refuse))
    assert SECRET not in str(caught.value)


def test_one_that_is_refused_does_not_keep_the_others():
    account = Account(
        {"id": "a/1", "resource_id": "c-1", "status": "failed"},
        {"id": "d-2", "resource_id": "c-2", "status": "failed"},
        {"id": "d-3", "resource_id": "c-3", "status": "failed"},
    )
    known = {"d-3": "c-3"}
    takes = receiver(known)

    def answer(request):
        try:
            return takes.handle_request(request)
        except WebhookRejected:
            return httpx.Response(400, json={"status": "not a webhook"})

    with pytest.raises(
        DstnyError, match=r"1 of 3 missed .*: a/1 \(it answered 400\)\. It stored 1 and knew 1\."
    ) as caught:
        reconcile(account, URL, SECRET, transport=httpx.MockTransport(answer))
    assert known == {"d-2": "c-2", "d-3": "c-3"}
    assert SECRET not in str(caught.value)
    assert "c-" not in str(caught.value)


def test_many_that_are_refused_are_not_all_named():
    account = Account(*({"id": f"d-{n}", "resource_id": "c", "status": "failed"} for n in range(500)))
    with pytest.raises(DstnyError, match="500 of 500 missed") as caught:
        reconcile(account, URL, SECRET, transport=httpx.MockTransport(lambda request: httpx.Response(503)))
    assert len(str(caught.value)) < 1000


def test_where_nobody_answers_nothing_more_is_sent():
    sent = []

    def refuse(request):
        sent.append(request)
        raise httpx.ReadTimeout("slow")

    with pytest.raises(DstnyError, match=r"1 of 1 missed deliveries: d-2 \(ReadTimeout\)"):
        reconcile(ACCOUNT, URL, SECRET, transport=httpx.MockTransport(refuse))
    assert len(sent) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"<html>Sign in</html>",
        b"",
        b"\xff",
        b"[" * 200_000,
        b'["stored"]',
        b'{"status": "ok"}',
        b'{"status": ["stored"]}',
    ],
)
def test_success_that_does_not_come_from_a_receiver_does_not_count(content):
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=content))
    with pytest.raises(DstnyError, match=r"2 of 2 missed .*It stored 0 and knew 0\."):
        reconcile(ACCOUNT, URL, SECRET, transport=transport)


@pytest.mark.parametrize(("new", "counted"), [(True, "stored"), (False, "known")])
def test_the_answers_are_those_of_the_receiver(new, counted):
    class Sink:
        async def store(self, dstny_conn_id, event):
            return new

    async def account_of(dstny_conn_id):
        return receiver_module.Account("dstny_rest", [SECRET])

    app = receiver_module.Receiver(account_of, Sink(), confirm=None).asgi

    async def post(request):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
            answer = await client.post("http://receiver/rest", content=request.content, headers=request.headers)
            return httpx.Response(answer.status_code, content=answer.content)

    counts = reconcile(ACCOUNT, URL, SECRET, transport=httpx.MockTransport(lambda request: asyncio.run(post(request))))
    assert (counts["missed"], counts[counted]) == (2, 2)


def test_what_a_receiver_ignores_is_taken():
    ignored = httpx.MockTransport(lambda request: httpx.Response(200, json={"status": "nothing to do about it"}))
    counts = reconcile(ACCOUNT, URL, SECRET, transport=ignored)
    assert counts == {"listed": 5, "missed": 2, "stored": 0, "known": 0, "ignored": 2}
