"""Types of fields that payloads share. They take text of templates and files where it is clear what is meant."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictBool,
    StrictInt,
    StrictStr,
)

T = TypeVar("T")

#: By the standards. What is longer costs the parser of them much time, or all of the stack.
_LONGEST_EMAIL = 320


def _iso_8601(value: Any) -> Any:
    # A bare number would silently be read as a Unix time, in seconds or milliseconds.
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            value = None
    if not isinstance(value, datetime):
        raise ValueError("must be an ISO 8601 time or a datetime")
    return value


def _utc(value: datetime) -> datetime:
    if not 1970 <= value.year < 9999:
        raise ValueError("must lie after 1970")
    return value.astimezone(UTC)


def _zulu(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


def _integer_of_text(value: Any) -> Any:
    # Templates and cells of files are text.
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}\s*", value) else value


def _boolean_of_text(value: Any) -> Any:
    return {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value


def _email(value: str) -> str:
    # Syntax only: reserved domains such as .test and .local are in real use as user names.
    try:
        if len(value) > _LONGEST_EMAIL:
            raise ValueError
        Address(addr_spec=value)
    except (ValueError, IndexError, AttributeError, MessageError, RecursionError):
        raise ValueError("is not an e-mail address") from None
    return value


def _not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("must not be null; leave it out instead")
    return value


Timestamp = Annotated[
    AwareDatetime, BeforeValidator(_iso_8601), AfterValidator(_utc), PlainSerializer(_zulu, when_used="json")
]
Seconds = Annotated[StrictInt, Field(ge=0, le=10**9), BeforeValidator(_integer_of_text)]
Boolean = Annotated[StrictBool, BeforeValidator(_boolean_of_text)]
Email = Annotated[StrictStr, AfterValidator(_email)]
Text = Annotated[StrictStr, Field(min_length=1)]

#: A field that may be left out, with None as its default, but takes no None. In a ``SparsePayload`` a plain
#: ``X | None`` is a field that takes null.
Omittable: TypeAlias = Annotated[T | None, BeforeValidator(_not_null)]
