from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.tellcasey import TellcaseyClient
from airflow_provider_dstny.export.files import Manifest
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.windows import Interval
from airflow_provider_dstny.landing import erase as erase_module
from airflow_provider_dstny.landing import export as export_module
from airflow_provider_dstny.landing.erase import erase
from airflow_provider_dstny.landing.export import Export, Options
from airflow_provider_dstny.landing.lake import Lake
from airflow_provider_dstny.simulator import Simulator
from airflow_provider_dstny.storage import PartialFile, storage_path
from tests.s3 import memory_lake

HOUR = timedelta(hours=1)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SALT = "0123456789abcdef"
JANE, ERIK = "jane@acme.example.com", "erik.lindqvist@example.com"
#: Who is in the samples of each API.
SOMEBODY = {"dstny_rest": JANE, "tellcasey": JANE, "dstny": ERIK}
NOTHING = {
    "conversations": 0,
    "files_rewritten": 0,
    "files_removed": 0,
    "rows_removed": 0,
    "directory_rows_removed": 0,
}
logging.getLogger("airflow_provider_dstny.landing").setLevel(logging.WARNING)


class Killed(BaseException):
    """Nothing runs any more."""


class Account:
    """A simulated account, whose time passes when a test says so."""

    def __init__(self, api: str, samples: int) -> None:
        self.api, self.now = api, NOON
        self.simulator = Simulator(
            requests_per_minute=None, samples=samples, fresh=0, dstny_samples=6, clock=lambda: self.now.timestamp()
        )
        self.simulator.__enter__()

    def client(self) -> Any:
        one = self.simulator
        match self.api:
            case "dstny_rest":
                return DstnyRestClient(one.url, one.rest_token, requests_per_minute=1e6)
            case "dstny":
                return DstnyClient(one.url, one.token)
        return TellcaseyClient(one.url, one.tellcasey_token)

    def run(self, lake: Path | str, hour: int, **options: Any) -> dict[str, int]:
        """Land the interval that ends so many hours after noon."""
        end = NOON + hour * HOUR
        self.now = max(self.now, end)
        chosen: dict[str, Any] = {
            "interval": Interval(end - HOUR, end),
            "tables": frozenset(LAYOUTS[self.api].tables),
            "file_format": "jsonl",
            "redaction": Redaction.parse(None),
            "source_name": "x",
            "lookback": timedelta(days=12),
            "sweep_every": timedelta(days=7),
            "give_up_after": timedelta(days=7),
            **options,
        }
        chosen["redaction"] = Redaction.parse(chosen["redaction"], LAYOUTS[self.api])

        async def run() -> dict[str, int]:
            async with self.client() as client:
                export = Export(client, str(lake), Options(**chosen), clock=lambda: self.now)
                return (await export.run()).counts

        return asyncio.run(run())


@pytest.fixture(scope="module")
def accounts() -> Iterator[Callable[[str], Account]]:
    known: dict[tuple[str, int], Account] = {}

    def account(api: str, samples: int = 12) -> Account:
        if (api, samples) not in known:
            known[api, samples] = Account(api, samples)
        return known[api, samples]

    yield account
    for one in known.values():
        one.simulator.__exit__(None, None, None)


@pytest.fixture(scope="module")
def lakes(accounts, tmp_path_factory) -> Callable[..., Path]:
    """Return copies of lakes with two intervals and, if asked for, a third that was killed before it committed."""
    made: dict[str, Path] = {}

    def lake(
        path: Path, api: str, file_format: str = "jsonl", *, killed: bool = True, samples: int = 12, **redaction: Any
    ) -> Path:
        key = json.dumps([api, file_format, killed, samples, redaction])
        if key not in made:
            made[key] = tmp_path_factory.mktemp("made")
            fill(accounts(api, samples), made[key], killed, {"file_format": file_format, "redaction": redaction})
        shutil.copytree(made[key], path / "lake")
        return path / "lake"

    return lake


