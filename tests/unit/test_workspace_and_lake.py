from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from airflow_provider_dstny.api.errors import DstnyError, DstnyValidationError
from airflow_provider_dstny.landing import export as export_module
from airflow_provider_dstny.landing import lake as lake_module
from airflow_provider_dstny.landing.lake import Lake
from airflow_provider_dstny.landing.workspace import Workspace

from .lakes import (
    DAY,
    HOUR,
    NOON,
    SECRET,
    TABLES,
    Account,
    FakeClient,
    FakeSource,
    Killed,
    Killer,
    assert_intact,
    assert_tidy,
    curated,
    doubled,
    files_of,
    hour,
    latest,
    ledger_states,
    manifest,
    manifests,
    options,
    rows_of,
    run,
    strays,
    watched,
)

BATCH = 3


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch):
    monkeypatch.setattr(export_module, "_BATCH", BATCH)
    monkeypatch.setattr(export_module, "_LISTED_BATCH", 2)
    # What hundreds of runs tell takes longer than what they do.
    monkeypatch.setattr(export_module._log, "disabled", True)


@pytest.fixture
def begun(tmp_path):
    """A lake with one interval, and an account in which something of all kinds has happened since."""
    account = Account()
    account.add("same", "changed", "deleted", "talking")
    account.add("late", has_transcript=False)
    account.add("failing", error=None)
    root = tmp_path / "begun"
    run(account, root, hour(0))
    account.change("changed", title="second")
    account.change("late", has_transcript=True)
    account.delete("deleted")
    account.now += 25 * HOUR
    account.add("new-1", "new-2", "new-3", "new-4", at=NOON + HOUR / 2)
    account.add("other-day", at=NOON - 40 * HOUR)
    account.add("not-yet", at=NOON + HOUR / 2, has_transcript=False)
    return account, root


def killed_run(account, root, interval, killer, **changed):
    with watched(killer):
        try:
            run(account, root, interval, **changed)
        except Killed:
            return True
    return False


def raw_rows(root):
    """Return what was landed raw, whatever parts it is in."""
    files = [content for name, content in files_of(root).items() if name.startswith("raw/") and "/." not in name]
    return Counter(line for content in files for line in content.splitlines())


def each_kill(begun, tmp_path, interval, *, step=1, **changed):
    """Kill a run of an interval before and after its mutations; yield what is left, each in its own folder.

    :param step: 1 for each of them.
    """
    account, root = begun
    whole, counter = tmp_path / "whole", Killer()
    shutil.copytree(root, whole)
    witness = copy.deepcopy(account)
    assert not killed_run(witness, whole, interval, counter, **changed)
    for at in range(1, len(counter.done) + 1):
        # After one is before the next, but for the last one.
        for after in (False,) if at < len(counter.done) else (False, True):
            if (len(counter.done) - at) % step:
                continue
            here, its_account = tmp_path / f"{at}-{after}", copy.deepcopy(account)
            shutil.copytree(root, here)
            killer = Killer(at, after=after)
            assert killed_run(its_account, here, interval, killer, **changed)
            its_account.reads_of_whole = len(witness.reads)
            yield f"{at} {'after' if after else 'before'} {killer.done[-1]}", its_account, here, whole
            shutil.rmtree(here)


def truth(account):
    """Return the title that counts of each conversation that ever was, None for a deleted one."""
    return {one: talk.title if talk.is_there else None for one, talk in account.talks.items()}


def told(root):
    return {one: None if row["deleted"] else row["title"] for one, row in latest(root).items()}


# Kills.


