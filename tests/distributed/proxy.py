"""Stands between Airflow and an API, to be killed in its stead: connections break, and the API remembers."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()
    target.close()


async def main(port: int, behind: int) -> None:
    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onwards_reader, onwards_writer = await asyncio.open_connection("127.0.0.1", behind)
        await asyncio.gather(copy(reader, onwards_writer), copy(onwards_reader, writer))

    server = await asyncio.start_server(connect, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