def fill(account: Account, lake: Path, killed: bool, options: dict[str, Any]) -> None:
    account.now = NOON
    account.run(lake, 0, **options)
    for hour in (1, 2) if killed else (1,):
        if account.api == "dstny_rest":
            # All are changed, and so are landed again.
            for one in [*account.simulator.rest.conversations]:
                account.simulator.rest.change(one, title=f"{hour} {id(lake)}")
        elif account.api == "tellcasey":
            (one,) = list(account.simulator.tellcasey.conversations.values())[:1]
            account.simulator.tellcasey.add(customer=one.customer)
        with pytest.MonkeyPatch.context() as patch:
            if hour == 2:
                patch.setattr(export_module.Export, "_commit", killed_at)
            with suppress(Killed):
                account.run(lake, hour, **options)


def killed_at(*_: Any, **__: Any) -> None:
    raise Killed


def files(lake: Path) -> dict[str, bytes]:
    return {str(path.relative_to(lake)): path.read_bytes() for path in sorted(lake.rglob("*")) if path.is_file()}


def times(lake: Path) -> dict[str, int]:
    return {str(path.relative_to(lake)): path.stat().st_mtime_ns for path in lake.rglob("*") if path.is_file()}


def rows(lake: Path, path: str) -> list[Any]:
    if path.endswith(".parquet"):
        return list(import_module("pyarrow.parquet").read_table(lake / path, partitioning=None).to_pylist())
    return [json.loads(line) for line in (lake / path).read_bytes().splitlines()]


def data(lake: Path) -> dict[str, list[Any]]:
    """Return the rows of all files that may tell something of a person."""
    return {path: rows(lake, path) for path in files(lake) if not path.startswith("_dstny")}


def shown_id(row: Any) -> str:
    return str(row.get("conversation_id") or row["id"])


def is_directory(path: str) -> bool:
    return path.startswith(("raw/directory/", "users/", "teams/", "team_members/", "departments/"))


def ids_of(lake: Path, person: str) -> set[str]:
    """Return the conversations that show somebody: by the whole text, for values in tests do not occur in others."""
    return {
        shown_id(row)
        for path, found in data(lake).items()
        for row in found
        if not is_directory(path) and person.casefold() in json.dumps(row, default=str, ensure_ascii=False).casefold()
    }


def assert_whole(lake: Path) -> None:
    """Check that manifests tell what is there."""
    for path in (lake / "_dstny/manifests").iterdir():
        for file in Manifest.from_json(path.read_bytes()).files:
            content = (lake / file.path).read_bytes()
            told = (file.sha256, file.bytes, file.rows)
            assert told == (hashlib.sha256(content).hexdigest(), len(content), len(rows(lake, file.path))), file.path


def assert_erased(lake: Path, before: dict[str, list[Any]], ids: set[str]) -> None:
    """Check that exactly some conversations are gone."""
    after = data(lake)
    for path, found in before.items():
        if not is_directory(path):
            assert after.get(path, []) == [row for row in found if shown_id(row) not in ids], path
    assert {*after} <= {*before}
    assert [path for path, found in after.items() if not found] == []
    assert [path for path in files(lake) if "partial" in path] == []
    assert [path for path in files(lake) if path.startswith("_dstny/unfinished/erased")] == []


