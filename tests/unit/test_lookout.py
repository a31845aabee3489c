"""Many waits of one token, over hours of simulated time."""

from __future__ import annotations

import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_dstny.api.client import _Outcome
from airflow_provider_dstny.api.errors import (
    DstnyAuthError,
    DstnyConnectionError,
    DstnyNotFoundError,
    DstnyQuotaError,
    DstnyResponseError,
    DstnyScopeError,
    DstnyServerError,
    DstnyTimeoutError,
)
from airflow_provider_dstny.simulator.tellcasey import TellcaseyState
from airflow_provider_dstny.waiting.conversations import ConversationWait
from airflow_provider_dstny.waiting.lookout import Lookout, look
from airflow_provider_dstny.waiting.transcripts import TranscriptWait
from airflow_provider_dstny.waiting.wait import WaitState
from tests.unit.accounts import DAY, HOUR, MINUTE, START, Casey, Clock, Rest, rest_state, upcoming

INTERVAL = MINUTE


@pytest.fixture
def clock(moved_clock):
    clock = Clock()
    moved_clock(clock)
    return clock


@pytest.fixture
def rest(clock):
    return lambda **options: Rest("http://simulated", "mt_simulator").connect(rest_state(clock, **options), clock)


def wait_for(lookout, ids, *, kind=TranscriptWait, hours=12, interval=INTERVAL, unasked=(), **options):
    """Let each of some conversations be awaited by a wait of its own, as by the triggers of as many tasks."""
    now = lookout.now()
    waits = {}
    for one in ids:
        wait = kind([one], started_at=now, deadline=now + timedelta(hours=hours), unasked=unasked, **options)
        lookout.add(wait, interval)
        waits[one] = wait
    return waits


@pytest.fixture
def lookout(clock):
    lookout = Lookout()
    lookout.now = lambda: datetime.fromtimestamp(clock.now, UTC)
    return lookout


def poll(client, lookout):
    """Look once as a poller does, one request after the other."""

    def ask(long=timedelta()):
        until = lookout.now() + long
        while lookout.now() <= until and (due := lookout.due()):
            for question in due:
                client.run(lookout.ask(client, question))

    lookout.begin(client)
    try:
        ask()
        for _ in client.iterate(lookout.pages()):
            ask()
        ask(max(lookout.interval, timedelta(seconds=30)))
    except DstnyAuthError as error:
        for wait in lookout.waits:
            wait.failed_to_see(error, lookout.now())


def watch(client, lookout, clock, seconds):
    """Do what a poller does, for some time; return what became of the waits that are over."""
    over = {}
    end = clock.now + seconds
    while clock.now < end and lookout.waits:
        poll(client, lookout)
        for wait in list(lookout.waits):
            decision = wait.decide(lookout.now())
            if decision.state is not WaitState.WAITING:
                over[wait] = decision
                lookout.remove(wait)
        clock.now = min(end, max(clock.now + 1, lookout.next_look().timestamp()) if lookout.waits else end)
    return over


def noticed(wait):
    """When what a wait waits for was seen, in seconds since the epoch."""
    (found,) = wait.ready.values()
    return wait.started_at.timestamp() + found["waited_seconds"]


def test_thousands_that_are_not_there_yet_cost_two_requests_a_minute(rest, lookout, clock):
    client = rest()
    wait_for(lookout, [f"00000000-0000-4000-8000-{number:012}" for number in range(5000)])
    watch(client, lookout, clock, 5 * MINUTE)
    since = clock.now
    watch(client, lookout, clock, HOUR)
    assert client.count(since=since) <= 2 * 60
    assert client.count("get_transcript") == 0


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("inclusive_cursor", [True, False])
def test_each_is_noticed_within_two_intervals_of_the_earliest_moment(
    rest, lookout, clock, newest_first, inclusive_cursor
):
    client = rest(newest_first=newest_first, inclusive_cursor=inclusive_cursor)
    choose = random.Random(3)
    ready_at = {upcoming(client, at): at for at in (clock.now + choose.uniform(600, 1800) for _ in range(100))}
    waits = wait_for(lookout, [*ready_at, *(f"none-{number}" for number in range(2000))])
    watch(client, lookout, clock, HOUR)
    for one, at in ready_at.items():
        assert noticed(waits[one]) - at <= 2 * INTERVAL
    assert client.count("get_transcript") == len(ready_at), "each is asked for once"


