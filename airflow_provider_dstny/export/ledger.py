"""What is known of each conversation over all runs: whether it was landed, and in which version. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self, TypeAlias, cast

import msgspec
from msgspec.structs import replace

#: A conversation without a transcript is read again after the first of these, then after the second, and so on.
_PAUSES = tuple(timedelta(hours=hours) for hours in (1, 2, 4, 8, 16, 24))
#: So long before the list forgets a conversation, one that is still pending is worth an alert.
_ALERT = timedelta(days=2)

#: UTC in everything that is written here.
Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class State(StrEnum):
    """How far a conversation has come.

    NEW was listed and not read, PENDING has no transcript yet. COMPLETE and NO_TRANSCRIPT are read again only if the
    list changes, GONE only if it is listed again, ERASED never.
    """

    NEW = "new"
    PENDING = "pending"
    COMPLETE = "complete"
    NO_TRANSCRIPT = "no_transcript"
    GONE = "gone"
    ERASED = "erased"


@dataclass(frozen=True, slots=True)
class Listed:
    """One row of the list.

    :param date: UTC, when it took place; None if it does not say.
    :param version: stands for all that the row says.
    """

    id: str
    date: datetime | None
    version: str


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is known of one conversation; times are UTC.

    :param date: when it took place, or was first seen if that is not known.
    :param version: that of its row in the list.
    :param first_seen: when a list first showed it.
    :param changed_at: when something new became known of it: of two entries the later one counts.
    :param read_at: when it was read last, None if it never was.
    :param read_version: the version at that time, None if it is to be read anew.
    :param reads: how often it was read while its transcript was missing.
    :param content: stands for what was landed last, None if nothing was.
    :param failed_at: when reading it failed for a reason of its own, None if it has not since it was read.
    :param landed_as: the end of the interval that has landed it: its rows count until a later one lands it again.
    """

    state: State
    date: Moment
    version: str
    first_seen: Moment
    changed_at: Moment
    read_at: Moment | None = None
    read_version: str | None = None
    reads: int = 0
    content: str | None = None
    landed_as: Moment | None = None
    failed_at: Moment | None = None

    @classmethod
    def seen(cls, before: Self | None, listed: Listed, now: datetime) -> Self:
        """Return what is known once the list shows a conversation."""
        date = listed.date or (before.date if before else now)
        if before is None:
            return cls(State.NEW, date, listed.version, first_seen=now, changed_at=now)
        if before.state is State.GONE:
            # What was landed of it last is its tombstone.
            again = replace(before, state=State.NEW, read_version=None, reads=0, content=None)
        elif before.state is State.ERASED or (before.version, before.date) == (listed.version, date):
            return before
        else:
            again = before
        return replace(again, date=date, version=listed.version, changed_at=again._after(now))

    def was_read(self, now: datetime, *, complete: bool, content: str | None, give_up_after: timedelta) -> Self:
        """Return what is known once a conversation was read.

        :param give_up_after: since it was first seen; then one that is not complete counts as having no transcript.
        """
        if complete:
            state = State.COMPLETE
        else:
            state = State.NO_TRANSCRIPT if now - self.first_seen >= give_up_after else State.PENDING
        return replace(
            self,
            state=state,
            changed_at=self._after(now),
            read_at=now,
            read_version=self.version,
            reads=self.reads + (not complete),
            content=content,
            failed_at=None,
        )

    def holds(self, content: str) -> Self:
        """Return what is known once something else is landed.

        :param content: stands for that.
        """
        return replace(self, content=content)

    def was_landed(self, as_of: datetime) -> Self:
        """Return what is known once an interval has landed it.

        :param as_of: UTC, the end of the interval.
        """
        return replace(self, landed_as=as_of)

    def has_failed(self, now: datetime) -> Self:
        """Return what is known once reading a conversation has failed for a reason of its own."""
        return replace(self, changed_at=self._after(now), failed_at=now)

    def is_gone(self, now: datetime) -> Self:
        """Return what is known once a conversation has been deleted."""
        return replace(self, state=State.GONE, changed_at=self._after(now), content=None)

    def is_erased(self, now: datetime) -> Self:
        """Return what is known once a conversation was erased from the lake: it must not come back."""
        return replace(self, state=State.ERASED, changed_at=self._after(now), content=None)

    def _after(self, now: datetime) -> datetime:
        """Return when it changes: later than before, whatever the clocks say."""
        return max(now, self.changed_at + timedelta(microseconds=1))

    @property
    def due_at(self) -> datetime:
        """When one that was read without a transcript is read again."""
        return (self.read_at or self.first_seen) + _PAUSES[min(max(self.reads, 1), len(_PAUSES)) - 1]

    def is_about_to_be_lost(self, now: datetime, forgotten_after: timedelta) -> bool:
        """Tell whether it still waits for its transcript and the list will soon forget it."""
        waits = self.state in (State.NEW, State.PENDING)
        return waits and timedelta(0) <= now - self.date - (forgotten_after - _ALERT) < _ALERT

    def to_json(self) -> dict[str, Any]:
        return cast(dict[str, Any], msgspec.to_builtins(self))

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        :raises ValueError: it is something else.
        """
        try:
            return msgspec.convert(row, cls)
        except msgspec.ValidationError:
            raise ValueError("no entry of a ledger") from None

    def to_text(self) -> str:
        """Return the entry as a line of JSON."""
        return _ENCODER.encode(self).decode()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read what :meth:`to_text` wrote."""
        return cast(Self, _DECODER.decode(text))


_ENCODER, _DECODER = msgspec.json.Encoder(), msgspec.json.Decoder(Entry)