@pytest.mark.parametrize("ledgers", [24, 1])
def test_a_kill_between_any_two_writes_leaves_what_was_committed_and_a_retry_makes_it_whole(
    begun, tmp_path, monkeypatch, ledgers
):
    monkeypatch.setattr(lake_module, "_LEDGERS", ledgers)
    problems = []
    for what, account, here, whole in each_kill(begun, tmp_path, hour(1)):
        for committed in manifests(here).values():
            assert_intact(here, committed)
        run(account, here, hour(1))
        read_again = len(account.reads) - account.reads_of_whole
        if curated(here) != curated(whole):
            problems.append(f"{what}: other curated files")
        if raw_rows(here) != raw_rows(whole):
            problems.append(f"{what}: other raw rows")
        if doubled(here):
            problems.append(f"{what}: doubled {doubled(here)}")
        if left := strays(here):
            problems.append(f"{what}: strays {left}")
        if read_again > BATCH:
            problems.append(f"{what}: {read_again} read again")
    assert problems == []


def test_a_kill_while_a_committed_interval_is_repeated_leaves_no_stray_files(begun, tmp_path):
    account, root = begun
    run(account, root, hour(1))
    account.change("not-yet", has_transcript=True)
    account.now += 3 * HOUR
    problems = []
    for what, its_account, here, whole in each_kill((account, root), tmp_path, hour(1)):
        run(its_account, here, hour(1))
        if curated(here) != curated(whole):
            problems.append(f"{what}: other curated files")
        if doubled(here) or strays(here):
            problems.append(f"{what}: doubled {doubled(here)}, strays {strays(here)}")
    assert problems == []


def test_a_kill_while_the_format_is_switched_leaves_no_stray_files(begun, tmp_path):
    problems = []
    for what, account, here, whole in each_kill(begun, tmp_path, hour(0), step=2, file_format="parquet"):
        run(account, here, hour(0), file_format="parquet")
        if curated(here) != curated(whole):
            problems.append(f"{what}: {sorted(curated(here).keys() ^ curated(whole).keys())}")
        if left := strays(here):
            problems.append(f"{what}: strays {left}")
    assert problems == []


def test_a_later_interval_between_a_kill_and_the_retry_doubles_nothing_and_loses_nothing(begun, tmp_path):
    problems = []
    for what, account, here, _ in each_kill(begun, tmp_path, hour(1)):
        account.add("newer", at=NOON + HOUR * 1.5)
        run(account, here, hour(2))
        account.change("not-yet", has_transcript=True, title="at last")
        account.now += 3 * HOUR
        run(account, here, hour(1))
        run(account, here, hour(3))
        if left := strays(here):
            problems.append(f"{what}: strays {left}")
        if doubled(here):
            problems.append(f"{what}: doubled {doubled(here)}")
        if told(here) != truth(account):
            problems.append(f"{what}: {told(here).items() ^ truth(account).items()}")
    assert problems == []


def test_without_a_retry_what_manifests_name_is_landed_once(begun, tmp_path):
    problems = []
    for what, account, here, _ in each_kill(begun, tmp_path, hour(1)):
        account.add("newer", at=NOON + HOUR * 1.5)
        run(account, here, hour(2))
        for stray in strays(here):
            (here / stray).unlink()
        for committed in manifests(here).values():
            assert_intact(here, committed)
        if doubled(here) or told(here) != truth(account):
            problems.append(f"{what}: doubled {doubled(here)} {told(here).items() ^ truth(account).items()}")
    assert problems == []


def test_a_retry_in_another_format_removes_what_the_killed_try_has_written(begun, tmp_path):
    problems = []
    for what, account, here, _ in each_kill(begun, tmp_path, hour(0), step=4):
        run(account, here, hour(0), file_format="parquet", tables=TABLES - {"insights"})
        if left := strays(here):
            problems.append(f"{what}: strays {left}")
    assert problems == []


def test_two_kills_in_a_row_are_gone_on_from(begun, tmp_path):
    problems = []
    for what, account, here, whole in each_kill(begun, tmp_path, hour(1), step=4):
        for at in (3, 7):
            killed_run(account, here, hour(1), Killer(at))
        run(account, here, hour(1))
        if curated(here) != curated(whole) or strays(here):
            problems.append(f"{what}: {strays(here)}")
    assert problems == []