@contextmanager
def killing(at: int, *, after: bool = False) -> Iterator[list[str]]:
    """End the process at a change of the storage, before it or after it; yield what was done."""
    done: list[str] = []
    keep_as, remove, tidy_up, leave = PartialFile.keep_as, Lake._remove, Lake.tidy_up, PartialFile.__exit__

    def around(change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any) -> Any:
            if len(done) >= at:
                raise Killed
            done.append(str(args[-1]))
            if not after and len(done) == at:
                raise Killed
            result = change(*args)
            if len(done) == at:
                raise Killed
            return result

        return changed

    def left(file: Any, *error: Any) -> None:
        if error[0] is Killed:
            file._bytes.close()
        else:
            leave(file, *error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialFile, "keep_as", around(keep_as))
        patch.setattr(PartialFile, "__exit__", left)
        patch.setattr(Lake, "_remove", around(remove))
        patch.setattr(Lake, "tidy_up", around(tidy_up))
        yield done


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
@pytest.mark.parametrize("api", ["dstny_rest", "dstny", "tellcasey"])
def test_a_person_is_erased_and_nobody_else(lakes, tmp_path, api, file_format):
    if file_format == "parquet":
        pytest.importorskip("pyarrow")
    lake = lakes(tmp_path, api, file_format)
    person = SOMEBODY[api]
    before, bytes_before, times_before = data(lake), files(lake), times(lake)
    ids = ids_of(lake, person)
    assert 0 < len(ids) < len({shown_id(row) for path in before if not is_directory(path) for row in before[path]})
    told = erase(str(lake), email=f" {person.upper()}\n", dry_run=True)
    assert files(lake) == bytes_before
    assert erase(lake.as_uri(), email=f" {person.upper()}\n") == told
    assert told["conversations"] == len(ids)
    assert_erased(lake, before, ids)
    assert_whole(lake)
    after, times_after = files(lake), times(lake)
    assert ids_of(lake, person) == set()
    assert not any(person.encode() in content for content in after.values())
    changed = {path for path in bytes_before if after.get(path) != bytes_before[path]}
    assert {path for path in bytes_before if times_after.get(path) != times_before[path]} == changed
    manifests = {path for path in changed if path.startswith("_dstny/manifests/")}
    assert len(changed) - len(manifests) == told["files_rewritten"] + told["files_removed"]
    gone = sum(len(found) for found in before.values()) - sum(len(found) for found in data(lake).values())
    raw = sum(path.startswith("raw/directory/") for path in changed)
    assert bool(raw) == (person == ERIK)
    assert gone <= told["rows_removed"] + told["directory_rows_removed"]
    assert told["rows_removed"] == sum(
        shown_id(row) in ids for path, found in before.items() if not is_directory(path) for row in found
    )
    assert erase(str(lake), email=person) == NOTHING
    assert files(lake) == after
    assert times(lake) == times_after


def test_what_is_left_of_a_file_are_its_bytes(lakes, tmp_path):
    lake = lakes(tmp_path, "dstny_rest")
    before, ids = files(lake), ids_of(lake, JANE)
    erase(str(lake), email=JANE)
    for path, content in files(lake).items():
        if not path.startswith("_dstny") and not is_directory(path):
            kept = [line for line in before[path].splitlines(True) if shown_id(json.loads(line)) not in ids]
            assert content == b"".join(kept)


@pytest.mark.parametrize("api", ["dstny_rest", "tellcasey"])
def test_no_later_export_brings_anybody_back(accounts, lakes, tmp_path, api):
    account, lake = accounts(api), lakes(tmp_path, api, killed=False)
    person = SOMEBODY[api]
    ids = ids_of(lake, person)
    others = {shown_id(row) for path, found in data(lake).items() if not is_directory(path) for row in found} - ids
    erase(str(lake), email=person)
    if api == "dstny_rest":
        for one in ids:
            account.simulator.rest.change(one, title="Changed once more")
    account.now += 3 * HOUR
    for hour in (0, 1, 3, 4, 0):
        account.run(lake, hour)
    left = {shown_id(row) for path, found in data(lake).items() if not is_directory(path) for row in found}
    assert left.isdisjoint(ids)
    assert left >= others
    assert ids_of(lake, person) == set()
    assert_whole(lake)


def test_what_was_erased_stays_so_when_ledgers_are_put_together(accounts, lakes, tmp_path, monkeypatch):
    account, lake = accounts("dstny_rest"), lakes(tmp_path, "dstny_rest", killed=False)
    ids = ids_of(lake, JANE)
    erase(str(lake), email=JANE)
    monkeypatch.setattr("airflow_provider_dstny.landing.lake._LEDGERS", 1)
    monkeypatch.setattr(export_module, "_KEPT", timedelta(days=-40))
    account.run(lake, 3)
    (snapshot,) = (lake / "_dstny/snapshots").iterdir()
    assert {json.loads(line)["id"] for line in snapshot.read_bytes().splitlines()[1:]} == ids
    account.run(lake, 0)
    account.run(lake, 4)
    assert ids_of(lake, JANE) == set()
    # Of what is old, only the snapshot knows, and the ledgers that it covers.
    (lake / "raw").rename(lake / "elsewhere")
    assert erase(str(lake), email=JANE)["conversations"] == 0


