"""Which part of the list a run reads. Windows are kept, not cursors: what arrives late stands in the middle."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

#: How far back the list of the REST API v1 goes.
LISTED = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Interval:
    """What a run is for: from ``start`` until before ``end``, UTC."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Window:
    """The part of the list to read: from ``since`` to ``until``, UTC, both included.

    :param is_sweep: it covers all that the list shows.
    """

    since: datetime
    until: datetime
    is_sweep: bool

    def covers(self, moment: datetime) -> bool:
        return self.since <= moment <= self.until


def window_of(
    interval: Interval,
    *,
    server_time: datetime,
    lookback: timedelta,
    last_sweep: datetime | None,
    sweep_every: timedelta,
) -> Window | None:
    """Return what a run for an interval reads of the list, None where the list does not go back so far.

    :param server_time: the clock of the API, UTC: what it has not seen yet cannot be read.
    :param lookback: how far before the interval to look for what arrived late, or was changed.
    :param last_sweep: UTC, the end of the interval whose run has read the whole list; None if none has.
    """
    until = min(interval.end, server_time)
    listed_since = server_time - LISTED
    if until <= listed_since:
        return None
    if last_sweep is None or interval.end - last_sweep >= sweep_every:
        return Window(listed_since, until, is_sweep=True)
    return Window(max(interval.start - lookback, listed_since), until, is_sweep=False)
