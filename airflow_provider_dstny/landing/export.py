"""One run of an export: list, plan, read, write, commit. Whatever ends it, the next try goes on from there."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Any

from airflow_provider_dstny.api.client import ApiClient
from airflow_provider_dstny.api.errors import DstnyError, DstnyNotFoundError, DstnyQuotaError, DstnyValidationError
from airflow_provider_dstny.api.ids import some_of
from airflow_provider_dstny.api.times import iso_time
from airflow_provider_dstny.export.files import (
    DataFile,
    Format,
    Manifest,
    interval_name,
)
from airflow_provider_dstny.export.ledger import Entry, Listed, State
from airflow_provider_dstny.export.planner import Day, Plan, Reason, Task, plan, reason_of
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.tables import Stamp
from airflow_provider_dstny.export.windows import Interval, Window, window_of
from airflow_provider_dstny.landing.curated import Curated
from airflow_provider_dstny.landing.lake import Lake, Past
from airflow_provider_dstny.landing.parts import Found, Parts
from airflow_provider_dstny.landing.sources import Source, source_of, version_of
from airflow_provider_dstny.landing.workspace import Answer, Workspace
from airflow_provider_dstny.progress import Progress, together

#: Conversations that are saved together: a kill loses no more of them.
_BATCH = 50
#: So many failures in a row are not the conversations' own trouble.
_FAILED_IN_A_ROW = 3
#: A list that lacks more than these is not believed at once.
_MOST_MISSING = 100
#: What a list lacks and the API still has is asked for again after so long.
_STILL_THERE = timedelta(hours=3)
#: So long before the list forgets a conversation, nothing follows from its not being listed.
_FADING = timedelta(hours=1)
#: The directory is landed as it stands: by no run for an older interval.
_SNAPSHOT_AGE = timedelta(days=1)
#: For how long entries are kept after the list has forgotten their conversations.
_KEPT = timedelta(days=10)
#: Rows of the list that are saved together.
_LISTED_BATCH = 1000
#: The version of what no list has shown.
_NOT_LISTED = ""
#: What a run counts.
_COUNTS = (
    "listed",
    "read",
    "complete",
    "pending",
    "no_transcript",
    "gone",
    "failed",
    "left",
    "about_to_be_lost",
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to land, and how.

    :param tables: names of the tables to fill.
    :param lookback: how far before its interval a run looks for what arrived late or was changed.
    :param sweep_every: after how long the whole list is read again.
    :param give_up_after: since a conversation was first listed; then it counts as having no transcript.
    :param daily_quota: conversations a day, None for what the API documents.
    :param quota_reserve: how many of them are left to others.
    :param wait_for_delivery: read a conversation when the account's webhook deliveries say that it is complete.
    :param concurrency: how many are read at a time.
    :param conversation_ids: read these, and list nothing.
    """

    interval: Interval
    tables: frozenset[str]
    file_format: Format
    redaction: Redaction
    source_name: str
    lookback: timedelta
    sweep_every: timedelta
    give_up_after: timedelta
    daily_quota: int | None = None
    quota_reserve: int = 0
    wait_for_delivery: bool = False
    concurrency: int = 4
    conversation_ids: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run has done.

    :param manifest: None of one that only planned.
    :param days: what was planned for the day of the run and those after it.
    :param failures: per conversation why it could not be read; the next run tries again.
    :param resets_at: UTC, when the quota that was missing starts anew.
    """

    manifest: Manifest | None
    manifest_path: str
    days: list[Day]
    counts: dict[str, int]
    failures: dict[str, DstnyError]
    resets_at: datetime | None


@dataclass
class Export:
    """One run.

    :param path: the folder of the lake.
    :param clock: where the API does not tell the time.
    """

    client: ApiClient
    path: Any
    options: Options
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        options = self.options
        self._name = interval_name(options.interval.start, options.interval.end)
        self._source: Source = source_of(self.client, options.tables)
        self._layout = self._source.layout
        self._stamp = Stamp(options.interval.end, options.source_name, self._name)
        self._counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        self._failures: dict[str, DstnyError] = {}
        self._failed_in_a_row = 0
        self._stopped: DstnyError | None = None
        self._clock_is_behind = timedelta(0)

    async def run(self, *, plan_only: bool = False) -> Outcome:
        """Land what is new, pending or changed, as far as the quota allows.

        :param plan_only: list and plan; write nothing.
        :raises DstnyError: something that would meet every conversation. What was read is saved, and a later try for
            the same interval goes on from there.
        :raises OSError: the storage failed; likewise.
        """
        # In a thread: some storages run an event loop of their own when they are looked up.
        self._lake = await asyncio.to_thread(Lake, self.path, self._name)
        with Workspace() as self._work:
            if not plan_only:
                self._lake.take_over()
            past = self._lake.load(self._work)
            self._check_format(past)
            self._parts = Parts(self._lake, self._work, self._layout, self.options.redaction, self.options.interval.end)
            if not plan_only:
                self._parts.resume(past.manifest)
            window, planned = await self._plan(past)
            self._tell(planned)
            if plan_only:
                return self._outcome(None, planned)
            # Before anything is spent: a scope may be missing.
            directory = await self._read_directory(past)
            # What is not read now is landed first, so that a later try need not list again.
            self._land_list_rows(but={*planned.to_read})
            if window is not None and not self._source.needs_row:
                self._parts.save_listing(window, self._now)
            await self._read_all(planned.to_read)
            self._land_list_rows()
            self._count_endangered()
            curated = Curated(
                self._lake, self._work, self._layout, self.options.tables, self.options.file_format, self._stamp
            )
            curated.announce(directory, past.manifest)
            files = [
                *self._parts.files,
                *curated.write_tables(),
                *curated.write_directory(directory, past.manifest),
            ]
            manifest = self._commit(past, window, directory is not None, files)
            self._lake.put_together(past, self._work, since=self._oldest_kept())
            return self._outcome(manifest, planned)

    def _check_format(self, past: Past) -> None:
        """Refuse to mix: what one format has is not landed again, and queries of the other would miss it."""
        if others := sorted(past.formats - {self.options.file_format}):
            raise DstnyValidationError(
                None,
                f"{self._lake.root} has tables as {others[0]}, and format is '{self.options.file_format}': set "
                f"format='{others[0]}', or a path of its own.",
            )

    # Listing.

    def _window(self, past: Past) -> Window | None:
        window = window_of(
            self.options.interval,
            server_time=self._now,
            lookback=self.options.lookback,
            last_sweep=past.swept_until,
            sweep_every=self.options.sweep_every,
            forgotten_after=self._source.forgotten_after,
            listed_until=past.listed_until,
        )
        if window is None:
            _log.warning("The API does not list what took place until %s any more", iso_time(self.options.interval.end))
        return window

    async def _list(self, window: Window) -> Window:
        """Take in what the list shows, or has shown to an earlier try; return the window of it."""
        if (earlier := self._parts.listing(window, self._now)) is not None:
            window, found = earlier
            for listed in found:
                self._take_in(listed)
            _log.info("An earlier try has listed %d conversations: they are not listed again", self._counts["listed"])
            return window
        with Progress("Listing", None, "conversations") as progress:
            async for listed, row in self._source.listing(window):
                progress.add()
                if not _can_be_landed(listed.id):
                    _log.warning("A conversation has an id that is no text, and is left out")
                    continue
                entry = self._take_in(listed)
                if self._source.needs_row or entry.state is State.NEW:
                    with suppress(RecursionError):
                        self._work.keep_list_row(listed.id, row)
        if self._source.server_time is not None:
            self._clock_is_behind = self._source.server_time - self.clock()
        return window

    def _take_in(self, listed: Listed) -> Entry:
        self._counts["listed"] += 1
        before = self._work.entry(listed.id)
        entry = Entry.seen(before, listed, self._now)
        if entry is not before:
            self._work.set_entry(listed.id, entry)
        self._work.mark_listed(listed.id)
        return entry

    # Planning.

    async def _plan(self, past: Past) -> tuple[Window | None, Plan]:
        """Return what to read, and of which part of the list it is, None if nothing was listed."""
        window = None
        if self.options.conversation_ids is not None:
            tasks = self._asked_for(self.options.conversation_ids)
        else:
            window = self._window(past)
            if window is not None:
                window = await self._list(window)
            tasks = await self._tasks(window)
        self._planned_at = self._now
        return window, plan(tasks, quota_left=self._quota_left())

    def _asked_for(self, conversation_ids: Sequence[str]) -> list[Task]:
        """Return what is to be read of conversations that are named."""
        tasks = []
        for conversation_id in conversation_ids:
            entry = self._work.entry(conversation_id)
            if entry is None:
                entry = Entry.seen(None, Listed(conversation_id, None, _NOT_LISTED), self._now)
                self._work.set_entry(conversation_id, entry)
            if entry.state is not State.ERASED and not self._was_landed_later(entry):
                counts = entry.read_at is None or entry.read_at < _midnight(self._now)
                tasks.append(Task(Reason.NEW, entry.date, conversation_id, counts))
        return tasks

    async def _tasks(self, window: Window | None) -> list[Task]:
        completed = await self._completed()
        today = _midnight(self._now)
        recent = self.options.interval.start - self.options.lookback
        tasks: list[Task] = []
        missing: list[Task] = []
        for conversation_id, entry, listed in self._work.entries():
            if self._was_landed_later(entry):
                continue
            counts = entry.read_at is None or entry.read_at < today
            reason = reason_of(conversation_id, entry, recent=recent, now=self._now, completed=completed)
            if reason is not None and entry.date <= self.options.interval.end:
                if listed or not self._source.needs_row:
                    tasks.append(Task(reason, entry.date, conversation_id, counts))
            elif window is not None and not listed and self._may_be_gone(entry, window):
                missing.append(Task(Reason.MISSING, entry.date, conversation_id, counts))
        if self._source.needs_row:
            # Without an operation for one conversation, nobody can tell whether it is gone.
            return tasks
        if len(missing) > _MOST_MISSING:
            _log.warning("%d conversations are no longer listed; %d are looked up now", len(missing), _MOST_MISSING)
        return [*tasks, *missing[:_MOST_MISSING]]

    def _was_landed_later(self, entry: Entry) -> bool:
        # The rows of that run count: what this one landed would never be seen.
        return entry.landed_as is not None and entry.landed_as > self.options.interval.end

    def _may_be_gone(self, entry: Entry, window: Window) -> bool:
        is_known = entry.state not in (State.GONE, State.ERASED)
        asked_lately = entry.read_at is not None and self._now - entry.read_at < _STILL_THERE
        forgotten_after = self._source.forgotten_after
        # Clocks differ, and the list forgets while it is read.
        is_fading = forgotten_after is not None and entry.date < self._now - forgotten_after + _FADING
        return is_known and window.surely_covers(entry.date) and not asked_lately and not is_fading

    async def _completed(self) -> dict[str, datetime] | None:
        if not self.options.wait_for_delivery:
            return None
        completed = await self._source.completed()
        if not completed:
            _log.warning(
                "wait_for_delivery is set, but the API tells of no delivered webhook of the last days, so nothing is "
                "waited for. Are webhooks switched on for this account?"
            )
        return completed or None

    @property
    def _daily_quota(self) -> int | None:
        quota = self.options.daily_quota or self._source.daily_quota
        if quota is None:
            return None
        if quota <= self.options.quota_reserve:
            raise DstnyValidationError(None, f"quota_reserve leaves nothing of the {quota} conversations a day.")
        return quota - self.options.quota_reserve

    def _quota_left(self) -> int | None:
        if self._daily_quota is None:
            return None
        today = _midnight(self._now)
        used = sum(entry.read_at is not None and entry.read_at >= today for _, entry, _ in self._work.entries())
        return max(self._daily_quota - used, 0)

    def _tell(self, planned: Plan) -> None:
        reasons = {reason.name.lower(): count for reason, count in planned.reasons.items()}
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items())) or "none"
        _log.info("%d conversations are listed; to be read: %s", self._counts["listed"], told)
        self._counts["left"] = len(planned.left)
        if planned.left:
            _log.warning(
                "%d conversations do not fit into today's quota and are left to later runs: %s",
                len(planned.left),
                some_of(planned.left),
            )

    # Reading.

    async def _read_all(self, ids: Sequence[str]) -> None:
        """Read conversations and save what is new of them, until all are read, or something would meet them all."""
        if not ids:
            return
        with Progress("Reading", len(ids), "conversations") as progress:
            for first in range(0, len(ids), _BATCH):
                found: list[Found] = []
                try:
                    await self._read_batch(ids[first : first + _BATCH], found)
                finally:
                    self._parts.save("read", [one for one in found if one.entry.state is not State.GONE])
                    self._parts.save("gone", [one for one in found if one.entry.state is State.GONE])
                    read = sum(not one.failed for one in found)
                    self._counts["read"] += read
                    progress.add(read)
                if self._stopped is not None:
                    break
        if self._stopped is None:
            return
        if self._stopped.affects_all and not isinstance(self._stopped, DstnyQuotaError):
            raise self._stopped
        left = len(ids) - self._counts["read"] - len(self._failures)
        self._counts["left"] += left
        _log.warning("Reading ended early: %d conversations are left to later runs. %s", left, self._stopped)

    async def _read_batch(self, ids: Sequence[str], found: list[Found]) -> None:
        queue = iter(ids)

        async def work() -> None:
            for conversation_id in queue:
                if self._stopped is None and (one := await self._read(conversation_id)) is not None:
                    found.append(one)

        await together(work, self.options.concurrency)

    async def _read(self, conversation_id: str) -> Found | None:
        """Read one conversation; None if that failed."""
        entry = self._work.entry(conversation_id)
        assert entry is not None
        row = self._work.list_row(conversation_id) if self._source.needs_row else None
        try:
            body = await self._source.read(conversation_id, row)
            answer = self._parts.redacted("read", body)
        except DstnyNotFoundError:
            self._failed_in_a_row = 0
            return self._not_found(conversation_id, entry)
        except DstnyError as error:
            return self._not_read(conversation_id, entry, error)
        self._failed_in_a_row = 0
        if entry.version == _NOT_LISTED:
            entry = Entry.seen(entry, self._source.listed(body), self._now)
        complete = self._source.is_complete(body)
        # What was landed before is there still, though nothing of this may be.
        content = entry.content if answer is None else version_of(answer.body)
        after = entry.was_read(self._now, complete=complete, content=content, give_up_after=self.options.give_up_after)
        self._counts[after.state.value] += 1
        return Found(conversation_id, after, answer if content != entry.content else None)

    def _not_found(self, conversation_id: str, entry: Entry) -> Found:
        if self._work.was_listed(conversation_id):
            # It was listed a moment ago: it is not there yet.
            after = entry.was_read(
                self._now, complete=False, content=entry.content, give_up_after=self.options.give_up_after
            )
            self._counts[after.state.value] += 1
            # It might be gone before it is there.
            answer = self._as_listed(conversation_id) if entry.content is None else None
            if answer is not None:
                after = after.holds(version_of(answer.body))
            return Found(conversation_id, after, answer)
        self._counts["gone"] += 1
        _log.info("Conversation %s was deleted", conversation_id)
        # What was never landed needs no tombstone.
        answer = None if entry.content is None else self._parts.tombstone(conversation_id, entry.date)
        return Found(conversation_id, entry.is_gone(self._now), answer)

    def _not_read(self, conversation_id: str, entry: Entry, error: DstnyError) -> Found | None:
        if error.affects_all:
            self._stopped = self._stopped or error
            return None
        _log.error("Conversation %s: %s", conversation_id, error)
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= _FAILED_IN_A_ROW:
            self._stopped = self._stopped or error
        self._failures[conversation_id] = error
        self._counts["failed"] += 1
        return Found(conversation_id, entry.has_failed(self._now), None, failed=True)

    def _land_list_rows(self, *, but: Collection[str] = ()) -> None:
        """Land what the list shows of conversations that were not read: they might be gone before they are.

        :param but: those that are still going to be read.
        """
        found: list[Found] = []
        unread = [
            (conversation_id, entry)
            for conversation_id, entry, listed in self._work.entries(State.NEW)
            if listed and entry.content is None and conversation_id not in but and not self._was_landed_later(entry)
        ]
        for conversation_id, entry in unread:
            answer = self._as_listed(conversation_id)
            if answer is not None:
                found.append(Found(conversation_id, entry.holds(version_of(answer.body)), answer))
            if len(found) >= _LISTED_BATCH:
                self._parts.save("listed", found)
                found = []
        self._parts.save("listed", found)

    def _as_listed(self, conversation_id: str) -> Answer | None:
        """Return the row of the list as it may be landed, None if none was kept or nothing of it may be."""
        row = self._work.list_row(conversation_id)
        return None if row is None else self._parts.redacted("listed", self._source.listed_body(conversation_id, row))

    async def _read_directory(self, past: Past) -> dict[str, Any] | None:
        """Return the directory as it stands, None if it is not this run's to land."""
        wanted = {table.name for table in self._layout.directory_tables} & self.options.tables
        too_old = self._now - self.options.interval.end >= _SNAPSHOT_AGE
        if not wanted or too_old or self._day in past.snapshots_of:
            return None
        return self.options.redaction.redact(await self._source.directory(wanted))

    def _commit(self, past: Past, window: Window | None, has_directory: bool, files: Sequence[DataFile]) -> Manifest:
        before = past.manifest
        listed_until = iso_time(window.until) if window is not None else None
        swept_until = listed_until if window is not None and window.is_sweep else None

        def manifest(ledger: str) -> Manifest:
            return Manifest(
                interval=self._name,
                files=tuple(sorted(files, key=lambda file: file.path)),
                counts=dict(sorted(self._counts.items())),
                requests=self.client.requests_sent,
                ledger=ledger,
                redaction=self.options.redaction.digest,
                listed_until=listed_until or (before.listed_until if before else None),
                swept_until=swept_until or (before.swept_until if before else None),
                snapshot_of=self._day if has_directory else (before.snapshot_of if before else None),
                file_format=self.options.file_format,
            )

        return self._lake.commit(manifest, self._work, before)

    def _count_endangered(self) -> None:
        """Tell of conversations that still wait for their transcript when the list is about to forget them."""
        if (forgotten_after := self._source.forgotten_after) is None:
            return
        endangered = [
            conversation_id
            for conversation_id, entry, _ in self._work.entries(State.NEW, State.PENDING)
            if entry.is_about_to_be_lost(self._now, forgotten_after)
        ]
        self._counts["about_to_be_lost"] = len(endangered)
        if endangered:
            _log.warning(
                "%d conversations have no transcript yet, and the API will not list them much longer: %s",
                len(endangered),
                some_of(endangered),
            )

    def _oldest_kept(self) -> datetime | None:
        forgotten_after = self._source.forgotten_after
        return None if forgotten_after is None else self._now - forgotten_after - _KEPT

    def _outcome(self, manifest: Manifest | None, planned: Plan) -> Outcome:
        resets_at = None
        if planned.left or isinstance(self._stopped, DstnyQuotaError):
            told = self._stopped.resets_at if isinstance(self._stopped, DstnyQuotaError) else None
            resets_at = told or _midnight(self._planned_at) + timedelta(days=1)
        return Outcome(
            manifest=manifest,
            manifest_path=self._lake.manifest_path,
            days=planned.days(
                daily_quota=self._daily_quota,
                requests_each=self._source.requests_each,
                spacing=self.client.spacing,
            ),
            counts=dict(sorted(self._counts.items())),
            failures=self._failures,
            resets_at=resets_at,
        )

    @property
    def _now(self) -> datetime:
        """The API's clock as far as it was told, UTC."""
        return self.clock() + self._clock_is_behind

    @property
    def _day(self) -> str:
        return self.options.interval.end.date().isoformat()


def _can_be_landed(conversation_id: str) -> bool:
    # Half a surrogate pair can be kept in no ledger.
    return bool(conversation_id.strip()) and conversation_id == conversation_id.encode("utf-8", "replace").decode()


def _midnight(moment: datetime) -> datetime:
    return datetime.combine(moment.date(), time(), UTC)