@pytest.mark.parametrize("after", [False, True])
def test_it_may_be_killed_at_every_write(lakes, tmp_path, after):
    whole = lakes(tmp_path / "whole", "dstny_rest", samples=3)
    before, ids = data(whole), ids_of(whole, ERIK)
    with killing(10**9) as writes:
        erase(str(whole), email=ERIK)
    expected = {path: content for path, content in files(whole).items() if "erased" not in path}
    assert ids
    assert len(writes) > 20
    for at in range(1, len(writes) + 1):
        lake = lakes(tmp_path / str(at), "dstny_rest", samples=3)
        with killing(at, after=after), pytest.raises(Killed):
            erase(str(lake), email=ERIK)
        told = erase(str(lake), email=ERIK)
        assert {path: content for path, content in files(lake).items() if "erased" not in path} == expected, at
        assert_erased(lake, before, ids)
        assert_whole(lake)
        assert told["conversations"] <= len(ids)


def test_the_next_erasure_completes_one_that_was_killed(lakes, tmp_path):
    lake = lakes(tmp_path, "dstny_rest")
    before, ids = data(lake), ids_of(lake, JANE)
    with killing(8), pytest.raises(Killed):
        erase(str(lake), email=JANE)
    assert ids_of(lake, JANE)
    assert erase(str(lake), email="nobody@example.com")["conversations"] == len(ids)
    assert_erased(lake, before, ids)
    assert_whole(lake)


def test_parts_that_were_not_committed_are_erased_too(accounts, lakes, tmp_path):
    account, lake = accounts("dstny_rest"), lakes(tmp_path, "dstny_rest")
    parts = [path for path in files(lake) if path.startswith("raw/conversations/20261120T13")]
    assert any(JANE in json.dumps(row) for path in parts for row in rows(lake, path))
    # Nothing knows yet to whom these belong: an answer that was saved, and not the note on it.
    shutil.copytree(lake / Path(parts[0]).parent, lake / "raw/conversations/20261120T160000Z-20261120T170000Z")
    erase(str(lake), email=JANE)
    assert ids_of(lake, JANE) == set()
    account.run(lake, 2)
    account.run(lake, 5)
    assert ids_of(lake, JANE) == set()
    assert_whole(lake)


def test_leftovers_go_whatever_their_age(lakes, tmp_path):
    lake = lakes(tmp_path, "dstny_rest")
    kept = [lake / "mine" / ".x.0123456789ab.partial", lake / "conversations" / "notes.txt"]
    gone = [lake / folder / ".x.0123456789ab.partial" for folder in ("raw/conversations/x", "users/date=x", "_dstny/x")]
    for path in (*kept, *gone):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(JANE)
    erase(str(lake), email="nobody@example.com", dry_run=True)
    assert all(path.exists() for path in gone)
    erase(str(lake), email="nobody@example.com")
    assert [path.exists() for path in (*kept, *gone)] == [True, True, False, False, False]


@pytest.mark.parametrize("hashed", [["**.email"], ["**.email", "id"]])
def test_hashed_addresses_and_ids_are_found_with_the_salt(accounts, lakes, tmp_path, hashed):
    account = accounts("dstny_rest")
    plain = lakes(tmp_path / "plain", "dstny_rest", killed=False)
    ids = ids_of(plain, JANE)
    lake = lakes(tmp_path, "dstny_rest", killed=False, hash=hashed, salt=SALT)
    assert erase(str(lake), email=JANE) == NOTHING
    assert erase(str(lake), email=JANE, salt="another salt, long enough") == NOTHING
    if "id" in hashed:
        untouched = files(lake)
        with pytest.raises(DstnyValidationError, match="salt"):
            erase(str(lake), participant="Jane Doe")
        assert files(lake) == untouched
    assert erase(str(lake), email=JANE.upper(), salt=SALT)["conversations"] == len(ids)
    redaction = Redaction(hash=["x"], salt=SALT)
    assert ids_of(lake, redaction.redact({"x": JANE})["x"]) == set()
    account.run(lake, 3, redaction={"hash": hashed, "salt": SALT})
    account.run(lake, 0, redaction={"hash": hashed, "salt": SALT})
    assert ids_of(lake, redaction.redact({"x": JANE})["x"]) == set()
    assert_whole(lake)


