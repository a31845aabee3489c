from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import (
    DstnyAuthError,
    DstnyQuotaError,
    DstnyResponseError,
    DstnyServerError,
    DstnyValidationError,
)
from airflow_provider_dstny.api.tellcasey import TellcaseyClient
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.windows import Interval
from airflow_provider_dstny.landing import export as export_module
from airflow_provider_dstny.landing import reporting
from airflow_provider_dstny.landing.export import Export
from airflow_provider_dstny.landing.sources import RestSource
from airflow_provider_dstny.simulator import Simulator
from airflow_provider_dstny.simulator.books import Fault

from .lakes import (
    CONVERSATION_TABLES,
    DAY,
    HOUR,
    NOON,
    PHONE,
    SALT,
    SECRET,
    TABLES,
    Account,
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
    run_now,
    strays,
    watched,
)

LAST_HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
AUTH = DstnyAuthError(401, "get_conversation: Invalid or expired token.")
SERVER = DstnyServerError(500, "get_conversation: Simulated fault.")


def killed(account, root, interval, at, **changed):
    killer = Killer(at)
    with watched(killer), pytest.raises(Killed):
        run(account, root, interval, **changed)


# The three APIs.


def client_of(simulator, name):
    kinds = {
        "dstny_rest": (DstnyRestClient, simulator.rest_token),
        "dstny": (DstnyClient, simulator.token),
        "tellcasey": (TellcaseyClient, simulator.tellcasey_token),
    }
    kind, token = kinds[name]
    return kind(simulator.url, token, requests_per_minute=1e6, max_retries=0)


def land(simulator, name, root, interval=None, **changed):
    async def export():
        async with client_of(simulator, name) as client:
            given = {"tables": frozenset(LAYOUTS[name].tables), "redaction": Redaction.parse(None, LAYOUTS[name])}
            made = options(interval or Interval(LAST_HOUR - HOUR, LAST_HOUR), **{**given, **changed})
            return await Export(client, f"file://{root}", made).run()

    return asyncio.run(export())


@pytest.fixture(scope="module")
def shared_simulator():
    with Simulator(requests_per_minute=None, samples=12, fresh=0, dstny_samples=12) as running:
        yield running


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
@pytest.mark.parametrize("name", ["dstny_rest", "dstny", "tellcasey"])
def test_an_account_is_landed_and_told_of(shared_simulator, tmp_path, name, file_format):
    outcome = land(shared_simulator, name, tmp_path, file_format=file_format)
    assert_tidy(tmp_path)
    landed = reporting.landed(outcome)
    known = {
        "dstny_rest": shared_simulator.rest.conversations,
        "dstny": shared_simulator.state.calls,
        "tellcasey": shared_simulator.tellcasey.conversations,
    }[name]
    in_time = landed["rows"]["conversations"]
    assert 0 < in_time <= len(known)
    assert landed["listed"] >= landed["read"] == landed["complete"] == in_time
    assert set(landed["rows"]) <= set(LAYOUTS[name].tables)
    assert {name.rpartition(".")[2] for name in curated(tmp_path)} == {file_format}
    assert set(landed["rows"]) >= {table.name for table in LAYOUTS[name].conversation_tables[:2]}
    raw = [json.loads(line) for line in files_of(tmp_path)[_first_raw(tmp_path)].splitlines()]
    assert len(raw) == in_time
    text = json.dumps(raw)
    assert "token_prefix" not in text
    assert shared_simulator.rest_token[:11] not in text
    if file_format == "jsonl":
        ids = [row["conversation_id"] for row in rows_of(tmp_path)]
        assert len(ids) == len({*ids}) == in_time
    assert json.loads(json.dumps(landed)) == landed


def _first_raw(root):
    return next(name for name in files_of(root) if name.startswith("raw/conversations/"))


