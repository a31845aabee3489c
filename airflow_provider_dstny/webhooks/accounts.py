"""What a receiver reads of Airflow's connections: the secrets, and the API that confirms a hint."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from airflow_provider_dstny.webhooks.receiver import Account
from airflow_provider_dstny.webhooks.verify import WebhookEvent

if TYPE_CHECKING:
    from airflow.models.connection import Connection

#: Seconds for which a connection is not read again, and how many are remembered, of those that are known and of others.
_REMEMBERED, _MOST = 30.0, 1000
#: How many are read at a time, of either: the threads are those of Airflow's API server, too.
_READ_AT_A_TIME = 4
_log = logging.getLogger(__name__)


class Accounts:
    """The connections that take webhooks.

    :param find: returns a connection, None if there is none. It may block.
    """

    def __init__(self, find: Callable[[str], Connection | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._find = find
        self._clock = clock
        # Anybody can make names up; they must neither push out those that are known nor keep them waiting.
        self._known: dict[str, tuple[float, Account | None]] = {}
        self._unknown: dict[str, tuple[float, Account | None]] = {}
        self._turns = {known: asyncio.Semaphore(_READ_AT_A_TIME) for known in (True, False)}

    async def get(self, dstny_conn_id: str) -> Account | None:
        """Return what a receiver must know of a connection, None if there is none of the three types with secrets."""
        entry = self._remembered(dstny_conn_id)
        if entry is None:
            async with self._turns[dstny_conn_id in self._known]:
                # Another request may have had it read meanwhile.
                entry = self._remembered(dstny_conn_id)
                if entry is None:
                    entry = self._remember(dstny_conn_id, await asyncio.to_thread(self._read, dstny_conn_id))
        return entry[1]

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

    def _remembered(self, dstny_conn_id: str) -> tuple[float, Account | None] | None:
        entry = self._known.get(dstny_conn_id) or self._unknown.get(dstny_conn_id)
        return entry if entry is not None and self._clock() - entry[0] <= _REMEMBERED else None

    def _remember(self, dstny_conn_id: str, account: Account | None) -> tuple[float, Account | None]:
        """Keep what was read; the oldest of its kind goes if there are too many."""
        self._known.pop(dstny_conn_id, None)
        self._unknown.pop(dstny_conn_id, None)
        kept = self._unknown if account is None else self._known
        if len(kept) >= _MOST:
            del kept[next(iter(kept))]
        kept[dstny_conn_id] = entry = self._clock(), account
        return entry

    def _read(self, dstny_conn_id: str) -> Account | None:
        from airflow_provider_dstny.api.errors import DstnyValidationError
        from airflow_provider_dstny.hooks.base import ConnectionExtra
        from airflow_provider_dstny.provider_info import PROVIDER_INFO

        connection = self._find(dstny_conn_id)
        types = {form["connection-type"] for form in PROVIDER_INFO["connection-types"]}
        if connection is None or connection.conn_type not in types:
            return None
        try:
            secrets = ConnectionExtra.parse(connection.extra_dejson).webhook_secrets
        except DstnyValidationError as error:
            # To the outside it is like one that does not exist.
            _log.error("Connection %s takes no webhooks: %s", dstny_conn_id, error)
            return None
        return Account(connection.conn_type, secrets) if secrets else None
