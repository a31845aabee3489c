"""Arguments of operations, checked before anything is sent, and written as query parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime

from airflow_provider_dstny.api.errors import DstnyValidationError


def check_boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise DstnyValidationError(None, f"{name} must be True or False, not {value!r}.")


def rendered_flag(name: str, value: object) -> bool:
    """Return True or False, which a template renders to text."""
    text = str(value).strip().lower()
    if text not in {"true", "false"}:
        raise DstnyValidationError(None, f"{name} must be True or False, not {value!r}.")
    return text == "true"


def check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DstnyValidationError(None, f"{name} must be an integer, not {value!r}.")


def check_positive(name: str, value: object, up_to: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= up_to:
        raise DstnyValidationError(None, f"{name} must be a positive number up to {up_to:g}, not {value!r}.")


def sendable(operation: str, params: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Return parameters that can be sent, wherever they come from: a cursor or an id may be the API's own.

    :raises DstnyValidationError: one of them has characters that cannot be written.
    """
    checked = tuple(params)
    for name, value in checked:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise DstnyValidationError(None, f"{operation}: {name} has characters that cannot be sent.") from None
    return checked


def text_param(name: str, value: str | None) -> Iterator[tuple[str, str]]:
    """Write an id or a choice, which says nothing when it is empty."""
    if value is not None:
        if not isinstance(value, str) or not value.strip():
            raise DstnyValidationError(None, f"{name} must be a text that is not empty.")
        yield name, value.strip()


def choice_param(name: str, value: str | None, choices: Sequence[str]) -> Iterator[tuple[str, str]]:
    if value is not None:
        if value not in choices:
            raise DstnyValidationError(None, f"{name} must be one of {', '.join(choices)}, not {value!r}.")
        yield name, value


def limit_param(limit: int, up_to: int) -> Iterator[tuple[str, str]]:
    """Write the number of rows of a page."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= up_to:
        raise DstnyValidationError(None, f"limit must be 1 to {up_to}, not {limit!r}.")
    yield "limit", str(limit)


def scalar_param(name: str, value: str | None) -> Iterator[tuple[str, str]]:
    if value is not None:
        yield name, value


def boolean_param(name: str, value: bool | None) -> Iterator[tuple[str, str]]:
    if value is not None:
        check_boolean(name, value)
        yield name, "true" if value else "false"


def array_param(name: str, values: Sequence[object]) -> Iterator[tuple[str, str]]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise DstnyValidationError(None, f"{name} must be a list.")
    for value in values:
        yield f"{name}[]", str(value)


def day_param(name: str, value: date | str | None) -> Iterator[tuple[str, str]]:
    """Write a day; a timezone-aware datetime counts as its UTC day."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise DstnyValidationError(None, f"{name} must be a date or a timezone-aware datetime.")
        try:
            value = value.astimezone(UTC).date()
        except OverflowError:
            raise DstnyValidationError(None, f"{name} lies outside of the calendar.") from None
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            raise DstnyValidationError(None, f"{name} must be a day like 2026-01-31.") from None
    if value is not None and not isinstance(value, date):
        raise DstnyValidationError(None, f"{name} must be a day, not {type(value).__name__}.")
    if value is not None:
        yield name, value.isoformat()
