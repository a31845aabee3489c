"""Runs the simulator on a real port: as a context manager in tests, or until it is stopped."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

import httpx
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from airflow_provider_dstny.simulator.app import SimulatorApp
from airflow_provider_dstny.simulator.books import Books
from airflow_provider_dstny.simulator.connections import Connections
from airflow_provider_dstny.simulator.dstny import DstnyState
from airflow_provider_dstny.simulator.rest import SCOPES, RestState
from airflow_provider_dstny.simulator.samples import NotReady
from airflow_provider_dstny.simulator.tellcasey import TellcaseyState
from airflow_provider_dstny.simulator.webhooks import KINDS, Sender


class _Server(uvicorn.Server):
    """Ends as soon as it is told; its base class looks for that ten times a second, which tests would wait for."""

    _loop: asyncio.AbstractEventLoop | None = None

    async def main_loop(self) -> None:
        self._told, self._loop = asyncio.Event(), asyncio.get_running_loop()
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), 0.1)

    def end(self) -> None:
        self.should_exit = self.force_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told.set)


class Simulator:
    """Simulated accounts of three APIs on a port of this machine: Dstny v2, Dstny REST v1, and tellcasey.

    .. code-block:: python

        with Simulator(transcript_after=0) as simulator:
            client = DstnyClient(simulator.url, simulator.token)

    ``state``, ``rest`` and ``tellcasey`` are what stands behind the APIs, ``books`` is what they received.

    :param port: 0 takes a free one.
    :param token: the token of v2.
    :param rest_tokens: the tokens of v1 and their scopes; as default, ``mt_simulator`` with all of them.
    :param tellcasey_token: the token of tellcasey.
    :param visible_after: seconds from creation until a conversation can be read.
    :param transcript_after: seconds from creation, or from the start for fresh conversations, until a
        transcript exists, ``jitter`` more at random.
    :param not_ready: how a missing transcript is answered: ``404``, ``null``, ``empty`` or ``blank``.
    :param agent_seconds: how long an agent of v2 thinks.
    :param requests_per_minute: of each token of v1, None for no limit.
    :param daily_conversation_quota: unique conversations of each token of v1 and UTC day, None for no quota.
    :param samples: complete conversations of v1 and of tellcasey, from the last ten days.
    :param fresh: conversations of v1 and of tellcasey that complete after the start.
    :param dstny_samples: complete conversations of v2, from the last ten days.
    :param newest_first: the order of the conversations of v1.
    :param inclusive_cursor: whether a page of v1 begins at the time of its cursor, or after it.
    :param webhooks: whether v1 tells webhooks of completed conversations; if not, it has no deliveries.
    :param webhook_url: where v1 sends webhooks of conversations that become complete while it runs, None for nowhere;
        ``rest.send_webhooks()`` does it at once. What was complete before counts as delivered. A POST of
        ``{"kind", "conversation_id"}`` to ``/_simulator/webhooks`` sends a wrong one.
    :param webhook_secret: what they are signed with.
    :param seed: of all that is random.
    :param clock: seconds since the epoch, for tests that move time themselves.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "dstny-simulator-token",  # noqa: S107 - a token for this simulator only
        rest_tokens: Mapping[str, Iterable[str]] | None = None,
        tellcasey_token: str = "sk_test_simulator",  # noqa: S107
        visible_after: float = 0.0,
        transcript_after: float = 0.0,
        jitter: float = 0.0,
        not_ready: NotReady = "404",
        agent_seconds: float = 0.0,
        requests_per_minute: float | None = 60,
        daily_conversation_quota: int | None = 1000,
        samples: int = 40,
        fresh: int = 5,
        dstny_samples: int = 0,
        newest_first: bool = True,
        inclusive_cursor: bool = False,
        webhooks: bool = True,
        webhook_url: str | None = None,
        webhook_secret: str = "simulator-webhook-secret",  # noqa: S107
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        # Bound at once, so that the address is known and a port in use is an error before anything starts.
        self._socket = socket.create_server((host, port))
        # Its connections inherit it; asyncio sets it only where a socket names its protocol.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rest_tokens = rest_tokens or {"mt_simulator": SCOPES}
        self.token = token
        self.rest_token = next(iter(rest_tokens))
        self.tellcasey_token = tellcasey_token
        self.books = Books()
        self._sender = Sender(webhook_url, webhook_secret, clock) if webhook_url else None
        self.state = DstnyState(
            self.books,
            tokens={token},
            visible_after=visible_after,
            transcript_after=transcript_after,
            jitter=jitter,
            not_ready=not_ready,
            agent_seconds=agent_seconds,
            seed=seed,
            clock=clock,
            samples=dstny_samples,
        )
        self.rest = RestState(
            tokens=rest_tokens,
            recordings_url=f"{self.url}/recordings",
            requests_per_minute=requests_per_minute,
            daily_conversation_quota=daily_conversation_quota,
            newest_first=newest_first,
            inclusive_cursor=inclusive_cursor,
            visible_after=visible_after,
            transcript_after=transcript_after,
            jitter=jitter,
            not_ready=not_ready,
            samples=samples,
            fresh=fresh,
            seed=seed,
            clock=clock,
            webhooks=webhooks,
            sender=self._sender,
        )
        self.tellcasey = TellcaseyState(
            tokens={tellcasey_token},
            transcript_after=transcript_after,
            jitter=jitter,
            samples=samples,
            fresh=fresh,
            seed=seed,
            clock=clock,
        )
        connections = Connections()
        self.app = SimulatorApp(
            self.state,
            self.rest,
            self.tellcasey,
            books=self.books,
            connections=connections,
            clock=clock,
        )
        self.app.asgi.add_route("/_simulator/webhooks", self._send_webhook, methods=["POST"])
        self._server = _Server(
            uvicorn.Config(
                self.app.asgi,
                http=connections.protocol(),
                # Left to choose, uvicorn before 0.36 changes the loops of the whole process.
                loop="asyncio",
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=1,
            )
        )
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}"

    def serve(self) -> None:
        """Serve until interrupted."""
        ended = threading.Event()
        teller = threading.Thread(target=self._tell, args=(ended,), daemon=True)
        teller.start()
        try:
            self._server.run(sockets=[self._socket])
        finally:
            ended.set()
            teller.join()

    def _tell(self, ended: threading.Event) -> None:
        """Send webhooks as they become due."""
        while self._sender is not None and not ended.wait(0.2):
            self.rest.send_webhooks()

    async def _send_webhook(self, request: Request) -> Response:
        asked = await request.json()
        try:
            if self._sender is None:
                raise ValueError("there is no webhook_url")
            one = self.rest.conversations[asked["conversation_id"]]
            status = await asyncio.to_thread(self._sender.send_as, asked["kind"], one)
        except (KeyError, TypeError, ValueError) as error:
            return JSONResponse({"error": f"cannot be sent: {error}. Kinds are {', '.join(KINDS)}"}, 400)
        except httpx.HTTPError as error:
            return JSONResponse({"error": f"no answer: {type(error).__name__}"}, 502)
        return JSONResponse({"response_status": status})

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve, daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._server.end()
            self._thread.join()
        self._socket.close()
