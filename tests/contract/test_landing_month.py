"""Exports over a simulated month: nothing is lost, nothing is landed twice, and hardly a request is wasted."""

from __future__ import annotations

import math
import os
from datetime import timedelta

import pytest

from airflow_provider_dstny.export.windows import Interval
from airflow_provider_dstny.simulator.books import Fault
from tests.contract.landing import DAY, HOUR, START, Account, Landed, Month, Talk, Traffic, wrongs

#: A month of 300 conversations a day takes some minutes of CPU: ``DSTNY_TEST_DAYS=30`` is the whole of it.
_DAYS = int(os.environ.get("DSTNY_TEST_DAYS", "2"))
#: Days after the traffic has ended: enough for a weekly sweep, and for the longest pauses.
_SETTLING = 8.0
#: The requests that the least is made of; whatever else is sent is more than that.
_LEAST = ("list_conversations", "get_conversation")


def live(month: Month, days: float) -> float:
    """Run hourly while there is traffic, then more seldom until all of it must have been seen.

    Return the requests while there was traffic by the least that there could be: of each run ⌈N/25⌉ pages, N being
    what its window then held, one read per conversation, and one per later change of it. Deliveries, what killed
    tries took, and everything else only counts as sent.
    """
    month.run(days)
    sent = month.account.requests()
    least = {"list_conversations": month.least_pages(), "get_conversation": month.least_reads()}
    print(f"\n{len(month.runs)} runs, {month.kills} tries killed, {len(month.abandoned)} of them not repeated")
    print(f"{'requests':<26}{'sent':>8}{'least':>8}{'ratio':>8}")
    for name, count in sorted(sent.items()):
        print(f"{name:<26}{count:>8}{least.get(name, 0):>8}{count / least[name] if name in least else 0:>8.3f}")
    total, needed = sum(sent.values()), sum(least.values())
    print(f"{'all':<26}{total:>8}{needed:>8}{total / needed:>8.3f}", flush=True)
    in_vain = month.sent_in_vain
    print(f"of these in tries that were killed: {in_vain}; ratio without {(total - in_vain) / needed:.3f}", flush=True)
    month.run(_SETTLING, every=8 * HOUR)
    return total / needed


def check(month: Month) -> None:
    """Check what was landed against the account, and what was sent against its rules."""
    found = wrongs(month.account, Landed(month.path, committed=True))
    # What an interval left behind that was never tried again is not committed: no reader of manifests sees it.
    left_behind = found.pop("there, not named", [])
    ends = [f"-{interval.end:%Y%m%dT%H%M%SZ}" for interval in month.abandoned]
    assert found == {}
    assert [path for path in left_behind if not any(end in path for end in ends)] == []
    month.clear_abandoned()
    for committed in (True, False):
        assert wrongs(month.account, Landed(month.path, committed=committed)) == {}
    assert max(month.account.read_a_day().values()) <= 1000
    assert month.account.simulator.books.violations == []


@pytest.mark.parametrize("newest_first", [True, False], ids=["newest first", "oldest first"])
@pytest.mark.parametrize("inclusive", [False, True], ids=["exclusive", "inclusive"])
def test_whatever_the_cursor_nothing_is_lost_and_nothing_landed_twice(newest_first, inclusive, tmp_path, monkeypatch):
    traffic = Traffic(days=2, a_day=40, late=0.05, deleted=0.08, changed=0.08, big_ties=1)
    account = Account(traffic.talks(), monkeypatch, newest_first=newest_first, inclusive_cursor=inclusive)
    faults = [
        lambda: Fault("status", times=2, status=429, retry_after=3),
        lambda: Fault("status", status=503),
        lambda: Fault("reset"),
        lambda: Fault("truncated"),
    ]
    with account:
        month = Month(account, tmp_path, kill=0.2)
        month.before_run = lambda: account.simulator.books.inject(faults[len(month.runs) % len(faults)]())
        live(month, traffic.days)
        assert month.kills > 5
        assert month.abandoned
        check(month)


@pytest.mark.parametrize("deliveries", [True, False], ids=["deliveries", "no deliveries"])
def test_a_month_of_hourly_runs_takes_hardly_more_requests_than_it_must(deliveries, tmp_path, monkeypatch):
    # Without a port: these are tens of thousands of requests.
    traffic = Traffic(days=_DAYS, big_ties=max(1, _DAYS // 15))
    account = Account(traffic.talks(), monkeypatch, port=False, webhooks=deliveries)
    with account:
        month = Month(account, tmp_path, {"wait_for_delivery": deliveries}, kill=max(0.03, 0.3 / _DAYS))
        ratio = live(month, traffic.days)
        check(month)
    assert month.kills > 0
    assert month.failures == 0
    assert {entry.status for entry in account.simulator.books.entries} <= {200, 404}
    if deliveries and traffic.days >= 30:
        assert ratio <= 1.1


def test_a_backlog_is_landed_day_by_day_within_the_quota(tmp_path, monkeypatch):
    old = [Talk(f"o-{number:04d}", START - number % 20 * DAY - number, START - DAY, START) for number in range(480)]
    traffic = Traffic(days=3, a_day=30, big_ties=0)
    account = Account([*old, *traffic.talks()], monkeypatch, port=False, daily_conversation_quota=200)
    with account:
        month = Month(account, tmp_path, {"daily_quota": 200}, kill=0.1)
        month.run(traffic.days)
        month.run(_SETTLING, every=8 * HOUR)
        check(month)
    read = account.read_a_day()
    print(f"\nread a day: {read}, {month.kills} tries killed")
    assert list(read.values())[:2] == [200, 200]
    assert max(read.values()) == 200
    assert [entry.status for entry in account.simulator.books.entries].count(429) == 0


@pytest.mark.parametrize("inclusive", [False, True], ids=["exclusive", "inclusive"])
def test_1000_conversations_from_nothing_take_18_minutes(inclusive, tmp_path, monkeypatch):
    """⌈1000/25⌉ pages and 1000 reads would be 1040 requests.

    A cursor that is a time needs pages that overlap by a row, ⌈975/24⌉ after the first, so that none is lost.
    """
    talks = [Talk(f"c-{number:04d}", START - HOUR - number * 600, START - HOUR, START - HOUR) for number in range(1000)]
    account = Account(talks, monkeypatch, inclusive_cursor=inclusive, requests_per_minute=60)
    until = account.time
    with account:
        outcome = account.run(tmp_path, Interval(until - timedelta(hours=1), until), concurrency=1)
    sent, took = account.requests(), account.now - START
    print(f"\n{sent} in {took / 60:.2f} min")
    assert outcome.counts["complete"] == 1000
    assert sent == {"get_conversation": 1000, "list_conversations": 1 + math.ceil(975 / 24)}
    assert took < 18 * 60
    assert {entry.status for entry in account.simulator.books.entries} == {200}
    assert wrongs(account, Landed(tmp_path, committed=False)) == {}
