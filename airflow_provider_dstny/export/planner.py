"""What a run reads, in which order, and what it leaves to the next one: within the pace and the daily quota."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from airflow_provider_dstny.export.ledger import Ledger, Listed, State
from airflow_provider_dstny.export.windows import Interval


class Reason(IntEnum):
    """Why a conversation is read; what comes first here is read first."""

    NEW = 0
    PENDING = 1
    CHANGED = 2
    BACKFILL = 3


@dataclass(frozen=True, slots=True)
class Task:
    """One conversation to read."""

    listed: Listed
    reason: Reason


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read, and what is left for want of quota.

    :param counted: how many of those to read count against the quota, because nobody has read them today.
    """

    to_read: Sequence[Task]
    left: Sequence[Task]
    counted: int
    requests_per_minute: float | None

    @property
    def minutes(self) -> float:
        """How long the requests take at the allowed pace, 0 where none is known."""
        return len(self.to_read) / self.requests_per_minute if self.requests_per_minute else 0.0

    def days_left(self, daily_quota: int) -> int:
        """Return on how many more days the quota is needed for what is left."""
        return math.ceil(len(self.left) / daily_quota) if daily_quota else 0


def tasks_of(rows: Iterable[Listed], ledger: Ledger, interval: Interval, now: datetime) -> list[Task]:
    """Return what of the list is to be read, the most urgent first, the oldest first of those that are alike."""
    tasks = [Task(row, reason) for row in rows if (reason := _reason(row, ledger, interval, now)) is not None]
    return sorted(tasks, key=lambda task: (task.reason, task.listed.date, task.listed.id))


def plan(
    tasks: Sequence[Task],
    *,
    quota_left: int | None,
    read_today: frozenset[str] | set[str],
    requests_per_minute: float | None,
) -> Plan:
    """Fit tasks into what is left of the daily quota; what counts nothing more always fits.

    :param quota_left: conversations that may still be read today, the reserve taken off; None without a quota.
    :param read_today: what was read today already, which counts once.
    """
    to_read: list[Task] = []
    left: list[Task] = []
    counted = 0
    for task in tasks:
        if task.listed.id in read_today:
            to_read.append(task)
        elif quota_left is None or counted < quota_left:
            counted += 1
            to_read.append(task)
        else:
            left.append(task)
    return Plan(to_read, left, counted, requests_per_minute)


def _reason(row: Listed, ledger: Ledger, interval: Interval, now: datetime) -> Reason | None:
    entry = ledger.get(row.id)
    if entry is None or entry.state is State.NEW:
        return Reason.NEW if row.date >= interval.start else Reason.BACKFILL
    if entry.version != row.version or entry.state is State.GONE:
        return Reason.CHANGED
    if entry.state is State.PENDING and entry.due_at() <= now:
        return Reason.PENDING
    return None
