"""What a run of the export reads: windows, what is known of each conversation, and the daily quota."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_dstny.export.ledger import Entry, Listed, State
from airflow_provider_dstny.export.planner import Day, Reason, Task, plan, reason_of
from airflow_provider_dstny.export.windows import Interval, Window, window_of

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
INTERVAL = Interval(NOW - HOUR, NOW)


def row(*, age=HOUR / 2, version="v1"):
    return Listed("a", NOW - age, version)


def seen(listed=None, now=NOW, before=None):
    return Entry.seen(before, listed or row(), now)


def read(entry, now=NOW, *, complete=True, content="c1"):
    return entry.was_read(now, complete=complete, content=content, give_up_after=3 * DAY)


def reason(entry, *, now=NOW, completed=None):
    return reason_of("a", entry, recent=NOW - 2 * DAY, now=now, completed=completed)


class TestWindows:
    def window(self, **changes):
        given = {
            "server_time": NOW + HOUR / 2,
            "lookback": 7 * DAY,
            "last_sweep": NOW - DAY,
            "sweep_every": 7 * DAY,
            "forgotten_after": 30 * DAY,
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

    def test_an_older_interval_does_not_sweep_after_a_newer_one_has(self):
        assert not self.window(interval=Interval(NOW - 20 * DAY, NOW - 19 * DAY)).is_sweep

    def test_no_window_begins_where_the_list_does_not_reach(self):
        assert self.window(lookback=60 * DAY).since == NOW + HOUR / 2 - 30 * DAY

    def test_an_interval_that_the_list_has_forgotten_has_no_window(self):
        assert self.window(interval=Interval(NOW - 40 * DAY, NOW - 39 * DAY)) is None

    def test_a_list_without_an_end_has_a_window_for_every_interval(self):
        old = Interval(NOW - 400 * DAY, NOW - 399 * DAY)
        window = self.window(interval=old, forgotten_after=None)
        assert window == Window(NOW - 407 * DAY, NOW - 399 * DAY, is_sweep=False)
        assert self.window(last_sweep=None, forgotten_after=None).since == NOW - 30 * DAY

    def test_nothing_is_sure_at_the_border_of_a_window(self):
        window = self.window()
        assert not window.surely_covers(window.since)
        assert not window.surely_covers(window.until)
        assert window.surely_covers(window.until - HOUR)


class TestLedger:
    @pytest.mark.parametrize("entry", [seen(), read(seen()), read(seen(), complete=False, content=None)])
    def test_it_survives_being_stored(self, entry):
        assert Entry.from_json(json.loads(json.dumps(entry.to_json()))) == entry

    @pytest.mark.parametrize("row", [{}, {"state": "odd"}, {**seen().to_json(), "date": "?"}, {"state": "new", "x": 1}])
    def test_what_is_no_entry_is_refused(self, row):
        with pytest.raises(ValueError, match=r"entry|valid|Invalid"):
            Entry.from_json(row)

    def test_the_list_tells_of_changes(self):
        done = read(seen())
        assert seen(now=NOW + HOUR, before=done) is done, "nothing new"
        changed = seen(row(version="v2"), NOW + HOUR, done)
        assert (changed.version, changed.read_version, changed.changed_at) == ("v2", "v1", NOW + HOUR)
        assert changed.content == "c1", "what was landed is not landed again"

    def test_what_stays_without_a_transcript_is_given_up(self):
        assert read(seen(), NOW, complete=False).state is State.PENDING
        assert read(seen(), NOW + 2 * DAY, complete=False).state is State.PENDING
        assert read(seen(), NOW + 3 * DAY, complete=False).state is State.NO_TRANSCRIPT

    def test_what_was_deleted_and_is_listed_again_is_landed_again(self):
        again = seen(now=NOW + DAY, before=read(seen()).is_gone(NOW + HOUR))
        assert (again.state, again.read_version, again.content) == (State.NEW, None, None)

    def test_what_was_erased_stays_so(self):
        erased = read(seen()).is_erased(NOW)
        assert seen(row(version="v2"), NOW + DAY, erased) is erased
        assert reason(erased) is None

    @pytest.mark.parametrize(("age", "endangered"), [(DAY, False), (29 * DAY, True), (31 * DAY, False)])
    def test_pending_ones_that_the_list_will_forget_are_told(self, age, endangered):
        waits = read(seen(row(age=age)), complete=False)
        assert waits.is_about_to_be_lost(NOW, 30 * DAY) is endangered
        assert seen(row(age=age)).is_about_to_be_lost(NOW, 30 * DAY) is endangered
        assert not read(waits).is_about_to_be_lost(NOW, 30 * DAY)


class TestReasons:
    def test_what_was_never_read_is_new_or_backfill(self):
        assert reason(seen()) is Reason.NEW
        assert reason(seen(row(age=3 * DAY))) is Reason.BACKFILL

    def test_what_is_done_is_not_read_again(self):
        assert reason(read(seen())) is None
        assert reason(read(seen(), NOW + 4 * DAY, complete=False), now=NOW + 9 * DAY) is None, "given up"
        assert reason(read(seen()).is_gone(NOW)) is None

    def test_what_the_list_shows_otherwise_is_changed(self):
        assert reason(seen(row(version="v2"), NOW, read(seen()))) is Reason.CHANGED

    def test_what_is_pending_is_read_ever_less_often(self):
        entry, looks = seen(), []
        for hour in range(72):
            now = NOW + hour * HOUR
            if reason(entry, now=now) is not None:
                entry = read(entry, now, complete=False)
                looks.append(hour)
        assert looks == [0, 1, 3, 7, 15, 31, 55]

    def test_with_deliveries_what_is_not_told_to_be_complete_is_waited_for(self):
        assert reason(seen(), completed={"b": NOW}) is None
        assert reason(seen(), completed={"a": NOW}) is Reason.NEW
        assert reason(seen(row(age=3 * DAY)), completed={"b": NOW}) is Reason.BACKFILL, "it may never be told"

    def test_what_is_told_to_be_complete_after_it_was_read_is_read_at_once(self):
        waits = read(seen(), complete=False)
        assert reason(waits, completed={"a": NOW + HOUR / 6}) is Reason.PENDING
        assert reason(waits, completed={"a": NOW - HOUR}) is None, "it was read since"
        given_up = read(seen(), NOW + 3 * DAY, complete=False)
        assert reason(given_up, completed={"a": NOW + 4 * DAY}) is Reason.PENDING


class TestPlan:
    TASKS = (
        Task(Reason.BACKFILL, NOW, "backfill", True),
        Task(Reason.CHANGED, NOW, "changed", True),
        Task(Reason.PENDING, NOW, "pending", False),
        Task(Reason.NEW, NOW, "newer", True),
        Task(Reason.NEW, NOW - HOUR, "older", True),
    )

    def test_the_most_urgent_is_read_first_and_of_that_the_oldest(self):
        found = plan(self.TASKS, quota_left=None)
        assert found.to_read == ["older", "newer", "pending", "changed", "backfill"]
        assert found.left == []

    def test_the_quota_counts_each_conversation_once_a_day(self):
        found = plan(self.TASKS, quota_left=2)
        assert found.to_read == ["older", "newer", "pending"]
        assert found.left == ["changed", "backfill"]

    def test_what_is_left_takes_further_days(self):
        found = plan([Task(Reason.NEW, NOW, str(n), True) for n in range(25)], quota_left=5)
        days = found.days(daily_quota=10, requests_each=2, spacing=6.0)
        assert days == [Day(5, 10, 1.0), Day(10, 20, 2.0), Day(10, 20, 2.0)]
        assert plan([], quota_left=0).days(daily_quota=None, requests_each=1, spacing=0) == [Day(0, 0, 0.0)]
