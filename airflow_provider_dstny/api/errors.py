"""What can go wrong, as types: callers decide on the class and its attributes, never on message text."""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import ClassVar


class DstnyError(Exception):
    """Base of every error of the Dstny API."""

    #: A retry of the same thing fails the same way.
    final: ClassVar[bool] = False
    #: The next request would meet it too, whatever it asks for.
    affects_all: ClassVar[bool] = False


class DstnyConnectionError(DstnyError):
    """The API could not be reached, or the connection broke before the answer to a read came."""

    affects_all = True


class DstnyTimeoutError(DstnyError):
    """The API was reached but did not answer a read within the timeout."""

    affects_all = True


class DstnyResponseError(DstnyError):
    """The API answered with success, but the body could not be read, or a list not completely."""


class DstnyAmbiguousError(DstnyError):
    """A write was sent and its answer was lost: it may or may not have happened. Never retried silently."""


class DstnyApiError(DstnyError):
    """The API answered with an error.

    :param status_code: HTTP status; None when nothing was sent: bad input, or a turn that would come too late.
    :param message: the operation and what the API said, shortened, without tokens and phone numbers.
    :param request_id: the API's own id of the request, for support.
    :param hint: which setting or scope to change, and what a retry will do.
    :param scope: the scope that is missing, where the API names it.
    :param retry_after: seconds to wait, where the API says so.
    :param resets_at: UTC time at which a quota starts anew.
    """

    def __init__(
        self,
        status_code: int | None,
        message: str,
        request_id: str | None = None,
        hint: str | None = None,
        *,
        scope: str | None = None,
        retry_after: float | None = None,
        resets_at: datetime | None = None,
    ) -> None:
        super().__init__(status_code, message, request_id, hint)
        self.status_code = status_code
        self.message = message
        self.request_id = request_id
        self.hint = hint
        self.scope = scope
        self.retry_after = retry_after
        self.resets_at = resets_at

    def __str__(self) -> str:
        parts = [self.message]
        if self.status_code is not None:
            parts.insert(0, f"{self.status_code} {status_phrase(self.status_code)}:")
        if self.hint:
            parts.append(self.hint)
        if self.request_id:
            parts.append(f"(request id {self.request_id})")
        return " ".join(parts)


class DstnyAuthError(DstnyApiError):
    """401: the token is missing, invalid, revoked or expired."""

    final = True
    affects_all = True


class DstnyScopeError(DstnyApiError):
    """403: the token lacks a scope, named by ``scope`` where the API names it."""

    final = True
    affects_all = True


class DstnyNotFoundError(DstnyApiError):
    """404: nothing with this id is visible to this token."""


class DstnyValidationError(DstnyApiError, ValueError):
    """400 or 422, or input that was refused before anything was sent (``status_code`` is None)."""

    final = True


class DstnyRateLimitError(DstnyApiError):
    """429: too many requests. ``retry_after`` is in seconds, None where the API did not say."""

    affects_all = True


class DstnyQuotaError(DstnyApiError):
    """429 of the daily quota. ``resets_at`` is the UTC time of the reset."""

    affects_all = True


class DstnyServerError(DstnyApiError):
    """5xx: the API failed. ``retry_after`` is in seconds, None where the API did not say."""


def status_phrase(status_code: int) -> str:
    """Return the standard phrase of an HTTP status, or an empty string for an unknown one."""
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return ""
