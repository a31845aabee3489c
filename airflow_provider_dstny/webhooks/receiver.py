"""Takes webhooks in: an ASGI app that answers 2xx only once an event is stored.

``POST /{dstny_conn_id}`` is for the signed webhooks of the REST API v1, ``POST /{dstny_conn_id}/{secret}`` for those of
API v2 and tellcasey, whose signatures are not known: what these say is a hint, and is looked up before it is believed.
A secret may have slashes, as base64 does, percent-encoded or not.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from airflow_provider_dstny.webhooks.verify import (
    Refusal,
    WebhookEvent,
    WebhookRejected,
    hinted,
    is_signed,
    verify,
)

#: Bytes of a body at the most.
LARGEST_BODY = 10 * 1024 * 1024
#: Seconds in which a body must have come.
_BODY_TIMEOUT = 20.0
_LENGTH = re.compile(r"\d{1,15}")
_CONN_ID = re.compile(r"[A-Za-z0-9_.\-]{1,250}")
#: What an unknown connection is checked against, so that it takes as long as a known one.
_NOBODY = ("0" * 64,)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """What a receiver must know of a connection.

    :param api: its type.
    :param secrets: those in use.
    """

    api: str
    secrets: Collection[str] = field(repr=False)


class StoreError(Exception):
    """An event could not be stored; the sender is to try again."""


class Sink(Protocol):
    """Where events go."""

    async def store(self, dstny_conn_id: str, event: WebhookEvent) -> bool:
        """Store an event for good; tell whether it is new.

        :raises StoreError: it is not stored.
        """


class Receiver:
    """The app.

    :param account_of: returns what is known of a connection, None if there is none that takes webhooks.
    :param sink: where events go.
    :param confirm: looks an unsigned event up in the API and returns what is true of it.
    """

    def __init__(
        self,
        account_of: Callable[[str], Awaitable[Account | None]],
        sink: Sink,
        *,
        confirm: Callable[[str, WebhookEvent], Awaitable[WebhookEvent | None]],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._account_of = account_of
        self._sink = sink
        self._confirm = confirm
        self._clock = clock
        self.asgi = Starlette(
            routes=[
                Route("/{dstny_conn_id}", self._take_signed, methods=["POST"]),
                Route("/{dstny_conn_id}/{secret:path}", self._take_hint, methods=["POST"]),
            ]
        )

    async def _take_signed(self, request: Request) -> Response:
        body = await _body(request)
        if isinstance(body, Response):
            return body
        secrets = await self._secrets(request, ("dstny_rest",))
        if isinstance(secrets, Response):
            return secrets
        headers = {name: value for name, value in request.headers.items() if name.startswith("x-webhook-")}
        if any(len(request.headers.getlist(name)) > 1 for name in headers):
            return _unauthorized()
        if not secrets:
            is_signed(body, headers.get("x-webhook-signature", ""), _NOBODY)
            return _unauthorized()
        try:
            event = verify(body, headers, secrets, now=self._clock())
        except WebhookRejected as error:
            return _refused(request, error)
        return await self._keep(request, event)

    async def _take_hint(self, request: Request) -> Response:
        body = await _body(request)
        if isinstance(body, Response):
            return body
        secrets = await self._secrets(request, ("dstny", "tellcasey"))
        if isinstance(secrets, Response):
            return secrets
        given = request.path_params["secret"].encode()
        known = False
        for secret in secrets or _NOBODY:
            known |= hmac.compare_digest(secret.encode(), given)
        if not secrets or not known:
            return _unauthorized()
        try:
            hint = hinted(body)
        except WebhookRejected as error:
            return _refused(request, error)
        if not hint.is_about_completion:
            return _ignored()
        try:
            event = await self._confirm(_conn_id(request), hint)
        except Exception as error:
            _log.warning("A webhook for %s could not be looked up: %s", _conn_id(request), type(error).__name__)
            return _answer(503, "not looked up, try again")
        # A hint that the API does not confirm may have been made up; it may also be early.
        return await self._keep(request, event) if event is not None else _answer(503, "not confirmed, try again")

    async def _secrets(self, request: Request, apis: Collection[str]) -> list[str] | Response:
        """Return the secrets of the connection, none if it takes no such webhooks."""
        if not _CONN_ID.fullmatch(_conn_id(request)):
            return []
        try:
            account = await self._account_of(_conn_id(request))
        except Exception as error:
            _log.warning("Connection %s could not be read: %s", _conn_id(request), type(error).__name__)
            return _answer(503, "not stored, try again")
        if account is None or account.api not in apis:
            return []
        # Everybody knows a blank one, and a path may end where its secret would begin.
        return [secret for secret in account.secrets if secret.strip()]

    async def _keep(self, request: Request, event: WebhookEvent) -> Response:
        if not event.is_about_completion:
            return _ignored()
        try:
            is_new = await self._sink.store(_conn_id(request), event)
        except StoreError as error:
            _log.warning("A webhook for %s could not be stored: %s", _conn_id(request), error)
            return _answer(503, "not stored, try again")
        _log.info("Delivery %s for %s: %s", event.delivery_id, _conn_id(request), "stored" if is_new else "known")
        return _answer(200, "stored" if is_new else "known already")


async def _body(request: Request) -> bytes | Response:
    """Read a body, as long as it is not too long and not too slow."""
    if request.headers.get("content-encoding", "identity") != "identity":
        # The signature is of the body as it is sent, so nobody has a reason to compress it.
        return _answer(415, "the body must not be compressed")
    length = request.headers.get("content-length", "0")
    if not _LENGTH.fullmatch(length) or int(length) > LARGEST_BODY:
        return _answer(413, "the body is too large")
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_TIMEOUT):
            async for piece in request.stream():
                body += piece
                if len(body) > LARGEST_BODY:
                    return _answer(413, "the body is too large")
    except TimeoutError:
        return _answer(408, "the body is too slow")
    except ClientDisconnect:
        return _answer(400, "the body was cut off")
    return bytes(body)


def _refused(request: Request, error: WebhookRejected) -> Response:
    _log.warning("A webhook for %s: %s", _conn_id(request), error)
    if error.reason in (Refusal.UNSIGNED, Refusal.STALE):
        return _unauthorized()
    return _answer(400, "not a webhook")


def _conn_id(request: Request) -> str:
    return str(request.path_params["dstny_conn_id"])


def _unauthorized() -> Response:
    return _answer(401, "not authorized")


def _ignored() -> Response:
    return _answer(200, "nothing to do about it")


def _answer(status: int, told: str) -> Response:
    return JSONResponse({"status": told}, status)
