"""Reading an answer without doing I/O: status, headers and bytes become JSON or a typed error."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from html import unescape
from typing import Any

from airflow_provider_dstny.api.errors import (
    DstnyAmbiguousError,
    DstnyApiError,
    DstnyAuthError,
    DstnyError,
    DstnyNotFoundError,
    DstnyQuotaError,
    DstnyRateLimitError,
    DstnyResponseError,
    DstnyScopeError,
    DstnyServerError,
    DstnyValidationError,
    status_phrase,
)
from airflow_provider_dstny.api.operation import Request

#: A wait this long is not a rate limit of a minute but a daily quota, in seconds.
_QUOTA_WAIT = 3600.0
_LONGEST_MESSAGE = 300
_MESSAGE_KEYS = ("message", "detail", "error_description", "error", "errors", "title")
_PHONE_NUMBER = re.compile(r"(?<![\w-])\+?\d(?:[ ().\-]?\d){6,}(?![\w-])")
#: A gateway answers these in place of the API, whose own answer is lost.
_LOST_ANSWER_STATUSES = frozenset({502, 504})


def read_answer(
    request: Request, status: int, headers: Mapping[str, str], body: bytes, *, token: str, now: datetime
) -> Any:
    """Return the decoded JSON of a successful answer, None for an empty one.

    :param headers: looked up case-insensitively by the caller's mapping.
    :param token: kept out of every message.
    :param now: timezone-aware, for delays that the API gives as a date.
    :raises DstnyError: the kind that fits the status, or an unreadable body.
    """
    if 200 <= status < 300:
        return _decode(request, headers, body)
    error = _error_of(request, status, headers, body, token=token, now=now)
    if status in _LOST_ANSWER_STATUSES and not request.repeatable:
        raise lost_answer(request, f"{status} {status_phrase(status)}")
    raise error


def lost_answer(request: Request, cause: str) -> DstnyAmbiguousError:
    """Return the error of a write that was sent and whose answer never came."""
    return DstnyAmbiguousError(
        f"{request} was sent but its answer was lost ({cause}). It may have happened: "
        "look before sending it again, which might do it a second time."
    )


def scrub(text: str, token: str) -> str:
    """Shorten text of the API to one line, without the token and without phone numbers."""
    line = " ".join(text.replace(token, "***").split())
    line = _PHONE_NUMBER.sub("***", line)
    return line if len(line) <= _LONGEST_MESSAGE else f"{line[:_LONGEST_MESSAGE]}…"


def _decode(request: Request, headers: Mapping[str, str], body: bytes) -> Any:
    if not body.strip():
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        pass  # Raised below: the parser's own error carries the body.
    cause = f"{len(body)} bytes of {headers.get('content-type', 'no content type')} that are not whole JSON"
    if not request.repeatable:
        raise lost_answer(request, cause)
    raise DstnyResponseError(
        f"{request} was answered with {cause}. If this repeats, check that the connection's host is the "
        "address of the API and not of a web page or proxy."
    )


def _error_of(
    request: Request, status: int, headers: Mapping[str, str], body: bytes, *, token: str, now: datetime
) -> DstnyError:
    payload = _payload(body)
    message = scrub(_message(payload, body), token)
    request_id = headers.get("x-request-id") or _request_id(payload)
    told = f"{request}: {message}".rstrip(".: ") + "."

    def error(kind: type[DstnyApiError], hint: str | None) -> DstnyApiError:
        return kind(status, told, request_id, hint)

    if 300 <= status < 400:
        return error(
            DstnyApiError,
            "The API does not redirect: put the address it really lives at into the connection's host.",
        )
    match status:
        case 400 | 422:
            return error(DstnyValidationError, "Mend the input; a retry of the same input fails the same way.")
        case 401:
            return error(
                DstnyAuthError,
                "The token is invalid, disabled, revoked or expired: put a fresh one into the connection's "
                "password. A retry with the same token fails the same way.",
            )
        case 403:
            scope = re.search(r"['\"`]([\w:.-]+)['\"`] scope", message)
            name = f"the '{scope[1]}' scope" if scope else "the right"
            scope_error = DstnyScopeError(
                status,
                told,
                request_id,
                f"Give the token {name} in Dstny's settings, or use a token that has it; a retry does not help.",
            )
            scope_error.scope = scope[1] if scope else None
            return scope_error
        case 404:
            return error(
                DstnyNotFoundError,
                "Check the id, and that the connection's host is the API and its token's account owns the id. "
                "If nothing is found, the path may be another one on your account: override "
                f"paths.{request.operation} in the connection's extra.",
            )
        case 405:
            return error(
                DstnyApiError,
                f"The path takes another method: override paths.{request.operation} in the connection's extra.",
            )
        case 429:
            return _slow_down(status, told, message, request_id, payload, headers, now)
    if status >= 500:
        return error(DstnyServerError, "The API failed; a retry later may pass.")
    return error(DstnyApiError, None)


def _slow_down(
    status: int,
    told: str,
    message: str,
    request_id: str | None,
    payload: Any,
    headers: Mapping[str, str],
    now: datetime,
) -> DstnyApiError:
    retry_after = _retry_after(payload, headers, now)
    if "quota" in message.lower() or (retry_after or 0) >= _QUOTA_WAIT:
        tomorrow = (now.astimezone(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        resets_at = tomorrow if retry_after is None else now.astimezone(UTC) + timedelta(seconds=retry_after)
        quota_error = DstnyQuotaError(
            status,
            told,
            request_id,
            f"The daily quota is used up until about {resets_at:%Y-%m-%d %H:%M} UTC; a retry before then fails.",
        )
        quota_error.resets_at = resets_at
        return quota_error
    when = "later" if retry_after is None else f"after {retry_after:g} s"
    rate_error = DstnyRateLimitError(
        status, told, request_id, f"Retry {when}, or lower requests_per_minute in the connection's extra."
    )
    rate_error.retry_after = retry_after
    return rate_error


def _retry_after(payload: Any, headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait: the body's ``retryAfter``, else the header as seconds or as a date."""
    told = payload.get("retryAfter") if isinstance(payload, dict) else None
    for value in (told, headers.get("retry-after")):
        if isinstance(value, bool) or value is None:
            continue
        try:
            seconds = float(value)
        except (TypeError, ValueError, OverflowError):
            seconds = _seconds_until(value, now)
        if 0 <= seconds < float("inf"):
            return seconds
    return None


def _seconds_until(value: Any, now: datetime) -> float:
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return -1
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _payload(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _message(payload: Any, body: bytes) -> str:
    if payload is None:
        title = re.search(rb"<title[^>]*>(.{0,500}?)</title", body[:65536], re.IGNORECASE | re.DOTALL)
        return unescape(title[1].decode("utf-8", "replace")) if title else ""
    if isinstance(payload, dict):
        for key in _MESSAGE_KEYS:
            if payload.get(key):
                return _message(payload[key], b"")
        return ""
    if isinstance(payload, list):
        return "; ".join(filter(None, (_message(item, b"") for item in payload[:5])))
    return str(payload)


def _request_id(payload: Any) -> str | None:
    meta = payload.get("meta") if isinstance(payload, dict) else None
    request_id = meta.get("request_id") if isinstance(meta, dict) else None
    return str(request_id) if request_id else None
