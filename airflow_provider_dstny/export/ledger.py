"""What is known of each conversation over all runs: whether it was landed, and in which version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Self

from airflow_provider_dstny.export.windows import LISTED, Window

#: A conversation without a transcript is read again after the first of these, then after the second, and so on.
_PAUSES = tuple(timedelta(hours=hours) for hours in (1, 2, 4, 8, 16, 24))
#: So long before the list forgets a conversation, one that is still pending is worth an alert.
_ALERT = timedelta(days=2)


class State(StrEnum):
    """How far a conversation has come. COMPLETE, NO_TRANSCRIPT and GONE are read again only if the list changes."""

    NEW = "new"
    PENDING = "pending"
    COMPLETE = "complete"
    NO_TRANSCRIPT = "no_transcript"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of the list.

    :param date: UTC, when it took place.
    :param version: stands for all that the row says.
    """

    id: str
    date: datetime
    version: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one conversation; times are UTC.

    :param date: when it took place.
    :param version: that of its row in the list when it was read last, or first seen.
    :param first_seen: when a list first showed it.
    :param read_at: when it was read last.
    :param reads: how often it was read while its transcript was missing.
    """

    state: State
    date: datetime
    version: str
    first_seen: datetime
    read_at: datetime | None = None
    reads: int = 0

    @property
    def changed_at(self) -> datetime:
        return self.read_at or self.first_seen

    def due_at(self) -> datetime:
        """Return when a pending one is read again."""
        return self.changed_at + _PAUSES[min(self.reads, len(_PAUSES)) - 1]

    def to_json(self, conversation_id: str) -> dict[str, Any]:
        fields = {
            name: value.isoformat() if isinstance(value, datetime) else value for name, value in asdict(self).items()
        }
        return {"id": conversation_id, **fields}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> tuple[str, Self]:
        times = {
            name: datetime.fromisoformat(row[name]) if row[name] else None for name in ("date", "first_seen", "read_at")
        }
        fields = {**row, **times, "state": State(row["state"])}
        return str(fields.pop("id")), cls(**fields)


class Ledger:
    """The entries by conversation id, and what this run has changed of them."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._changed: set[str] = set()

    def load(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in what a run has committed; of two runs that knew a conversation, the later one counts."""
        for row in rows:
            conversation_id, entry = Entry.from_json(row)
            known = self._entries.get(conversation_id)
            if known is None or entry.changed_at >= known.changed_at:
                self._entries[conversation_id] = entry

    def get(self, conversation_id: str) -> Entry | None:
        return self._entries.get(conversation_id)

    def changes(self) -> Iterator[dict[str, Any]]:
        """Yield what this run has changed, by id, in the form that :meth:`load` reads."""
        for conversation_id in sorted(self._changed):
            yield self._entries[conversation_id].to_json(conversation_id)

    def see(self, listed: Listed, now: datetime) -> None:
        """Take in that the list shows a conversation."""
        if listed.id not in self._entries:
            self._set(listed.id, Entry(State.NEW, listed.date, listed.version, first_seen=now))

    def was_read(self, listed: Listed, now: datetime, *, has_transcript: bool, give_up_after: timedelta) -> Entry:
        """Take in that a conversation was read, and return what is known of it then.

        :param give_up_after: since it was first seen; then it counts as having no transcript.
        """
        before = self._entries.get(listed.id)
        first_seen = before.first_seen if before else now
        if has_transcript:
            state = State.COMPLETE
        else:
            state = State.NO_TRANSCRIPT if now - first_seen >= give_up_after else State.PENDING
        reads = (before.reads if before else 0) + (not has_transcript)
        entry = Entry(state, listed.date, listed.version, first_seen, now, reads)
        self._set(listed.id, entry)
        return entry

    def is_gone(self, conversation_id: str, now: datetime) -> None:
        """Take in that a conversation has been deleted."""
        self._set(conversation_id, replace(self._entries[conversation_id], state=State.GONE, read_at=now))

    def missing(self, window: Window, listed_ids: set[str]) -> list[str]:
        """Return what should have been listed in a window and was not: it may have been deleted."""
        return sorted(
            conversation_id
            for conversation_id, entry in self._entries.items()
            if entry.state is not State.GONE and window.covers(entry.date) and conversation_id not in listed_ids
        )

    def about_to_be_lost(self, now: datetime) -> list[str]:
        """Return the pending conversations that the list will soon forget."""
        return sorted(
            conversation_id
            for conversation_id, entry in self._entries.items()
            if entry.state in (State.NEW, State.PENDING)
            and timedelta(0) <= now - entry.date - (LISTED - _ALERT) < _ALERT
        )

    def _set(self, conversation_id: str, entry: Entry) -> None:
        if self._entries.get(conversation_id) != entry:
            self._entries[conversation_id] = entry
            self._changed.add(conversation_id)