@pytest.mark.parametrize("name", ["dstny_rest", "dstny"])
def test_the_directory_is_landed_once_a_day(shared_simulator, tmp_path, name):
    before = shared_simulator.books.count("list_users")
    for number in range(2):
        start = LAST_HOUR - HOUR * (2 - number) / 60
        land(shared_simulator, name, tmp_path, Interval(start, start + HOUR / 60), tables=frozenset({"users"}))
    days = {str(one.snapshot_of) for one in manifests(tmp_path).values() if one.snapshot_of}
    users = [path for path in curated(tmp_path) if path.startswith("users/")]
    assert len(users) == len(days) == shared_simulator.books.count("list_users") - before
    assert doubled(tmp_path) == []


def test_a_manifest_tells_the_size_of_a_snapshot(tmp_path):
    account = Account()
    run(account, tmp_path, hour(0))
    assert_intact(tmp_path, manifest(tmp_path, hour(0)))


# The same interval again.


def test_a_repeated_interval_writes_the_same_bytes_and_asks_for_the_list_only(tmp_path):
    account = Account()
    account.add("a", "b", at="2026-11-20T11:30:00+01:00")
    account.add("c", has_transcript=False)
    account.add("no-date", at="yesterday")
    run(account, tmp_path, hour(0))
    before = curated(tmp_path)
    asked = account.requests
    run_now(account, tmp_path, hour(0))
    assert curated(tmp_path) == before
    assert account.requests == asked + 1
    assert_tidy(tmp_path)


def test_a_repeated_interval_is_the_same_after_later_ones_have_landed_newer_versions(tmp_path):
    account = Account()
    account.add("a", "b", "c")
    run(account, tmp_path, hour(0))
    before = {name: content for name, content in curated(tmp_path).items() if "T110000Z" in name}
    account.change("a", title="second")
    account.delete("b")
    account.now += 25 * HOUR
    run(account, tmp_path, hour(1))
    assert latest(tmp_path)["b"]["deleted"]
    reads = len(account.reads)
    run(account, tmp_path, hour(0))
    assert {name: content for name, content in curated(tmp_path).items() if "T110000Z" in name} == before
    assert len(account.reads) == reads
    assert latest(tmp_path)["a"]["title"] == "second"
    assert_tidy(tmp_path)


@pytest.mark.parametrize("tables", [TABLES, frozenset({"conversations"})])
def test_a_repeated_interval_can_have_another_format_and_other_tables(tmp_path, tables):
    account = Account()
    account.add("a", "b")
    run(account, tmp_path, hour(0))
    run(account, tmp_path, hour(0), file_format="parquet", tables=tables)
    ends = {name.rpartition(".")[2] for name in curated(tmp_path) if not name.startswith("users/")}
    assert ends == {"parquet"}
    assert {name.split("/")[0] for name in curated(tmp_path)} == {*tables & CONVERSATION_TABLES, "users"}
    assert_tidy(tmp_path)
    assert len(account.reads) == 2


def test_what_a_retry_of_an_older_interval_finds_is_what_counts(tmp_path):
    account = Account()
    account.add("a", has_transcript=False)
    killed(account, tmp_path, hour(0), 2)
    run(account, tmp_path, hour(1))
    account.change("a", has_transcript=True, title="second")
    account.now += 3 * HOUR
    run(account, tmp_path, hour(0))
    run(account, tmp_path, hour(2))
    run(account, tmp_path, hour(3))
    assert latest(tmp_path)["a"]["title"] == "second"
    assert doubled(tmp_path) == []


def test_a_deletion_that_a_retry_of_an_older_interval_finds_is_what_counts(tmp_path):
    account = Account()
    account.add("a")
    killed(account, tmp_path, hour(0), 2)
    run(account, tmp_path, hour(1))
    account.delete("a")
    account.now += 30 * HOUR
    run(account, tmp_path, hour(0))
    for number in range(2, 30, 9):
        run(account, tmp_path, hour(number))
    assert latest(tmp_path)["a"]["deleted"]


