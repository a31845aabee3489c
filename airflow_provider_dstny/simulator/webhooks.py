"""Webhooks as the REST API v1 sends them, when a conversation becomes complete, and as nobody should send them."""

from __future__ import annotations

import hmac
import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from airflow_provider_dstny.simulator.moments import to_text
from airflow_provider_dstny.simulator.rest_conversations import RestConversation
from airflow_provider_dstny.simulator.samples import id_of

COMPLETED = "conversation.completed"
#: Seconds before each further try.
PAUSES = (1.0, 5.0, 25.0)
_DAY = 86400.0


def completed(conversation: Mapping[str, Any], delivery_id: str, at: float) -> bytes:
    """Return the body that tells of a complete conversation.

    :param conversation: its fields, ``id`` among them.
    :param at: seconds since the epoch.
    """
    told = {
        "event": COMPLETED,
        "timestamp": to_text(at),
        "data": {"conversation": conversation},
        "_meta": {"delivery_id": delivery_id},
    }
    return json.dumps(told).encode()


def signature(body: bytes, secret: str) -> str:
    """Return what ``X-Webhook-Signature`` says of a body."""
    return f"sha256={hmac.new(secret.encode(), body, 'sha256').hexdigest()}"


@dataclass
class _Delivery:
    """A delivery; moments are seconds since the epoch.

    :param next_at: of the next try, None if there is none.
    """

    next_at: float | None
    attempts: int = 0
    last_attempt_at: float | None = None
    delivered_at: float | None = None
    response_status: int | None = None


class Sender:
    """Tells a receiver of conversations, each until it takes it, and keeps what became of it.

    :param url: of the receiver.
    :param clock: seconds since the epoch.
    """

    def __init__(self, url: str, secret: str, clock: Callable[[], float]) -> None:
        self._url, self._secret, self._clock = url, secret, clock
        self._deliveries: dict[str, _Delivery] = {}
        self._past: set[str] = set()
        self._is_sending = threading.Lock()

    def leave_out(self, complete: Iterable[RestConversation]) -> None:
        """Take conversations as told of long ago."""
        self._past.update(one.id for one in complete)

    def send(self, complete: Iterable[RestConversation]) -> None:
        """Tell of conversations, as far as they were not told of and a try is due."""
        with self._is_sending, httpx.Client(timeout=10.0, trust_env=False) as http:
            for one in complete:
                if one.id in self._past:
                    continue
                delivery = self._deliveries.setdefault(one.id, _Delivery(next_at=self._clock()))
                if delivery.next_at is not None and self._clock() >= delivery.next_at:
                    self._try(http, one, delivery)

    def send_as(self, kind: str, one: RestConversation) -> int:
        """Tell of a conversation once, in one of the ways of :data:`KINDS`; return the status of the answer.

        :raises KeyError: there is no such way.
        :raises httpx.HTTPError: there is no answer.
        """
        body, headers = KINDS[kind](self, one)
        return httpx.post(self._url, content=body, headers=headers, timeout=10.0, trust_env=False).status_code

    def row(self, one: RestConversation) -> dict[str, Any] | None:
        """Return what the list of deliveries shows of a conversation, None if it was not begun to tell of it."""
        if one.id in self._past:
            return delivered(one)
        delivery = self._deliveries.get(one.id)
        if delivery is None:
            return None
        has_arrived, is_over = delivery.delivered_at is not None, delivery.next_at is None
        return {
            **delivered(one),
            "status": "delivered" if has_arrived else "failed" if is_over else "pending",
            "attempts": delivery.attempts,
            "last_attempt_at": _text(delivery.last_attempt_at),
            "delivered_at": _text(delivery.delivered_at),
            "response_status": delivery.response_status,
        }

    def _try(self, http: httpx.Client, one: RestConversation, delivery: _Delivery) -> None:
        body = self._body(one)
        try:
            status = http.post(self._url, content=body, headers=self._headers(one, body)).status_code
        except httpx.HTTPError:
            status = None
        now = self._clock()
        has_arrived = status is not None and 200 <= status < 300
        is_last = has_arrived or delivery.attempts == len(PAUSES)
        delivery.next_at = None if is_last else now + PAUSES[delivery.attempts]
        delivery.attempts += 1
        delivery.last_attempt_at, delivery.response_status = now, status
        delivery.delivered_at = now if has_arrived else None

    def _body(self, one: RestConversation, at: float | None = None) -> bytes:
        # The same for each try: it tells when the conversation was complete.
        conversation = {**one.row(), "summary": one.summary, "participants": one.participants}
        complete_at = max(one.arrives_at, one.transcript_at)
        return completed(conversation, _delivery_id(one), complete_at if at is None else at)

    def _headers(self, one: RestConversation, body: bytes, secret: str | None = None) -> dict[str, str]:
        return {
            "Content-Type": "application/json",
            "X-Webhook-Signature": signature(body, self._secret if secret is None else secret),
            "X-Webhook-Event": COMPLETED,
            "X-Webhook-Delivery-Id": _delivery_id(one),
            "X-Webhook-Timestamp": str(int(self._clock())),
        }

    def _signed(
        self, one: RestConversation, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, dict[str, str]]:
        body = self._body(one) if body is None else body
        return body, {**self._headers(one, body), **(headers or {})}

    def _unsigned(self, one: RestConversation) -> tuple[bytes, dict[str, str]]:
        body, headers = self._signed(one)
        del headers["X-Webhook-Signature"]
        return body, headers

    def _tampered(self, one: RestConversation) -> tuple[bytes, dict[str, str]]:
        body, headers = self._signed(one)
        return body.replace(one.id.encode(), id_of("another", one.id).encode()), headers

    def _other_event(self, one: RestConversation) -> tuple[bytes, dict[str, str]]:
        body = self._body(one).replace(COMPLETED.encode(), b"conversation.deleted")
        return self._signed(one, body, {"X-Webhook-Event": "conversation.deleted"})


def delivered(one: RestConversation) -> dict[str, Any]:
    """Return what the list of deliveries shows of one that arrived at once."""
    completed_at = to_text(one.transcript_at)
    return {
        "id": _delivery_id(one),
        "event_type": COMPLETED,
        "resource_id": one.id,
        "status": "delivered",
        "attempts": 1,
        "last_attempt_at": completed_at,
        "delivered_at": completed_at,
        "response_status": 200,
        "created_at": completed_at,
    }


def _delivery_id(one: RestConversation) -> str:
    return id_of("delivery", one.id)


def _text(moment: float | None) -> str | None:
    return None if moment is None else to_text(moment)


#: Ways to tell of a conversation: as it should be, which is a duplicate once it was told of, and wrong ones.
KINDS: dict[str, Callable[[Sender, RestConversation], tuple[bytes, dict[str, str]]]] = {
    "good": lambda sender, one: sender._signed(one),
    "unsigned": Sender._unsigned,
    "wrong_secret": lambda sender, one: (
        sender._body(one),
        sender._headers(one, sender._body(one), secret="not the secret"),  # noqa: S106
    ),
    "tampered": Sender._tampered,
    "old": lambda sender, one: sender._signed(one, sender._body(one, sender._clock() - 2 * _DAY)),
    "from_the_future": lambda sender, one: sender._signed(one, sender._body(one, sender._clock() + _DAY)),
    "other_event": Sender._other_event,
    "other_headers": lambda sender, one: sender._signed(
        one, headers={"X-Webhook-Delivery-Id": id_of("another", one.id)}
    ),
    "not_json": lambda sender, one: sender._signed(one, b"conversation is complete"),
}
