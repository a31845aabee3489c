"""Is a webhook what it says? Pure: bytes and headers in, an event or a refusal out.

The signature of the REST API v1 covers the body and nothing else. So freshness, the kind of the event and the id of
the delivery are taken from the body, and headers that tell them, too, must agree.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any

from airflow_provider_dstny.api.times import iso_time, utc_time

COMPLETED = "conversation.completed"
#: A sender may try again for long; what it sends again is known by its delivery id.
TOLERANCE = timedelta(days=1)
#: Clocks differ.
_AHEAD = timedelta(minutes=5)
_SIGNATURE = re.compile(r"sha256=[0-9a-f]{64}")
#: Ids as the APIs make them; they become part of events that people see.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
_SECONDS = re.compile(r"\d{1,12}")


class Refusal(Enum):
    """Why a webhook is refused. UNSIGNED and STALE tell nothing apart to the sender."""

    UNSIGNED = "it is not signed with any of the secrets"
    STALE = "it is too old, or from the future"
    MALFORMED = "its body is not that of a webhook"
    CONTRADICTED = "its headers say something else than its body"


class WebhookRejected(Exception):  # noqa: N818 - a public name
    """A webhook that must not be believed; nothing of its content is in the message.

    :param reason: why.
    """

    def __init__(self, reason: Refusal) -> None:
        super().__init__(f"The webhook was refused: {reason.value}.")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """What a webhook tells, and all that goes on from here: no name, no number, no text.

    :param delivery_id: the same for every try of one delivery.
    :param event: its kind; ``conversation.completed`` is the one that something is done about.
    :param conversation_id: None of another kind of event.
    :param timestamp: UTC, when it was made, as far as it says.
    """

    delivery_id: str
    event: str
    conversation_id: str | None
    timestamp: datetime | None

    @property
    def is_about_completion(self) -> bool:
        return self.conversation_id is not None

    def to_json(self) -> dict[str, str]:
        return {
            "delivery_id": self.delivery_id,
            "event": self.event,
            **({"conversation_id": self.conversation_id} if self.conversation_id else {}),
            **({"timestamp": iso_time(self.timestamp)} if self.timestamp else {}),
        }


def verify(
    body: bytes,
    headers: Mapping[str, str],
    secrets: Collection[str],
    *,
    now: datetime | None = None,
    tolerance: timedelta | float = TOLERANCE,
) -> WebhookEvent:
    """Return what a signed webhook of the REST API v1 tells.

    :param body: as it came, byte for byte.
    :param headers: in any case.
    :param secrets: those in use; two while one takes over from the other.
    :param now: UTC.
    :param tolerance: how old it may be, timedelta or seconds. Whoever receives it must remember deliveries for longer.
    :raises WebhookRejected: it is not signed, too old, or not what the API sends.
    :raises ValueError: there is no secret, or an empty one, so that anybody could sign.
    """
    given = {name.lower(): value for name, value in headers.items()}
    if not is_signed(body, given.get("x-webhook-signature", ""), secrets):
        raise WebhookRejected(Refusal.UNSIGNED)
    told = parse(body)
    event = _event(told)
    now = now or datetime.now(UTC)
    oldest = tolerance if isinstance(tolerance, timedelta) else timedelta(seconds=tolerance)
    if event.timestamp is None:
        raise WebhookRejected(Refusal.MALFORMED)
    if not -_AHEAD <= now - event.timestamp <= oldest:
        raise WebhookRejected(Refusal.STALE)
    _agree(given, event, now, oldest)
    return event


def is_signed(body: bytes, signature: str, secrets: Collection[str]) -> bool:
    """Tell whether ``sha256=<hex HMAC-SHA256 of the body>`` was made with one of the secrets.

    It takes as long whichever of them it is.

    :raises ValueError: there is no secret, or an empty one.
    """
    if isinstance(secrets, str) or not secrets or not all(isinstance(one, str) and one.strip() for one in secrets):
        raise ValueError("secrets must be a list of texts that are not empty")
    well_formed = _SIGNATURE.fullmatch(signature) is not None
    given = signature.encode("ascii", "replace")
    found = False
    for secret in secrets:
        expected = b"sha256=" + hmac.new(secret.encode(), body, "sha256").hexdigest().encode()
        found |= hmac.compare_digest(expected, given)
    return found and well_formed


def hinted(body: bytes) -> WebhookEvent:
    """Return what an unsigned webhook claims: that of API v2 (``conversation_created``), or of tellcasey.

    It proves nothing: whoever acts on it reads the conversation from the API first.

    :raises WebhookRejected: it has neither form.
    """
    told = parse(body)
    kind = _text(told, "event_type")
    if kind is None:
        raise WebhookRejected(Refusal.MALFORMED)
    if (delivery_id := _text(told, "event_id")) is not None:
        about = (
            _text(told, "data", "conversation", "id")
            or _text(told, "data", "conversation_id")
            or _text(told, "data", "id")
        )
        done = kind == "conversation.completed"
        return WebhookEvent(_id(delivery_id), kind[:100], _id(about) if done else None, utc_time(told.get("timestamp")))
    about = _text(told, "payload", "conversation_id")
    if kind != "conversation_created":
        return WebhookEvent(_id(about), kind[:100], None, None)
    # It has no id of its own: there is one for each conversation.
    return WebhookEvent(f"created:{_id(about)}", kind, _id(about), None)


def parse(body: bytes) -> dict[str, Any]:
    """Return a body as JSON.

    :raises WebhookRejected: it is no JSON object, nested too deep, or has a name twice, which readers take differently.
    """
    try:
        told = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        # Raised here, because those errors carry the body.
        raise WebhookRejected(Refusal.MALFORMED)
    return told


def _event(told: dict[str, Any]) -> WebhookEvent:
    kind, delivery_id = _text(told, "event"), _text(told, "_meta", "delivery_id")
    if kind is None or delivery_id is None:
        raise WebhookRejected(Refusal.MALFORMED)
    about = _text(told, "data", "conversation", "id")
    timestamp = utc_time(told.get("timestamp"))
    return WebhookEvent(_id(delivery_id), kind[:100], _id(about) if kind == COMPLETED else None, timestamp)


def _agree(headers: Mapping[str, str], event: WebhookEvent, now: datetime, oldest: timedelta) -> None:
    """Refuse headers that say something else than the body."""
    told = {"x-webhook-event": event.event, "x-webhook-delivery-id": event.delivery_id}
    if any(headers.get(name, value).strip() != value for name, value in told.items()):
        raise WebhookRejected(Refusal.CONTRADICTED)
    sent_at = headers.get("x-webhook-timestamp")
    if sent_at is None:
        return
    if not _SECONDS.fullmatch(sent_at.strip()):
        raise WebhookRejected(Refusal.CONTRADICTED)
    # A later try has a later time; an earlier one than the event's own cannot be.
    age = now.timestamp() - int(sent_at)
    if not -_AHEAD.total_seconds() <= age <= oldest.total_seconds():
        raise WebhookRejected(Refusal.STALE)


def _text(told: Any, *path: str) -> str | None:
    for name in path:
        told = told.get(name) if isinstance(told, dict) else None
    return told.strip() or None if isinstance(told, str) else None


def _id(value: str | None) -> str:
    if value is None or not _ID.fullmatch(value):
        raise WebhookRejected(Refusal.MALFORMED)
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name is there twice")
    return made


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")
