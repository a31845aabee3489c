"""All that wait in one event loop with one token: who joins, leaves, is cancelled, or fails."""

from __future__ import annotations

import asyncio
import contextvars
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_dstny.api.errors import DstnyAuthError, DstnyConnectionError
from airflow_provider_dstny.waiting import poller
from airflow_provider_dstny.waiting.transcripts import TranscriptWait
from airflow_provider_dstny.waiting.wait import WaitState
from tests.unit.accounts import DAY, HOUR, MINUTE, Alarms, Clock, Rest, rest_state, upcoming


@pytest.fixture
def clock(mocker, moved_clock):
    clock = Clock()
    moved_clock(clock)
    alarms = Alarms(clock)
    mocker.patch.object(poller, "idle_until", alarms.idle_until)
    mocker.patch.object(poller, "_Alarm", alarms.set)
    return clock


@pytest.fixture
def rest(clock):
    return Rest("http://simulated", "mt_simulator").connect(rest_state(clock), clock)


@pytest.fixture
def wait_for(clock):
    def wait_for(*ids, hours=12, unasked=()):
        now = datetime.fromtimestamp(clock.now, UTC)
        return TranscriptWait(ids, started_at=now, deadline=now + timedelta(hours=hours), unasked=unasked)

    return wait_for


async def wait_with_others(client, wait, interval):
    return await poller.poller_of(client).wait(wait, interval)


def test_all_wait_with_one_client_that_is_closed_at_the_end(rest, clock, wait_for):
    ids = [upcoming(rest, clock.now + number * MINUTE) for number in range(30)]
    others = [Rest("http://simulated", "mt_simulator").connect(rest.state, clock) for _ in ids]

    async def all_of_them():
        clients = [rest, *others[1:]]
        waits = [wait_with_others(client, wait_for(one), MINUTE) for client, one in zip(clients, ids, strict=True)]
        decisions = await asyncio.gather(*waits)
        await asyncio.sleep(0)
        assert not poller._pollers[asyncio.get_running_loop()]
        return decisions

    decisions = asyncio.run(all_of_them())
    assert {decision.state for decision in decisions} == {WaitState.READY}
    assert [list(decision.ready) for decision in decisions] == [[one] for one in ids]
    assert rest.closed
    assert not any(other.books for other in others)


def test_two_tokens_wait_apart(rest, clock, wait_for):
    other = Rest("http://simulated", "mt_other").connect(
        rest_state(clock, tokens={"mt_other": {"transcripts", "conversations"}}), clock
    )
    one, two = upcoming(rest, clock.now + MINUTE), upcoming(other, clock.now + MINUTE)

    async def both():
        return await asyncio.gather(
            wait_with_others(rest, wait_for(one), MINUTE),
            wait_with_others(other, wait_for(two), MINUTE),
        )

    assert [decision.state for decision in asyncio.run(both())] == [WaitState.READY] * 2
    assert rest.count("get_transcript")
    assert other.count("get_transcript")


def test_who_joins_with_a_connection_that_was_mended_is_not_served_by_the_old_one(rest, clock, wait_for):
    wrong = Rest("http://simulated", "mt_simulator", paths={"get_transcript": "/nowhere/{conversation_id}"})
    wrong.connect(rest.state, clock)
    one, two = (upcoming(rest, clock.now + MINUTE) for _ in range(2))

    async def both():
        return await asyncio.gather(
            wait_with_others(wrong, wait_for(one, hours=1), MINUTE),
            wait_with_others(rest, wait_for(two, hours=1), MINUTE),
        )

    assert [decision.state for decision in asyncio.run(both())] == [WaitState.TIMED_OUT, WaitState.READY]
    assert wrong.closed
    assert rest.closed


def test_one_that_is_cancelled_leaves_the_others_waiting(rest, clock, wait_for):
    ids = [upcoming(rest, clock.now + 5 * MINUTE) for _ in range(3)]

    async def all_of_them():
        tasks = [asyncio.create_task(wait_with_others(rest, wait_for(one), MINUTE)) for one in ids]
        await asyncio.sleep(0)
        tasks[0].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    cancelled, *others = asyncio.run(all_of_them())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert [decision.state for decision in others] == [WaitState.READY] * 2
    assert not any(ids[0] in path for _, _, path in rest.books)


def test_who_is_cancelled_last_closes_the_client(rest, clock, wait_for):
    async def begin_and_cancel():
        task = asyncio.create_task(wait_with_others(rest, wait_for("never"), MINUTE))
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(begin_and_cancel())
    assert rest.closed


def test_who_joins_later_is_looked_after_too(rest, clock, wait_for):
    late = upcoming(rest, clock.now - HOUR)

    async def one_after_the_other():
        first = asyncio.create_task(wait_with_others(rest, wait_for("never", hours=5), MINUTE))
        await asyncio.sleep(0)
        second = await wait_with_others(rest, wait_for(late, unasked=[late]), MINUTE)
        assert not first.done()
        return second, await first

    second, first = asyncio.run(one_after_the_other())
    assert second.ready[late]["waited_seconds"] < MINUTE
    assert first.state is WaitState.TIMED_OUT


