"""What a run reads, in which order, and what it leaves to the next one: within the pace and the daily quota."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple

from airflow_provider_dstny.export.ledger import Entry, State

#: So long after a conversation its webhook delivery is waited for; then it is read without.
_DELIVERY_AWAITED = timedelta(days=3)


class Reason(IntEnum):
    """Why a conversation is read; what comes first here is read first."""

    NEW = 0
    PENDING = 1
    CHANGED = 2
    MISSING = 3
    BACKFILL = 4
    FAILED = 5


class Task(NamedTuple):
    """One conversation to read. Tasks sort by urgency, and the older first of those that are alike.

    :param counts: it counts against the daily quota, because nobody has read it today.
    """

    reason: Reason
    date: datetime
    id: str
    counts: bool


class Day(NamedTuple):
    """What a day is spent on."""

    conversations: int
    requests: int
    minutes: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The ids of what to read, in this order, and of what is left for want of quota.

    :param reasons: how many are read for which reason.
    """

    to_read: Sequence[str]
    left: Sequence[str]
    reasons: Mapping[Reason, int]

    def days(self, *, daily_quota: int | None, requests_each: int, spacing: float) -> list[Day]:
        """Return what today and the days after it would be spent on, lists not counted.

        :param requests_each: requests for one conversation.
        :param spacing: seconds from one request to the next.
        """
        sizes = [len(self.to_read)]
        left = len(self.left)
        while left > 0:
            sizes.append(min(left, daily_quota or left))
            left -= sizes[-1]
        return [Day(size, size * requests_each, round(size * requests_each * spacing / 60, 1)) for size in sizes]


def reason_of(
    conversation_id: str,
    entry: Entry,
    *,
    recent: datetime,
    now: datetime,
    completed: Mapping[str, datetime] | None,
) -> Reason | None:
    """Return why a conversation is to be read now, None if it is not.

    One that could not be read the last time comes last, so that it does not keep others waiting.

    :param recent: UTC, since when conversations are new; what took place before is backfill.
    :param completed: when conversations were told to be complete, UTC; None if that is not told of any.
    """
    reason = _reason(conversation_id, entry, recent, now, completed)
    return Reason.FAILED if reason is not None and entry.failed_at is not None else reason


def _reason(
    conversation_id: str, entry: Entry, recent: datetime, now: datetime, completed: Mapping[str, datetime] | None
) -> Reason | None:
    if entry.state in (State.GONE, State.ERASED):
        return None
    completed_at = (completed or {}).get(conversation_id)
    if entry.read_version is None:
        if completed is not None and completed_at is None and now - entry.date < _DELIVERY_AWAITED:
            return None
        return Reason.NEW if entry.date >= recent else Reason.BACKFILL
    if entry.version != entry.read_version:
        return Reason.CHANGED
    if entry.state is State.COMPLETE or entry.read_at is None:
        return None
    told_since = completed_at is not None and completed_at > entry.read_at
    return Reason.PENDING if told_since or (entry.state is State.PENDING and entry.due_at <= now) else None


def plan(tasks: Iterable[Task], *, quota_left: int | None) -> Plan:
    """Fit tasks into what is left of the daily quota; what counts nothing more always fits.

    :param quota_left: conversations that may still be read today, the reserve taken off; None without a quota.
    """
    # Not the tasks themselves: a first run has 100,000 of them.
    to_read: list[str] = []
    left: list[str] = []
    reasons: Counter[Reason] = Counter()
    counted = 0
    for task in sorted(tasks):
        if not task.counts or quota_left is None or counted < quota_left:
            counted += task.counts
            reasons[task.reason] += 1
            to_read.append(task.id)
        else:
            left.append(task.id)
    return Plan(to_read, left, reasons)
