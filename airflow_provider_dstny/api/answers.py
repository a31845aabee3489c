"""Reading an answer without doing I/O: status, headers and bytes become JSON or a typed error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from html import unescape
from itertools import islice
from typing import Any

from airflow_provider_dstny.api.errors import (
    DstnyAmbiguousError,
    DstnyApiError,
    DstnyAuthError,
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
from airflow_provider_dstny.api.privacy import scrub
from airflow_provider_dstny.api.reading import read_json

#: A wait this long is not a rate limit of a minute but a daily quota, in seconds.
_QUOTA_WAIT = 3600.0
#: A longer wait than a month is no information, in seconds.
_LONGEST_TOLD_WAIT = 31 * 86400.0
_MEDIA_TYPE = re.compile(r"[a-z]{1,20}/[\w.+-]{1,60}", re.IGNORECASE)
_MESSAGE_KEYS = ("message", "detail", "error_description", "error", "errors", "title", "code")
#: An answer that is nested deeper is none that anybody wrote.
_MOST_LEVELS = 100
#: A gateway answers these in place of the API, whose own answer is lost.
_LOST_ANSWER_STATUSES = frozenset({502, 504})


def read_answer(
    request: Request,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    token: str,
    settings_page: str,
    now: datetime,
) -> Any:
    """Return the decoded JSON of a successful answer, None for an empty one to a write or with status 204.

    :param headers: looked up case-insensitively by the caller's mapping.
    :param token: kept out of every message.
    :param settings_page: where people manage tokens and their scopes.
    :param now: timezone-aware, for delays that the API gives as a date.
    :raises DstnyError: the kind that fits the status, or an unreadable body.
    """
    if 200 <= status < 300:
        return _decode(request, status, headers, body, token)
    error = _error_of(request, status, headers, body, token=token, settings_page=settings_page, now=now)
    if status in _LOST_ANSWER_STATUSES and not request.repeatable:
        raise lost_answer(request, f"{status} {status_phrase(status)}")
    raise error


def lost_answer(request: Request, cause: str) -> DstnyAmbiguousError:
    """Return the error of a write that was sent and whose answer never came."""
    return DstnyAmbiguousError(
        f"{request} was sent but its answer was lost ({cause}). It may have happened: "
        "look before sending it again, which might do it a second time."
    )


def _decode(request: Request, status: int, headers: Mapping[str, str], body: bytes, token: str) -> Any:
    is_empty = not body.strip()
    # What is read is not nothing, unless the API says that it is.
    if is_empty and (request.method != "GET" or status == 204):
        return None
    # Raised here: the parser's own error carries the body.
    with suppress(ValueError, RecursionError):
        answer = read_json(body)
        # Few brackets are not deep, wherever they stand.
        if body.count(b"[") + body.count(b"{") <= _MOST_LEVELS or not _is_deep(answer):
            return answer
    # Anything may stand in a header, but only a media type helps.
    content_type = _MEDIA_TYPE.match(headers.get("content-type", ""))
    kind = scrub(content_type[0], token) if content_type else "no known content type"
    cause = "an empty body" if is_empty else f"{len(body)} bytes of {kind} that are not whole JSON"
    if not request.repeatable:
        raise lost_answer(request, cause)
    raise DstnyResponseError(
        f"{request} was answered with {cause}. If this repeats, check that the connection's host is the "
        "address of the API and not of a web page or proxy."
    )


def _is_deep(answer: Any) -> bool:
    """Tell whether JSON is nested so deep that what reads it might not come to its end."""
    layer = [answer]
    for _ in range(_MOST_LEVELS):
        inner = (one.values() if isinstance(one, dict) else one for one in layer if isinstance(one, (dict, list)))
        layer = [one for items in inner for one in items if isinstance(one, (dict, list))]
    return bool(layer)


def _error_of(
    request: Request,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    token: str,
    settings_page: str,
    now: datetime,
) -> DstnyApiError:
    payload = _payload(body)
    said = scrub(_message(payload, body), token)
    message = f"{request}: {said}".rstrip(".: ") + "."
    request_id = scrub(headers.get("x-request-id") or _request_id(payload), token) or None
    override = f"override paths.{request.operation} in the connection's extra"

    def error(kind: type[DstnyApiError], hint: str, **attributes: Any) -> DstnyApiError:
        return kind(status, message, request_id, hint, **attributes)

    match status:
        case 400 | 422:
            return error(DstnyValidationError, "Fix the input; a retry of the same input fails the same way.")
        case 401:
            return error(
                DstnyAuthError,
                f"The token is invalid, disabled, revoked or expired: get a fresh one under {settings_page} and put "
                "it into the connection's password. A retry with the same token fails the same way.",
            )
        case 403:
            named = re.search(r"['\"`]([\w:.-]+)['\"`] scope", said)
            scope = named[1] if named else request.scope
            right = f"the '{scope}' scope" if scope else "the right"
            if scope == "recordings":
                right += " and the setting include_recordings=true"
            return error(
                DstnyScopeError,
                f"Give the token {right} under {settings_page}, or use a token that has it; a retry does not help.",
                scope=scope,
            )
        case 404:
            return error(
                DstnyNotFoundError,
                "Check the id, and that the connection's host is the API and its token's account owns the id. "
                f"If nothing is found, the path may be another one on your account: {override}. "
                "A retry helps only if it is not there yet.",
            )
        case 405:
            return error(DstnyApiError, f"The path takes another method: {override}; a retry does not help.")
        case 429:
            retry_after = _retry_after(payload, headers, now)
            if "quota" in said.lower() or (retry_after or 0) >= _QUOTA_WAIT:
                resets_at = _reset(retry_after, now)
                hint = f"The daily quota is used up until about {resets_at:%Y-%m-%d %H:%M} UTC; a retry before fails."
                return error(DstnyQuotaError, hint, resets_at=resets_at)
            when = "later" if retry_after is None else f"after {retry_after:g} s"
            hint = (
                f"Retry {when}. If other processes use this token, let them share its pace: set throttle_url in the "
                "connection's extra; else lower requests_per_minute there."
            )
            return error(DstnyRateLimitError, hint, retry_after=retry_after)
        case _ if status >= 500:
            hint = (
                "The API failed; a retry later may pass."
                if request.repeatable
                else "The API failed, and it may have happened all the same: look before sending it again."
            )
            return error(DstnyServerError, hint, retry_after=_retry_after(payload, headers, now))
        case _ if 300 <= status < 400:
            return error(
                DstnyApiError,
                "The API does not redirect: put the address where it really lives into the connection's host; "
                "a retry does not help.",
            )
    return error(DstnyApiError, "The API refuses this as things stand; a retry helps only if they change.")


def _reset(retry_after: float | None, now: datetime) -> datetime:
    """When a daily quota starts anew: as told, else at the next midnight UTC."""
    if retry_after is not None and retry_after < _LONGEST_TOLD_WAIT:
        return now.astimezone(UTC) + timedelta(seconds=retry_after)
    tomorrow = now.astimezone(UTC) + timedelta(days=1)
    return tomorrow.replace(hour=0, minute=0, second=0, microsecond=0)


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
            return min(seconds, _LONGEST_TOLD_WAIT)
    return None


def _seconds_until(value: Any, now: datetime) -> float:
    try:
        moment = parsedate_to_datetime(value)
    except (TypeError, ValueError, AttributeError, OverflowError):
        return -1
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


def _payload(body: bytes) -> Any:
    try:
        return read_json(body)
    except (ValueError, RecursionError):
        return None


def _message(payload: Any, body: bytes) -> str:
    """Find what an error body says: the known keys of JSON, or the title of a page."""
    if payload is None:
        title = re.search(rb"<title[^>]*>(.{0,500}?)</title", body[:65536], re.IGNORECASE | re.DOTALL)
        return unescape(title[1].decode("utf-8", "replace")) if title else ""
    return "; ".join(islice(_texts(payload, depth=4), 5))


def _texts(payload: Any, depth: int) -> Iterator[str]:
    if isinstance(payload, dict):
        payload = next((payload[key] for key in _MESSAGE_KEYS if payload.get(key)), None)
    if isinstance(payload, (dict, list)):
        for item in (payload if isinstance(payload, list) else [payload])[:5] if depth else ():
            yield from _texts(item, depth - 1)
    elif isinstance(payload, (str, int, float)):
        yield str(payload)


def _request_id(payload: Any) -> str:
    meta = payload.get("meta") if isinstance(payload, dict) else None
    told = meta.get("request_id") if isinstance(meta, dict) else None
    return str(told) if isinstance(told, (str, int)) else ""