def test_a_retry_after_a_kill_goes_on_with_what_was_saved(tmp_path):
    account = Account()
    account.add("a", "b", "c")
    assert killed_run(account, tmp_path, hour(0), Killer(4, after=True))
    run(account, tmp_path, hour(0))
    assert sorted(account.reads) == ["a", "b", "c"]


@pytest.mark.parametrize(("minutes", "lists"), [(50, 1), (70, 2)])
def test_a_retry_lists_again_what_was_listed_long_ago(tmp_path, minutes, lists):
    account = Account()
    account.add("a", "b", "c")
    assert killed_run(account, tmp_path, hour(0), Killer(3))
    account.add("after")
    account.now += timedelta(minutes=minutes)
    run(account, tmp_path, hour(0))
    assert account.lists == lists
    assert ("after" in latest(tmp_path)) == (lists == 2)
    run(account, tmp_path, hour(1))
    assert sorted(latest(tmp_path)) == ["a", "after", "b", "c"]
    assert strays(tmp_path) == []


def test_a_retry_lists_again_if_it_looks_back_further(tmp_path):
    account = Account()
    account.add("a")
    account.add("old", at=NOON - 5 * DAY)
    run(account, tmp_path, hour(-100))
    assert killed_run(account, tmp_path, hour(-30), Killer(3))
    account.lists = 0
    run(account, tmp_path, hour(-30), lookback=6 * DAY)
    assert account.lists == 1


def test_a_list_that_was_cut_off_or_changed_is_read_again(tmp_path):
    account = Account()
    account.add("a")
    assert killed_run(account, tmp_path, hour(0), Killer(3))
    (listing,) = tmp_path.rglob("listing.jsonl")
    whole = listing.read_text()
    for broken in ("", "{}", "[]", whole[:-9], whole.replace('"id"', '"di"'), "null\n" + whole):
        account.lists = 0
        here = tmp_path.parent / f"{tmp_path.name}-{len(broken)}"
        shutil.copytree(tmp_path, here, dirs_exist_ok=True)
        next(here.rglob("listing.jsonl")).write_text(broken)
        run(copy.deepcopy(account), here, hour(0))
        assert sorted(latest(here)) == ["a"]


def test_a_retry_lands_what_an_earlier_try_was_not_going_to_read(tmp_path):
    account = Account()
    account.add("a", "b", "c")
    # The rows of the list that the quota leaves are landed before the first conversation is read.
    killer = Killer(5)
    assert killed_run(account, tmp_path, hour(0), killer, daily_quota=1)
    account.delete("b")
    account.delete("c")
    run(account, tmp_path, hour(0), daily_quota=1)
    assert sorted(latest(tmp_path)) == ["a", "b", "c"], killer.done


def test_curated_files_of_a_killed_try_do_not_outlive_a_retry_that_lands_less(tmp_path):
    account = Account()
    account.add("a")
    tables = frozenset({"conversations"})
    # Its manifest is the last but its leftovers.
    counter = Killer()
    killed_run(copy.deepcopy(account), tmp_path / "whole", hour(0), counter, tables=tables)
    at = 1 + next(place for place, what in enumerate(counter.done) if what.endswith(".json") and "files" not in what)
    account.now = hour(0).end
    assert killed_run(account, tmp_path / "lake", hour(0), Killer(at), tables=tables)
    run(account, tmp_path / "lake", hour(1), tables=tables)
    run(account, tmp_path / "lake", hour(0), tables=tables)
    assert doubled(tmp_path / "lake") == []
    assert strays(tmp_path / "lake") == []


