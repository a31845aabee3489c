"""What a receiver reads of Airflow's connections: the secrets, and the API that confirms a hint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_provider_dstny.webhooks.receiver import Account
from airflow_provider_dstny.webhooks.verify import WebhookEvent

if TYPE_CHECKING:
    from airflow.models.connection import Connection

#: Seconds for which a connection is not read again, and how many are remembered.
_REMEMBERED, _MOST = 30.0, 1000


class Accounts:
    """The connections that take webhooks.

    :param find: returns a connection, None if there is none. It may block.
    """

    def __init__(self, find: Callable[[str], Connection | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._find = find
        self._clock = clock
        self._known: dict[str, tuple[float, Account | None]] = {}

    async def get(self, dstny_conn_id: str) -> Account | None:
        """Return what a receiver must know of a connection, None if there is none with secrets."""
        read_at, account = self._known.get(dstny_conn_id, (None, None))
        if read_at is None or self._clock() - read_at > _REMEMBERED:
            account = await asyncio.to_thread(self._read, dstny_conn_id)
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[dstny_conn_id] = self._clock(), account
        return account

    async def confirm(self, dstny_conn_id: str, hint: WebhookEvent) -> WebhookEvent | None:
        """Look up in the API what an unsigned webhook said; None if it is not so (yet)."""
        from airflow_provider_dstny.api.dstny import DstnyClient
        from airflow_provider_dstny.api.errors import DstnyNotFoundError
        from airflow_provider_dstny.hooks import hook_of

        connection = await asyncio.to_thread(self._find, dstny_conn_id)
        if connection is None or hint.conversation_id is None:
            return None
        async with hook_of(dstny_conn_id, connection).get_async_conn() as client:
            try:
                if isinstance(client, DstnyClient):
                    await client.get_insights.aio(hint.conversation_id)
                    return hint
                conversation = await client.get_conversation.aio(hint.conversation_id)
            except DstnyNotFoundError:
                return None
            return hint if conversation.status == "completed" else None

    def _read(self, dstny_conn_id: str) -> Account | None:
        from airflow_provider_dstny.hooks.base import ConnectionExtra

        connection = self._find(dstny_conn_id)
        if connection is None:
            return None
        secrets = ConnectionExtra.parse(connection.extra_dejson).webhook_secrets
        return Account(connection.conn_type, secrets) if secrets else None