def test_intervals_in_any_order_lose_nothing(tmp_path):
    account = Account()
    for number in range(4):
        account.add(f"c{number}", at=hour(number).start + HOUR / 2)
    account.now = hour(5).end
    for number in (3, 0, 2, 1):
        account.change("c0", title=f"after {number}")
        run_now(account, tmp_path, hour(number))
    run_now(account, tmp_path, hour(4))
    assert {one: row["title"] for one, row in latest(tmp_path).items()} == {
        "c0": "after 1",
        **{f"c{number}": "first" for number in (1, 2, 3)},
    }
    assert_tidy(tmp_path)
    assert doubled(tmp_path) == []


# What can go wrong.


def fail_at(account, error, number):
    """Let the account answer an error from its reading of that number on, counted from 1."""

    def before_read(_):
        account.error = error if len(account.reads) >= number - 1 else None

    account.before_read = before_read


def test_a_token_that_is_revoked_ends_a_run_which_a_retry_goes_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_BATCH", 4)
    account = Account()
    account.add(*(f"c{number}" for number in range(12)))
    fail_at(account, AUTH, 6)
    with pytest.raises(DstnyAuthError):
        run(account, tmp_path, hour(0))
    assert manifests(tmp_path) == {}
    account.before_read = account.error = None
    read = len(account.reads)
    run(account, tmp_path, hour(0))
    assert len(account.reads) - read <= 12 - 5
    assert len(rows_of(tmp_path)) == 12
    assert_tidy(tmp_path)


def test_a_quota_that_ends_ends_a_run_well_and_the_next_day_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(export_module, "_BATCH", 4)
    account = Account()
    account.add(*(f"c{number:02}" for number in range(12)))
    resets_at = datetime(2026, 11, 21, tzinfo=UTC)
    fail_at(account, DstnyQuotaError(429, "get_conversation: Daily quota.", resets_at=resets_at), 6)
    outcome = run(account, tmp_path, hour(0), concurrency=1)
    assert (outcome.counts["read"], outcome.counts["left"], outcome.resets_at) == (5, 7, resets_at)
    assert len(rows_of(tmp_path)) == 12
    account.before_read = account.error = None
    account.reads.clear()
    run(account, tmp_path, hour(13))
    assert len(account.reads) == 7
    assert all(row["transcript_shape"] == "segments" for row in latest(tmp_path).values())
    assert doubled(tmp_path) == []


def test_a_planned_quota_leaves_rows_of_the_list_and_the_next_days_go_on(tmp_path):
    account = Account()
    account.add(*(f"c{number}" for number in range(7)))
    for number, left in ((0, 4), (24, 1), (48, 0)):
        outcome = run(account, tmp_path, hour(number), daily_quota=4, quota_reserve=1)
        assert outcome.counts["left"] == left
        assert len(latest(tmp_path)) == 7
        assert outcome.resets_at == (NOON.replace(hour=0) + DAY * (number / 24 + 1) if left else None)
    assert sorted(account.reads) == sorted(account.talks)
    assert doubled(tmp_path) == []


def test_three_failures_in_a_row_end_a_run_and_what_was_read_is_saved(tmp_path):
    account = Account()
    account.add("a0", "a1", "a2")
    account.add("b0", "b1", "b2", "b3", at=NOON - HOUR, error=SERVER)
    outcome = run(account, tmp_path, hour(0), concurrency=1)
    assert (outcome.counts["read"], outcome.counts["failed"], outcome.counts["left"]) == (3, 3, 1)
    assert outcome.resets_at is None
    for one in ("b0", "b1", "b2", "b3"):
        account.change(one, error=None)
    run(account, tmp_path, hour(0))
    assert len(account.reads) == 6 + 4
    assert len(rows_of(tmp_path)) == 7


