"""Deliveries that did not arrive are made up for: the API tells of them for seven days."""

from __future__ import annotations

import hmac
import json
import logging
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import httpx

from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyError, DstnyValidationError
from airflow_provider_dstny.api.models.rest import WebhookDelivery
from airflow_provider_dstny.api.times import iso_time
from airflow_provider_dstny.webhooks.verify import COMPLETED

_log = logging.getLogger(__name__)


def reconcile(
    client: DstnyRestClient,
    receiver_url: str,
    secret: str,
    *,
    transport: httpx.BaseTransport | None = None,
) -> dict[str, int]:
    """Hand deliveries that the API could not deliver to the receiver, as if they came from the API.

    The receiver knows those that it has after all: nothing becomes an event twice.

    :param client: lists the deliveries; one request.
    :param receiver_url: of the connection, ``https://airflow.example.com/dstny/webhooks/dstny_rest_default``.
    :param secret: one that the connection has in ``webhook_secrets``.
    :return: ``{"listed", "missed", "stored", "known"}``.
    :raises DstnyError: the receiver did not take one; what it took stays taken.
    """
    counts = Counter(listed=0, missed=0, stored=0, known=0)
    with httpx.Client(timeout=30.0, transport=transport) as http:
        for delivery in client.list_webhook_deliveries():
            counts["listed"] += 1
            if (
                delivery.event_type != COMPLETED
                or _has_arrived(delivery)
                or not delivery.id
                or not delivery.resource_id
            ):
                continue
            counts["missed"] += 1
            counts["known" if _hand_over(http, receiver_url, delivery, secret) == "known already" else "stored"] += 1
    _log.info("%(listed)d deliveries are listed, %(missed)d were missed, %(stored)d of them are new", counts)
    return dict(counts)


def reconcile_connection(dstny_conn_id: str, receiver_url: str) -> dict[str, int]:
    """Do what :func:`reconcile` does with an Airflow connection, for a ``@task``.

    :param dstny_conn_id: of type ``dstny_rest``, with ``webhook_secrets``.
    """
    from airflow_provider_dstny.hooks import get_client_hook
    from airflow_provider_dstny.hooks.base import ConnectionExtra

    hook = get_client_hook(dstny_conn_id, ("dstny_rest",))
    secrets = ConnectionExtra.parse(hook.get_connection(dstny_conn_id).extra_dejson).webhook_secrets
    if not secrets:
        raise DstnyValidationError(None, f"Connection {dstny_conn_id} has no webhook_secrets, so it takes no webhooks.")
    with hook.get_conn() as client:
        return reconcile(client, receiver_url, secrets[0])


def _has_arrived(delivery: WebhookDelivery) -> bool:
    return delivery.delivered_at is not None or str(delivery.status).lower() in ("delivered", "success", "succeeded")


def _hand_over(http: httpx.Client, url: str, delivery: WebhookDelivery, secret: str) -> Any:
    body = json.dumps(
        {
            "event": COMPLETED,
            "timestamp": iso_time(datetime.now(UTC)),
            "data": {"conversation": {"id": delivery.resource_id}},
            "_meta": {"delivery_id": delivery.id},
        }
    ).encode()
    signature = f"sha256={hmac.new(secret.encode(), body, 'sha256').hexdigest()}"
    try:
        answer = http.post(url, content=body, headers={"X-Webhook-Signature": signature})
    except httpx.HTTPError as error:
        reason = type(error).__name__
    else:
        if answer.is_success:
            return answer.json().get("status")
        reason = f"it answered {answer.status_code}"
    raise DstnyError(f"The receiver did not take a delivery ({reason}). A retry goes on with those it does not have.")
