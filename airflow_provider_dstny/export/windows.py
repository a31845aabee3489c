"""Which part of the list a run reads. Windows are kept, not cursors: what arrives late stands in the middle."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

#: What a sweep reads: so far back goes the list of the REST API v1.
SWEEP = timedelta(days=30)
#: Filters may leave out what stands at their very border.
_BORDER = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Interval:
    """What a run is for: from ``start`` until before ``end``, UTC. Runs without a data interval have a mere moment."""

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

    def surely_covers(self, moment: datetime) -> bool:
        """Tell whether what took place at a moment must have been listed."""
        return self.since + _BORDER <= moment <= self.until - _BORDER


def window_of(
    interval: Interval,
    *,
    server_time: datetime,
    lookback: timedelta,
    last_sweep: datetime | None,
    sweep_every: timedelta,
    forgotten_after: timedelta | None,
    listed_until: datetime | None = None,
) -> Window | None:
    """Return what a run for an interval reads of the list, None where the list does not go back so far.

    :param server_time: the clock of the API, UTC: what it has not seen yet cannot be read.
    :param lookback: how far before the interval to look for what arrived late, or was changed.
    :param last_sweep: UTC, the end of the interval whose run has read the whole list; None if none has.
    :param listed_until: UTC, the end of the latest interval that was listed: what lies between is listed, too.
    :param forgotten_after: how far back the list goes, None if it has no end.
    """
    until = min(interval.end, server_time)
    oldest = server_time - forgotten_after if forgotten_after is not None else None
    if oldest is not None and until <= oldest:
        return None
    is_sweep = last_sweep is None or interval.end - last_sweep >= sweep_every
    since = min(interval.start, listed_until or interval.start) - lookback
    if is_sweep:
        since = min(since, until - SWEEP)
    since = min(since, until)
    return Window(since if oldest is None else max(since, oldest), until, is_sweep)
