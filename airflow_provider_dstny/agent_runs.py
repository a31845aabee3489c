"""Running an agent on many conversations: what is done is left out, several run at a time, results go to a file."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.errors import DstnyError, DstnyResponseError, DstnyValidationError
from airflow_provider_dstny.api.models.agents import AgentRun
from airflow_provider_dstny.api.times import iso_time, utc_time
from airflow_provider_dstny.progress import Progress, together
from airflow_provider_dstny.storage import read_jsonl, write_jsonl

#: Results that are written together, so that a killed process loses no more.
_BATCH = 25
#: What the API may call a request of an agent that has a result; in doubt the agent runs, which repeats nothing.
_DONE = frozenset({"completed", "complete", "success", "succeeded", "done", "finished", "processed"})
_NOT_DONE = frozenset({"failed", "error", "pending", "queued", "running", "processing", "in_progress", "cancelled"})

_log = logging.getLogger(__name__)

#: One row of the file of results.
Row: TypeAlias = dict[str, Any]


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


class ResultsFile:
    """The rows of ``output_path``. Those that a round does not make anew stay. Blocking, to be used in a thread.

    :param path: a ``.jsonl`` file in object storage; None where results are dropped.
    :raises DstnyValidationError: it has another ending, or is no file of rows.
    """

    def __init__(self, path: str | None) -> None:
        # A retry reads it back by its ending, as CSV what was written as JSON Lines: the runs in it would be lost.
        if path is not None and not path.lower().endswith(".jsonl"):
            raise DstnyValidationError(None, f"output_path must end in .jsonl, and {path!r} does not.")
        self.path = path
        self.rows: list[Any] = read_jsonl(path) if path else []
        self._lock = threading.Lock()
        self._written = -1

    def write(self, made: Mapping[str, Row]) -> None:
        """Write all rows, those in ``made`` in place of older ones of the same conversation, agent and kind of run."""
        # A thread goes on when its round is cancelled: it must not overwrite what was written later.
        with self._lock:
            if self.path and len(made) > self._written:
                replaced = {_key(row) for row in made.values()}
                write_jsonl(self.path, [*(row for row in self.rows if _key(row) not in replaced), *made.values()])
                self._written = len(made)


def _key(row: Any) -> tuple[Any, ...] | None:
    if not isinstance(row, dict) or "conversation_id" not in row:
        return None
    return str(row["conversation_id"]), row.get("agent_id"), row.get("is_test_run")


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

    def done_in(self, file: ResultsFile) -> set[str]:
        """Return the conversations whose rows need not be made again."""
        return {str(row["conversation_id"]) for row in file.rows if self._counts(row)} & set(self.conversation_ids)

    async def run(self, client: DstnyClient, file: ResultsFile) -> RoundOutcome:
        """Run the agent where there is no result yet. Blocks no event loop, files included.

        An error that would meet all conversations ends the round; each one that is left has that error.

        :raises OSError: the file cannot be written; found out before the agent runs.
        """
        done = self.done_in(file) | await self._stored(client)
        left = [one for one in self.conversation_ids if one not in done]
        skipped = len(self.conversation_ids) - len(left)
        if skipped:
            _log.info("Agent %s: %d of %d are done already", self.agent_id, skipped, len(self.conversation_ids))
        failures = await self._run_all(client, left, file) if left else {}
        return RoundOutcome(
            len(self.conversation_ids) - len(failures),
            skipped,
            {one: str(error) for one, error in failures.items()},
            all(error.final for error in failures.values()),
        )

    def _counts(self, row: Any) -> bool:
        key = _key(row)
        if key is None or key[1:] != (self.agent_id, self.is_test_run) or row.get("result") is None:
            return False
        finished, since = utc_time(row.get("finished_at")), utc_time(self.since)
        return not self.force or (finished is not None and since is not None and finished >= since)

    async def _stored(self, client: DstnyClient) -> set[str]:
        """Return the conversations whose result the API has, where nobody wants it in a file."""
        if self.output_path or self.is_test_run or self.force or not self.conversation_ids:
            return set()
        requests = await client.list_agent_requests.aio(self.agent_id, is_test_run=False)
        return {
            str(one.conversation_id)
            for one in requests
            if one.is_test_run is not True and str(one.status).lower() in _DONE
        }

    async def _run_all(self, client: DstnyClient, left: list[str], file: ResultsFile) -> dict[str, DstnyError]:
        """Run the agent on what is left; return what failed."""
        made: dict[str, Row] = {}
        failures: dict[str, DstnyError] = {}
        of_all: list[DstnyError] = []
        queue = iter(left)
        progress = Progress(f"Running agent {self.agent_id} on", len(left), "conversations")

        async def work() -> None:
            for conversation_id in queue:
                if of_all:
                    failures[conversation_id] = of_all[0]
                    continue
                try:
                    made[conversation_id] = await self._run_one(client, conversation_id)
                except DstnyError as error:
                    _log.error("Agent %s failed on conversation %s: %s", self.agent_id, conversation_id, error)
                    failures[conversation_id] = error
                    of_all.extend([error] if error.affects_all else [])
                    continue
                progress.add()
                if len(made) % _BATCH == 0:
                    await self._write_batch(file, made)

        # At once, so that a path that cannot be written costs no run.
        await asyncio.to_thread(file.write, {})
        try:
            with progress:
                await together(work, min(self.concurrency, len(left)))
        finally:
            # Also when a triggerer is shut down: what is written is not run again.
            await asyncio.to_thread(file.write, dict(made))
        return failures

    async def _run_one(self, client: DstnyClient, conversation_id: str) -> Row:
        run: AgentRun = await client.run_agent.aio(
            self.agent_id,
            conversation_id,
            is_test_run=self.is_test_run,
            force=self.force,
            request_timeout=self.request_timeout,
        )
        status = str(run.result.get("status")).lower() if isinstance(run.result, dict) else ""
        if status in _NOT_DONE:
            raise DstnyResponseError(f"The agent answered without a result: its request is {status}. A retry may pass.")
        return {**run.to_row(), "finished_at": iso_time(datetime.now(UTC))}

    async def _write_batch(self, file: ResultsFile, made: Mapping[str, Row]) -> None:
        try:
            await asyncio.to_thread(file.write, dict(made))
        except Exception as error:
            # Storages have errors of their own, which may quote what was to be written. The last write raises; until
            # then the results are held.
            _log.warning("%d results could not be written yet: %s", len(made), type(error).__name__)
