"""Dstny API v2 as a state that moves with time: calls become visible, then transcribed; agents run on them."""

from __future__ import annotations

import random
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from airflow_provider_dstny.simulator.api import Api
from airflow_provider_dstny.simulator.books import Books
from airflow_provider_dstny.simulator.contract import Call, Contract, ContractError
from airflow_provider_dstny.simulator.dstny_agents import Agents
from airflow_provider_dstny.simulator.dstny_calls import default_body, sample_moments
from airflow_provider_dstny.simulator.dstny_directory import Directory
from airflow_provider_dstny.simulator.samples import NotReady, new_id, seeded

_LINES = (
    ("Owner", "Good morning, this is {owner}. How can I help you?"),
    ("Participant", "Hello, this is {participant}. We talked about the new switchboard last week."),
    ("Owner", "I remember. Did you have time to read the offer?"),
    ("Participant", "Yes. The price is fine, but we need single sign-on before the summer."),
    ("Owner", "Single sign-on is part of the plan. I can send you the steps today."),
    ("Participant", "Please do. And can we keep our phone numbers?"),
    ("Owner", "You can. Porting takes about two weeks."),
    ("Participant", "Then let us start on the first of next month."),
    ("Owner", "I will write a summary and book the onboarding."),
    ("Participant", "Thank you, talk to you soon."),
)


@dataclass
class SimulatedCall:
    """A call that was sent; ``recording`` is pending, fetched, or the reason why it could not be."""

    conversation_id: str
    body: dict[str, Any]
    created_at: float
    recording: str = "pending"