def test_a_burst_is_noticed_as_fast_as_the_pace_allows(rest, lookout, clock):
    client = rest()
    at = clock.now + 10 * MINUTE
    ids = [upcoming(client, at + number / 100, date=at - 400 - number) for number in range(500)]
    waits = wait_for(lookout, ids)
    watch(client, lookout, clock, HOUR)
    moments = sorted(noticed(waits[one]) for one in ids)
    for number, moment in enumerate(moments, 1):
        pages = math.ceil(number / 25)
        assert moment <= at + (number + pages) * client.spacing + 2 * INTERVAL


def test_what_came_first_is_asked_for_first(rest, lookout, clock):
    client = rest()
    ids = [upcoming(client, clock.now + 10 * MINUTE + number) for number in range(50)]
    shuffled = random.Random(5).sample(ids, len(ids))
    for number, one in enumerate(shuffled):
        wait_for(lookout, [one], hours=12 + number / 10)
    watch(client, lookout, clock, HOUR)
    asked = [path.split("/")[2] for _, operation, path in client.books if operation == "get_transcript"]
    assert asked == ids


@pytest.mark.parametrize("not_ready", ["404", "null", "empty", "blank"])
def test_what_is_listed_before_it_is_ready_is_asked_for_in_each_interval(rest, lookout, clock, not_ready):
    client = rest(not_ready=not_ready)
    choose = random.Random(4)
    ready_at = {}
    for _ in range(40):
        at = clock.now + choose.uniform(10, 60) * MINUTE
        ready_at[upcoming(client, at, listed_at=clock.now - HOUR, date=clock.now - 2 * HOUR)] = at
    waits = wait_for(lookout, ready_at)
    watch(client, lookout, clock, 2 * HOUR)
    assert max(noticed(waits[one]) - at for one, at in ready_at.items()) <= 2 * INTERVAL


def test_more_than_the_pace_can_serve_are_asked_for_in_turn(rest, lookout, clock):
    client = rest()
    ids = [
        upcoming(client, clock.now + DAY, listed_at=clock.now - HOUR, date=clock.now - 2 * HOUR - n) for n in range(300)
    ]
    wait_for(lookout, ids, hours=48)
    watch(client, lookout, clock, HOUR)
    asked = Counter(path for _, operation, path in client.books if operation == "get_transcript")
    assert len(asked) == 300
    assert max(asked.values()) - min(asked.values()) <= 2


def test_the_earliest_deadline_goes_first_among_those_that_are_due_alike(rest, lookout, clock):
    client = rest()
    ids = [
        upcoming(client, clock.now + DAY, listed_at=clock.now - HOUR, date=clock.now - 2 * HOUR - n) for n in range(20)
    ]
    for number, one in enumerate(ids):
        wait_for(lookout, [one], hours=20 - number)
    watch(client, lookout, clock, 2 * MINUTE)
    asked = [path.split("/")[2] for _, operation, path in client.books if operation == "get_transcript"]
    assert asked[:20] == ids[::-1]


