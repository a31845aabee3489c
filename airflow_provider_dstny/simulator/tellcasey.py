"""The tellcasey backend API as a state that moves with time: conversations are held, completed or abandoned."""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from airflow_provider_dstny.simulator.api import Api
from airflow_provider_dstny.simulator.contract import Call, Contract, ContractError
from airflow_provider_dstny.simulator.moments import to_text
from airflow_provider_dstny.simulator.samples import CUSTOMERS, Customer, id_of, new_id, seeded, talk

AGENT_IDS = ("2b1e3b65-2c04-4fa2-a2d7-467901e98978", "2b1e3b65-2c04-4fa2-a2d7-467901e98979")

_DAY = 86400.0
#: Seconds between two messages of a talk whose end is not known.
_PACE = 10.0
_CODES = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    422: "validation_error",
    429: "rate_limited",
}


@dataclass
class TellcaseyConversation:
    """A conversation and its life; all moments are seconds since the epoch.

    :param plan: when it takes which status, in order; it is known from the first on.
    :param messages: what is said, the assistant first: between ``in_progress`` and the status after it,
        evenly spaced, or at once where the plan has no ``in_progress``.
    """

    id: str
    agent_id: str
    plan: list[tuple[float, str]]
    messages: list[str]
    customer: Customer
    modality: str = "voice"

    @property
    def created_at(self) -> float:
        return self.plan[0][0]

    @property
    def started_at(self) -> float | None:
        return next((at for at, status in self.plan if status not in ("pending", "abandoned")), None)

    def status(self, now: float) -> str:
        return [status for at, status in self.plan if at <= now][-1]

    def said(self, now: float) -> list[tuple[float, str, str]]:
        """Return (moment, role, text) of all messages so far."""
        begin = self.started_at
        if begin is None:
            return []
        ends = [at for at, status in self.plan if status not in ("pending", "in_progress")]
        pace = (ends[0] - begin) / max(1, len(self.messages)) if ends else _PACE
        spoken = [
            (begin + index * pace, ("assistant", "user")[index % 2], text) for index, text in enumerate(self.messages)
        ]
        return [message for message in spoken if message[0] <= now]

    def row(self, now: float) -> dict[str, Any]:
        """Return what a list shows."""
        first, _, last = self.customer.name.partition(" ")
        completed_at = next((at for at, status in self.plan if status == "completed"), None)
        return {
            "id": self.id,
            "connection_code": self.id[:8],
            "agent_id": self.agent_id,
            "status": self.status(now),
            "started_at": _moment(self.started_at, now),
            "completed_at": _moment(completed_at, now),
            "turn_count": len(self.said(now)),
            "participant_profile": {
                "id": id_of("profile", self.customer.email),
                "email": self.customer.email,
                "first_name": first,
                "last_name": last,
                "organization_name": self.customer.company,
                "organization_domain": self.customer.email.partition("@")[2],
                "avatar_image_url": None,
            },
        }