def test_hashed_names_are_found_with_the_salt(lakes, tmp_path):
    lake = lakes(
        tmp_path, "tellcasey", hash=["participant_profile.first_name", "participant_profile.last_name"], salt=SALT
    )
    assert erase(str(lake), participant="Jane Doe") == NOTHING
    assert erase(str(lake), participant=" Jane  Doe", salt=SALT)["conversations"] > 0
    assert ids_of(lake, JANE) == set()


@pytest.mark.parametrize(
    ("api", "name", "email"),
    [
        ("dstny_rest", "jane DOE", JANE),
        ("dstny_rest", "Erik  Lindqvist", ERIK),
        ("tellcasey", "Jane Doe", JANE),
    ],
)
def test_a_person_is_found_by_name(lakes, tmp_path, api, name, email):
    lake, other = lakes(tmp_path, api), lakes(tmp_path / "other", api)
    assert erase(str(lake), participant=name) == erase(str(other), email=email)
    assert data(lake) == data(other)


# What is in an answer, and where.


def small_lake(path: Path, *answers: Any, directory: Any = None, tables: dict[str, list[Any]] | None = None) -> Path:
    """Write a lake of one interval that has committed nothing but these."""
    lake = path / "small"
    written = {"raw/conversations/i/00001-read.jsonl": answers}
    if directory is not None:
        written["raw/directory/i.jsonl"] = (directory,)
    for table, found in (tables or {}).items():
        written[f"{table}/date=2026-11-20/i.jsonl"] = tuple(found)
    written["_dstny/ledger/i-x.jsonl"] = ()
    for name, found in written.items():
        (lake / name).parent.mkdir(parents=True, exist_ok=True)
        (lake / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))
    manifest = Manifest(interval="i", files=(), counts={}, requests=0, ledger="_dstny/ledger/i-x.jsonl", redaction="")
    (lake / "_dstny/manifests").mkdir()
    (lake / "_dstny/manifests/i.json").write_text(manifest.to_json())
    return lake


ANN = {"email": "ann@example.com"}
NAMED = {"participant": "Ann Öberg"}


@pytest.mark.parametrize(
    ("who", "told"),
    [
        (ANN, {"participants": [{"name": "A", "email": " Ann@Example.COM"}]}),
        (ANN, {"participants": ["ann@example.com"]}),
        (ANN, {"user": {"email": "ann@example.com"}}),
        (ANN, {"conversation": {"owner_email": "ann@example.com"}}),
        (ANN, {"participant_profile": {"email": "ann@example.com"}}),
        (ANN, {"session_properties": {"contact": "ann@example.com"}}),
        (ANN, {"talk_ratios": {"ann@example.com": 0.4}}),
        (NAMED, {"participants": [{"full_name": "ann öberg"}]}),
        (NAMED, {"participants": [{"full_name": "Ann O\u0308berg"}]}),
        (NAMED, {"participants": ["Ann Öberg"]}),
        (NAMED, {"attendees": [{"name": "Ann Öberg", "email": None}]}),
        (NAMED, {"conversation": {"organizer": {"name": "Ann Öberg"}}}),
        (NAMED, {"conversation": {"owner_name": "Ann Öberg"}}),
        (NAMED, {"conversation": {"user_first_name": "Ann", "user_last_name": "Öberg"}}),
        (NAMED, {"participant_profile": {"first_name": "Ann", "last_name": "Öberg"}}),
        (NAMED, {"transcript": {"segments": [{"speaker": "Ann Öberg", "text": "Hi"}]}}),
        (NAMED, {"transcript": {"messages": [{"name": "Ann Öberg", "content": "Hi"}]}}),
        (NAMED, {"transcript": [{"speaker": {"name": "Ann Öberg"}, "text": "Hi"}]}),
    ],
)
def test_a_person_is_found_where_answers_show_people(tmp_path, who, told):
    lake = small_lake(tmp_path, {"id": "1", **told}, {"id": 2})
    assert erase(str(lake), **who)["conversations"] == 1
    assert rows(lake, "raw/conversations/i/00001-read.jsonl") == [{"id": 2}]


