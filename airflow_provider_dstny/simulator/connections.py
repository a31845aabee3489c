"""The open connections of the server, so that one can be broken."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connections:
    """Knows the connection of each client by its address."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], Any] = {}

    def abort(self, client: Any) -> None:
        """Reset a connection; what was not sent yet is lost."""
        self._open[tuple(client)].transport.abort()

    async def close(self, client: Any) -> None:
        """Close a connection once all that was written has been sent."""
        if connection := self._open.get(tuple(client)):
            connection.transport.close()
            await connection.lost.wait()

    def protocol(self) -> type[H11Protocol]:
        """Return the protocol that the server is to speak, which keeps these books."""
        connections = self._open

        class Protocol(H11Protocol):
            def connection_made(self, transport: Any) -> None:
                super().connection_made(transport)
                self.lost = asyncio.Event()
                self.peer = tuple(transport.get_extra_info("peername")[:2])
                connections[self.peer] = self

            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                self.lost.set()
                # The address may have been taken again already.
                if connections[self.peer] is self:
                    del connections[self.peer]

        return Protocol