class TestMoreThanThePaceCanServe:
    """Then the times that were seen from listed to ready tell for whom to ask."""

    @pytest.fixture
    def client(self, rest, lookout, clock):
        client = rest()
        others = [
            upcoming(client, clock.now + DAY, listed_at=clock.now - HOUR, date=clock.now - DAY - n) for n in range(100)
        ]
        wait_for(lookout, others, hours=48)
        took = [
            upcoming(client, clock.now + 20 * MINUTE, listed_at=clock.now, date=clock.now - HOUR - n) for n in range(20)
        ]
        wait_for(lookout, took)
        watch(client, lookout, clock, HOUR)
        return client

    def test_nothing_is_asked_for_before_it_can_be_ready(self, client, lookout, clock):
        late = [
            upcoming(client, clock.now + 20 * MINUTE, listed_at=clock.now, date=clock.now - HOUR + n) for n in range(20)
        ]
        waits, began = wait_for(lookout, late), clock.now
        watch(client, lookout, clock, 8 * MINUTE)
        asked = Counter(path.split("/")[2] for at, _, path in client.books if at >= began and "transcript" in path)
        assert {asked[one] for one in late} == {1}, "once, to see whether they are ready already"
        watch(client, lookout, clock, HOUR)
        assert max(noticed(waits[one]) for one in late) <= began + 24 * MINUTE

    def test_what_takes_longer_than_anything_is_asked_for_ever_less_often(self, client, lookout, clock):
        watch(client, lookout, clock, 3 * HOUR)
        since = clock.now
        watch(client, lookout, clock, HOUR)
        assert 100 <= client.count("get_transcript", since=since) <= 600


def test_one_that_arrives_late_is_found_behind_all_that_is_newer(rest, lookout, clock):
    client = rest(samples=0)
    for number in range(600):
        client.state.add(date=clock.now - 2 * DAY + number * 250)
    late = upcoming(client, clock.now + HOUR, date=clock.now - 20 * HOUR)
    waits = wait_for(lookout, [late, *(f"none-{number}" for number in range(100))])
    watch(client, lookout, clock, 3 * HOUR)
    assert waits[late].ready
    assert noticed(waits[late]) <= START.timestamp() + HOUR + HOUR


def test_what_no_list_shows_is_asked_for_before_its_deadline(rest, lookout, clock):
    client = rest()
    ids = [upcoming(client, clock.now - 50 * DAY, date=clock.now - 60 * DAY) for _ in range(200)]
    waits = wait_for(lookout, ids, hours=6)
    watch(client, lookout, clock, 7 * HOUR)
    assert all(wait.ready for wait in waits.values())
    assert client.count("get_transcript") == 200
    first = min(at for at, operation, _ in client.books if operation == "get_transcript")
    assert first > START.timestamp() + 5.8 * HOUR, "as late as the pace allows: the list could still show them"


def test_what_nobody_has_looked_at_is_looked_at_first(rest, lookout, clock):
    client = rest()
    ids = [upcoming(client, clock.now - 50 * DAY, date=clock.now - 60 * DAY) for _ in range(30)]
    now = lookout.now()
    wait = TranscriptWait(ids, started_at=now, deadline=now + timedelta(hours=6))
    lookout.add(wait, INTERVAL)
    watch(client, lookout, clock, 5 * MINUTE)
    assert len(wait.ready) == 30


def test_many_that_nobody_has_looked_at_are_told_by_the_list_and_asked_for_some_at_a_time(rest, lookout, clock):
    client = rest()
    listed = [upcoming(client, clock.now - HOUR) for _ in range(60)]
    old = [upcoming(client, clock.now - 50 * DAY, date=clock.now - 60 * DAY) for _ in range(60)]
    waits = {}
    for one in [*old, *listed]:
        waits |= wait_for(lookout, [one], unasked=[one])
    watch(client, lookout, clock, 3 * MINUTE)
    assert all(waits[one].ready for one in listed)
    watch(client, lookout, clock, 10 * MINUTE)
    assert all(waits[one].ready for one in old)


def test_without_the_scope_of_the_list_each_is_asked_for_in_turn(rest, lookout, clock):
    client = rest(tokens={"mt_simulator": {"transcripts"}})
    ids = [upcoming(client, clock.now + 10 * MINUTE) for _ in range(40)]
    waits = wait_for(lookout, ids)
    watch(client, lookout, clock, HOUR)
    assert all(wait.ready for wait in waits.values())
    assert client.count("list_conversations") <= 2