def test_a_directory_that_was_not_committed_is_not_left_beside_another_of_the_day(tmp_path):
    account = Account()
    assert killed_run(account, tmp_path, hour(0), Killer(4, after=True), tables=frozenset({"users"}))
    run(account, tmp_path, hour(1), tables=frozenset({"users"}))
    run(account, tmp_path, hour(0), tables=frozenset({"users"}))
    assert [name for name in curated(tmp_path) if name.startswith("users/")] == [
        "users/date=2026-11-20/20261120T120000Z-20261120T130000Z.jsonl"
    ]


# Two runs of one interval at a time.


@pytest.mark.parametrize("at", ["a", "b"])
def test_of_two_runs_of_an_interval_the_later_goes_on_and_the_earlier_says_so(tmp_path, at):
    account = Account()
    account.add("a", "b", "c", "d")

    def meanwhile(conversation_id):
        if conversation_id == at:
            account.before_read = None
            other = threading.Thread(
                target=run, args=(account, tmp_path, hour(0)), kwargs={"conversation_ids": ("c", "d")}
            )
            other.start()
            other.join()

    account.before_read = meanwhile
    with pytest.raises(DstnyError, match=r"Another task lands the interval .* max_active_tis_per_dag=1"):
        run(account, tmp_path, hour(0), conversation_ids=("a", "b"), concurrency=1)
    assert sorted(latest(tmp_path)) == ["c", "d"]
    assert strays(tmp_path) == []
    run(account, tmp_path, hour(0), conversation_ids=("a", "b"))
    assert sorted(latest(tmp_path)) == ["a", "b", "c", "d"]
    assert doubled(tmp_path) == []
    assert_tidy(tmp_path)


def test_a_run_that_was_overtaken_between_its_last_answer_and_its_commit_commits_nothing(tmp_path, mocker):
    account = Account()
    account.add("a", "b")
    write_tables = export_module.Curated.write_tables

    def overtaken(self):
        mocker.stop(patched)
        Lake(f"file://{tmp_path}", self._lake.interval).take_over()
        return write_tables(self)

    patched = mocker.patch.object(export_module.Curated, "write_tables", overtaken)
    with pytest.raises(DstnyError, match="Another task lands the interval"):
        run(account, tmp_path, hour(0))
    assert latest(tmp_path) == {}
    run(account, tmp_path, hour(0))
    assert sorted(latest(tmp_path)) == sorted(account.reads) == ["a", "b"]
    assert_tidy(tmp_path)


# Snapshots, and files that are gone or broken.


def test_ledgers_are_put_together_and_can_be_made_anew_from_manifests(tmp_path):
    account = Account()
    for number in range(30):
        account.add(f"c{number}", at=hour(number).start)
        run(account, tmp_path, hour(number))
    snapshots = [*(tmp_path / "_dstny" / "snapshots").iterdir()]
    assert len(snapshots) == 1
    states = ledger_states(tmp_path)
    assert len(states) == 30
    assert len(account.reads) == 30
    for remove in (False, True):
        if remove:
            shutil.rmtree(tmp_path / "_dstny" / "snapshots")
        with Workspace() as work:
            Lake(f"file://{tmp_path}", "none").load(work)
            assert {one: entry.state for one, entry, _ in work.entries()} == states
    run(account, tmp_path, hour(30))
    assert len(account.reads) == 30
    assert_tidy(tmp_path)


def test_another_format_is_refused_before_anything_is_listed_or_landed(tmp_path, monkeypatch):
    monkeypatch.setattr(lake_module, "_LEDGERS", 1)
    account = Account()
    account.add("a")
    # The first run's manifest is read, then a snapshot of it.
    for number in range(3):
        run(account, tmp_path, hour(number))
        before, lists = files_of(tmp_path), account.lists
        with pytest.raises(DstnyValidationError, match="has tables as jsonl, and format is 'parquet': set format='jso"):
            run(account, tmp_path, hour(number + 1), file_format="parquet")
        (owner,) = files_of(tmp_path).keys() - before.keys()
        assert owner.endswith("/owner")
        assert account.lists == lists
    assert [*(tmp_path / "_dstny" / "snapshots").iterdir()]