def test_a_refused_token_is_told_to_all(rest, clock, wait_for):
    async def two():
        rest.state.tokens = {}
        waits = [wait_with_others(rest, wait_for(one), MINUTE) for one in "ab"]
        return await asyncio.gather(*waits, return_exceptions=True)

    assert [type(outcome) for outcome in asyncio.run(two())] == [DstnyAuthError] * 2
    assert rest.closed
    assert len(rest.books) <= 2


def test_a_deadline_ends_a_wait_and_names_the_last_cause(rest, clock, wait_for):
    rest.troubles = {"get_transcript": DstnyConnectionError("refused")}
    decision = asyncio.run(wait_with_others(rest, wait_for("a", hours=1), MINUTE))
    assert decision.state is WaitState.TIMED_OUT
    assert "refused" in decision.reason
    assert clock.now - datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp() <= HOUR + 10


def test_what_came_in_time_is_seen_after_a_restart(rest, clock, wait_for):
    ids = [upcoming(rest, clock.now + MINUTE, date=clock.now - 90 * DAY) for _ in range(20)]
    waits = [wait_for(one, hours=1) for one in ids]
    clock.now += 2 * HOUR

    async def all_of_them():
        return await asyncio.gather(*(wait_with_others(rest, wait, MINUTE) for wait in waits))

    assert {decision.state for decision in asyncio.run(all_of_them())} == {WaitState.READY}


def test_a_look_that_fails_for_whatever_reason_is_followed_by_another(rest, clock, wait_for, mocker, caplog):
    one = upcoming(rest, clock.now + MINUTE)
    due = mocker.patch("airflow_provider_dstny.waiting.lookout.Lookout.due", side_effect=[RuntimeError("a bug")])

    async def with_a_bug():
        task = asyncio.create_task(wait_with_others(rest, wait_for(one), MINUTE))
        for _ in range(10):
            await asyncio.sleep(0)
        assert due.called
        mocker.stop(due)
        return await task

    assert asyncio.run(with_a_bug()).state is WaitState.READY
    assert "RuntimeError at" in caplog.text
    assert "a bug" not in caplog.text, "it might be what somebody said"


def test_a_poller_has_no_part_in_the_context_of_a_task(rest, clock, wait_for):
    of_a_task = contextvars.ContextVar("of_a_task", default=None)
    seen = []
    ask = rest._perform
    rest._perform = lambda request: seen.append(of_a_task.get()) or ask(request)
    one = upcoming(rest, clock.now + MINUTE)

    async def within_a_task():
        of_a_task.set("mine")
        await wait_with_others(rest, wait_for(one), MINUTE)

    asyncio.run(within_a_task())
    assert set(seen) == {None}


def test_nothing_to_wait_for_is_over_at_once(rest, wait_for):
    assert asyncio.run(wait_with_others(rest, wait_for(), MINUTE)).state is WaitState.READY
    assert rest.books == []


def test_one_question_that_hangs_keeps_nobody_waiting(rest, clock, wait_for, mocker):
    mocker.patch.object(poller, "_LONGEST_QUESTION", 0.05)
    hangs, good = (upcoming(rest, clock.now) for _ in range(2))
    answer = rest._aperform

    async def perform(request):
        if hangs in request.path:
            await asyncio.Event().wait()
        return await answer(request)

    rest._aperform = perform

    async def both():
        waits = [wait_for(one, hours=hours) for one, hours in ((hangs, 1), (good, 2))]
        return await asyncio.gather(*(wait_with_others(rest, wait, MINUTE) for wait in waits))

    stuck, ready = asyncio.run(both())
    assert stuck.state is WaitState.TIMED_OUT
    assert "No answer" in stuck.reason
    assert ready.ready[good]["waited_seconds"] <= 2 * MINUTE


def test_who_waits_is_told_when_the_poller_ends_before_its_time(rest, clock, wait_for):
    async def end_it():
        one = poller.poller_of(rest)
        waiting = asyncio.create_task(one.wait(wait_for("never"), MINUTE))
        await asyncio.sleep(0)
        one._task.cancel()
        with pytest.raises(poller.PollerEndedError):
            await waiting
        assert not poller._pollers[asyncio.get_running_loop()]

    asyncio.run(end_it())
    assert rest.closed


def test_a_bug_outside_of_the_questions_ends_nobodys_wait(rest, clock, wait_for, mocker, caplog):
    one = upcoming(rest, clock.now + MINUTE)
    mocker.patch("airflow_provider_dstny.waiting.lookout.Lookout.take_in_error", side_effect=RuntimeError("a bug"))
    assert asyncio.run(wait_with_others(rest, wait_for(one), MINUTE)).state is WaitState.READY


def test_a_list_that_breaks_the_client_keeps_nobody_waiting(rest, clock, wait_for):
    ids = [upcoming(rest, clock.now + 5 * MINUTE) for _ in range(20)]
    answer = rest._aperform

    async def perform(request):
        if request.operation == "list_conversations":
            raise RuntimeError("closed")
        return await answer(request)

    rest._aperform = perform

    async def all_of_them():
        return await asyncio.gather(*(wait_with_others(rest, wait_for(one), MINUTE) for one in ids))

    waited = [
        decision.ready[one]["waited_seconds"] for one, decision in zip(ids, asyncio.run(all_of_them()), strict=True)
    ]
    assert max(waited) <= 8 * MINUTE
