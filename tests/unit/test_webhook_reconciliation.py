"""What the API could not deliver becomes events, too, and what has arrived does not again."""

from __future__ import annotations

import json

import httpx
import pytest

from airflow_provider_dstny.api.errors import DstnyError
from airflow_provider_dstny.api.models.rest import WebhookDelivery
from airflow_provider_dstny.webhooks.reconcile import reconcile
from airflow_provider_dstny.webhooks.verify import verify

SECRET = "whsec"
URL = "http://airflow/dstny/webhooks/dstny_rest_default"


class Account:
    """Lists some deliveries."""

    def __init__(self, *rows):
        self.rows = [WebhookDelivery.read({"event_type": "conversation.completed", **row}) for row in rows]

    def list_webhook_deliveries(self):
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
    assert counts == {"listed": 5, "missed": 2, "stored": 1, "known": 1}
    assert known == {"d-2": "c-2", "d-3": "c-3"}
    assert reconcile(ACCOUNT, URL, SECRET, transport=receiver(known))["stored"] == 0


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