@pytest.mark.parametrize(
    ("who", "told"),
    [
        (ANN, {"participants": [{"email": "joann@example.com"}, {"email": "ann@example.com.au"}]}),
        (ANN, {"summary": "Write to ann@example.com", "transcript": "Ann: ann@example.com"}),
        (NAMED, {"participants": [{"name": "Joann Öberg"}, {"name": "Ann"}, {"name": "Öberg"}]}),
        (NAMED, {"title": "Ann Öberg", "company": "Ann Öberg", "department": {"name": "Ann Öberg"}}),
        (NAMED, {"playbooks": [{"name": "Ann Öberg"}], "participant_profile": {"first_name": "Ann"}}),
        (NAMED, {"transcript": {"segments": [{"speaker": "Bo", "text": "Ann Öberg"}]}}),
        (NAMED, {"participants": [None, 1, True, [], {}, {"name": 1}, {"first_name": 1, "last_name": None}]}),
    ],
)
def test_nobody_else_is_taken_for_the_person(tmp_path, who, told):
    lake = small_lake(tmp_path, {"id": "1", **told})
    before = files(lake)
    assert erase(str(lake), **who) == NOTHING
    assert files(lake) == before


def test_every_version_and_every_table_of_a_conversation_goes(tmp_path):
    lake = small_lake(
        tmp_path,
        {"id": "1", "participants": []},
        {"conversation_id": "2", "conversation": {"owner": "ann@example.com"}},
        tables={
            "participants": [{"conversation_id": "1", "extra": '"ann@example.com"'}, {"conversation_id": "3"}],
            "insights": [{"conversation_id": "1"}, {"conversation_id": "2"}, {"conversation_id": "3", "extra": "{"}],
            "messages": [{"conversation_id": "2", "extra": None}],
        },
    )
    told = erase(str(lake), **ANN)
    assert told == {**NOTHING, "conversations": 2, "files_rewritten": 2, "files_removed": 2, "rows_removed": 6}
    assert data(lake) == {
        "participants/date=2026-11-20/i.jsonl": [{"conversation_id": "3"}],
        "insights/date=2026-11-20/i.jsonl": [{"conversation_id": "3", "extra": "{"}],
    }


def test_a_user_is_found_by_the_id_that_the_directory_tells(tmp_path):
    lake = small_lake(
        tmp_path,
        {"conversation_id": "1", "conversation": {"owner_id": 7}},
        {"conversation_id": "2", "conversation": {"user": {"id": "7"}}},
        {"conversation_id": "3", "conversation": {"owner_id": 8, "participants": [{"id": 7}]}},
        directory={"users": [{"id": 7, "email": "ann@example.com"}, {"id": 8, "email": "bo@example.com"}]},
        tables={"team_members": [{"team_id": "a", "user_id": "7"}, {"team_id": "a", "user_id": "8"}]},
    )
    told = erase(str(lake), **ANN)
    assert (told["conversations"], told["directory_rows_removed"]) == (2, 2)
    assert [row["conversation_id"] for row in rows(lake, "raw/conversations/i/00001-read.jsonl")] == ["3"]
    assert rows(lake, "team_members/date=2026-11-20/i.jsonl") == [{"team_id": "a", "user_id": "8"}]


def test_the_directory_loses_the_person_and_nobody_else(tmp_path):
    ann, bo = {"id": 7, "email_aliases": ["ann@example.com"]}, {"id": 8, "email": "bo@example.com", "manager": ANN}
    row = {"team_id": "a", "name": "A", "extra": json.dumps({"lead": "ann@example.com", "managers": [ann, bo]})}
    lake = small_lake(
        tmp_path,
        directory={
            "users": [ann, bo],
            "teams": [{"id": "a", "email": "a@example.com", "owner_id": 7, "members": [bo, ann], "managers": [ann]}],
            "departments": None,
        },
        tables={
            "users": [{"user_id": "8", "email": "bo@example.com", "extra": json.dumps({"manager": ANN})}],
            "teams": [{**row, "_dstny_hash": "x" * 32}, {"team_id": "b", "extra": None}],
        },
    )
    told = erase(str(lake), **ANN)
    assert (told["conversations"], told["files_rewritten"], told["rows_removed"]) == (0, 3, 0)
    left = {"id": 8, "email": "bo@example.com"}
    assert rows(lake, "raw/directory/i.jsonl") == [
        {
            "users": [left],
            "teams": [{"id": "a", "email": "a@example.com", "members": [left], "managers": []}],
            "departments": None,
        }
    ]
    assert rows(lake, "users/date=2026-11-20/i.jsonl") == [{"user_id": "8", "email": "bo@example.com", "extra": None}]
    first, second = rows(lake, "teams/date=2026-11-20/i.jsonl")
    assert json.loads(first["extra"]) == {"managers": [left]}
    assert len(first["_dstny_hash"]) == 32
    assert first["_dstny_hash"] != "x" * 32
    assert second == {"team_id": "b", "extra": None}
    assert erase(str(lake), **ANN) == NOTHING