def test_putting_together_is_idempotent(tmp_path, monkeypatch):
    monkeypatch.setattr(lake_module, "_LEDGERS", 1)
    account = Account()
    account.add("a")
    run(account, tmp_path, hour(0))
    run(account, tmp_path, hour(1))
    folder = tmp_path / "_dstny" / "snapshots"
    (before,) = folder.iterdir()
    content = before.read_bytes()
    for _ in range(3):
        with Workspace() as work:
            lake = Lake(f"file://{tmp_path}", "none")
            past = lake.load(work)
            past.ledgers_read = 99
            lake.put_together(past, work, since=None)
        assert len([*folder.iterdir()]) == 1
    with Workspace() as work:
        Lake(f"file://{tmp_path}", "none").load(work)
        assert [one for one, _, _ in work.entries()] == ["a"]
    assert json.loads(content.splitlines()[1])["id"] == "a"


def test_a_snapshot_that_goes_while_it_is_read_is_no_trouble(tmp_path, monkeypatch):
    monkeypatch.setattr(lake_module, "_LEDGERS", 1)
    account = Account()
    account.add("a", "b")
    run(account, tmp_path, hour(0))
    run(account, tmp_path, hour(1))
    names, gone = Lake._names, []

    def names_then_gone(self, folder):
        found = names(self, folder)
        if folder.endswith("snapshots") and not gone:
            gone.extend(found)
            shutil.rmtree(tmp_path / "_dstny" / "snapshots")
        return found

    monkeypatch.setattr(Lake, "_names", names_then_gone)
    run(account, tmp_path, hour(2))
    assert gone
    assert len(account.reads) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"covers": {}}\n[1]\n',
        b'{"covers": {}}\n{"id": 5}\n',
        b"the-secret-words\n",
        b'{"covers"',
        b"\xff\xfe\n",
        b'{"covers": {}}\n{"id": "a", "the-secret-words": 1}\n',
        b"[" * 100_000 + b"\n",
        pytest.param(b"[1]\n"),
        pytest.param(b"null\n"),
        pytest.param(b'{"covers": [1]}\n'),
        pytest.param(b'{"snapshots_of": 5}\n'),
        pytest.param(
            b'{}\n{"id": "a", "state": "new", "date": "2026-11-20T10:30:00", "version": "x", '
            b'"first_seen": "2026-11-20T10:30:00", "changed_at": "2026-11-20T10:30:00"}\n'
        ),
    ],
)
def test_a_broken_snapshot_is_not_believed(tmp_path, content, caplog):
    account = Account()
    account.add("a")
    run(account, tmp_path, hour(0))
    broken = tmp_path / "_dstny" / "snapshots" / "0123456789abcdef.jsonl"
    broken.parent.mkdir()
    broken.write_bytes(content)
    account.reads.clear()
    run(account, tmp_path, hour(1))
    assert account.reads == []
    assert "0123456789abcdef.jsonl was changed or cut off" in caplog.text
    assert SECRET not in caplog.text


def test_a_snapshot_that_was_cut_at_a_line_is_not_believed(tmp_path, monkeypatch):
    monkeypatch.setattr(lake_module, "_LEDGERS", 1)
    account = Account()
    account.add("a", "b")
    run(account, tmp_path, hour(0))
    run(account, tmp_path, hour(1))
    (snapshot,) = (tmp_path / "_dstny" / "snapshots").iterdir()
    snapshot.write_bytes(b"".join(snapshot.read_bytes().splitlines(keepends=True)[:-1]))
    try:
        run(account, tmp_path, hour(2))
    except DstnyValidationError:
        return
    assert doubled(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"the-secret-words", b"\xff", b"[" * 100_000, b'{"version": 2}'])
