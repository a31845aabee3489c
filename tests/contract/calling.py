"""Calling an operation either way."""

from __future__ import annotations

import asyncio

import pytest

SYNC_AND_ASYNC = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def call(client, name, *args, asynchronous=False, **kwargs):
    if not asynchronous:
        with client:
            return getattr(client, name)(*args, **kwargs)

    async def run():
        async with client:
            return await getattr(client, name).aio(*args, **kwargs)

    return asyncio.run(run())


def collect(client, *, asynchronous=False, **filters):
    """Return all that ``iter_conversations`` yields."""
    if not asynchronous:
        with client:
            return list(client.iter_conversations(**filters))

    async def run():
        async with client:
            return [conversation async for conversation in client.iter_conversations.aio(**filters)]

    return asyncio.run(run())