def test_one_that_fails_is_counted_and_tried_again_and_the_others_are_landed(tmp_path):
    account = Account()
    account.add("a", "b", "c")
    account.change("b", error=SERVER)
    outcome = run(account, tmp_path, hour(0))
    assert outcome.counts["failed"] == 1
    assert [*outcome.failures] == ["b"]
    assert {one: row["transcript_shape"] for one, row in latest(tmp_path).items()} == {
        "a": "segments",
        "b": None,
        "c": "segments",
    }
    account.change("b", error=None)
    account.reads.clear()
    run(account, tmp_path, hour(0))
    assert account.reads == ["b"]
    assert latest(tmp_path)["b"]["transcript_shape"] == "segments"
    assert_tidy(tmp_path)


def test_three_that_always_fail_do_not_keep_the_others_from_being_landed(tmp_path):
    account = Account()
    account.add("p0", "p1", "p2", error=SERVER)
    account.add("a", "b", at=NOON - HOUR)
    assert run(account, tmp_path, hour(0), concurrency=1).counts["failed"] == 3
    outcome = run(account, tmp_path, hour(1), concurrency=1)
    assert (outcome.counts["complete"], outcome.counts["failed"]) == (2, 3)
    assert {one: row["transcript_shape"] for one, row in latest(tmp_path).items() if one in "ab"} == {
        "a": "segments",
        "b": "segments",
    }


def test_one_that_is_listed_and_not_found_is_landed_as_the_list_shows_it(tmp_path):
    account = Account()
    account.add("a", is_there=False)
    for number in range(0, 200, 12):
        run(account, tmp_path, hour(number))
    assert "a" in latest(tmp_path)


def test_one_that_is_listed_before_it_is_found_is_landed_once_it_is(tmp_path):
    account = Account()
    account.add("a", is_there=False)
    run(account, tmp_path, hour(0))
    account.change("a", is_there=True)
    run(account, tmp_path, hour(2))
    assert latest(tmp_path)["a"]["title"] == "first"
    assert not latest(tmp_path)["a"]["deleted"]


@pytest.mark.parametrize("redaction", [None, {"hash": ["id"], "salt": SALT}])
def test_a_deletion_is_a_tombstone_which_a_new_listing_supersedes(tmp_path, redaction):
    account, given = Account(), {"redaction": Redaction.parse(redaction)}
    account.add("a", "b")
    run(account, tmp_path, hour(0), **given)
    account.delete("a")
    account.now += 25 * HOUR
    run(account, tmp_path, hour(1), **given)
    shown = next(one for one, row in latest(tmp_path).items() if row["deleted"])
    assert (shown == "a") == (redaction is None)
    run_now(account, tmp_path, hour(1), **given)
    assert_tidy(tmp_path)
    account.change("a", is_listed=True, is_there=True)
    # Within the interval that landed the tombstone, too.
    run_now(account, tmp_path, hour(1), **given)
    assert not latest(tmp_path)[shown]["deleted"]
    run(account, tmp_path, hour(2), **given)
    assert len(latest(tmp_path)) == 2
    # What is there again is landed again, after its tombstone.
    assert len(rows_of(tmp_path)) == 3
    assert_tidy(tmp_path)
    if redaction:
        assert not any(b'"id":"a"' in content for name, content in files_of(tmp_path).items() if "raw/" in name)


def test_what_was_never_landed_has_no_tombstone(tmp_path):
    account, given = Account(), {"redaction": Redaction(apply=lambda body: None)}
    account.add("a")
    run(account, tmp_path, hour(0), **given)
    account.delete("a")
    account.now += 25 * HOUR
    run(account, tmp_path, hour(1), **given)
    assert account.reads == ["a", "a"]
    assert rows_of(tmp_path) == []


def test_a_deletion_after_apply_has_left_a_conversation_out_is_a_tombstone(tmp_path):
    account = Account()
    account.add("a")
    run(account, tmp_path, hour(0))
    account.change("a", title="second")
    run(account, tmp_path, hour(1), redaction=Redaction(apply=lambda body: None))
    account.delete("a")
    account.now += 25 * HOUR
    run(account, tmp_path, hour(2))
    assert latest(tmp_path)["a"]["deleted"]