def test_a_broken_manifest_is_told_by_its_path_and_not_by_its_content(tmp_path, content):
    account = Account()
    account.add("a")
    path = run(account, tmp_path, hour(0)).manifest_path
    Path(path.removeprefix("file://")).write_bytes(content)
    for number in (0, 1):
        with pytest.raises(DstnyValidationError, match=r"manifests/20261120T110000Z-20261120T120000Z\.json") as caught:
            run(account, tmp_path, hour(number))
        assert SECRET not in f"{caught.value} {caught.value.__context__}"


@pytest.mark.parametrize("content", [b"{}\n", b"the-secret-words\n", b"[]\n", b"\xff\n"])
def test_a_broken_ledger_is_told_by_its_path_and_not_by_its_content(tmp_path, content):
    account = Account()
    account.add("a")
    run(account, tmp_path, hour(0))
    (tmp_path / manifest(tmp_path, hour(0)).ledger).write_bytes(content)
    with pytest.raises(DstnyValidationError, match=r"_dstny/ledger/20261120T110000Z-2026.*jsonl") as caught:
        run(account, tmp_path, hour(1))
    assert SECRET not in f"{caught.value} {caught.value.__context__}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("00001-read.jsonl", b"the-secret-words\n"),
        pytest.param("00001-read.jsonl", b"[]\n"),
        pytest.param("00001-read.jsonl", b"{}\n"),
        pytest.param("files.json", b"the-secret"),
        pytest.param("files.json", b"5"),
    ],
)
def test_broken_leftovers_of_a_try_count_as_cut_off(tmp_path, name, content, caplog):
    account = Account()
    account.add("a")
    folder = tmp_path / "_dstny" / "unfinished" / "20261120T110000Z-20261120T120000Z"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    run(account, tmp_path, hour(0))
    assert set(latest(tmp_path)) == {"a"}
    assert not folder.exists()
    assert SECRET not in caplog.text


def test_a_repeated_interval_whose_raw_files_are_gone_loses_no_curated_rows(tmp_path):
    account = Account()
    account.add("a", "b")
    run(account, tmp_path, hour(0))
    before = curated(tmp_path)
    # As a rule of the bucket might, after some months.
    shutil.rmtree(tmp_path / "raw" / "conversations")
    with suppress(DstnyValidationError, FileNotFoundError):
        run(account, tmp_path, hour(0))
    assert curated(tmp_path) == before


# Runs side by side.


def two_at_once(account, root, first, second):
    """Run an interval while another one is reading: the second begins and ends within the first reading."""
    done = []

    def meanwhile(_):
        if not done:
            done.append(True)
            account.before_read = None
            thread = threading.Thread(target=run, args=(account, root, second))
            thread.start()
            thread.join()

    account.before_read = meanwhile
    run(account, root, first)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0)])
def test_runs_side_by_side_land_twice_what_both_read_and_lose_nothing(tmp_path, first, second):
    account = Account()
    account.add("a", "b", "c", "d")
    two_at_once(account, tmp_path, hour(first), hour(second))
    assert_tidy(tmp_path)
    # As documented.
    assert {row["conversation_id"] for row in rows_of(tmp_path)} == {*account.talks}
    assert len(rows_of(tmp_path)) <= 8
    assert told(tmp_path) == truth(account)
    account.reads.clear()
    run(account, tmp_path, hour(2))
    assert account.reads == []
    assert len(manifests(tmp_path)) == 3


def test_a_repeated_interval_may_replace_its_ledger_while_another_reads(tmp_path, monkeypatch):
    account = Account()
    account.add("a", has_transcript=False)
    run(account, tmp_path, hour(0))
    account.change("a", has_transcript=True)
    read_manifest, once = Lake._read_manifest, []

    def replaced(self, path):
        found = read_manifest(self, path)
        if not once:
            once.append(True)
            account.now += 3 * HOUR
            thread = threading.Thread(target=run, args=(account, tmp_path, hour(0)))
            thread.start()
            thread.join()
        return found

    monkeypatch.setattr(Lake, "_read_manifest", replaced)
    run(account, tmp_path, hour(1))
    assert account.reads == ["a", "a"]
    assert doubled(tmp_path) == []