class TellcaseyState(Api):
    """The organization behind the simulated tellcasey API."""

    name = "tellcasey"

    def __init__(
        self,
        *,
        tokens: Iterable[str],
        transcript_after: float,
        jitter: float,
        samples: int,
        fresh: int,
        seed: int,
        clock: Callable[[], float],
    ) -> None:
        self.contract = Contract(self.name)
        self.tokens = set(tokens)
        self.conversations: dict[str, TellcaseyConversation] = {}
        self._clock = clock
        self._random = seeded(f"{seed} tellcasey")
        self._lock = threading.RLock()
        start = clock()
        for plan in (*self._held(start, samples), *self._under_way(start, fresh, transcript_after, jitter)):
            self.add(plan=plan)

    def add(self, **fields: Any) -> TellcaseyConversation:
        """Add a conversation; what is not given is made up, and without a plan it is completed."""
        with self._lock:
            number, now = len(self.conversations), self._clock()
            customer = CUSTOMERS[number % len(CUSTOMERS)]
            made = {
                "id": new_id(self._random),
                "agent_id": AGENT_IDS[number % len(AGENT_IDS)],
                "plan": [(now - 900, "pending"), (now - 600, "in_progress"), (now - 300, "completed")],
                "customer": customer,
                "modality": ("voice", "text")[number % 2],
                **fields,
            }
            made["plan"] = sorted(made["plan"], key=lambda step: step[0])
            lines = [text for _, text in talk(made["id"], host="Casey", customer=made["customer"])]
            abandoned = any(status == "abandoned" for _, status in made["plan"])
            made.setdefault("messages", lines[:3] if abandoned else lines)
            conversation = TellcaseyConversation(**made)
            self.conversations[conversation.id] = conversation
            return conversation

    def delete(self, conversation_id: str) -> None:
        """Delete a conversation: nothing tells of it any more.

        :raises KeyError: there is no such conversation.
        """
        with self._lock:
            del self.conversations[conversation_id]

    def authorize(self, token: str) -> ContractError | None:
        return None if token in self.tokens else ContractError(401, "Invalid API key")

    def answer(self, call: Call, token: str) -> Any:
        with self._lock:
            return getattr(self, f"_{call.operation}")(call)

    def error_body(self, status: int, message: str, retry_after: float | None = None) -> dict[str, Any]:
        code = _CODES.get(status, "internal_error" if status >= 500 else "error")
        return {"error": {"code": code, "message": message}}

    def _list_conversations(self, call: Call) -> Any:
        query, now = call.query, self._clock()
        if {"after", "before"} <= query.keys():
            raise ContractError(422, "after and before exclude each other")
        rows = [
            one
            for one in self.conversations.values()
            if one.created_at <= now
            and query.get("status", one.status(now)) == one.status(now)
            and query.get("agent_id", one.agent_id) == one.agent_id
        ]
        rows.sort(key=_position)
        limit = query.get("limit", 20)
        if "before" in query:
            edge = _read_cursor(query["before"])
            earlier = [one for one in rows if _position(one) < edge]
            page, has_more = earlier[-limit:], len(earlier) > limit
        else:
            edge = _read_cursor(query["after"]) if "after" in query else (float("-inf"), "")
            later = [one for one in rows if _position(one) > edge]
            page, has_more = later[:limit], len(later) > limit
        return {
            "data": [one.row(now) for one in page],
            "pagination": {
                "has_more": has_more,
                "next_cursor": _cursor(page[-1]) if page and page[-1] is not rows[-1] else None,
                "prev_cursor": _cursor(page[0]) if page and page[0] is not rows[0] else None,
            },
        }

    def _get_conversation(self, call: Call) -> Any:
        one, now = self._known(call), self._clock()
        path: list[Any] = [{"step": status, "at": to_text(at)} for at, status in one.plan if at <= now]
        return {"data": {**one.row(now), "session_properties": {"channel": one.modality}, "path_taken": path}}

    def _get_transcript(self, call: Call) -> Any:
        one = self._known(call)
        messages = [
            {
                "id": id_of(one.id, index),
                "role": role,
                "content": text,
                "created_at": to_text(at),
                "modality": one.modality,
            }
            for index, (at, role, text) in enumerate(one.said(self._clock()))
        ]
        return {"data": {"conversation_id": one.id, "messages": messages}}

    def _known(self, call: Call) -> TellcaseyConversation:
        one = self.conversations.get(call.ids["conversation_id"].lower())
        if one is None or one.created_at > self._clock():
            raise ContractError(404, "Conversation not found")
        return one

    def _held(self, start: float, count: int) -> Iterator[list[tuple[float, str]]]:
        for number in range(count):
            began = start - self._random.uniform(_DAY / 12, 10 * _DAY)
            took = self._random.uniform(120, 1200)
            end = "abandoned" if number == 2 else "completed"
            plan = [(began - 60, "pending"), (began, "in_progress"), (began + took, end)]
            yield [*plan, (began + took + 3600, "archived")] if number == 5 else plan

    def _under_way(self, start: float, count: int, after: float, jitter: float) -> Iterator[list[tuple[float, str]]]:
        for number in range(count):
            completed = start + after + self._random.uniform(0, jitter)
            # Every other one has not begun at the start.
            began = start - 60 if number % 2 else (start + completed) / 2
            yield [(start - 120 - number, "pending"), (began, "in_progress"), (completed, "completed")]


def _moment(at: float | None, now: float) -> str | None:
    return None if at is None or at > now else to_text(at)


def _position(one: TellcaseyConversation) -> tuple[float, str]:
    return -one.created_at, one.id


def _cursor(one: TellcaseyConversation) -> str:
    return base64.urlsafe_b64encode(json.dumps(_position(one)).encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[float, str]:
    try:
        created, conversation_id = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        return float(created), str(conversation_id)
    except (binascii.Error, ValueError, TypeError):
        raise ContractError(422, "the cursor is not one of this API") from None
