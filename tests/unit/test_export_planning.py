"""What a run of the export reads: windows, what is known of each conversation, and the daily quota."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_dstny.export.ledger import Ledger, Listed, State
from airflow_provider_dstny.export.planner import Reason, plan, tasks_of
from airflow_provider_dstny.export.windows import Interval, Window, window_of

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
INTERVAL = Interval(NOW - HOUR, NOW)


def row(one="a", *, age=HOUR / 2, version="v1"):
    return Listed(one, NOW - age, version)


def read(ledger, one, now=NOW, *, has_transcript=True):
    return ledger.was_read(one, now, has_transcript=has_transcript, give_up_after=3 * DAY)


class TestWindows:
    def window(self, **changes):
        given = {
            "server_time": NOW + HOUR / 2,
            "lookback": 7 * DAY,
            "last_sweep": NOW - DAY,
            "sweep_every": 7 * DAY,
            **changes,
        }
        return window_of(given.pop("interval", INTERVAL), **given)

    def test_a_run_looks_back_from_its_interval(self):
        assert self.window() == Window(NOW - HOUR - 7 * DAY, NOW, is_sweep=False)

    def test_what_the_server_has_not_seen_yet_is_not_read(self):
        assert self.window(server_time=NOW - HOUR / 2).until == NOW - HOUR / 2

    @pytest.mark.parametrize("last_sweep", [None, NOW - 7 * DAY])
    def test_the_whole_list_is_read_now_and_then(self, last_sweep):
        window = self.window(last_sweep=last_sweep)
        assert window.is_sweep
        assert window.since == NOW + HOUR / 2 - 30 * DAY

    def test_no_window_begins_where_the_list_does_not_reach(self):
        assert self.window(lookback=60 * DAY).since == NOW + HOUR / 2 - 30 * DAY

    def test_an_interval_that_the_list_has_forgotten_has_no_window(self):
        assert self.window(interval=Interval(NOW - 40 * DAY, NOW - 39 * DAY)) is None


class TestLedger:
    def test_it_survives_being_stored(self):
        ledger = Ledger()
        ledger.see(row("new"), NOW)
        read(ledger, row("done"))
        read(ledger, row("waits"), has_transcript=False)
        stored = json.loads(json.dumps(list(ledger.changes())))
        again = Ledger()
        again.load(stored)
        assert [again.get(one).state for one in ("new", "done", "waits")] == ["new", "complete", "pending"]
        assert list(again.changes()) == [], "only what this run has changed"
        assert again.get("waits") == ledger.get("waits")

    @pytest.mark.parametrize("swapped", [False, True])
    def test_of_two_runs_the_later_one_counts(self, swapped):
        early, late = Ledger(), Ledger()
        read(early, row(), NOW, has_transcript=False)
        read(late, row(), NOW + HOUR)
        stored = [list(early.changes()), list(late.changes())]
        again = Ledger()
        for rows in stored[::-1] if swapped else stored:
            again.load(rows)
        assert again.get("a").state is State.COMPLETE

    def test_what_stays_without_a_transcript_is_given_up(self):
        ledger = Ledger()
        assert read(ledger, row(), NOW, has_transcript=False).state is State.PENDING
        assert read(ledger, row(), NOW + 2 * DAY, has_transcript=False).state is State.PENDING
        assert read(ledger, row(), NOW + 3 * DAY, has_transcript=False).state is State.NO_TRANSCRIPT

    def test_what_a_window_no_longer_lists_may_be_gone(self):
        ledger = Ledger()
        for one, age in (("listed", HOUR), ("missing", HOUR), ("older", 10 * DAY), ("gone", HOUR)):
            read(ledger, row(one, age=age))
        ledger.is_gone("gone", NOW)
        window = Window(NOW - DAY, NOW, is_sweep=False)
        assert ledger.missing(window, {"listed"}) == ["missing"]

    def test_pending_ones_that_the_list_will_forget_are_named(self):
        ledger = Ledger()
        for one, age in (("fresh", DAY), ("old", 29 * DAY), ("lost", 31 * DAY)):
            read(ledger, row(one, age=age), has_transcript=False)
        read(ledger, row("done", age=29 * DAY))
        assert ledger.about_to_be_lost(NOW) == ["old"]


class TestPlanner:
    def test_the_most_urgent_is_read_first_and_of_that_the_oldest(self):
        ledger = Ledger()
        read(ledger, row("waits"), NOW - 2 * HOUR, has_transcript=False)
        read(ledger, row("changed"))
        read(ledger, row("done"))
        rows = [
            row("done"),
            row("backfill", age=DAY),
            row("changed", version="v2"),
            row("waits"),
            row("new", age=HOUR / 4),
            row("older", age=HOUR / 2),
        ]
        tasks = tasks_of(rows, ledger, INTERVAL, NOW)
        assert [(task.listed.id, task.reason) for task in tasks] == [
            ("older", Reason.NEW),
            ("new", Reason.NEW),
            ("waits", Reason.PENDING),
            ("changed", Reason.CHANGED),
            ("backfill", Reason.BACKFILL),
        ]

    def test_what_is_pending_is_read_ever_less_often(self):
        ledger, now, looks = Ledger(), NOW, 0
        while now < NOW + 3 * DAY:
            if tasks_of([row()], ledger, INTERVAL, now):
                read(ledger, row(), now, has_transcript=False)
                looks += 1
            now += HOUR
        assert looks == 7

    def test_what_was_deleted_and_is_listed_again_is_read(self):
        ledger = Ledger()
        read(ledger, row())
        ledger.is_gone("a", NOW)
        assert [task.reason for task in tasks_of([row()], ledger, INTERVAL, NOW)] == [Reason.CHANGED]

    def test_the_quota_counts_each_conversation_once_a_day(self):
        tasks = tasks_of([row(one) for one in "abcd"], Ledger(), INTERVAL, NOW)
        found = plan(tasks, quota_left=2, read_today={"d"}, requests_per_minute=60)
        assert [task.listed.id for task in found.to_read] == ["a", "b", "d"]
        assert [task.listed.id for task in found.left] == ["c"]
        assert found.counted == 2
        assert found.minutes == 3 / 60
        assert found.days_left(1000) == 1

    def test_without_a_quota_nothing_is_left(self):
        tasks = tasks_of([row(one) for one in "abcd"], Ledger(), INTERVAL, NOW)
        found = plan(tasks, quota_left=None, read_today=set(), requests_per_minute=None)
        assert len(found.to_read) == 4
        assert found.left == []
        assert (found.minutes, found.days_left(0)) == (0.0, 0)