# What a killed process leaves.

_CHILD = """
import asyncio, os, sys, threading, time
from unittest import mock
sys.path.insert(0, {root!r})
from tests.unit.lakes import *
account = Account()
account.add(*[f"c{{n}}" for n in range(120)])
def stop(_):
    if len(account.reads) == 110:
        print("here", flush=True)
        time.sleep(60)
account.before_read = stop
run(account, {path!r}, hour(0))
"""
_CHILD_IN_A_FILE = """
import sys, time
sys.path.insert(0, {root!r})
from tests.unit.lakes import *
from airflow_provider_dstny.storage import PartialFile
account = Account()
account.add(*[f"c{{n}}" for n in range(120)])
def keep_as(self, name):
    print("here", flush=True)
    self._bytes.flush()
    time.sleep(60)
PartialFile.keep_as = keep_as
run(account, {path!r}, hour(0))
"""


@pytest.mark.parametrize("script", [_CHILD, _CHILD_IN_A_FILE])
def test_a_killed_process_leaves_no_content_outside_the_lake(tmp_path, script):
    temporary, lake = tmp_path / "tmp", tmp_path / "lake"
    temporary.mkdir()
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-c", script.format(root=root, path=str(lake))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temporary), "SQLITE_TMPDIR": str(temporary), "AIRFLOW_HOME": str(tmp_path)},
        cwd=root,
    )
    assert child.stdout is not None
    try:
        while (line := child.stdout.readline()) and b"here" not in line:
            pass
        assert line
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert [file for file in temporary.rglob("*") if file.is_file() and SECRET.encode() in file.read_bytes()] == []
    hidden = [file for file in lake.rglob(".*") if file.is_file()]
    assert all(file.name.endswith(".partial") for file in hidden)
    shown = [file for file in lake.rglob("*") if file.is_file() and file not in hidden]
    assert all("unfinished" in str(file) or "raw" in str(file) for file in shown)


def test_partial_files_of_killed_tries_are_removed_when_they_are_old(tmp_path):
    account = Account()
    account.add("a")
    run(account, tmp_path, hour(0))
    left = tmp_path / "_dstny" / "partial" / ".00001-read.jsonl.0123456789ab.partial"
    left.write_text(SECRET)
    os.utime(left, (time.time() - 30 * 86400,) * 2)
    run(account, tmp_path, hour(0))
    run(account, tmp_path, hour(1))
    assert not left.exists()


def test_partial_files_that_may_still_be_written_stay(tmp_path):
    account = Account()
    account.add("a")
    run(account, tmp_path, hour(0))
    left = tmp_path / "_dstny" / "partial" / ".x.jsonl.0123456789ab.partial"
    left.write_text(SECRET)
    run(account, tmp_path, hour(0))
    assert left.exists()


def test_a_workspace_has_no_name_in_the_file_system(tmp_path, monkeypatch):
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    with Workspace() as work:
        for number in range(3000):
            work.keep_list_row(f"c{number}", {"title": SECRET * 100})
        assert [*tmp_path.iterdir()] == []
    assert tempfile.gettempdir()


def test_an_id_with_half_a_surrogate_pair_ends_no_run(tmp_path):
    account = Account()
    account.add("a", "cut \ud83d")
    outcome = run(account, tmp_path, hour(0))
    assert "a" in latest(tmp_path)
    assert outcome.manifest is not None


def test_the_fake_source_has_the_protocol():
    source = FakeSource(FakeClient(Account()), TABLES)
    assert source.layout.name == "dstny_rest"
    assert options(hour(0)).interval == hour(0)
    assert rows_of(Path("/nowhere")) == []
