"""Conversations of the simulated v1 account: how they are shown, and the samples that are there from the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from airflow_provider_dstny.simulator.moments import to_text
from airflow_provider_dstny.simulator.rest_directory import department_of, user_of
from airflow_provider_dstny.simulator.samples import CUSTOMERS, Customer, id_of, seeded, summary, talk

Shape = Literal["segments", "sentences", "messages"]
SHAPES: tuple[Shape, ...] = ("segments", "sentences", "messages")

_MEDIA = ("call", "video", "call", "live", "call", "video", "call")
_SENTIMENTS = ("positive", "neutral", "negative")
_TYPES = ("sales", "support", "onboarding")
_HOUR, _DAY = 3600.0, 86400.0


@dataclass
class RestConversation:
    """A conversation; all moments are seconds since the epoch.

    :param date: when it took place; ``duration`` is in seconds.
    :param arrives_at: when the API begins to know it.
    :param transcript_at: when its transcript, insights and summary exist.
    :param recording: the name of its recording below ``/recordings``.
    :param said: what ``host`` and ``guest`` say, (who, text) in order; None for some talk that follows from its id.
    :param summary_changed_at: when its summary was last written, None if that was with its transcript.
    """

    id: str
    title: str | None
    company: str | None
    date: float
    duration: float
    medium: str
    sentiment: str | None
    conversation_type: str | None
    department: dict[str, Any] | None
    user: dict[str, Any] | None
    participants: list[dict[str, Any]]
    summary: str | None
    arrives_at: float
    transcript_at: float
    transcript_shape: Shape
    has_recording: bool
    recording: str
    said: list[tuple[str, str]] | None = None
    summary_changed_at: float | None = None
    #: Called when it gets another place in the list.
    on_move: Callable[[], None] | None = field(default=None, init=False, repr=False, compare=False)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("id", "date") and self.on_move is not None:
            self.on_move()

    def row(self) -> dict[str, Any]:
        """Return what a list shows."""
        return {
            "id": self.id,
            "title": self.title,
            "company": self.company,
            "date": to_text(self.date),
            "duration": self.duration,
            "medium": self.medium,
            "sentiment": self.sentiment,
            "conversation_type": self.conversation_type,
            "department": self.department,
            "user": self.user,
        }

    def transcript(self) -> dict[str, Any]:
        """Return the transcript in the shape of this conversation."""
        said = self._spoken()
        step = max(self.duration, 1) / max(len(said), 1)
        spoken = [
            (role, name, text, round(step * index, 2), round(step * (index + 0.9), 2))
            for index, (role, name, text) in enumerate(said)
        ]
        match self.transcript_shape:
            case "segments":
                rows = [{"speaker": name, "text": text, "start": a, "end": b} for _, name, text, a, b in spoken]
            case "sentences":
                rows = [{"speaker_name": name, "start": a, "end": b, "text": text} for _, name, text, a, b in spoken]
            case "messages":
                rows = [
                    {"role": role, "name": name, "content": text, "start_time": a, "end_time": b}
                    for role, name, text, a, b in spoken
                ]
        return {self.transcript_shape: rows}

    def insights(self) -> list[dict[str, Any]]:
        return [
            {
                "id": id_of(self.id, slug),
                "insight_type": "kpi",
                "insight_text": text,
                "kpi_slug": slug,
                "kpi_label": label,
                "impact": impact,
                "start_time_seconds": 12 * index,
                "end_time_seconds": 12 * index + 9,
                "message_index": index,
            }
            for index, (slug, label, text, impact) in enumerate(_INSIGHTS)
        ]

    def _spoken(self) -> list[tuple[str, str, str]]:
        host = self.user["name"] if self.user else "the agent"
        guest = self.participants[0]["name"] if self.participants else "the customer"
        names = {"host": ("agent", host), "guest": ("customer", guest)}
        lines = self.said
        if lines is None:
            lines = talk(self.id, host=host, customer=Customer(guest, self.company or "a customer", ""))
        return [(*names[who], text) for who, text in lines]


_INSIGHTS = (
    ("next_step", "Next step", "An onboarding date is to be booked.", "high"),
    ("budget", "Budget", "The price is accepted.", "medium"),
)


def default_fields(number: int, conversation_id: str, now: float) -> dict[str, Any]:
    """Return the fields of the conversation with a number; it took place an hour ago and is complete."""
    customer = CUSTOMERS[number % len(CUSTOMERS)]
    return {
        "id": conversation_id,
        "title": f"{'Discovery call' if number % 2 else 'Follow-up'} - {customer.company}",
        "company": customer.company,
        "date": now - _HOUR,
        "duration": 300,
        "medium": "call",
        "sentiment": _SENTIMENTS[number % len(_SENTIMENTS)],
        "conversation_type": _TYPES[number % len(_TYPES)],
        "department": department_of(number),
        "user": user_of(number),
        "participants": [{"name": customer.name, "email": customer.email, "role": "customer"}],
        "summary": summary(customer),
        "transcript_shape": SHAPES[number % len(SHAPES)],
        "has_recording": True,
    }


def sample_fields(seed: int, start: float, count: int) -> Iterator[dict[str, Any]]:
    """Yield the fields of conversations of the last ten days, all complete; four of them at one moment."""
    random = seeded(f"{seed} samples")
    shared = start - 3 * _DAY
    for number in range(count):
        silent = number % 8 == 7
        took = random.randint(60, 2400)
        date = shared if number % 10 == 4 and number < 40 else start - random.uniform(_HOUR + took, 10 * _DAY)
        yield {
            "date": date,
            "duration": took,
            # What is written has no recording.
            "medium": random.choice(("email", "chat")) if silent else _MEDIA[number % len(_MEDIA)],
            "has_recording": not silent,
            "arrives_at": date + took,
            "transcript_at": date + took,
        }


def fresh_fields(
    seed: int, start: float, count: int, *, transcript_after: float, jitter: float
) -> Iterator[dict[str, Any]]:
    """Yield the fields of conversations of the last hour, whose transcripts come after the start."""
    random = seeded(f"{seed} fresh")
    for _ in range(count):
        took = random.randint(60, 600)
        yield {
            "date": start - random.uniform(took, _HOUR),
            "duration": took,
            "arrives_at": start,
            "transcript_at": start + transcript_after + random.uniform(0, jitter),
        }