def test_the_hash_of_a_row_is_the_one_that_an_export_would_write(lakes, tmp_path):
    lake = lakes(tmp_path, "dstny_rest")
    path = next(path for path in files(lake) if path.startswith("users/"))
    for row in rows(lake, path):
        assert erase_module._row_of(row, [{k: v for k, v in row.items() if k != "extra"}, None]) == row


def test_parquet_is_written_as_an_export_writes_it(accounts, lakes, tmp_path):
    pytest.importorskip("pyarrow")
    account, lake = accounts("dstny_rest"), lakes(tmp_path, "dstny_rest", "parquet", killed=False)
    erase(str(lake), email=JANE)
    after = {
        path: content for path, content in files(lake).items() if path.endswith("T110000Z-20261120T120000Z.parquet")
    }
    account.run(lake, 0, file_format="parquet")
    assert after == {path: content for path, content in files(lake).items() if path in after}


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "Either"),
        ({**ANN, **NAMED}, "Either"),
        ({"email": " \n"}, "blank"),
        ({"participant": ""}, "blank"),
        ({"email": 7}, "text"),
        ({"email": "Ann Öberg"}, "no @"),
        ({"participant": "ann@example.com"}, "an @"),
        ({**ANN, "salt": "short"}, "16"),
    ],
)
def test_wrong_arguments_change_nothing(tmp_path, arguments, reason):
    lake = small_lake(tmp_path, {"id": "1", "user": ANN, "participants": [{"name": "Ann Öberg"}]})
    before = files(lake)
    with pytest.raises(DstnyValidationError, match=reason) as caught:
        erase(str(lake), **arguments)
    assert files(lake) == before
    assert "ann" not in str(caught.value).lower().replace("cannot", "")


def test_what_is_no_lake_is_refused(tmp_path):
    with pytest.raises(DstnyValidationError, match="no lake"):
        erase(str(tmp_path / "none"), **ANN)
    assert not (tmp_path / "none").exists()
    file = tmp_path / "conversations" / "date=2026-11-20" / "mine.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text('{"conversation_id": "1", "user_email": "ann@example.com"}\n')
    with pytest.raises(DstnyValidationError, match="no lake"):
        erase(str(tmp_path), **ANN)
    with pytest.raises(DstnyValidationError, match="is a file"):
        erase(str(file), **ANN)
    assert file.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("raw/conversations/i/00002-read.jsonl", b"ann@example.com\n"),
        ("raw/conversations/i/00002-read.jsonl", b'{"id": "3"'),
        ("raw/conversations/i/00002-read.jsonl", b"[" * 100_000),
        ("raw/conversations/i/00002-read.jsonl", b"\xff\n"),
        ("raw/directory/i.jsonl", b"\n"),
        ("conversations/date=2026-11-20/i.jsonl", b"{]"),
        ("conversations/date=2026-11-20/i.parquet", b"PAR1"),
        ("_dstny/manifests/j.json", b"{}"),
        ("_dstny/ledger/i-x.jsonl", b'{"id": "1"}\n'),
        ("_dstny/unfinished/i/00001-read.jsonl", b"[]\n"),
        ("_dstny/unfinished/erased-x/files.json", b"1"),
    ],
)
def test_what_cannot_be_read_changes_nothing(tmp_path, name, content):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    lake = small_lake(tmp_path, {"id": "1", "user": ANN})
    (lake / name).parent.mkdir(parents=True, exist_ok=True)
    (lake / name).write_bytes(content)
    before = files(lake)
    with pytest.raises(DstnyValidationError) as caught:
        erase(str(lake), **ANN)
    assert files(lake) == before
    assert "ann@" not in str(caught.value)


