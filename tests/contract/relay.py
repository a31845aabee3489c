"""What stands between a client and the simulator on a real port, and breaks what passes through it."""

from __future__ import annotations

import re
import socket
import socketserver
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

#: Seconds after which a silent connection is closed whatever the client does.
_LONGEST_SILENCE = 10.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def but(self, *, body: bytes | None = None, status: int | None = None, **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return replace(
            self,
            status=status or self.status,
            body=self.body if body is None else body,
            headers={**self.headers, **named},
        )


class Exchange(BaseHTTPRequestHandler):
    """One request, and what a fault may do with it."""

    server: Relay
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.close_connection = True
        with suppress(OSError):
            if not self.server.is_meant(self.command, self.path):
                self.send(self.forward())
                return
            self.server.seen.append(self.path)
            if self.server.takes_fault():
                self.server.commit(self)
            else:
                self.send(self.forward(counted=True))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - names of the library

    def forward(self, *, counted: bool = False) -> Answer:
        """Have the simulator do what was asked for."""
        upstream = HTTPConnection(self.server.upstream, timeout=_LONGEST_SILENCE)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "accept-encoding"}
        try:
            upstream.request(self.command, self.path, self.content or None, headers)
            answer = upstream.getresponse()
            body = answer.read()
        finally:
            upstream.close()
        if counted and answer.status < 300:
            self.server.done += 1
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in ("content-length", "date")}
        return Answer(answer.status, {name.lower(): value for name, value in kept.items()}, body)

    def send(self, answer: Answer, *, up_to: int | None = None) -> None:
        """Send an answer, or the beginning of one whose length is told."""
        head = {**answer.headers, "content-length": str(len(answer.body)), "connection": "close"}
        lines = [f"HTTP/1.1 {answer.status} Told", *(f"{name}: {value}" for name, value in head.items()), "", ""]
        self.connection.sendall("\r\n".join(lines).encode("latin-1"))
        self.connection.sendall(memoryview(answer.body)[:up_to])

    def hang(self) -> None:
        """Say nothing until the client goes."""
        self.connection.settimeout(_LONGEST_SILENCE)
        self.connection.recv(1)

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - a name of the library
        pass


class Relay(socketserver.ThreadingTCPServer):
    """Passes requests on, and commits a fault on those that are meant.

    :param upstream: URL of the simulator.
    :param meant: method and path of the requests that the fault hits, a pattern.
    :param commit: what the fault does with one.
    :param lasts: the fault hits every request; else the first one.
    :param listens: False refuses connections as long as the fault hits.
    :param tls: contexts of a server while the fault hits, and else.
    :ivar hits: how often the fault hit.
    :ivar seen: paths of the requests that were meant.
    :ivar done: how many of them the simulator did.
    """

    allow_reuse_address = True
    daemon_threads = True

    def __init__(
        self,
        upstream: str,
        meant: str,
        commit: Callable[[Exchange], object],
        *,
        lasts: bool,
        listens: bool = True,
        tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), Exchange, bind_and_activate=False)
        self.server_bind()
        self.upstream = urlsplit(upstream).netloc
        self.commit = commit
        self.hits = self.done = 0
        self.seen: list[str] = []
        self._meant = re.compile(meant)
        self._lasts = lasts
        self._tls = tls
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        if listens:
            self._listen()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def is_meant(self, method: str, path: str) -> bool:
        return self._meant.match(f"{method} {path}") is not None

    def takes_fault(self) -> bool:
        """Tell whether the fault hits now."""
        with self._lock:
            if self.hits and not self._lasts:
                return False
            self.hits += 1
            return True

    @contextmanager
    def refuses(self) -> Iterator[None]:
        """Count the connections that are refused, and refuse no more than one if the fault happens once."""
        connect = socket.socket.connect

        def counted(one: socket.socket, address: Any) -> Any:
            is_refused = self._thread is None and address[1:2] == (self.port,) and self.takes_fault()
            try:
                return connect(one, address)
            finally:
                if is_refused and not self._lasts:
                    self._listen()

        with mock.patch.object(socket.socket, "connect", counted):
            yield

    def finish_request(self, request: socket.socket, client_address: object) -> None:
        if self._tls is not None:
            broken, whole = self._tls
            context = broken if self.takes_fault() else whole
            with suppress(OSError), context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        else:
            super().finish_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        # Without the orderly shutdown of the base class, which would come before a reset.
        self.close_request(request)

    def handle_error(self, request: socket.socket, client_address: object) -> None:
        # Clients go, as many faults make them do.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)

    def _listen(self) -> None:
        if self._thread is None:
            self.server_activate()
            self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)
            self._thread.start()

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self.shutdown()
            self._thread.join()
        self.server_close()
