"""A simulated account whose month passes without waiting, exports that are killed on the way, and what they landed."""

from __future__ import annotations

import asyncio
import json
import math
import random
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import httpx
import pytest

from airflow_provider_dstny import storage
from airflow_provider_dstny.api import client as client_module
from airflow_provider_dstny.api import throttle
from airflow_provider_dstny.api.dstny_rest import PAGE_SIZE, DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyError
from airflow_provider_dstny.api.throttle import Throttle
from airflow_provider_dstny.export.dstny_rest_tables import CONVERSATION_TABLES
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.windows import SWEEP, Interval
from airflow_provider_dstny.landing.export import Export, Options, Outcome
from airflow_provider_dstny.landing.lake import Lake
from airflow_provider_dstny.simulator import Simulator

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
#: When the month begins.
START = datetime(2026, 10, 1, tzinfo=UTC).timestamp()
CONVERSATIONS = frozenset(table.name for table in CONVERSATION_TABLES)
_MEDIA = ("call", "video", "call", "live", "call", "email", "chat")


@dataclass
class Talk:
    """A conversation and what becomes of it; moments are seconds since the epoch.

    :param changes: when its row of the list changes, and what then.
    """

    id: str
    date: float
    arrives_at: float
    transcript_at: float
    changes: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    deleted_at: float | None = None

    def is_shown(self, moment: float) -> bool:
        return self.arrives_at <= moment and (self.deleted_at is None or moment < self.deleted_at)

    @property
    def goes_back(self) -> bool:
        """Whether it becomes again what it was."""
        return len(self.changes) > 1


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What happens in an account.

    :param big_ties: moments that more conversations share than fit on a page.
    """

    days: int = 30
    a_day: int = 300
    late: float = 0.02
    deleted: float = 0.01
    changed: float = 0.01
    big_ties: int = 2
    seed: int = 1

    def talks(self) -> list[Talk]:
        """Make up conversations: most on working hours, some at one moment; most arrive within minutes."""
        source = random.Random(self.seed)
        made: list[Talk] = []
        for number in range(self.days * self.a_day):
            day, place = divmod(number, self.a_day)
            # Whole seconds: some share one by chance; and every 30th shares one with its neighbour.
            date = START + day * DAY + (7 + int(11 * HOUR * place / self.a_day) / HOUR) * HOUR
            date = float(int(date + source.uniform(0, 30 * MINUTE)))
            if made and number % 30 == 0:
                date = made[-1].date
            made.append(self._talk(source, number, date))
        for tie in range(self.big_ties):
            first = int(len(made) * (tie + 0.5) / self.big_ties)
            for number in range(first, first + PAGE_SIZE + 5):
                made[number] = self._talk(source, number, made[first].date)
        return made

    def _talk(self, source: random.Random, number: int, date: float) -> Talk:
        arrives_at = date + (
            source.uniform(0, 3 * DAY) if source.random() < self.late else source.uniform(1, 9) * MINUTE
        )
        talk = Talk(f"c-{number:06d}", date, arrives_at, arrives_at + source.uniform(0, 2 * DAY))
        # What falls off the list before it is swept again, nobody can know: changes come within three weeks.
        longest = min(18 * DAY, START + self.days * DAY - arrives_at)
        later = sorted(source.uniform(0, max(0.0, longest)) for _ in range(3))
        if source.random() < self.changed:
            talk.changes = [(arrives_at + later[0], {"title": f"Changed {number}"})]
            if source.random() < 0.3:
                talk.changes.append((arrives_at + later[1], {"title": f"Talk {number}"}))
        if source.random() < self.deleted:
            talk.deleted_at = arrives_at + later[2]
        return talk


class Killed(BaseException):
    """A process ends: nothing of it runs any more."""


class Account:
    """A simulator in whose world time passes only while a client waits, and when a test says so; a context manager.

    :param talks: what happens there.
    :param port: whether requests go over a real port. Without, they are three times as fast.
    """

    def __init__(
        self, talks: Sequence[Talk], monkeypatch: pytest.MonkeyPatch, *, port: bool = True, **settings: Any
    ) -> None:
        self.talks = {talk.id: talk for talk in talks}
        self.now = START
        #: Ids that a list has shown.
        self.shown: set[str] = set()
        self.killer = _Killer()
        settings = {"samples": 0, "fresh": 0, "requests_per_minute": None, **settings}
        self.simulator = Simulator(clock=lambda: self.now, **settings)
        self.token = self.simulator.rest_token
        rest = self.simulator.rest
        self._events: list[tuple[float, str, dict[str, Any] | None]] = []
        for number, talk in enumerate(talks):
            rest.add(
                id=talk.id,
                title=f"Talk {number}",
                date=talk.date,
                medium=_MEDIA[number % len(_MEDIA)],
                arrives_at=talk.arrives_at,
                transcript_at=talk.transcript_at,
            )
            self._events += [(at, talk.id, change) for at, change in talk.changes]
            if talk.deleted_at is not None:
                self._events.append((talk.deleted_at, talk.id, None))
        self._events.sort(key=lambda event: event[:2], reverse=True)
        self._watch_lists(monkeypatch)
        self._patch_waiting(monkeypatch)
        self.killer.install(monkeypatch)
        self._port = port
        if not port:
            self._bypass_port(monkeypatch)

    def __enter__(self) -> Self:
        if self._port:
            self.simulator.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.simulator.__exit__(*error)

    def _bypass_port(self, monkeypatch: pytest.MonkeyPatch) -> None:
        options = DstnyRestClient._http_options
        app = self.simulator.app.asgi

        def bypassing(client: DstnyRestClient) -> dict[str, Any]:
            return {**options(client), "transport": httpx.ASGITransport(app)}

        monkeypatch.setattr(DstnyRestClient, "_http_options", bypassing)

    def _watch_lists(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rest = self.simulator.rest
        answer = rest._list_conversations

        def watched(query: Any) -> Any:
            told = answer(query)
            self.shown.update(row["id"] for row in told["conversations"])
            return told

        monkeypatch.setattr(rest, "_list_conversations", watched)

    def _patch_waiting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def asleep(seconds: float) -> None:
            self.killer.step()
            self.pass_time(seconds)
            await asyncio.sleep(0)

        awaited = SimpleNamespace(sleep=asleep, get_running_loop=asyncio.get_running_loop, timeout=asyncio.timeout)
        monkeypatch.setattr(client_module, "asyncio", awaited)
        identity = DstnyRestClient(self.simulator.url, self.token).identity
        monkeypatch.setitem(throttle._throttles, (identity, None), Throttle(clock=lambda: self.now))

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self._events and self._events[-1][0] <= until:
            self.now, conversation_id, change = self._events.pop()
            if change is not None and conversation_id in self.simulator.rest.conversations:
                self.simulator.rest.change(conversation_id, **change)
            elif change is None:
                self.simulator.rest.delete(conversation_id)
        self.now = until

    def wait_until(self, moment: float) -> None:
        self.pass_time(max(0.0, moment - self.now))

    @property
    def time(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    def run(self, path: Path, interval: Interval, **options: Any) -> Outcome:
        """Try once to land an interval.

        :raises Killed: the try was to end early.
        """
        chosen = Options(
            **{
                "interval": interval,
                "tables": CONVERSATIONS,
                "file_format": "jsonl",
                "redaction": Redaction.parse(None),
                "source_name": "dstny_rest_default",
                "lookback": timedelta(days=2),
                "sweep_every": timedelta(days=7),
                "give_up_after": timedelta(days=7),
                **options,
            }
        )

        async def run() -> Outcome:
            async with DstnyRestClient(self.simulator.url, self.token) as client:
                return await Export(client, f"file://{path}", chosen, clock=lambda: self.time).run()

        return asyncio.run(run())

    def requests(self) -> dict[str, int]:
        """Return the number of requests of each operation."""
        return dict(Counter(entry.operation for entry in self.simulator.books.entries))

    def read_a_day(self) -> dict[str, int]:
        """Return how many different conversations were read on each UTC day."""
        read: dict[str, set[str]] = defaultdict(set)
        for entry in self.simulator.books.entries:
            if entry.operation == "get_conversation" and entry.status == 200:
                read[datetime.fromtimestamp(entry.at, UTC).date().isoformat()].add(entry.path)
        return {day: len(paths) for day, paths in sorted(read.items())}


class _Killer:
    """Ends a run at a step that was chosen: a request, or a change of the lake, before it or after it."""

    def __init__(self) -> None:
        self.fatal: int | None = None
        self.steps = 0
        self.dead = False

    def arm(self, fatal: int | None) -> None:
        self.fatal, self.steps, self.dead = fatal, 0, False

    def step(self) -> None:
        self.steps += 1
        if self.dead or (self.fatal is not None and self.steps >= self.fatal):
            self.dead = True
            raise Killed

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def around(owner: type, name: str) -> None:
            change = getattr(owner, name)

            def changed(*args: Any, **kwargs: Any) -> Any:
                self.step()
                result = change(*args, **kwargs)
                self.step()
                return result

            monkeypatch.setattr(owner, name, changed)

        around(storage.PartialFile, "keep_as")
        around(Lake, "_remove")
        around(Lake, "tidy_up")
        clean_up = storage.PartialFile.__exit__

        def leave(file: Any, *error: Any) -> None:
            if self.dead:
                # Nobody removes what a dead process has left behind.
                file._bytes.close()
            else:
                clean_up(file, *error)

        monkeypatch.setattr(storage.PartialFile, "__exit__", leave)


@dataclass(frozen=True)
class Run:
    """A run that has committed: when its last try began, and whether it was a sweep."""

    began: float
    interval: Interval
    is_sweep: bool


@dataclass
class Month:
    """Hourly runs for as long as the account has traffic, and then until all of it must have been seen.

    :param kill: which part of the runs is killed, and how many of these are not tried again.
    """

    account: Account
    path: Path
    options: dict[str, Any] = field(default_factory=dict)
    kill: float = 0.03
    give_up: float = 0.15
    seed: int = 7
    runs: list[Run] = field(default_factory=list)
    kills: int = 0
    sent_in_vain: int = 0
    failures: int = 0
    abandoned: list[Interval] = field(default_factory=list)
    before_run: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def run(self, days: float, *, every: float = HOUR) -> None:
        until = self.account.now + days * DAY
        start = self.account.now - self.account.now % every
        while start + every <= until:
            interval = Interval(*(datetime.fromtimestamp(moment, UTC) for moment in (start, start + every)))
            start += every
            self.account.wait_until(start + 10)
            self.before_run()
            self._land(interval)

    def _land(self, interval: Interval) -> None:
        is_killed = self._random.random() < self.kill
        while True:
            # Somewhere within as many steps as the try before took.
            self.account.killer.arm(self._random.randint(1, max(2, self.account.killer.steps)) if is_killed else None)
            began, before = self.account.now, sum(self.account.requests().values())
            try:
                outcome = self.account.run(self.path, interval, **self.options)
            except Killed:
                self.kills += 1
                self.sent_in_vain += sum(self.account.requests().values()) - before
            except DstnyError:
                self.failures += 1
            else:
                break
            if self._random.random() < self.give_up:
                self.abandoned.append(interval)
                return
            self.account.pass_time(5 * MINUTE)
            is_killed = self._random.random() < 0.3
        assert outcome.manifest is not None
        self.runs.append(Run(began, interval, outcome.manifest.swept_until is not None))

    def clear_abandoned(self) -> None:
        """Let the runs be repeated that were killed for good, as a user would by clearing their tasks."""
        self.account.killer.arm(None)
        for interval in self.abandoned:
            self.account.run(self.path, interval, **self.options)

    def least_pages(self) -> int:
        """Return the pages that the runs would take if none were read twice: ⌈N/25⌉ of each, but one at least."""
        talks = sorted(self.account.talks.values(), key=lambda talk: talk.date)
        dates = [talk.date for talk in talks]
        pages = 0
        for run in self.runs:
            until = min(run.interval.end.timestamp(), run.began)
            since = run.interval.start.timestamp() - self.options.get("lookback", timedelta(days=2)).total_seconds()
            if run.is_sweep:
                since = min(since, until - SWEEP.total_seconds())
            found = talks[
                bisect_left(dates, max(since, run.began - SWEEP.total_seconds())) : bisect_right(dates, until)
            ]
            pages += max(1, math.ceil(sum(talk.is_shown(run.began) for talk in found) / PAGE_SIZE))
        return pages

    def least_reads(self) -> int:
        """Return the reads that nobody can do without: one per conversation, and one per later change of it."""
        talks = [self.account.talks[shown] for shown in self.account.shown]
        return len(talks) + sum(
            at > talk.transcript_at and (talk.deleted_at is None or at < talk.deleted_at)
            for talk in talks
            for at, _ in talk.changes
        )


class Landed:
    """What stands in a lake of JSON Lines.

    :param committed: read what manifests name only, not whatever lies in the folder.
    """

    def __init__(self, path: Path, *, committed: bool) -> None:
        self.path = path
        manifests = [json.loads(file.read_bytes()) for file in sorted((path / "_dstny/manifests").glob("*.json"))]
        self.named = {file["path"] for manifest in manifests for file in manifest["files"]}
        self.lying = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
        self.lying = {name for name in self.lying if not name.startswith("_dstny/") and "/." not in name}
        self.files = sorted(self.named if committed else self.lying)
        self.rows = {name: self._rows(name) for name in CONVERSATIONS}

    def _rows(self, table: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Return rows by conversation and interval."""
        found: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
        for name in self.files:
            if name.startswith(f"{table}/"):
                for line in (self.path / name).read_text().splitlines():
                    row = json.loads(line)
                    found[row["conversation_id"]][row["_dstny_run_id"]].append(row)
        return found

    def versions(self, conversation_id: str) -> Iterator[tuple[str, Any]]:
        """Yield what was landed of a conversation by interval, the oldest first: hashes of all its rows."""
        for run_id, rows in sorted(
            self.rows["conversations"][conversation_id].items(), key=lambda item: _synced(item[1])
        ):
            assert len(rows) == 1, f"{conversation_id} has {len(rows)} rows of {run_id}"
            parts = (
                [row["_dstny_hash"] for row in self.rows[table].get(conversation_id, {}).get(run_id, ())]
                for table in sorted(CONVERSATIONS)
            )
            yield run_id, tuple(map(tuple, parts))

    def latest(self, conversation_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the latest row of a conversation, and the segments that belong to it."""
        run_id, (row,) = max(self.rows["conversations"][conversation_id].items(), key=lambda item: _synced(item[1]))
        return row, self.rows["transcript_segments"].get(conversation_id, {}).get(run_id, [])


def _synced(rows: list[dict[str, Any]]) -> tuple[str, str]:
    return rows[0]["_dstny_synced_at"], rows[0]["_dstny_run_id"]


def wrongs(account: Account, landed: Landed) -> dict[str, list[str]]:
    """Return by kind what is not as it must be at the end: ids of conversations, or names of files."""
    found: dict[str, list[str]] = defaultdict(list)
    rest = account.simulator.rest.conversations
    for conversation_id in sorted(account.shown):
        talk = account.talks[conversation_id]
        if conversation_id not in landed.rows["conversations"]:
            found["lost"].append(conversation_id)
            continue
        versions = [version for _, version in landed.versions(conversation_id)]
        if not talk.goes_back and len(set(versions)) < len(versions):
            found["landed twice"].append(conversation_id)
        if any(one == other for one, other in pairwise(versions)):
            found["landed again unchanged"].append(conversation_id)
        row, segments = landed.latest(conversation_id)
        one = rest.get(conversation_id)
        if one is None:
            if not row["deleted"] or row["title"] is not None or segments:
                found["no tombstone"].append(conversation_id)
        elif row["deleted"]:
            found["tombstone of one that is there"].append(conversation_id)
        elif (row["title"], row["summary"]) != (one.title, one.summary):
            found["outdated"].append(conversation_id)
        elif [row["text"] for row in segments] != [text for _, _, text in one._spoken()]:
            found["without its transcript"].append(conversation_id)
    found["landed, never shown"] = sorted({*landed.rows["conversations"]} - account.shown)
    found["named, not there"] = sorted(landed.named - landed.lying)
    found["there, not named"] = sorted(landed.lying - landed.named)
    return {kind: those for kind, those in found.items() if those}
