"""Running an agent on many conversations: what is done is left out, several run at a time, results go to a file."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.errors import DstnyError
from airflow_provider_dstny.api.times import iso_time, utc_time
from airflow_provider_dstny.storage import read_jsonl, write_jsonl

#: Results that are written together, so that a killed process loses no more.
_BATCH = 25
#: What the API calls a request of an agent that has no result.
_NOT_DONE = frozenset({"failed", "error", "pending", "queued", "running", "processing", "in_progress", "cancelled"})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """What became of a round.

    :param succeeded: how many conversations have a result.
    :param skipped: how many of them had it before.
    :param failures: per conversation id the reason.
    :param final: a retry would fail on all of these in the same way.
    """

    succeeded: int = 0
    skipped: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    final: bool = False

    def to_event(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_event(cls, event: Any) -> RoundOutcome | None:
        """Read an event back, None for one that is not understood."""
        try:
            return cls(int(event["succeeded"]), int(event["skipped"]), dict(event["failures"]), bool(event["final"]))
        except (TypeError, KeyError, ValueError):
            return None


@dataclass(frozen=True, kw_only=True)
class AgentRound:
    """One agent on some conversations.

    A conversation is done when ``output_path`` has its row, or, without a path, when the API lists a stored result.
    With ``force`` only rows that were written ``since`` count.

    :param request_timeout: seconds to wait for the agent on one conversation.
    :param concurrency: how many run at a time.
    :param since: ISO 8601, when the work began that a retry goes on with.
    """

    agent_id: int
    conversation_ids: list[str]
    is_test_run: bool
    force: bool
    output_path: str | None
    request_timeout: float
    concurrency: int
    since: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def read_done(self) -> dict[str, dict[str, Any]]:
        """Return the rows of ``output_path`` that need not be made again, by conversation id.

        :raises DstnyValidationError: the path is no file of rows.
        """
        rows = read_jsonl(self.output_path) if self.output_path else []
        return {str(row["conversation_id"]): row for row in rows if self._counts(row)}

    async def run(self, client: DstnyClient, done: Mapping[str, dict[str, Any]]) -> RoundOutcome:
        """Run the agent where there is no result yet. Blocks no event loop, files included.

        An error that would meet all conversations ends the round; each one that is left has that error.
        """
        rows = {one: done[one] for one in self.conversation_ids if one in done}
        stored = await self._stored(client)
        left = [one for one in self.conversation_ids if one not in rows and one not in stored]
        skipped = len(self.conversation_ids) - len(left)
        if skipped:
            _log.info("Agent %s: %d of %d are done already", self.agent_id, skipped, len(self.conversation_ids))
        failures = await self._run_all(client, left, rows)
        return RoundOutcome(
            len(self.conversation_ids) - len(failures),
            skipped,
            {one: str(error) for one, error in failures.items()},
            all(error.final for error in failures.values()),
        )

    def _counts(self, row: Any) -> bool:
        if not isinstance(row, dict) or "conversation_id" not in row:
            return False
        finished, since = utc_time(row.get("finished_at")), utc_time(self.since)
        fresh = not self.force or (finished is not None and since is not None and finished >= since)
        return fresh and (row.get("agent_id"), row.get("is_test_run")) == (self.agent_id, self.is_test_run)

    async def _stored(self, client: DstnyClient) -> set[str]:
        """Return the conversations whose result the API has, where nobody wants it in a file."""
        if self.output_path or self.is_test_run or self.force or not self.conversation_ids:
            return set()
        requests = await client.list_agent_requests.aio(self.agent_id, is_test_run=False)
        return {str(one.conversation_id) for one in requests if str(one.status).lower() not in _NOT_DONE}

    async def _run_all(
        self, client: DstnyClient, left: list[str], rows: dict[str, dict[str, Any]]
    ) -> dict[str, DstnyError]:
        """Run the agent on what is left, adding to ``rows``; return what failed."""
        failures: dict[str, DstnyError] = {}
        of_all: list[DstnyError] = []
        one_writer = asyncio.Lock()
        queue = iter(left)

        async def work() -> None:
            for conversation_id in queue:
                if of_all:
                    failures[conversation_id] = of_all[0]
                    continue
                try:
                    run = await client.run_agent.aio(
                        self.agent_id,
                        conversation_id,
                        is_test_run=self.is_test_run,
                        force=self.force,
                        request_timeout=self.request_timeout,
                    )
                except DstnyError as error:
                    _log.error("Agent %s failed on conversation %s: %s", self.agent_id, conversation_id, error)
                    failures[conversation_id] = error
                    of_all.extend([error] if error.affects_all else [])
                    continue
                rows[conversation_id] = {**run.to_row(), "finished_at": iso_time(datetime.now(UTC))}
                _log.info("Agent %s: %d of %d done", self.agent_id, len(rows), len(self.conversation_ids))
                if len(rows) % _BATCH == 0:
                    async with one_writer:
                        await self._write(rows)

        try:
            await asyncio.gather(*(work() for _ in range(min(self.concurrency, len(left)))))
        finally:
            # Also when a triggerer is shut down: what is written is not run again.
            if left:
                await self._write(rows)
        return failures

    async def _write(self, rows: Mapping[str, dict[str, Any]]) -> None:
        if self.output_path:
            ordered = [rows[one] for one in self.conversation_ids if one in rows]
            await asyncio.to_thread(write_jsonl, self.output_path, ordered)