def test_few_are_asked_for_without_a_list(rest, lookout, clock):
    client = rest()
    waits = wait_for(lookout, [upcoming(client, clock.now + 5 * MINUTE)])
    watch(client, lookout, clock, HOUR)
    assert all(wait.ready for wait in waits.values())
    assert client.count("list_conversations") == 0


def test_one_answer_is_for_all_that_ask_the_same(rest, lookout, clock):
    client = rest()
    one = upcoming(client, clock.now + 5 * MINUTE)
    first, second = wait_for(lookout, [one]), wait_for(lookout, [one])
    watch(client, lookout, clock, HOUR)
    assert first[one].ready
    assert second[one].ready
    assert client.count("get_transcript") == 5


@pytest.mark.parametrize(
    "trouble",
    [
        DstnyConnectionError("reset"),
        DstnyTimeoutError("slow"),
        {"transcript": [[[]]]},
        DstnyScopeError(403, "not yours"),
        DstnyServerError(500, "a bug"),
        DstnyServerError(503, "busy", retry_after=90.0),
        DstnyQuotaError(429, "used up"),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
@pytest.mark.parametrize("many", [1, 10])
def test_a_poison_conversation_harms_no_other(rest, lookout, clock, trouble, many):
    client = rest()
    poison = [upcoming(client, clock.now - HOUR) for _ in range(many)]
    client.troubles = dict.fromkeys(poison, trouble)
    good = {upcoming(client, clock.now + number * MINUTE): clock.now + number * MINUTE for number in range(20)}
    waits = wait_for(lookout, [*poison, *good], hours=2)
    watch(client, lookout, clock, HOUR)
    # Three requests in a row that fail end a look, so that some of the good ones have to wait for the next ones.
    late = 5 if many > 1 else 2
    assert max(noticed(waits[one]) - at for one, at in good.items()) <= late * INTERVAL


@pytest.mark.parametrize(
    "trouble",
    [
        DstnyConnectionError("reset"),
        DstnyTimeoutError("slow"),
        DstnyNotFoundError(404, "no such list"),
        DstnyServerError(500, "a bug"),
        DstnyResponseError("not JSON"),
        {"conversations": 1},
    ],
    ids=lambda trouble: type(trouble).__name__,
)
def test_a_list_that_fails_keeps_nobody_from_being_asked_for(rest, lookout, clock, trouble):
    client = rest()
    ready_at = {upcoming(client, clock.now + (10 + n) * MINUTE): clock.now + (10 + n) * MINUTE for n in range(40)}
    waits = wait_for(lookout, ready_at)
    client.troubles = {"list_conversations": trouble}
    watch(client, lookout, clock, 2 * HOUR)
    assert max(noticed(waits[one]) - at for one, at in ready_at.items()) <= 3 * INTERVAL
    client.troubles = {}
    more = wait_for(lookout, [upcoming(client, clock.now + 20 * MINUTE) for _ in range(40)])
    since = clock.now + 12 * MINUTE
    watch(client, lookout, clock, HOUR)
    assert all(wait.ready for wait in more.values())
    assert client.count("get_transcript", since=since) == 40, "the list helps again"


def test_a_token_counts_as_refused_for_three_conversations_in_a_row(rest, lookout, clock):
    client = rest()
    ids = [upcoming(client, clock.now - HOUR) for _ in range(5)]
    waits = wait_for(lookout, ids, hours=2)
    client.troubles = {ids[0]: DstnyAuthError(401, "not yours")}
    watch(client, lookout, clock, 10 * MINUTE)
    assert [one for one in ids if waits[one].ready] == ids[1:]
    more = wait_for(lookout, [upcoming(client, clock.now - HOUR) for _ in range(5)])
    client.troubles = dict.fromkeys(more, DstnyAuthError(401, "not yours"))
    watch(client, lookout, clock, 10 * MINUTE)
    assert {wait.decide(lookout.now()).state for wait in more.values()} == {WaitState.FAILED}


def test_many_that_fail_delay_the_others_little(rest, lookout, clock):
    client = rest()
    poison = [upcoming(client, clock.now - HOUR, date=clock.now - DAY - n) for n in range(100)]
    client.troubles = dict.fromkeys(poison, DstnyServerError(500, "a bug"))
    good = {upcoming(client, clock.now + number * MINUTE): clock.now + number * MINUTE for number in range(20)}
    waits = wait_for(lookout, [*poison, *good], hours=3)
    watch(client, lookout, clock, HOUR)
    assert max(noticed(waits[one]) - at for one, at in good.items()) <= 3 * INTERVAL


def test_a_list_that_is_refused_once_ends_no_wait(rest, lookout, clock):
    client = rest()
    waits = wait_for(lookout, [upcoming(client, clock.now + 5 * MINUTE) for _ in range(40)])
    client.troubles = {"list_conversations": DstnyAuthError(401, "not now")}
    watch(client, lookout, clock, MINUTE)
    client.troubles = {}
    watch(client, lookout, clock, HOUR)
    assert all(wait.ready for wait in waits.values())


def test_conversations_that_refuse_the_token_hours_apart_end_no_wait(rest, lookout, clock):
    client = rest()
    poison = [upcoming(client, clock.now + hours * HOUR) for hours in (1, 4)]
    client.troubles = dict.fromkeys(poison, DstnyAuthError(401, "not yours"))
    good = upcoming(client, clock.now + 6 * HOUR)
    waits = wait_for(lookout, [*poison, good, *(f"none-{number}" for number in range(50))])
    watch(client, lookout, clock, 7 * HOUR)
    assert waits[good].ready


def test_each_gets_one_last_chance(rest, lookout, clock):
    client = rest()
    ready = [upcoming(client, clock.now + 10 * MINUTE + number / 10) for number in range(100)]
    waits = wait_for(lookout, ready, hours=5)
    for number in range(300):
        wait_for(lookout, [f"none-{number}"], hours=0.6 + number / 1000)
    watch(client, lookout, clock, HOUR)
    asked = Counter(path.split("/")[2] for _, operation, path in client.books if operation == "get_transcript")
    # The last few are asked for without a list.
    assert sum(count > 1 for one, count in asked.items() if one.startswith("none")) < 10
    assert all(waits[one].ready for one in ready)


def test_what_is_known_does_not_stand_behind_what_is_not_while_the_list_fails(rest, lookout, clock):
    client = rest()
    ready_at = {}
    for number in range(20):
        at = clock.now + (10 + number) * MINUTE
        ready_at[upcoming(client, at, listed_at=clock.now, date=clock.now - HOUR)] = at
    waits = wait_for(lookout, [*ready_at, *(f"none-{number}" for number in range(2500))])
    watch(client, lookout, clock, 5 * MINUTE)
    client.troubles = {"list_conversations": DstnyServerError(502, "a bug")}
    watch(client, lookout, clock, HOUR)
    assert max(noticed(waits[one]) - at for one, at in ready_at.items()) <= 2 * INTERVAL


def test_long_calls_are_found_where_the_list_begins_with_the_oldest(rest, lookout, clock):
    client = rest(samples=0, newest_first=False)
    choose = random.Random(7)
    ready_at = {}
    for _ in range(400):
        at, length = clock.now + choose.uniform(0, HOUR), choose.choice([2, 20, 45]) * MINUTE
        ready_at[upcoming(client, at, date=at - length - 60)] = at
    waits = wait_for(lookout, ready_at)
    watch(client, lookout, clock, 90 * MINUTE)
    late = sorted(noticed(waits[one]) - at for one, at in ready_at.items())
    assert late[len(late) * 95 // 100] <= 2 * INTERVAL
    assert late[-1] <= 10 * INTERVAL


def test_one_who_looks_often_takes_nothing_from_the_others(rest, lookout, clock):
    client = rest()
    ready_at = {upcoming(client, at): at for at in (clock.now + (10 + number) * MINUTE for number in range(30))}
    waits = wait_for(lookout, [*ready_at, *(f"none-{number}" for number in range(500))])
    wait_for(lookout, ["hasty"], interval=1)
    watch(client, lookout, clock, HOUR)
    assert max(noticed(waits[one]) - at for one, at in ready_at.items()) <= 2 * INTERVAL


def test_ids_that_differ_in_case_are_the_same_only_if_they_are_uuids(rest, lookout, clock):
    client = rest()
    client.state.conversations["AbCdef"] = client.state.conversations.pop(one := upcoming(client, clock.now - HOUR))
    client.state.conversations["AbCdef"].id = "AbCdef"
    uuid = upcoming(client, clock.now - HOUR)
    waits = wait_for(lookout, ["abcdef", uuid.upper(), *(f"n{n}" for n in range(20))], kind=ConversationWait, hours=1)
    watch(client, lookout, clock, 10 * MINUTE)
    assert one != "AbCdef"
    assert not waits["abcdef"].ready
    assert waits[uuid.upper()].ready


def test_a_clock_that_is_set_back_stops_nothing(rest, lookout, clock):
    client = rest()
    waits = wait_for(lookout, [upcoming(client, clock.now - 2 * HOUR) for _ in range(3)], hours=12)
    wait_for(lookout, [f"none-{number}" for number in range(50)])
    client.troubles = {"list_conversations": DstnyServerError(502, "a bug")}
    watch(client, lookout, clock, MINUTE)
    client.troubles = {}
    clock.now -= 2 * HOUR
    client.slot = clock.now
    watch(client, lookout, clock, 5 * MINUTE)
    assert all(wait.ready for wait in waits.values())


def test_the_first_look_of_a_sensor_does_not_stand_in_line(rest, clock, lookout):
    client = rest()
    patience = []
    answer = client._perform
    client._perform = lambda request: patience.append(request.patience) or answer(request)
    sensor = Lookout(every_look=True)
    now = lookout.now()
    wait = TranscriptWait([f"c{n}" for n in range(100)], started_at=now, deadline=now + timedelta(hours=1))
    sensor.add(wait, INTERVAL)
    look(client, sensor, until=now + timedelta(seconds=30), patience=5.0)
    look(client, sensor, until=lookout.now() + timedelta(seconds=30), patience=5.0)
    assert set(patience) == {5.0}
    assert clock.now - START.timestamp() <= 2 * 32


@pytest.mark.parametrize("trouble", [None, DstnyTimeoutError("slow"), DstnyNotFoundError(404, "unknown")])
def test_an_answer_for_one_who_has_left_is_no_error(rest, lookout, clock, caplog, trouble):
    client = rest()
    one = upcoming(client, clock.now - HOUR)
    client.troubles = {one: trouble} if trouble else {}
    (wait,) = wait_for(lookout, [one], hours=20 / 3600).values()
    clock.now += 15
    lookout.begin(client)
    (question,) = lookout.due()
    assert question.is_last_chance
    steps = lookout.ask(client, question)
    request = next(steps)
    lookout.remove(wait)
    with pytest.raises(StopIteration):
        client._perform(request).into(steps)
    assert caplog.text == ""


def test_a_list_without_an_end_is_not_read_for_ever(rest, lookout, clock):
    client = rest()
    waits = wait_for(lookout, [upcoming(client, clock.now + 5 * MINUTE, date=clock.now - 60 * DAY) for _ in range(30)])
    pages = iter(range(10**9))
    answer = client._perform

    def perform(request):
        if request.operation != "list_conversations":
            return answer(request)
        client.books.append((clock.now, request.operation, ""))
        return _Outcome(answer={"data": [], "pagination": {"next_cursor": f"c{next(pages)}"}})

    client._perform = perform
    watch(client, lookout, clock, 12 * HOUR)
    assert all(wait.ready for wait in waits.values())
    assert client.count() <= 60 * 60 * 12 / 2


def test_last_chances_are_kept_where_the_pace_is_short(rest, lookout, clock):
    client = rest()
    known = [
        upcoming(client, clock.now + DAY, listed_at=clock.now - HOUR, date=clock.now - DAY - n) for n in range(300)
    ]
    wait_for(lookout, known, hours=48)
    old = [upcoming(client, clock.now - 50 * DAY, date=clock.now - 60 * DAY) for _ in range(100)]
    waits = wait_for(lookout, old, hours=2)
    watch(client, lookout, clock, 3 * HOUR)
    assert all(wait.ready for wait in waits.values())


def test_last_chances_are_kept_where_others_take_most_of_the_pace(clock, lookout):
    client = Rest("http://simulated", "mt_simulator").connect(rest_state(clock), clock, share=0.4)
    old = [upcoming(client, clock.now - 50 * DAY, date=clock.now - 60 * DAY) for _ in range(200)]
    waits = wait_for(lookout, old, hours=2)
    watch(client, lookout, clock, 3 * HOUR)
    assert all(wait.ready for wait in waits.values())


def test_what_is_listed_is_asked_for_beside_more_last_chances_than_can_be_kept(clock, lookout):
    client = Rest("http://simulated", "mt_simulator").connect(rest_state(clock), clock, share=0.3)
    ready_at = {upcoming(client, clock.now + 30 + 2 * number): clock.now + 30 + 2 * number for number in range(20)}
    waits = wait_for(lookout, [*ready_at, *(f"none-{number}" for number in range(300))], hours=0.1)
    watch(client, lookout, clock, HOUR)
    assert max(noticed(waits[one]) - at for one, at in ready_at.items()) <= 4 * INTERVAL


def test_each_is_asked_for_at_its_own_interval(rest, lookout, clock):
    client = rest()
    hasty, calm = (
        [upcoming(client, clock.now + DAY, listed_at=clock.now - HOUR, date=clock.now - DAY - n) for n in range(5)]
        for _ in range(2)
    )
    wait_for(lookout, hasty, interval=10)
    wait_for(lookout, calm, interval=5 * MINUTE)
    watch(client, lookout, clock, HOUR)
    asked = Counter(path.split("/")[2] for _, operation, path in client.books if operation == "get_transcript")
    assert min(asked[one] for one in hasty) >= 250
    assert max(asked[one] for one in calm) <= 14


def test_calls_that_end_long_after_they_began_are_found_behind_those_that_began_later(rest, lookout, clock):
    client = rest(samples=0)
    choose = random.Random(6)
    ready_at = {}
    for _ in range(700):
        at, length = clock.now + choose.uniform(0, 90 * MINUTE), choose.choice([2, 5, 20, 60]) * MINUTE
        ready_at[upcoming(client, at, date=at - length - 60)] = at
    waits = wait_for(lookout, ready_at)
    watch(client, lookout, clock, 2 * HOUR)
    assert max(noticed(waits[one]) - at for one, at in ready_at.items()) <= 2 * INTERVAL


def test_a_bug_in_reading_one_harms_no_other(rest, lookout, clock, mocker, caplog):
    client = rest()
    good, bad = (upcoming(client, clock.now + 5 * MINUTE) for _ in range(2))
    waits = wait_for(lookout, [bad, good])
    mocker.patch.object(waits[bad], "ask", side_effect=KeyError("a bug"))
    watch(client, lookout, clock, HOUR)
    assert waits[good].ready
    assert "KeyError" in waits[bad].decide(lookout.now()).reason


def test_an_api_that_is_away_is_not_asked_on_and_delays_all(rest, lookout, clock):
    client = rest()
    ids = [upcoming(client, clock.now + MINUTE) for _ in range(100)]
    waits = wait_for(lookout, ids)
    client.troubles = dict.fromkeys(["list_conversations", "get_transcript"], DstnyConnectionError("refused"))
    watch(client, lookout, clock, 10 * MINUTE)
    assert len(client.books) <= 4 * 11, "a page of the list and three conversations in each interval"
    assert all("refused" in wait.decide(lookout.now()).reason for wait in waits.values())
    client.troubles = {}
    watch(client, lookout, clock, HOUR)
    assert all(wait.ready for wait in waits.values())


def test_a_used_up_quota_is_waited_out_and_ends_those_whose_deadline_comes_before(rest, lookout, clock):
    client = rest(daily_conversation_quota=10)
    ids = [upcoming(client, clock.now + MINUTE) for _ in range(20)]
    waits = wait_for(lookout, ids[:15], hours=48)
    short = wait_for(lookout, ids[15:], hours=2)
    over = watch(client, lookout, clock, DAY)
    assert sum(bool(wait.ready) for wait in waits.values()) + sum(bool(wait.ready) for wait in short.values()) == 20 - (
        given_up := sum(decision.state is WaitState.GAVE_UP for decision in over.values())
    )
    assert given_up <= 5
    assert all(wait.ready for wait in waits.values())


def test_a_list_that_tells_that_they_are_there_need_not_be_asked_twice(rest, lookout, clock):
    client = rest()
    ids = [upcoming(client, clock.now + 5 * MINUTE) for _ in range(50)]
    waits = wait_for(lookout, ids, kind=ConversationWait)
    watch(client, lookout, clock, 10 * MINUTE)
    assert all(wait.ready for wait in waits.values())
    assert client.count("get_conversation") < 10, "only the last few, for which no further page is read"


def test_who_leaves_is_forgotten(rest, lookout, clock):
    client = rest()
    waits = wait_for(lookout, [upcoming(client, clock.now + MINUTE) for _ in range(3)])
    for wait in waits.values():
        lookout.remove(wait)
        lookout.remove(wait)
    watch(client, lookout, clock, HOUR)
    assert client.books == []
    assert lookout._questions == {}


class TestTellcasey:
    @pytest.fixture
    def casey(self, clock):
        state = TellcaseyState(
            tokens={"sk_test"}, transcript_after=0, jitter=0, samples=0, fresh=0, seed=1, clock=clock
        )
        return Casey("http://simulated", "sk_test").connect(state, clock, spacing=0)

    def test_one_page_tells_of_all_that_are_not_completed(self, casey, lookout, clock):
        done = {}
        for number in range(60):
            at = clock.now + (10 + number % 30) * MINUTE
            plan = [(clock.now - 60 - number, "pending"), (clock.now, "in_progress"), (at, "completed")]
            done[casey.state.add(plan=plan).id] = at
        waits = wait_for(lookout, done)
        watch(casey, lookout, clock, 2 * HOUR)
        assert max(noticed(waits[one]) - at for one, at in done.items()) <= 2 * INTERVAL
        assert casey.count("get_transcript") == casey.count("get_conversation") == 60
        assert casey.count("list_conversations") <= 45

    @pytest.mark.parametrize("many", [3, 10, 30])
    def test_conversations_that_fail_delay_no_other(self, casey, lookout, clock, many):
        def completed_at(at):
            return casey.state.add(plan=[(clock.now - 60, "pending"), (at, "completed")]).id

        poison = [completed_at(clock.now - 30) for _ in range(many)]
        casey.troubles = dict.fromkeys(poison, DstnyServerError(500, "a bug"))
        good = {completed_at(clock.now + number * MINUTE): clock.now + number * MINUTE for number in range(1, 30)}
        waits = wait_for(lookout, [*poison, *good])
        watch(casey, lookout, clock, 2 * HOUR)
        assert max(noticed(waits[one]) - at for one, at in good.items()) <= 3 * INTERVAL
        assert casey.count("get_conversation") <= 30 + many * 20

    def test_a_status_that_is_awaited_is_read_from_the_list(self, casey, lookout, clock):
        plans = [[(clock.now - 60, "pending"), (clock.now + 120, "in_progress")] for _ in range(10)]
        ids = [casey.state.add(plan=plan).id for plan in plans]
        waits = wait_for(lookout, ids, kind=ConversationWait, status="in_progress")
        watch(casey, lookout, clock, HOUR)
        assert {wait.ready[one]["status"] for one, wait in waits.items()} == {"in_progress"}
        assert casey.count("get_conversation") <= 2