def test_parquet_of_others_is_not_rewritten(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    lake = small_lake(tmp_path, {"id": "1", "user": ANN})
    path = lake / "conversations" / "date=2026-11-20" / "mine.parquet"
    path.parent.mkdir(parents=True)
    table = arrow.table({"conversation_id": ["1"], "user_email": ["ann@example.com"], "tags": [["a"]]})
    import_module("pyarrow.parquet").write_table(table, path)
    before = files(lake)
    with pytest.raises(DstnyValidationError, match="columns"):
        erase(str(lake), **ANN)
    assert files(lake) == before


def test_answers_of_odd_forms_break_nothing(tmp_path):
    odd = [1, None, [], "x", {}, {"id": None}, {"id": []}, {"id": {"x": 1}}, {"conversation": 1}]
    lake = small_lake(
        tmp_path, *odd, ["ann@example.com"], {"id": None, "user": ANN}, {"id": " 1 ", "user": ANN}, {"id": 1}
    )
    told = erase(str(lake), **ANN)
    assert rows(lake, "raw/conversations/i/00001-read.jsonl") == odd
    assert (told["conversations"], told["rows_removed"]) == (1, 4)


def test_an_entry_from_the_future_does_not_win(tmp_path):
    lake = small_lake(tmp_path, {"id": "1", "user": ANN})
    later = datetime.now(UTC) + timedelta(days=1)
    entry = {"state": "complete", "date": NOON, "version": "x", "first_seen": NOON, "changed_at": later, "id": "1"}
    (lake / "_dstny/ledger/i-x.jsonl").write_text(json.dumps(entry, default=datetime.isoformat) + "\n")
    erase(str(lake), **ANN)
    (ledger,) = (lake / "_dstny/ledger").glob("erased-*")
    (row,) = rows(lake, str(ledger.relative_to(lake)))
    assert row["state"] == "erased"
    assert datetime.fromisoformat(row["changed_at"]) > later


def test_nothing_is_told_of_the_person(lakes, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    lake = lakes(tmp_path, "dstny_rest")
    erase(str(lake), participant="Jane Doe")
    told = caplog.text.lower()
    assert "erased" in told
    assert not any(word in told for word in ("jane", "doe"))
    assert not any("Jane" in path.read_text() for path in (lake / "_dstny").rglob("*erased*") if path.is_file())


def test_a_lake_at_a_relative_path(tmp_path, monkeypatch):
    if storage_path("small").path.startswith("/"):
        pytest.skip("this Airflow takes it from the root")
    lake = small_lake(tmp_path, {"id": "1", "user": ANN})
    monkeypatch.chdir(tmp_path)
    assert erase("small", **ANN)["conversations"] == 1
    assert erase(str(lake), **ANN) == NOTHING


def test_a_lake_in_memory(accounts):
    account = accounts("tellcasey")
    with memory_lake() as lake:
        account.run(lake, 0)
        assert erase(lake, email=JANE)["conversations"] > 0
        assert erase(lake, email=JANE) == NOTHING
        account.run(lake, 0)
        assert erase(lake, email=JANE) == NOTHING


def test_no_manifest_ever_names_what_is_not_there(lakes, tmp_path):
    whole = lakes(tmp_path / "whole", "dstny_rest", samples=3)
    with killing(10**9) as writes:
        removed = erase(str(whole), email=ERIK)["files_removed"]
    assert removed > 0
    for at in range(1, len(writes) + 1):
        lake = lakes(tmp_path / str(at), "dstny_rest", samples=3)
        with killing(at), pytest.raises(Killed):
            erase(str(lake), email=ERIK)
        named = [
            file.path
            for path in (lake / "_dstny/manifests").glob("*.json")
            for file in Manifest.from_json(path.read_bytes()).files
        ]
        assert [path for path in named if not (lake / path).exists()] == [], at
