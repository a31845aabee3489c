"""Runs the simulator on a real port: as a context manager in tests, or until it is stopped."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from airflow_provider_dstny.simulator.app import SimulatorApp
from airflow_provider_dstny.simulator.books import Books
from airflow_provider_dstny.simulator.dstny import DstnyState, NotReady


class Simulator:
    """A simulated account on a port of this machine.

    .. code-block:: python

        with Simulator(transcript_after=0) as simulator:
            client = DstnyClient(simulator.url, simulator.token)

    :param port: 0 takes a free one.
    :param token: the accepted token.
    :param visible_after: seconds from creation until a conversation can be read.
    :param transcript_after: seconds from creation until its transcript exists, ``jitter`` more at random.
    :param not_ready: how a missing transcript is answered: ``404``, ``null``, ``empty`` or ``blank``.
    :param agent_seconds: how long an agent thinks.
    :param seed: of the jitter.
    :param clock: seconds since the epoch, for tests that move time themselves.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str = "dstny-simulator-token",  # noqa: S107 - a token for this simulator only
        visible_after: float = 0.0,
        transcript_after: float = 0.0,
        jitter: float = 0.0,
        not_ready: NotReady = "404",
        agent_seconds: float = 0.0,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.token = token
        self.books = Books()
        self.state = DstnyState(
            self.books,
            visible_after=visible_after,
            transcript_after=transcript_after,
            jitter=jitter,
            not_ready=not_ready,
            agent_seconds=agent_seconds,
            seed=seed,
            clock=clock,
        )
        self._transports: dict[Any, Any] = {}
        self.app = SimulatorApp(
            self.state,
            self.books,
            tokens={token},
            clock=clock,
            break_connection=lambda client: self._transports[tuple(client)].abort(),
        )
        # Bound at once, so that the address is known and a port in use is an error before anything starts.
        self._socket = socket.create_server((host, port))
        self._server = uvicorn.Server(
            uvicorn.Config(
                self.app.asgi,
                http=self._protocol(),
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
        self._server.run(sockets=[self._socket])

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve, daemon=True)
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            self._thread.join(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = self._server.force_exit = True
        if self._thread is not None:
            self._thread.join()
        self._socket.close()

    def _protocol(self) -> type[H11Protocol]:
        transports = self._transports

        class Protocol(H11Protocol):
            """Remembers the transport of each client, so that a connection can be reset."""

            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                transports[tuple(transport.get_extra_info("peername"))] = transport

        return Protocol
