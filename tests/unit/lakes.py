"""A lake on the local disk and an account in memory, so that hundreds of exports take seconds."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest import mock

from fsspec.implementations.local import LocalFileSystem

from airflow_provider_dstny.api.errors import DstnyNotFoundError, DstnyResponseError
from airflow_provider_dstny.api.times import utc_time
from airflow_provider_dstny.export.files import Manifest, interval_name
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.export.ledger import Listed
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.windows import Interval, Window
from airflow_provider_dstny.landing.export import Export, Options, Outcome
from airflow_provider_dstny.landing.sources import version_of
from airflow_provider_dstny.storage import PartialFile

LAYOUT = LAYOUTS["dstny_rest"]
TABLES = frozenset(LAYOUT.tables)
CONVERSATION_TABLES = frozenset(table.name for table in LAYOUT.conversation_tables)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
#: The first interval of tests ends here.
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SALT = "0123456789abcdef"
SECRET = "the-secret-words"
PHONE = "+32 475 12 34 56"


@dataclass
class Talk:
    """One conversation of the account; ``row`` and ``body`` override what the list and the answer say."""

    id: Any
    date: Any
    title: str = "first"
    has_transcript: bool = True
    is_listed: bool = True
    is_there: bool = True
    error: BaseException | None = None
    row: dict[str, Any] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        date = self.date.isoformat() if isinstance(self.date, datetime) else self.date
        return {"id": self.id, "title": self.title, "date": date, "duration": 60, **self.row}

    def answer(self) -> dict[str, Any]:
        said = [{"speaker": "Jane", "text": f"{SECRET} {self.title} {PHONE}", "start": 0, "end": 1}]
        return {
            **self.shown(),
            "participants": [{"name": "Jane Doe", "email": "jane@example.com"}],
            "transcript": {"segments": said} if self.has_transcript else None,
            "insights": [{"id": f"i-{self.id}", "insight_text": SECRET}] if self.has_transcript else [],
            **self.body,
        }


@dataclass
class Account:
    """What stands behind the fake API, and its clock, which ticks whenever it is looked at."""

    now: datetime = NOON
    #: How far the clock of the worker is ahead of that of the API.
    worker_ahead: timedelta = timedelta(0)
    tells_time: bool = True
    talks: dict[Any, Talk] = field(default_factory=dict)
    reads: list[str] = field(default_factory=list)
    lists: int = 0
    directories: int = 0
    error: BaseException | None = None
    list_error: BaseException | None = None
    #: Called before each reading.
    before_read: Callable[[str], None] | None = None
    #: How many readings the same run took that was not killed.
    reads_of_whole: int = 0
    #: 404 for what the list has forgotten.
    forgets_details: bool = False

    def add(self, *ids: Any, at: Any = None, **fields: Any) -> None:
        for one in ids:
            self.talks[one] = Talk(one, NOON - 90 * timedelta(minutes=1) if at is None else at, **fields)

    def change(self, one: Any, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self.talks[one], name, value)

    def delete(self, one: Any) -> None:
        self.change(one, is_listed=False, is_there=False)

    def tick(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    def worker_clock(self) -> datetime:
        return self.tick() + self.worker_ahead

    @property
    def requests(self) -> int:
        return len(self.reads) + self.lists + self.directories


class FakeClient:
    """What an export asks of a client itself."""

    name = "dstny_rest"
    spacing = 1.0

    def __init__(self, account: Account) -> None:
        self.account = account
        self._before = account.requests

    @property
    def requests_sent(self) -> int:
        return self.account.requests - self._before


class FakeSource:
    """The account behind the Source protocol, in the form of v1."""

    layout = LAYOUT
    forgotten_after: timedelta | None = timedelta(days=30)
    daily_quota: int | None = None
    needs_row = False
    requests_each = 1

    def __init__(self, client: Any, tables: Collection[str]) -> None:
        self.account: Account = client.account
        self.tables = tables

    @property
    def server_time(self) -> datetime | None:
        return self.account.now if self.account.tells_time and self.account.lists else None

    async def listing(self, window: Window) -> AsyncIterator[tuple[Listed, Any]]:
        account = self.account
        account.lists += 1
        if account.list_error is not None:
            raise account.list_error
        for talk in [*account.talks.values()]:
            moment = _moment(talk.date)
            oldest = account.now - timedelta(days=30)
            in_window = moment is None or (window.since <= moment <= window.until and moment >= oldest)
            if talk.is_listed and in_window:
                row = talk.shown()
                yield self.listed(row), row

    async def read(self, conversation_id: str, row: Any) -> dict[str, Any]:
        account = self.account
        await asyncio.sleep(0)
        if account.before_read is not None:
            account.before_read(conversation_id)
        account.reads.append(conversation_id)
        if account.error is not None:
            raise account.error
        talk = next((talk for talk in account.talks.values() if str(talk.id) == conversation_id), None)
        forgotten = talk is not None and account.forgets_details and talk.date < account.now - timedelta(days=30)
        if talk is None or not talk.is_there or forgotten:
            raise DstnyNotFoundError(404, "get_conversation: Conversation not found.")
        if talk.error is not None:
            raise talk.error
        answer = talk.answer()
        if str(answer["id"]) != conversation_id:
            raise DstnyResponseError(f"The answer on conversation {conversation_id} is not about it.")
        return answer

    def listed(self, body: dict[str, Any]) -> Listed:
        shown = {name: body.get(name) for name in ("id", "title", "date", "duration", "department", "x")}
        return Listed(str(body["id"]), _moment(body["date"]), version_of(shown))

    def listed_body(self, conversation_id: str, row: dict[str, Any]) -> dict[str, Any]:
        return row

    def is_complete(self, body: dict[str, Any]) -> bool:
        return bool(body.get("transcript"))

    async def completed(self) -> dict[str, datetime]:
        return {}

    async def directory(self, tables: Collection[str]) -> dict[str, Any]:
        self.account.directories += 1
        users = [{"id": "u1", "full_name": "Erik", "email": "erik@example.com"}]
        return {name: rows for name, rows in {"users": users}.items() if name in tables}


def _moment(date: Any) -> datetime | None:
    return date if isinstance(date, datetime) else utc_time(date)


def hour(number: int) -> Interval:
    """Return the hourly interval that ends ``number`` hours after noon."""
    return Interval(NOON + (number - 1) * HOUR, NOON + number * HOUR)


def options(interval: Interval, **changed: Any) -> Options:
    given: dict[str, Any] = {
        "interval": interval,
        "tables": TABLES,
        "file_format": "jsonl",
        "redaction": Redaction.parse(None),
        "source_name": "x",
        "lookback": timedelta(days=2),
        "sweep_every": timedelta(days=7),
        "give_up_after": timedelta(days=7),
    }
    return Options(**{**given, **changed})


def run(account: Account, path: Path, interval: Interval, **changed: Any) -> Outcome:
    """Run an export, not before the interval has ended."""
    account.now = max(account.now, interval.end + timedelta(minutes=1))
    return run_now(account, path, interval, **changed)


def run_now(account: Account, path: Path, interval: Interval, **changed: Any) -> Outcome:
    client: Any = FakeClient(account)
    with mock.patch("airflow_provider_dstny.landing.export.source_of", FakeSource):
        export = Export(client, f"file://{path}", options(interval, **changed), clock=account.worker_clock)
        return asyncio.run(export.run())


# What stands in a lake.


def files_of(root: Path) -> dict[str, bytes]:
    """Return every file of a lake, hidden ones included."""
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def curated(root: Path) -> dict[str, bytes]:
    """Return what a query by glob would read."""
    return {
        name: content
        for name, content in files_of(root).items()
        if not name.startswith(("_dstny/", "raw/")) and not name.rpartition("/")[2].startswith(".")
    }


def manifests(root: Path) -> dict[str, Manifest]:
    folder = root / "_dstny" / "manifests"
    return {file.stem: Manifest.from_json(file.read_bytes()) for file in sorted(folder.glob("*.json"))}


def manifest(root: Path, interval: Interval) -> Manifest:
    return manifests(root)[interval_name(interval.start, interval.end)]


def assert_intact(root: Path, named: Manifest) -> None:
    """Check that what a manifest names is there as it says."""
    for file in named.files:
        content = (root / file.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256), file.path
        if not file.path.endswith(".parquet"):
            assert content.count(b"\n") == file.rows, file.path
    assert (root / named.ledger).exists()


def assert_tidy(root: Path) -> None:
    """Check that every manifest is intact, and that nothing lies about that none names."""
    named: Counter[str] = Counter()
    for one in manifests(root).values():
        assert_intact(root, one)
        named.update([file.path for file in one.files])
    assert [path for path, count in named.items() if count > 1] == []
    assert strays(root) == []


def strays(root: Path) -> list[str]:
    """Return the files that no manifest names, but for hidden ones, which no query reads."""
    known = {file.path for one in manifests(root).values() for file in one.files}
    known |= {one.ledger for one in manifests(root).values()}
    known |= {f"_dstny/manifests/{name}.json" for name in manifests(root)}
    known |= {name for name in files_of(root) if name.startswith("_dstny/snapshots/") or "/." in name}
    return sorted(files_of(root).keys() - known)


def rows_of(root: Path, table: str = "conversations") -> list[dict[str, Any]]:
    """Return the rows that a query by glob would read."""
    found = [content for name, content in curated(root).items() if name.startswith(f"{table}/")]
    return [json.loads(line) for content in found for line in content.splitlines()]


def doubled(root: Path) -> list[str]:
    """Return what was landed more than once by glob: versions of conversations, segments, users of a day."""
    versions = Counter((row["conversation_id"], row["_dstny_hash"]) for row in rows_of(root))
    segments = Counter(
        (row["conversation_id"], row["position"], row["_dstny_hash"]) for row in rows_of(root, "transcript_segments")
    )
    users = Counter((name.split("/")[1], name.split("/")[0]) for name in curated(root) if name.startswith("users/"))
    return [str(key) for counter in (versions, segments, users) for key, count in counter.items() if count > 1]


def latest(root: Path) -> dict[str, dict[str, Any]]:
    """Return the row of each conversation that counts: the one with the latest ``_dstny_synced_at``."""
    found: dict[str, dict[str, Any]] = {}
    for row in sorted(rows_of(root), key=lambda row: row["_dstny_synced_at"]):
        found[row["conversation_id"]] = row
    return found


def ledger_states(root: Path) -> dict[str, str]:
    """Return the state of each conversation by the ledgers that manifests name."""
    found: dict[str, Any] = {}
    for one in manifests(root).values():
        for line in (root / one.ledger).read_bytes().splitlines():
            row = json.loads(line)
            if row["changed_at"] >= found.get(row["id"], row)["changed_at"]:
                found[row["id"]] = row
    return {one: row["state"] for one, row in found.items()}


# Kills.


class Killed(BaseException):
    """What a kill is to a test: after it, nothing reaches the storage any more."""


class Killer:
    """Counts what changes the storage, and ends the process at one of these, before it or after it."""

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        self.at, self.after = at, after
        self.done: list[str] = []
        self.dead = False

    def meet(self, what: str, change: Callable[[], Any]) -> Any:
        if self.dead:
            raise Killed
        self.done.append(what)
        is_it = len(self.done) == self.at
        if is_it and not self.after:
            self.dead = True
            raise Killed
        result = change()
        if is_it:
            self.dead = True
            raise Killed
        return result


@contextmanager
def watched(killer: Killer) -> Iterator[Killer]:
    keep_as, remove = PartialFile.keep_as, LocalFileSystem.rm

    def watched_keep(self: PartialFile, name: str) -> Any:
        return killer.meet(f"keep {name}", lambda: keep_as(self, name))

    def watched_rm(self: Any, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        if not Path(path).exists():
            raise FileNotFoundError(path)
        if recursive:
            # One by one, as the system does it.
            for file in sorted(Path(path).rglob("*"), reverse=True):
                if file.is_file():
                    killer.meet(f"rm {file.name}", file.unlink)
            shutil.rmtree(path)
        else:
            killer.meet(f"rm {Path(path).name}", lambda: remove(self, path))

    with mock.patch.object(PartialFile, "keep_as", watched_keep), mock.patch.object(LocalFileSystem, "rm", watched_rm):
        yield killer
