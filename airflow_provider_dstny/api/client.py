"""The only module that speaks HTTP: it sends requests, paces and retries them, and maps what goes wrong."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Hashable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from http.cookiejar import CookieJar
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar, cast

import httpx
from tenacity import AsyncRetrying, Retrying

from airflow_provider_dstny import __version__
from airflow_provider_dstny.api.answers import lost_answer, read_answer
from airflow_provider_dstny.api.arguments import sendable
from airflow_provider_dstny.api.errors import (
    DstnyConnectionError,
    DstnyError,
    DstnyQuotaError,
    DstnyRateLimitError,
    DstnyTimeoutError,
    DstnyValidationError,
)
from airflow_provider_dstny.api.iteration import Findings, Found
from airflow_provider_dstny.api.metrics import Metrics, NoMetrics, SafeMetrics
from airflow_provider_dstny.api.operation import Request, Route, Steps, override_routes
from airflow_provider_dstny.api.privacy import scrub
from airflow_provider_dstny.api.request_logs import without_query
from airflow_provider_dstny.api.retry import retry_options
from airflow_provider_dstny.api.slots.address import Address
from airflow_provider_dstny.api.slots.shared import SharedSlots
from airflow_provider_dstny.api.throttle import identity_of, spacing_of, throttle_for

T = TypeVar("T")
StepT = TypeVar("StepT")

_CONNECT_TIMEOUT = 10.0
#: An answer that drips in is cut after so many timeouts, which are for each of its parts.
_LONGEST_ANSWER = 3


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a request, to be sent or thrown into the generator that asked for it."""

    answer: Any = None
    error: DstnyError | None = None

    def into(self, steps: Generator[StepT, Any, Any]) -> StepT:
        return steps.send(self.answer) if self.error is None else steps.throw(self.error)


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that is being sent: pieces of bytes as they are stored, whatever their encoding."""

    status: int
    headers: Mapping[str, str]
    pieces: Iterator[bytes]


class _InTime(httpx.SyncByteStream):
    """A body that must come to its end, as no timeout of a blocking call demands.

    :param seconds: from now.
    """

    def __init__(self, body: httpx.SyncByteStream, seconds: float) -> None:
        self._body = body
        self._until = monotonic() + seconds

    def __iter__(self) -> Iterator[bytes]:
        for part in self._body:
            if monotonic() > self._until:
                raise httpx.ReadTimeout("its answer does not come to an end")
            yield part

    def close(self) -> None:
        self._body.close()


class ApiClient:
    """A client of one API with one token; a context manager, sync and async.

    :param base_url: scheme and host of the API; its base path is appended unless it is already there.
    :param token: sent as ``Authorization: Bearer``.
    :param timeout: seconds to wait for an answer.
    :param max_retries: further attempts of a request that may safely be repeated.
    :param requests_per_minute: pace of this client's requests, None for what the API documents. Requests of one token
        are sent one after the other by all its clients in this process, and by those that share a ``throttle_url``.
    :param verify: True, False, or the path of a CA bundle (file or directory).
    :param paths: operations whose path differs on this account, see :func:`override_routes`.
    :param throttle_url: where processes share the pace and the pauses of a token: ``redis://``, ``rediss://``,
        ``postgresql://``, or the absolute path of an SQLite file; None for this process alone. ``${NAME}`` in it stands
        for a variable of the environment. While the store cannot be reached, this process keeps a pace of its own.
    :param metrics: where the client's numbers go.
    :param on_secret: is told each secret that the API hands out, and passwords within ``throttle_url``, so that they
        can be kept from logs.
    :raises DstnyValidationError: a setting that cannot work, named.
    """

    #: How metrics call the API.
    name: ClassVar[str]
    base_path: ClassVar[str]
    routes: ClassVar[Mapping[str, Route]]
    #: Where people manage tokens and their scopes.
    settings_page: ClassVar[str]
    #: What the API allows one token, None where nothing is documented.
    documented_requests_per_minute: ClassVar[float | None] = None

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
        throttle_url: str | None = None,
        metrics: Metrics | None = None,
        on_secret: Callable[[str], object] | None = None,
    ) -> None:
        self.on_secret = on_secret or (lambda secret: None)
        self.base_url = _base_url(base_url, self.base_path)
        self._token = _checked_token(token)
        self._timeout = timeout
        self._max_retries = max_retries
        self._verify = verify
        self._routes = override_routes(self.routes, paths or {})
        #: Seconds between two requests, 0 without a limit of our own.
        self.spacing = spacing_of(requests_per_minute or self.documented_requests_per_minute)
        #: The same for all clients of this token and API, in every process; the token cannot be had from it.
        self.identity = identity_of(self.base_url, self._token)
        #: Where the client's numbers go. It raises nothing.
        self.metrics: Metrics = SafeMetrics(metrics or NoMetrics())
        address = Address.parse(throttle_url) if throttle_url else None
        for secret in address.secrets if address else ():
            self.on_secret(secret)
        self._throttle = throttle_for(self.base_url, self._token, address)
        #: Equal for those clients of this process that do the same; no secret can be had from it, either.
        self.settings: Hashable = (
            self.identity,
            self._throttle,
            self.spacing,
            frozenset(self._routes.items()),
            timeout,
            max_retries,
            verify,
        )
        #: Requests that were sent, each attempt counted.
        self.requests_sent = 0
        self._http: httpx.Client | None = None
        self._ahttp: httpx.AsyncClient | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.base_url}>"

    @property
    def lost_store(self) -> str | None:
        """Kind and host of the store of ``throttle_url`` if it was not reached when it was asked last, else None."""
        slots = self._throttle.slots
        return slots.place if isinstance(slots, SharedSlots) and slots.lost else None

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
        original = self.routes[operation]
        return Request(
            operation,
            route.method,
            route.path(operation, ids),
            original.repeatable,
            sendable(operation, params),
            json,
            timeout,
            scope=original.scope,
            counted="/".join(map(str, ids.values())) if original.counted else None,
        )

    def run(self, steps: Steps[T]) -> T:
        """Perform the requests of an operation, blocking."""
        try:
            request = next(steps)
            while True:
                request = self._perform(request).into(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    async def arun(self, steps: Steps[T]) -> T:
        """Perform the requests of an operation, awaiting."""
        try:
            request = next(steps)
            while True:
                request = (await self._aperform(request)).into(steps)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def iterate(self, findings: Findings[T]) -> Iterator[T]:
        """Hand out the items of a listing, blocking; a request is made when its items are asked for."""
        with closing(findings), suppress(StopIteration):
            step = next(findings)
            while True:
                if isinstance(step, Found):
                    yield step.item
                    step = next(findings)
                else:
                    step = self._perform(step).into(findings)

    async def aiterate(self, findings: Findings[T]) -> AsyncGenerator[T, None]:
        """Hand out the items of a listing, awaiting; a request is made when its items are asked for."""
        with closing(findings), suppress(StopIteration):
            step = next(findings)
            while True:
                if isinstance(step, Found):
                    yield step.item
                    step = next(findings)
                else:
                    step = (await self._aperform(step)).into(findings)

    def _perform(self, request: Request) -> _Outcome:
        try:
            return _Outcome(Retrying(sleep=time.sleep, **self._retries(request))(self._send, request))
        except DstnyError as error:
            return _Outcome(error=error)

    async def _aperform(self, request: Request) -> _Outcome:
        try:
            return _Outcome(await AsyncRetrying(sleep=asyncio.sleep, **self._retries(request))(self._asend, request))
        except DstnyError as error:
            return _Outcome(error=error)

    def _retries(self, request: Request) -> dict[str, Any]:
        max_retries = self._max_retries if request.max_retries is None else request.max_retries
        return retry_options(request, max_retries, on_retry=partial(self._count, "dstny.retries", request))

    def _send(self, request: Request) -> Any:
        with self._lock:
            if self._http is None:
                self._http = httpx.Client(**self._http_options(), event_hooks={"response": [_cut_late]})
        self._has_turn(self._throttle.take(request, self.spacing, sleep=time.sleep))
        try:
            with without_query():
                response = self._http.request(**self._http_request(request))
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, OSError) as error:
            failure = self._not_answered(request, error)
        else:
            try:
                return self._read(request, response)
            except (DstnyQuotaError, DstnyRateLimitError) as error:
                self._throttle.heed(error)
                raise
        raise failure

    async def _asend(self, request: Request) -> Any:
        loop = asyncio.get_running_loop()
        if self._ahttp is None or self._loop is not loop:
            # Connections belong to the event loop that opened them.
            self._ahttp, self._loop = httpx.AsyncClient(**self._http_options()), loop
        self._has_turn(await self._throttle.atake(request, self.spacing, sleep=asyncio.sleep))
        try:
            async with asyncio.timeout(_LONGEST_ANSWER * (request.timeout or self._timeout)):
                with without_query():
                    response = await self._ahttp.request(**self._http_request(request))
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError, OSError) as error:
            failure = self._not_answered(request, error)
        else:
            try:
                return self._read(request, response)
            except (DstnyQuotaError, DstnyRateLimitError) as error:
                await self._throttle.aheed(error)
                raise
        raise failure

    @contextmanager
    def open_url(self, url: str, headers: Mapping[str, str]) -> Iterator[Opened]:
        """GET a file that lives anywhere, as it is stored there, in pieces. The token is not sent along.

        :raises DstnyValidationError: it is no http or https URL.
        :raises DstnyConnectionError: the host was not reached, or the connection broke, also between two pieces.
        :raises DstnyTimeoutError: the host did not go on within the timeout.
        """
        try:
            host = httpx.URL(url).host if url.lower().startswith(("http://", "https://")) else ""
        except (httpx.InvalidURL, UnicodeError):
            host = ""
        if not host:
            raise DstnyValidationError(None, "What should be opened is no http or https URL.")
        # A CA bundle is that of the API; files live elsewhere.
        own = self._verify is False or host == httpx.URL(self.base_url).host
        timeout = httpx.Timeout(self._timeout, connect=min(self._timeout, _CONNECT_TIMEOUT))
        failure: DstnyError | None = None
        opened = False
        try:
            with (
                without_query(),
                httpx.Client(
                    verify=_ssl_context(self._verify if own else True), follow_redirects=True, timeout=timeout
                ) as http,
                http.stream("GET", url, headers={"Accept-Encoding": "identity", **headers}) as response,
            ):
                opened = True
                yield Opened(response.status_code, response.headers, response.iter_raw())
        except httpx.TimeoutException:
            failure = DstnyTimeoutError(f"{host} did not answer within {self._timeout:g} s. A retry is safe.")
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            if opened and isinstance(error, UnicodeError):
                # Of what the caller does with the file.
                raise
            # The message of an error may hold the URL, and that a signature.
            failure = DstnyConnectionError(f"The connection to {host} broke ({type(error).__name__}). A retry is safe.")
        if failure is not None:
            raise failure from None

    def _http_options(self) -> dict[str, Any]:
        return {
            "headers": {
                "Authorization": f"Bearer {self._token}",
                "Accept": "application/json",
                "User-Agent": f"airflow-provider-dstny/{__version__}",
            },
            "verify": _ssl_context(self._verify),
            "cookies": _NoCookies(),
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
        self._count("dstny.requests", request, status=str(response.status_code))
        if response.status_code == 429:
            self.metrics.count("dstny.rate_limited", tags={"api": self.name})
        answer = read_answer(
            request,
            response.status_code,
            response.headers,
            response.content,
            token=self._token,
            settings_page=self.settings_page,
            now=datetime.now(UTC),
        )
        self._throttle.count(request)
        return answer

    def _has_turn(self, seconds: float) -> None:
        """Count a request that is about to be sent, and the seconds that it waited for its turn."""
        self.requests_sent += 1
        self.metrics.timing("dstny.throttled", seconds, {"api": self.name})

    def _count(self, name: str, request: Request, **tags: str) -> None:
        self.metrics.count(name, tags={"api": self.name, "operation": request.operation, **tags})

    def _not_answered(self, request: Request, error: Exception) -> DstnyError:
        failure = self._failure(request, error)
        self._count("dstny.requests", request, status=type(failure).__name__)
        return failure

    def _failure(self, request: Request, error: Exception) -> DstnyError:
        cause = scrub(str(error), self._token) or type(error).__name__
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)):
            return DstnyConnectionError(
                f"{request} could not reach {self.base_url} ({cause}). Nothing was sent: check the connection's "
                "host, the network and, for a TLS failure, verify. A retry is safe."
            )
        if not request.repeatable:
            return lost_answer(request, cause)
        if isinstance(error, (httpx.TimeoutException, TimeoutError)):
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


class _NoCookies(CookieJar):
    """Takes none: a cookie of an answer would be sent with the next request, or not let it be made."""

    def extract_cookies(self, response: object, request: object) -> None:
        pass


def _cut_late(response: httpx.Response) -> None:
    """Let the body of a blocking call's answer take no longer than that of an awaited one."""
    seconds = _LONGEST_ANSWER * response.request.extensions["timeout"]["read"]
    response.stream = _InTime(cast(httpx.SyncByteStream, response.stream), seconds)


def _base_url(url: str, base_path: str) -> str:
    """Check the address of an API and append its base path."""
    text = url.strip().rstrip("/")
    try:
        parts = httpx.URL(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.host) and parts.port != 0
    except (httpx.InvalidURL, UnicodeError):
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
