"""Times as the APIs write them: ISO 8601, UTC."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from airflow_provider_dstny.api.errors import DstnyValidationError


def utc_time(value: Any) -> datetime | None:
    """Read an answer's time as UTC; one without a timezone counts as UTC, what is no time is None."""
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def iso_time(moment: datetime) -> str:
    """Write a time in UTC as the APIs do, in milliseconds unless it is more precise."""
    precision = "microseconds" if moment.microsecond % 1000 else "milliseconds"
    return moment.astimezone(UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def aware_time(name: str, value: datetime | str | None) -> datetime | None:
    """Read a time that a user gave.

    :raises DstnyValidationError: it is no ISO 8601 time or datetime, or has no timezone.
    """
    if value is None:
        return None
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
        if isinstance(moment, datetime) and moment.tzinfo is not None:
            return moment.astimezone(UTC)
    raise DstnyValidationError(
        None, f"{name} must be a timezone-aware datetime, or an ISO 8601 time like 2026-01-31T09:00:00Z."
    )
