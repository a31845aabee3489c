"""Deliveries that did not arrive are made up for: the API tells of them for seven days."""

from __future__ import annotations

import hmac
import json
import logging
from collections import Counter
from datetime import UTC, datetime

import httpx

from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyError, DstnyValidationError
from airflow_provider_dstny.api.models.rest import WebhookDelivery
from airflow_provider_dstny.api.times import iso_time
from airflow_provider_dstny.webhooks.verify import COMPLETED

#: What a receiver answers to a delivery that it took, and what that counts as.
_TAKEN = {"stored": "stored", "known already": "known", "nothing to do about it": "ignored"}
_MOST_NAMED = 20
_log = logging.getLogger(__name__)


def reconcile(
    client: DstnyRestClient,
    receiver_url: str,
    secret: str,
    *,
    token_id: str | None = None,
    transport: httpx.BaseTransport | None = None,
) -> dict[str, int]:
    """Hand deliveries that the API could not deliver to the receiver, as if they came from the API.

    The receiver knows those that it has after all: none becomes an event twice. Another API token of the account has
    deliveries of its own, which would be told as well: ``token_id`` leaves them out. One that it refuses does not keep
    the others from it; where it cannot be reached, nothing more is sent.

    :param client: lists the deliveries; one request.
    :param receiver_url: of the connection, ``https://airflow.example.com/dstny/webhooks/dstny_rest_default``.
    :param secret: one that the connection has in ``webhook_secrets``.
    :param token_id: of the API token whose deliveries go to this receiver; None for an account with one.
    :return: ``{"listed", "missed", "stored", "known", "ignored"}``.
    :raises DstnyError: the receiver did not take all, told by id; what it took stays taken.
    """
    counts = Counter(listed=0, missed=0, stored=0, known=0, ignored=0)
    failed: list[str] = []
    with httpx.Client(timeout=30.0, transport=transport) as http:
        for delivery in client.list_webhook_deliveries(token_id=token_id):
            counts["listed"] += 1
            if delivery.event_type != COMPLETED or _has_arrived(delivery) or not delivery.resource_id:
                continue
            counts["missed"] += 1
            if not delivery.id:
                failed.append("one without an id")
                continue
            try:
                answer = _hand_over(http, receiver_url, delivery, secret)
            except httpx.HTTPError as error:
                failed.append(f"{delivery.id} ({type(error).__name__})")
                break
            taken = _TAKEN.get(_told(answer)) if answer.is_success else None
            if taken is None:
                failed.append(f"{delivery.id} (it answered {answer.status_code})")
            else:
                counts[taken] += 1
    if failed:
        named = ", ".join(failed[:_MOST_NAMED]) + (", …" if len(failed) > _MOST_NAMED else "")
        raise DstnyError(
            f"The receiver did not take {len(failed)} of {counts['missed']} missed deliveries: {named}. It stored "
            f"{counts['stored']} and knew {counts['known']}. A retry goes on with those it does not have."
        )
    _log.info("%(listed)d deliveries are listed, %(missed)d were missed, %(stored)d of them are new", counts)
    return dict(counts)


def reconcile_connection(dstny_conn_id: str, receiver_url: str, *, token_id: str | None = None) -> dict[str, int]:
    """Do what :func:`reconcile` does with an Airflow connection, for a ``@task``.

    :param dstny_conn_id: of type ``dstny_rest``, with ``webhook_secrets``.
    :param token_id: as of :func:`reconcile`.
    """
    from airflow_provider_dstny.hooks import get_client_hook
    from airflow_provider_dstny.hooks.base import ConnectionExtra

    hook = get_client_hook(dstny_conn_id, ("dstny_rest",))
    secrets = ConnectionExtra.parse(hook.get_connection(dstny_conn_id).extra_dejson).webhook_secrets
    if not secrets:
        raise DstnyValidationError(None, f"Connection {dstny_conn_id} has no webhook_secrets, so it takes no webhooks.")
    with hook.get_conn() as client:
        return reconcile(client, receiver_url, secrets[0], token_id=token_id)


def _has_arrived(delivery: WebhookDelivery) -> bool:
    return delivery.delivered_at is not None or str(delivery.status).lower() in ("delivered", "success", "succeeded")


def _hand_over(http: httpx.Client, url: str, delivery: WebhookDelivery, secret: str) -> httpx.Response:
    body = json.dumps(
        {
            "event": COMPLETED,
            "timestamp": iso_time(datetime.now(UTC)),
            "data": {"conversation": {"id": str(delivery.resource_id)}},
            "_meta": {"delivery_id": str(delivery.id)},
        }
    ).encode()
    signature = f"sha256={hmac.new(secret.encode(), body, 'sha256').hexdigest()}"
    return http.post(url, content=body, headers={"X-Webhook-Signature": signature})


def _told(answer: httpx.Response) -> str:
    """Return what a receiver says it did; nothing if it was no receiver that answered."""
    try:
        told = answer.json()
    except (ValueError, RecursionError):
        return ""
    return str(told.get("status")) if isinstance(told, dict) else ""
