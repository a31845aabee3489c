"""Many calls in one go: those that are missing are sent, several at a time.

What became of each is kept by an :class:`~airflow_provider_dstny.upload_journal.UploadJournal`, and a call is known by
its ``call_external_id``.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import islice

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.errors import DstnyError
from airflow_provider_dstny.api.models.calls import CallConversation
from airflow_provider_dstny.api.operation import Steps
from airflow_provider_dstny.api.privacy import shown
from airflow_provider_dstny.checked_calls import CheckedCalls
from airflow_provider_dstny.progress import Progress, together
from airflow_provider_dstny.submission import surely_not_done
from airflow_provider_dstny.upload_journal import Intent, Result, State, UploadJournal

#: So many lost answers in a row are not the calls' own trouble, and would leave ever more calls in doubt.
_LOST_IN_A_ROW = 3
#: After so many calls, or a tenth of them if that is more, the file of results is written.
_CHECKPOINT = 1000
_IN_DOUBT = (
    "It may have been sent, and it cannot be found in Dstny (yet). A retry looks again; resubmit_ambiguous=True sends "
    "it again, at the risk of a duplicate."
)

_log = logging.getLogger(__name__)


def find_calls(dstny: DstnyClient, days: Mapping[str, date]) -> Steps[dict[str, str]]:
    """Look for calls among the conversations of their days; the days around these allow for timezones.

    :param days: per ``call_external_id`` the UTC day on which the call began.
    :return: the conversation ids of those that are there.
    """
    found: dict[str, str] = {}
    near = timedelta(days=1)
    for day in sorted(set(days.values())):
        conversations = yield from dstny.list_conversations.steps(
            recording_types=["call"], global_start=day - near, global_end=day + near
        )
        for conversation in conversations:
            external_id = str(conversation.call_external_id)
            if conversation.id is not None and external_id in days:
                found.setdefault(external_id, str(conversation.id))
    return found


@dataclass(frozen=True, slots=True)
class UploadOutcome:
    """What became of the calls of a source.

    :param sent: how many were sent now, and ``skipped``, how many before.
    :param failed: how many the API refused; ``invalid``, how many rows are no calls; ``ambiguous``, how many may have
        arrived.
    :param reasons: what went wrong, of each of these in the order of the rows.
    :param final: a retry would meet the same.
    :param stopped: what ended the upload before all calls were sent.
    """

    calls: int
    sent: int
    skipped: int
    failed: int
    invalid: int
    ambiguous: int
    reasons: dict[str, str]
    final: bool
    stopped: DstnyError | None

    def counts(self) -> dict[str, int]:
        names = ("calls", "sent", "skipped", "failed", "invalid", "ambiguous")
        return {name: getattr(self, name) for name in names}


@dataclass(kw_only=True)
class Upload:
    """Sends those of some calls that are missing.

    :param concurrency: how many are sent at a time; after a kill, fewer than twice as many are in doubt.
    :param resubmit_ambiguous: send again what may have arrived and cannot be found.
    """

    calls: CheckedCalls
    journal: UploadJournal
    concurrency: int
    resubmit_ambiguous: bool
    _sent: set[str] = field(default_factory=set)
    _under_way: set[str] = field(default_factory=set)
    _doubted: set[str] = field(default_factory=set)
    # Of each that was tried, whether trying it again cannot change anything.
    _final: dict[str, bool] = field(default_factory=dict)
    _lost: int = 0
    _stopped: DstnyError | None = None

    async def run(self, dstny: DstnyClient) -> UploadOutcome:
        """Send what is missing. Blocks no event loop, storage included.

        An error that would meet all calls ends it; what was sent is kept.

        :raises DstnyError: earlier calls could not be looked for, or another upload writes to the same file.
        :raises OSError: the journal cannot be written; what was sent since is looked for by the next try.
        """
        await self._look_for_doubtful(dstny)
        states = {external_id: self._state(external_id) for external_id in self.calls.known}
        wanted = (None, "failed", "ambiguous") if self.resubmit_ambiguous else (None, "failed")
        left = [external_id for external_id, state in states.items() if state in wanted]
        self._doubted = {external_id for external_id in left if states[external_id] == "ambiguous"}
        self.journal.invalid = [Result(row, None, "invalid", None, error) for row, error in self.calls.bad.items()]
        _log.info("%d calls: %d are to be sent, %d bad rows", len(self.calls), len(left), len(self.calls.bad))
        try:
            if left:
                await asyncio.to_thread(self.journal.begin, left)
                await self._send_all(dstny, left)
                await self._look_for_lost(dstny)
        finally:
            for external_id in self._under_way:
                # The task is being ended: nobody knows.
                self._add(external_id, "ambiguous", error=_IN_DOUBT)
            await asyncio.to_thread(self.journal.finish)
        outcome = self._outcome()
        if outcome.stopped is not None:
            told = ", ".join(f"{count} {name}" for name, count in outcome.counts().items())
            _log.error("The upload ended early (%s). A later try sends only what is missing", told)
        return outcome

    async def _look_for_doubtful(self, dstny: DstnyClient) -> None:
        """Find out what became of the calls that earlier uploads left in doubt."""
        doubt = await asyncio.to_thread(self.journal.recover)
        days = {external_id: intent.day for external_id, intent in doubt.items()}
        days |= {one: known.day for one, known in self.calls.known.items() if self._state(one) == "ambiguous"}
        if not days:
            return
        _log.info("An earlier try left %d calls in doubt: looking for them", len(days))
        found = await dstny.arun(find_calls(dstny, days))
        for external_id in days:
            known = self.calls.known.get(external_id)
            row = self.journal.results[external_id].row if known is None else known.row
            if external_id in found:
                self.journal.add(Result(row, external_id, "sent", found[external_id]))
            else:
                self.journal.add(Result(row, external_id, "ambiguous", None, _IN_DOUBT))
        _log.info("%d of %d calls in doubt are there", len(found), len(days))

    async def _look_for_lost(self, dstny: DstnyClient) -> None:
        """Find out what became of the calls whose answers were lost just now."""
        lost = {
            one: known.day
            for one, known in self.calls.known.items()
            if one in self._final and self._state(one) == "ambiguous"
        }
        if not lost or (self._stopped is not None and self._stopped.affects_all):
            return
        try:
            found = await dstny.arun(find_calls(dstny, lost))
        except DstnyError as error:
            _log.warning("%d calls whose answers were lost could not be looked for: %s", len(lost), error)
            return
        for external_id, conversation_id in found.items():
            self._add(external_id, "sent", conversation_id)

    async def _send_all(self, dstny: DstnyClient, left: list[str]) -> None:
        queue = _Queue(self, left)
        progress = Progress("Sending", len(left), "calls")

        async def work() -> None:
            while self._stopped is None and (call := await queue.take()) is not None:
                if self._stopped is None:
                    await self._send(dstny, call)
                    progress.add()

        with progress:
            await together(work, min(self.concurrency, len(left)))

    async def _send(self, dstny: DstnyClient, call: CallConversation) -> None:
        external_id = call.call_external_id
        self._under_way.add(external_id)
        try:
            conversation_id = await dstny.create_call_conversation.aio(call)
        except DstnyError as error:
            self._not_sent(external_id, error)
        else:
            self._lost = 0
            self._add(external_id, "sent", conversation_id)
        self._under_way.discard(external_id)

    def _not_sent(self, external_id: str, error: DstnyError) -> None:
        refused = surely_not_done(error)
        self._lost = 0 if refused else self._lost + 1
        if error.affects_all or self._lost >= _LOST_IN_A_ROW:
            self._stopped = self._stopped or error
        if refused and error.affects_all:
            # It is as if it had not been tried.
            return
        _log.error("%s: %s", self._name(external_id), error)
        # What an earlier try may have sent is in doubt still when this one is refused.
        state: State = "failed" if refused and external_id not in self._doubted else "ambiguous"
        self._add(external_id, state, error=str(error), final=error.final and state == "failed")

    def _add(
        self,
        external_id: str,
        state: State,
        conversation_id: str | None = None,
        *,
        error: str | None = None,
        final: bool = False,
    ) -> None:
        if state == "sent":
            self._sent.add(external_id)
        self._final[external_id] = final or state == "sent"
        self.journal.add(Result(self.calls.known[external_id].row, external_id, state, conversation_id, error))

    def _state(self, external_id: str) -> State | None:
        result = self.journal.results.get(external_id)
        return None if result is None else result.state

    def _name(self, external_id: str) -> str:
        return f"row {self.calls.known[external_id].row} ({shown('call_external_id', external_id)})"

    def _outcome(self) -> UploadOutcome:
        results = {one: self.journal.results.get(one) for one in self.calls.known}
        states = Counter(None if result is None else result.state for result in results.values())
        bad = {row: (f"row {row}", error) for row, error in self.calls.bad.items()}
        for external_id, result in results.items():
            if result is not None and result.state != "sent":
                bad[self.calls.known[external_id].row] = (self._name(external_id), result.error or _IN_DOUBT)
        return UploadOutcome(
            calls=len(self.calls),
            sent=len(self._sent),
            skipped=states["sent"] - len(self._sent),
            failed=states["failed"],
            invalid=len(self.calls.bad),
            ambiguous=states["ambiguous"],
            reasons=dict(told for _, told in sorted(bad.items())),
            final=not states["ambiguous"] and all(self._final.values()),
            stopped=self._stopped,
        )


class _Queue:
    """Hands out calls, each after a record says that it is sent next."""

    def __init__(self, upload: Upload, left: Sequence[str]) -> None:
        self._journal = upload.journal
        self._calls = upload.calls.read(left)
        self._rows = upload.calls.known
        self._together = upload.concurrency
        self._checkpoint = max(_CHECKPOINT, len(left) // 10)
        self._since_checkpoint = 0
        self._ready: deque[CallConversation] = deque()
        self._lock = asyncio.Lock()

    async def take(self) -> CallConversation | None:
        async with self._lock:
            if not self._ready:
                if self._since_checkpoint >= self._checkpoint:
                    self._since_checkpoint = 0
                    await asyncio.to_thread(self._journal.checkpoint, self._journal.rows())
                results = self._journal.take_unrecorded()
                self._ready.extend(await asyncio.to_thread(self._record_next, results))
                self._since_checkpoint += len(self._ready)
            return self._ready.popleft() if self._ready else None

    def _record_next(self, results: list[Result]) -> list[CallConversation]:
        calls = list(islice(self._calls, self._together))
        if calls:
            intents = [
                Intent(self._rows[call.call_external_id].row, call.call_external_id, call.call_start_time.date())
                for call in calls
            ]
            self._journal.record(results, intents)
        return calls