def test_an_answer_on_another_conversation_is_a_failure(tmp_path):
    account = Account()
    account.add("a", "b")
    account.change("a", body={"id": "b"})
    outcome = run(account, tmp_path, hour(0))
    assert isinstance(outcome.failures["a"], DstnyResponseError)
    assert {row["title"] for row in rows_of(tmp_path)} == {"first"}
    assert len(rows_of(tmp_path)) == 2


@pytest.mark.parametrize("date", [None, "", "yesterday", 5, "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_one_without_a_date_is_landed_and_read(tmp_path, date):
    account = Account()
    account.add("a", at="x", row={"date": date})
    run(account, tmp_path, hour(0))
    assert "conversations/date=__HIVE_DEFAULT_PARTITION__/20261120T110000Z-20261120T120000Z.jsonl" in curated(tmp_path)
    for number in (1, 2, 3):
        run(account, tmp_path, hour(number))
    assert latest(tmp_path)["a"]["transcript_shape"] == "segments"
    assert account.reads == ["a"]
    assert doubled(tmp_path) == []


def test_a_date_of_another_timezone_is_landed_by_its_utc_day(tmp_path):
    account = Account()
    account.add("a", at="2026-11-20T01:30:00+05:00")
    account.add("b", at="2026-11-19T23:30:00-05:00")
    run(account, tmp_path, hour(0))
    assert {row["conversation_id"]: row["occurred_at"][:10] for row in rows_of(tmp_path)} == {
        "a": "2026-11-19",
        "b": "2026-11-20",
    }
    assert {name.split("/")[1] for name in curated(tmp_path) if name.startswith("conversations")} == {
        "date=2026-11-19",
        "date=2026-11-20",
    }


@pytest.mark.parametrize(
    "odd", ["../../etc/passwd", "a/b", "..", ".", "a\nb", "a b ", "%2e%2e", "é", "x" * 10_000, 7, 10**30, "'; DROP--"]
)
def test_odd_ids_stay_inside_the_lake(tmp_path, odd):
    account = Account()
    account.add("a", odd)
    root = tmp_path / "deep" / "lake"
    run(account, root, hour(0))
    run_now(account, root, hour(0))
    assert len(rows_of(root)) == 2
    assert [file for file in tmp_path.rglob("*") if file.is_file() and root not in file.parents] == []
    assert_tidy(root)


@pytest.mark.parametrize("odd", ["cut \ud83d", "", " "])
def test_a_row_of_the_list_with_an_impossible_id_does_not_end_every_run(tmp_path, odd):
    account = Account()
    account.add("a")
    # As the clients do with ids that cannot be sent.
    account.add(odd, error=DstnyValidationError(None, "conversation_id is empty or not an id."))
    run(account, tmp_path, hour(0))
    assert "a" in latest(tmp_path)


def nested(levels):
    value = "deep"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "odd",
    [
        {"title": "cut \ud83d", "x": ["\udc00", {"\ud800": 1}]},
        {"duration": float("nan"), "x": float("inf")},
        {"participants": 5, "insights": {"a": 1}},
        {"transcript": "said", "summary": {"text": 1}},
        {"x": 10**300},
        {"x": nested(200)},
    ],
)
@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_odd_answers_are_landed(tmp_path, odd, file_format):
    account = Account()
    account.add("a", "b")
    account.change("b", row={name: odd[name] for name in odd if name != "transcript"}, body=odd)
    outcome = run(account, tmp_path, hour(0), file_format=file_format)
    run_now(account, tmp_path, hour(0), file_format=file_format)
    assert outcome.failures == {}
    assert reporting.landed(outcome)["rows"]["conversations"] == 2
    assert_tidy(tmp_path)


def test_a_row_of_the_list_that_is_nested_deep_does_not_end_a_run(tmp_path):
    account = Account()
    account.add("a")
    # JSON of this depth can be read and, within a task, not written.
    account.add("b", row={"department": nested(970)})
    run(account, tmp_path, hour(0))
    assert "a" in latest(tmp_path)


# Redaction.


def test_apply_may_leave_a_conversation_out(tmp_path):
    account = Account()
    account.add("a", "b")
    redaction = Redaction(apply=lambda body: None if body["id"] == "a" else body)
    run(account, tmp_path, hour(0), redaction=redaction)
    run(account, tmp_path, hour(1), redaction=redaction)
    assert [row["conversation_id"] for row in rows_of(tmp_path)] == ["b"]
    assert len(account.reads) == 2
    assert not any(b'"a"' in content for name, content in files_of(tmp_path).items() if "raw/" in name)


def test_apply_that_drops_the_id_fails(tmp_path):
    account = Account()
    account.add("a", "b")

    def apply(body):
        return {name: value for name, value in body.items() if name != "id" or body["id"] != "a"}

    with pytest.raises(DstnyValidationError, match="id") as caught:
        run(account, tmp_path, hour(0), redaction=Redaction(apply=apply))
    assert SECRET not in str(caught.value)


def test_what_was_read_is_saved_when_apply_raises(tmp_path):
    account = Account()
    account.add(*(f"c{number}" for number in range(9)))
    broken = ["c8"]

    def apply(body):
        if body["id"] in broken:
            raise KeyError("summary")
        return body

    with pytest.raises(Exception, match="summary"):
        run(account, tmp_path, hour(0), redaction=Redaction(apply=apply), concurrency=1)
    account.reads.clear()
    broken.clear()
    run(account, tmp_path, hour(0), redaction=Redaction(apply=apply))
    assert account.reads == ["c8"]


@pytest.mark.parametrize("committed", [False, True])
def test_a_stricter_redaction_holds_for_what_an_earlier_try_has_saved(tmp_path, committed):
    account = Account()
    account.add("a")
    if committed:
        run(account, tmp_path, hour(0))
    else:
        killed(account, tmp_path, hour(0), 5)
    run(account, tmp_path, hour(0), redaction=Redaction(drop=["participants.email", "transcript", "insights"]))
    assert not any(b"jane@example.com" in content for content in files_of(tmp_path).values())
    assert not any(SECRET.encode() in content for content in curated(tmp_path).values())


def test_hashed_ids_survive_a_kill_a_repetition_and_a_newer_version_within_one_interval(tmp_path):
    account, given = Account(), {"redaction": Redaction(hash=["id"], salt=SALT), "tables": CONVERSATION_TABLES}
    account.add("a", "b")
    killed(account, tmp_path, hour(0), 5, **given)
    run(account, tmp_path, hour(0), **given)
    assert len(account.reads) == 2
    before = curated(tmp_path)
    run_now(account, tmp_path, hour(0), **given)
    assert curated(tmp_path) == before
    account.change("a", title="second")
    run_now(account, tmp_path, hour(0), **given)
    run_now(account, tmp_path, hour(0), **given)
    assert sorted(row["title"] for row in rows_of(tmp_path)) == ["first", "second"]
    assert len(account.reads) == 3
    assert_tidy(tmp_path)
    assert not any(b'"conversation_id":"a"' in content for content in curated(tmp_path).values())


# Privacy.


def everything_told(caplog, root):
    """Return all that a run tells outside the tables: logs, manifests, ledgers, notes, snapshots, names of files."""
    files = files_of(root)
    kept = [content.decode() for name, content in files.items() if name.startswith("_dstny/")]
    records = [f"{record.getMessage()} {record.exc_text} {record.args}" for record in caplog.records]
    return " ".join([*records, *kept, *files])


def test_nothing_that_was_said_is_told_anywhere(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(export_module, "_BATCH", 2)
    caplog.set_level(logging.DEBUG)
    account = Account()
    account.add("a", "b", "c", "d", title=SECRET)
    account.change("b", error=DstnyServerError(500, "get_conversation: Simulated fault."))
    killed(account, tmp_path, hour(0), 4)
    told = everything_told(caplog, tmp_path)
    outcome = run(account, tmp_path, hour(0), daily_quota=3)
    account.delete("a")
    account.now += 25 * HOUR
    run(account, tmp_path, hour(1))
    told += everything_told(caplog, tmp_path) + str(reporting.landed(outcome)) + str(outcome.failures)
    for secret in (SECRET, PHONE, "Jane", "jane@"):
        assert secret not in told


def test_no_token_is_landed_or_told(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with Simulator(requests_per_minute=None, samples=3, fresh=0) as simulator:
        simulator.books.inject(Fault("status", "get_conversation", status=500, message=f"x {simulator.rest_token} y"))
        outcome = land(simulator, "dstny_rest", tmp_path)
        told = everything_told(caplog, tmp_path) + str(outcome.failures)
        text = told + "".join(content.decode() for content in files_of(tmp_path).values())
        assert outcome.counts["failed"] == 1
        assert simulator.rest_token not in text
        assert "token_prefix" not in text


def test_errors_of_a_run_quote_nothing(tmp_path):
    account = Account()
    account.add("a", title=SECRET)
    wrong = (lambda body: {**body, "x": {1, 2}}, lambda body: [SECRET], lambda body: {"title": SECRET})
    for number, apply in enumerate(wrong):
        with pytest.raises(DstnyValidationError) as caught:
            run(account, tmp_path / str(number), hour(0), redaction=Redaction(apply=apply))
        assert SECRET not in f"{caught.value} {caught.value.__context__} {caught.value.__cause__}"


# Clocks.


@pytest.mark.parametrize("tells_time", [True, False])
@pytest.mark.parametrize("ahead", [timedelta(hours=-5), timedelta(minutes=-3), timedelta(minutes=3)])
def test_a_worker_whose_clock_is_wrong_lands_all_once(tmp_path, ahead, tells_time):
    account = Account(worker_ahead=ahead, tells_time=tells_time)
    for number in range(4):
        account.add(f"c{number}", at=hour(number).start + HOUR / 2)
        run(account, tmp_path, hour(number))
    account.worker_ahead = timedelta(0)
    run(account, tmp_path, hour(4))
    run(account, tmp_path, hour(30))
    assert len(latest(tmp_path)) == 4
    assert sorted(account.reads) == sorted(account.talks)
    assert doubled(tmp_path) == []


def test_what_a_run_reads_is_known_to_the_next_though_its_clock_was_ahead(tmp_path):
    account = Account(worker_ahead=5 * HOUR)
    account.add("a", "b")
    # The list is read before the clock of the API is known.
    run(account, tmp_path, hour(0), daily_quota=1)
    account.now = datetime(2026, 11, 21, 0, 5, tzinfo=UTC)
    account.worker_ahead = timedelta(0)
    account.change("a", title="second")
    account.worker_ahead = 5 * HOUR
    run(account, tmp_path, hour(13))
    account.worker_ahead = timedelta(0)
    run(account, tmp_path, hour(14))
    run(account, tmp_path, hour(15))
    assert doubled(tmp_path) == []
    assert len(account.reads) == 3


def test_a_clock_that_goes_back_makes_no_run_forget_what_another_has_read(tmp_path):
    account = Account(worker_ahead=3 * HOUR)
    account.add("a", "b", "c")
    run(account, tmp_path, hour(0), daily_quota=1)
    account.worker_ahead = timedelta(0)
    run(account, tmp_path, hour(1), daily_quota=3)
    account.reads.clear()
    run(account, tmp_path, hour(2))
    assert account.reads == []
    assert doubled(tmp_path) == []


def test_what_the_list_has_just_forgotten_is_not_deleted(tmp_path):
    account = Account(forgets_details=True)
    account.add("a", at=NOON - 20 * DAY)
    run(account, tmp_path, hour(0))
    # The next sweep is when it turns 30 days old: the worker is five minutes behind.
    account.worker_ahead = -timedelta(minutes=5)
    account.now = NOON + 10 * DAY + timedelta(minutes=2)
    run_now(account, tmp_path, Interval(account.now - HOUR, account.now - timedelta(minutes=1)))
    assert not latest(tmp_path)["a"]["deleted"]


def test_a_run_across_midnight_spends_no_quota_twice(tmp_path):
    account = Account()
    account.add(*(f"c{number}" for number in range(4)))
    days: Counter[date] = Counter()
    account.before_read = lambda _: days.update([account.now.date()])
    for milliseconds in range(10, 90, 20):
        lake = tmp_path / str(milliseconds)
        account.now = datetime(2026, 11, 21, tzinfo=UTC) - timedelta(milliseconds=milliseconds)
        days.clear()
        assert run_now(account, lake, hour(11), daily_quota=2, concurrency=1).counts["left"] == 2
        account.now = max(account.now, datetime(2026, 11, 21, 0, 1, tzinfo=UTC))
        run_now(account, lake, hour(12), daily_quota=2)
        assert max(days.values()) <= 2
        assert doubled(lake) == []


def test_a_run_across_midnight_waits_for_no_second_midnight(tmp_path):
    account = Account()
    account.add(*(f"c{number}" for number in range(4)))
    account.now = datetime(2026, 11, 20, 23, 59, 59, 980_000, tzinfo=UTC)
    account.before_read = lambda _: setattr(account, "now", account.now + timedelta(minutes=1))
    outcome = run_now(account, tmp_path, hour(11), daily_quota=2, concurrency=1)
    assert outcome.counts["left"] == 2
    assert outcome.resets_at == datetime(2026, 11, 21, tzinfo=UTC)


@pytest.mark.parametrize("hours_ahead", [1, 20])
def test_an_interval_that_has_not_ended_yet_is_landed_as_far_as_it_goes(tmp_path, hours_ahead):
    account = Account()
    account.add("a")
    run(account, tmp_path, hour(0))
    run_now(account, tmp_path, hour(hours_ahead))
    account.add("b", at=hour(hours_ahead).start)
    run(account, tmp_path, hour(hours_ahead + 1))
    assert sorted(latest(tmp_path)) == ["a", "b"]


def test_an_interval_far_in_the_future_is_no_error(shared_simulator, tmp_path):
    land(shared_simulator, "dstny_rest", tmp_path, tables=CONVERSATION_TABLES)
    start = LAST_HOUR + 5 * DAY
    land(shared_simulator, "dstny_rest", tmp_path, Interval(start, start + HOUR), tables=CONVERSATION_TABLES)


def test_an_interval_of_no_length_is_landed(tmp_path):
    account = Account()
    account.add("a")
    run(account, tmp_path, Interval(NOON, NOON))
    run(account, tmp_path, Interval(NOON, NOON))
    assert [row["conversation_id"] for row in rows_of(tmp_path)] == ["a"]
    assert_tidy(tmp_path)


def test_an_interval_older_than_the_list_is_an_empty_commit(tmp_path):
    account = Account()
    account.add("a", at=NOON - 40 * DAY)
    old = Interval(NOON - 41 * DAY, NOON - 40 * DAY)
    outcome = run(account, tmp_path, old)
    assert account.requests == 0
    assert outcome.manifest is not None
    assert outcome.manifest.files == ()
    run(account, tmp_path, hour(0))
    assert rows_of(tmp_path) == []


def test_ids_of_a_ledger_end_where_the_states_say(tmp_path):
    account = Account()
    account.add("a")
    account.add("b", has_transcript=False)
    run(account, tmp_path, hour(0))
    for number in range(12, 240, 12):
        run(account, tmp_path, hour(number))
    assert ledger_states(tmp_path) == {"a": "complete", "b": "no_transcript"}
    assert strays(tmp_path) == []
    assert doubled(tmp_path) == []


def test_a_transcript_that_is_nested_deep_is_no_transcript():
    source = RestSource.__new__(RestSource)
    source._include = {"include_transcript": True, "include_insights": True}
    for levels in (90, 900):
        assert source.is_complete({"transcript": {"segments": nested(levels)}}) in (True, False)
