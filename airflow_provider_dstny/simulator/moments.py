"""Moments as the APIs write them: RFC 3339 with a timezone; within the simulator, seconds since the epoch."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")


def is_date_time(text: str) -> bool:
    """Tell whether a text is a moment with a timezone."""
    try:
        return bool(_DATE_TIME.fullmatch(text) and datetime.fromisoformat(text.upper()))
    except ValueError:
        return False


def to_epoch(text: str) -> float:
    """Read a moment that was checked before."""
    return datetime.fromisoformat(text.upper()).timestamp()


def to_text(epoch: float) -> str:
    """Write a moment in UTC, to the millisecond."""
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def next_midnight(epoch: float) -> float:
    """Return when the UTC day of a moment ends."""
    day = datetime.fromtimestamp(epoch, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day + timedelta(days=1)).timestamp()
