"""The only module that speaks HTTP: it sends requests, paces and retries them, and maps what goes wrong."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import httpx
from tenacity import AsyncRetrying, Retrying

from airflow_provider_dstny import __version__
from airflow_provider_dstny.api.answers import lost_answer, read_answer
from airflow_provider_dstny.api.errors import (
    DstnyConnectionError,
    DstnyError,
    DstnyRateLimitError,
    DstnyTimeoutError,
    DstnyValidationError,
)
from airflow_provider_dstny.api.operation import Request, Route, Steps, override_routes
from airflow_provider_dstny.api.privacy import scrub
from airflow_provider_dstny.api.retry import LONGEST_WAIT, retry_options
from airflow_provider_dstny.api.throttle import throttle_for

T = TypeVar("T")

_CONNECT_TIMEOUT = 10.0


class ApiClient:
    """A client of one API with one token; a context manager, sync and async.

    :param base_url: scheme and host of the API; its base path is appended unless it is already there.
    :param token: sent as ``Authorization: Bearer``.
    :param timeout: seconds to wait for an answer.
    :param max_retries: further attempts of a request that may safely be repeated.
    :param requests_per_minute: pace of all clients of this token in this process, None for no limit.
    :param verify: True, False, or the path of a CA bundle (file or directory).
    :param paths: operations whose path differs on this account, see :func:`override_routes`.
    :raises DstnyValidationError: a setting that cannot work, named.
    """

    base_path: ClassVar[str]
    routes: ClassVar[Mapping[str, Route]]

    def __init__(
        self,
        base_url: str,
        token: str,
        *,
        timeout: float = 30.0,
        max_retries: int = 4,
        requests_per_minute: float | None = None,
        verify: bool | str = True,
        paths: Mapping[str, Any] | None = None,
    ) -> None:
        self.base_url = _base_url(base_url, self.base_path)
        self._token = _checked_token(token)
        self._timeout = timeout
        self._max_retries = max_retries
        self._verify = verify
        self._routes = override_routes(self.routes, paths or {})
        self._throttle = throttle_for(self.base_url, self._token, requests_per_minute)
        self._http: httpx.Client | None = None
        self._ahttp: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.base_url}>"

    def request(
        self,
        operation: str,
        *,
        params: Any = (),
        json: Any = None,
        timeout: float | None = None,
        **ids: object,
    ) -> Request:
        """Build the request of an operation from the path table; ids are percent-encoded."""
        route = self._routes[operation]
        # What an operation does is not changed by an override of where it lives.
        repeatable = self.routes[operation].repeatable
        path = route.path(operation, ids)
        return Request(operation, route.method, path, repeatable, tuple(params), json, timeout)

    def run(self, steps: Steps[T]) -> T:
        """Perform the requests of an operation, blocking."""
        try:
            request = next(steps)
            while True:
                try:
                    answer: Any = Retrying(sleep=time.sleep, **self._retries(request))(self._send, request)
                except DstnyError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def arun(self, steps: Steps[T]) -> T:
        """Perform the requests of an operation, awaiting."""
        try:
            request = next(steps)
            while True:
                try:
                    answer: Any = await AsyncRetrying(sleep=asyncio.sleep, **self._retries(request))(
                        self._asend, request
                    )
                except DstnyError as error:
                    request = steps.throw(error)
                else:
                    request = steps.send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _retries(self, request: Request) -> dict[str, Any]:
        return retry_options(request, self._max_retries if request.max_retries is None else request.max_retries)

    def _send(self, request: Request) -> Any:
        with self._lock:
            if self._http is None:
                self._http = httpx.Client(**self._http_options())
        time.sleep(self._throttle.reserve())
        try:
            response = self._http.request(**self._http_request(request))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            failure = self._not_answered(request, error)
        else:
            return self._read(request, response)
        raise failure

    async def _asend(self, request: Request) -> Any:
        loop = asyncio.get_running_loop()
        if self._ahttp is None or self._loop is not loop:
            # Connections belong to the event loop that opened them.
            self._ahttp, self._loop = httpx.AsyncClient(**self._http_options()), loop
        await asyncio.sleep(self._throttle.reserve())
        try:
            response = await self._ahttp.request(**self._http_request(request))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            failure = self._not_answered(request, error)
        else:
            return self._read(request, response)
        raise failure

    def _http_options(self) -> dict[str, Any]:
        return {
            "headers": {
                "Authorization": f"Bearer {self._token}",
                "Accept": "application/json",
                "User-Agent": f"airflow-provider-dstny/{__version__}",
            },
            "verify": _ssl_context(self._verify),
        }

    def _http_request(self, request: Request) -> dict[str, Any]:
        timeout = request.timeout or self._timeout
        return {
            "method": request.method,
            "url": self.base_url + request.path,
            "params": list(request.params) or None,
            "json": request.json,
            "timeout": httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
        }

    def _read(self, request: Request, response: httpx.Response) -> Any:
        try:
            return read_answer(
                request,
                response.status_code,
                response.headers,
                response.content,
                token=self._token,
                now=datetime.now(UTC),
            )
        except DstnyRateLimitError as error:
            if error.retry_after and error.retry_after <= LONGEST_WAIT:
                self._throttle.pause(error.retry_after)
            raise

    def _not_answered(self, request: Request, error: Exception) -> DstnyError:
        cause = scrub(str(error), self._token) or type(error).__name__
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)):
            return DstnyConnectionError(
                f"{request} could not reach {self.base_url} ({cause}). Nothing was sent: check the connection's "
                "host, the network and, for a TLS failure, verify. A retry is safe."
            )
        if not request.repeatable:
            return lost_answer(request, cause)
        if isinstance(error, httpx.TimeoutException):
            return DstnyTimeoutError(
                f"{request} was not answered within {request.timeout or self._timeout:g} s. "
                "A retry is safe; raise timeout in the connection's extra if the API is slow."
            )
        return DstnyConnectionError(f"{request}: the connection broke before the answer ({cause}). A retry is safe.")

    def close(self) -> None:
        """Close the connections of blocking calls."""
        if self._http is not None:
            self._http.close()
            self._http = None

    async def aclose(self) -> None:
        """Close the connections of awaited calls."""
        if self._ahttp is not None:
            await self._ahttp.aclose()
            self._ahttp = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _base_url(url: str, base_path: str) -> str:
    """Check the address of an API and append its base path."""
    text = url.strip().rstrip("/")
    try:
        parts = httpx.URL(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.host) and parts.port != 0
    except httpx.InvalidURL:
        usable = False
    if not usable or parts.userinfo or parts.query or parts.fragment:
        raise DstnyValidationError(
            None,
            "host must be the base URL of the API, like https://api.example.com, without user, query or fragment.",
        )
    return text if text.endswith(base_path) else text + base_path


def _checked_token(token: str) -> str:
    # httpx would name an unusable header value, and so the token, in its own error.
    text = (token or "").strip()
    if not text or any(not "!" <= character <= "~" for character in text):
        raise DstnyValidationError(
            None,
            "The token is empty or has characters that no token has: "
            "paste it without quotes and spaces into the connection's password.",
        )
    return text


@lru_cache(maxsize=8)
def _ssl_context(verify: bool | str) -> ssl.SSLContext:
    """One TLS context per setting and process: building one costs 20 ms and most of a megabyte."""
    if isinstance(verify, bool):
        return httpx.create_ssl_context(verify=verify)
    try:
        if Path(verify).is_dir():
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    except OSError as error:
        raise DstnyValidationError(None, f"verify: the CA bundle {verify} cannot be loaded ({error}).") from None