class DstnyState(Api):
    """The account behind the simulated API v2."""

    name = "dstny"

    def __init__(
        self,
        books: Books,
        *,
        tokens: Iterable[str],
        visible_after: float,
        transcript_after: float,
        jitter: float,
        not_ready: NotReady,
        agent_seconds: float,
        seed: int,
        clock: Callable[[], float],
        samples: int = 0,
    ) -> None:
        self.contract = Contract(self.name)
        self.tokens = set(tokens)
        self.calls: dict[str, SimulatedCall] = {}
        self.agent_seconds = agent_seconds
        self._books = books
        self._visible_after = visible_after
        self._transcript_after = transcript_after
        self._jitter = jitter
        self._not_ready = not_ready
        self._seed = seed
        self._clock = clock
        self._directory = Directory(clock)
        self._agents = Agents(clock)
        self._lock = threading.Lock()
        self._fetches: list[threading.Thread] = []
        self._random = seeded(f"{seed} dstny")
        for moment in sample_moments(seed, self._long_ago(), samples):
            self.add(created_at=moment)

    def add(self, *, created_at: float | None = None, **body: Any) -> SimulatedCall:
        """Add a call that was sent and whose recording was fetched.

        :param created_at: when it was sent, in seconds since the epoch; None for long enough ago to be complete now.
        :param body: what was sent; what is not given is made up, and it was sent as soon as it was over.
        """
        with self._lock:
            sent_at = self._long_ago() if created_at is None else created_at
            made = {**default_body(len(self.calls), sent_at), **body}
            added = SimulatedCall(new_id(self._random), made, sent_at, "fetched")
            self.calls[added.conversation_id] = added
            return added

    def delete(self, conversation_id: str) -> None:
        """Delete a conversation: only the requests of agents tell of it any more.

        :raises KeyError: there is no such conversation.
        """
        with self._lock:
            del self.calls[conversation_id]

    def settle(self) -> None:
        """Wait until every recording has been fetched, or could not be."""
        while self._fetches:
            self._fetches.pop().join()

    def authorize(self, token: str) -> ContractError | None:
        return None if token in self.tokens else ContractError(401, "Invalid or expired token")

    def answer(self, call: Call, token: str) -> Any:
        with self._lock:
            own = getattr(self, f"_{call.operation}", None)
            if own is not None:
                return own(call)
            other = self._directory if hasattr(self._directory, call.operation) else self._agents
            return getattr(other, call.operation)(call)

    def seconds_to_answer(self, call: Call) -> float:
        return self.agent_seconds if call.operation == "run_agent" else 0.0

    def ready_at(self, call: SimulatedCall) -> float:
        spread = random.Random(f"{self._seed}{call.conversation_id}").uniform(0, self._jitter)  # noqa: S311
        return call.created_at + self._transcript_after + spread

    def to_json(self) -> list[dict[str, Any]]:
        """Return what a test wants to know of each call: no phone numbers, no text."""
        return [
            {
                "conversation_id": call.conversation_id,
                "call_external_id": call.body["call_external_id"],
                "created_at": call.created_at,
                "ready_at": self.ready_at(call),
                "recording": call.recording,
                "agent_runs": self._agents.runs_on(call.conversation_id),
            }
            for call in self.calls.values()
        ]

    def _create_call_conversation(self, call: Call) -> Any:
        conversation_id = str(uuid.uuid4())
        created = SimulatedCall(conversation_id, call.body, self._clock())
        self.calls[conversation_id] = created
        fetch = threading.Thread(target=self._fetch_recording, args=(created,), daemon=True)
        self._fetches.append(fetch)
        fetch.start()
        return {"conversation_id": conversation_id}

    def _fetch_recording(self, call: SimulatedCall) -> None:
        url = call.body["call_recording_url"]
        try:
            if not url.startswith(("http://", "https://")):
                raise ValueError("not an http or https URL")
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - checked above
                call.recording = "fetched" if answer.status == 200 and answer.read(1) else "empty"
            self._books.recording_fetched(url)
        except (OSError, ValueError) as error:
            call.recording = f"failed: {error}"

    def _list_conversations(self, call: Call) -> Any:
        query = call.query
        first = date.fromisoformat(query.get("global_start", "0001-01-01"))
        last = date.fromisoformat(query.get("global_end", "9999-12-31"))
        wanted = query.get("recording_types[]", ["call"])
        search = query.get("search", "").lower()
        return [
            {
                "id": one.conversation_id,
                "call_external_id": one.body["call_external_id"],
                "title": one.body.get("call_title"),
                "start_time": one.body["call_start_time"],
                "recording_type": "call",
                "owner_email": one.body["owner_email"],
            }
            for one in self.calls.values()
            if self._is_visible(one)
            and "call" in wanted
            and first <= _day(one.body["call_start_time"]) <= last
            and search in f"{one.body.get('call_title')} {one.body.get('participant_company_name')}".lower()
        ]

    def _get_transcript(self, call: Call) -> Any:
        one = self._visible(call)
        if not self._has_transcript(one):
            if self._not_ready == "404":
                raise ContractError(404, "Transcript not found")
            return {"null": None, "empty": [], "blank": [{}]}[self._not_ready]
        names = {
            "owner": one.body.get("owner_name") or one.body["owner_email"],
            "participant": one.body.get("participant_first_name") or "the customer",
        }
        count = 4 + sum(one.conversation_id.encode()) % (len(_LINES) - 3)
        return [
            {"speaker": speaker, "text": line.format(**names), "start": 4.0 * index, "end": 4.0 * index + 3.5}
            for index, (speaker, line) in enumerate(_LINES[:count])
        ]

    def _get_insights(self, call: Call) -> Any:
        if not self._has_transcript(self._visible(call)):
            return []
        return [{"insight_type": "kpi", "insight_text": "Customer asked for single sign-on.", "impact": "high"}]

    def _get_ai_analytics(self, call: Call) -> Any:
        return [{"talk_ratio": 0.52, "longest_monologue": 18}] if self._has_transcript(self._visible(call)) else []

    def _get_playbooks(self, call: Call) -> Any:
        return [{"name": "Discovery", "adherence": 0.8}] if self._has_transcript(self._visible(call)) else []

    def _get_magic_variable_requests(self, call: Call) -> Any:
        return [{"variable": "start_date", "value": "1st"}] if self._has_transcript(self._visible(call)) else []

    def _get_department_insights(self, call: Call) -> Any:
        return [{"department": "b2b-sales", "topics": ["sso"]}] if self._has_transcript(self._visible(call)) else []

    def _run_agent(self, call: Call) -> Any:
        agent = self._agents.find(call)
        one = self._visible(call)
        if not self._has_transcript(one):
            raise ContractError(422, "The conversation has no transcript yet")
        company = one.body.get("participant_company_name") or "The customer"
        summary = f"{company} accepts the offer and needs single sign-on before the summer."
        return self._agents.run(agent, one.conversation_id, summary, **(call.body or {}))

    def _long_ago(self) -> float:
        return self._clock() - max(self._visible_after, self._transcript_after + self._jitter)

    def _visible(self, call: Call) -> SimulatedCall:
        one = self.calls.get(call.ids["conversation_id"])
        if one is None or not self._is_visible(one):
            raise ContractError(404, "Conversation not found")
        return one

    def _is_visible(self, call: SimulatedCall) -> bool:
        return self._clock() >= call.created_at + self._visible_after

    def _has_transcript(self, call: SimulatedCall) -> bool:
        return call.recording == "fetched" and self._clock() >= self.ready_at(call)


def _day(moment: str) -> date:
    return datetime.fromisoformat(moment).astimezone(UTC).date()
