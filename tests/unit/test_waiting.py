from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_dstny.api.errors import (
    DstnyAmbiguousError,
    DstnyApiError,
    DstnyAuthError,
    DstnyConnectionError,
    DstnyNotFoundError,
    DstnyQuotaError,
    DstnyRateLimitError,
    DstnyResponseError,
    DstnyScopeError,
    DstnyServerError,
    DstnyTimeoutError,
    DstnyValidationError,
)
from airflow_provider_dstny.api.metrics import NoMetrics
from airflow_provider_dstny.api.models import Transcript
from airflow_provider_dstny.api.operation import Request
from airflow_provider_dstny.waiting.lookout import Lookout, look
from airflow_provider_dstny.waiting.transcripts import TranscriptWait
from airflow_provider_dstny.waiting.wait import Decision, WaitState

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
DEADLINE = START + timedelta(minutes=10)
READY = [{"text": "Hello"}, {"text": "Hi"}]


def at(seconds):
    return START + timedelta(seconds=seconds)


def waiting_for(*ids, **kwargs):
    return TranscriptWait(ids, started_at=START, deadline=DEADLINE, **kwargs)


def limited(seconds):
    return DstnyRateLimitError(429, "slow down", retry_after=seconds)


def quota(resets_at):
    return DstnyQuotaError(429, "daily quota", resets_at=resets_at)


class Source:
    """Answers per conversation id, each a list of bodies or errors."""

    name = "source"
    spacing = 0.0
    metrics = NoMetrics()
    iterate = iter

    def __init__(self, **answers):
        self.answers = answers
        self.asked: list[str] = []
        self.get_transcript = self

    def steps(self, conversation_id):
        return (yield Request(conversation_id, "GET", "/", True))

    def run(self, steps):
        try:
            request = next(steps)
            while True:
                assert request.max_retries == 0, "the next look is the retry"
                conversation_id = request.operation
                self.asked.append(conversation_id)
                answer = self.answers[conversation_id].pop(0)
                if isinstance(answer, Exception):
                    request = steps.throw(answer)
                else:
                    request = steps.send(Transcript.from_answer(conversation_id, answer))
        except StopIteration as stop:
            return stop.value


class Looked:
    """Looks as a sensor does, each time at another moment."""

    def __init__(self, moved_clock):
        self.now = START
        self.lookouts = {}
        moved_clock(lambda: self.now.timestamp())

    def __call__(self, source, wait, seconds=1):
        self.now = at(seconds)
        if wait not in self.lookouts:
            self.lookouts[wait] = Lookout(every_look=True)
            self.lookouts[wait].add(wait, 60)
        look(source, self.lookouts[wait])
        return wait.decide(self.now)


@pytest.fixture
def looked(moved_clock):
    return Looked(moved_clock)


def test_many_ids_are_ready_when_all_are(looked):
    wait = waiting_for("a", "b", "a")
    source = Source(a=[READY], b=[[], READY])
    assert looked(source, wait, 1).state is WaitState.WAITING
    decision = looked(source, wait, 31)
    assert decision.state is WaitState.READY
    assert decision.ready == {
        "a": {"ready": True, "segments": 2, "waited_seconds": 1.0},
        "b": {"ready": True, "segments": 2, "waited_seconds": 31.0},
    }
    assert source.asked == ["a", "b", "b"], "what is ready is not asked again"


PASSING = [
    DstnyNotFoundError(404, "unknown"),
    DstnyConnectionError("refused"),
    DstnyTimeoutError("slow"),
    DstnyResponseError("html"),
    DstnyServerError(500, "oops"),
    DstnyServerError(503, "down"),
    DstnyServerError(503, "down", retry_after=30),
    DstnyApiError(408, "request timeout"),
    DstnyApiError(425, "too early"),
    limited(None),
    limited(30),
    [],
    None,
]


@pytest.mark.parametrize("answer", PASSING)
def test_what_passes_delays_a_wait_and_never_ends_it(looked, answer):
    wait = waiting_for("a")
    source = Source(a=[answer, READY])
    assert looked(source, wait, 1).state is WaitState.WAITING
    assert looked(source, wait, 60).state is WaitState.READY


@pytest.mark.parametrize(
    "error",
    [
        DstnyAuthError(401, "revoked"),
        DstnyScopeError(403, "scope"),
        DstnyValidationError(400, "bad id"),
        DstnyApiError(405, "method"),
        DstnyAmbiguousError("lost"),
    ],
)
def test_what_does_not_pass_fails_at_once_with_the_reason(looked, error):
    wait = waiting_for("a", "b")
    source = Source(a=[error], b=[READY])
    decision = looked(source, wait)
    assert decision.state is WaitState.FAILED
    assert str(error) in decision.reason
    assert source.asked == ["a"]


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (DstnyConnectionError("refused"), ["a", "b"]),
        (DstnyTimeoutError("slow"), ["a", "b"]),
        (limited(5), ["a"]),
        (DstnyServerError(500, "poison"), ["a", "b"]),
        (DstnyResponseError("poison"), ["a", "b"]),
        (DstnyNotFoundError(404, "unknown"), ["a", "b"]),
    ],
)
def test_a_poison_id_harms_no_other_and_a_blocked_api_is_not_asked_on(looked, error, asked):
    wait = waiting_for("a", "b")
    source = Source(a=[error], b=[READY])
    looked(source, wait)
    assert source.asked == asked


def test_the_last_cause_is_named_when_time_runs_out(looked):
    wait = waiting_for("a", "b")
    source = Source(a=[READY], b=[DstnyServerError(503, "maintenance")])
    decision = looked(source, wait, 601)
    assert decision.state is WaitState.TIMED_OUT
    assert "600 s" in decision.reason
    assert "1 of 2 transcripts" in decision.reason
    assert "maintenance" in decision.reason


def test_what_became_ready_in_the_last_look_counts(looked):
    wait = waiting_for("a")
    assert looked(Source(a=[READY]), wait, 601).state is WaitState.READY


@pytest.mark.parametrize("error", [limited(3600), quota(DEADLINE + timedelta(hours=1)), quota(None)])
def test_a_wait_that_cannot_end_well_is_given_up(looked, error):
    wait = waiting_for("a")
    decision = looked(Source(a=[error]), wait)
    assert decision.state is WaitState.GAVE_UP
    assert "before the deadline" in decision.reason


def test_the_api_is_not_asked_before_it_allows_it(looked):
    wait = waiting_for("a")
    source = Source(a=[limited(120), READY])
    looked(source, wait, 1)
    assert looked(source, wait, 60).state is WaitState.WAITING
    assert source.asked == ["a"]
    assert wait.seconds_to_next_look(at(60), 10) == 61
    assert looked(source, wait, 121).state is WaitState.READY


def test_the_next_look_never_comes_after_the_deadline():
    wait = waiting_for("a")
    assert wait.seconds_to_next_look(at(0), 60) == 60
    assert wait.seconds_to_next_look(at(590), 60) == 10
    assert wait.seconds_to_next_look(at(700), 60) == 0


def test_a_wait_goes_on_with_what_was_ready_before(looked):
    wait = waiting_for("a", "b", ready={"a": {"ready": True, "segments": 1, "waited_seconds": 0.1}})
    source = Source(b=[READY])
    assert list(looked(source, wait).ready) == ["a", "b"]


@pytest.mark.parametrize("ids", [[""], ["a", " "], [None], [True]])
def test_ids_that_are_none_are_refused(ids):
    with pytest.raises(DstnyValidationError, match="conversation_ids"):
        waiting_for(*ids)


def test_an_unknown_shape_is_named_as_the_cause(looked):
    wait = waiting_for("a")
    assert "unknown: phrase" in looked(Source(a=[[{"phrase": "x"}]]), wait).reason


def test_a_wait_can_be_stored_and_gone_on_with(looked):
    wait = waiting_for("a", "b")
    looked(Source(a=[READY], b=[limited(120)]), wait, 5)
    again = TranscriptWait.from_json(json.loads(json.dumps(wait.to_json())))
    assert again.to_json() == wait.to_json()
    assert again.not_before == at(125)
    assert "slow down" in again.decide(at(60)).reason
    assert looked(Source(b=[READY]), again, 130).ready["a"]["waited_seconds"] == 5.0


def test_a_look_ends_when_its_time_is_up(moved_clock):
    moments = iter(range(0, 10**6, 10))
    moved_clock(lambda: at(next(moments)).timestamp())
    source = Source(**{f"c{n}": [DstnyServerError(503, "down")] for n in range(100)})
    wait, lookout = waiting_for(*source.answers), Lookout(every_look=True)
    lookout.add(wait, 60)
    look(source, lookout, until=DEADLINE)
    assert 1 < len(source.asked) < 60
    assert wait.unasked == set(source.answers) - set(source.asked)


def test_no_conversations_are_ready_at_once():
    assert waiting_for().decide(at(0)).state is WaitState.READY


def test_an_event_survives_the_way_through_airflow():
    decision = Decision(WaitState.READY, "ok", {"a": {"ready": True, "segments": 2, "waited_seconds": 1.0}})
    assert Decision.from_event(decision.to_event()) == decision


@pytest.mark.parametrize(
    "event",
    [None, "success", {}, {"state": "ready"}, {"state": "?"}, 7, {"state": "waiting", "reason": "", "ready": {}}],
)
def test_an_event_that_is_not_understood_fails_closed(event):
    assert Decision.from_event(event).state is WaitState.FAILED


def test_ids_that_make_the_api_fail_keep_no_other_waiting(looked):
    timeouts = [DstnyTimeoutError("too slow")] * 9
    source = Source(p1=[*timeouts], p2=[*timeouts], p3=[*timeouts], good=[READY])
    wait = waiting_for("p1", "p2", "p3", "good")
    assert list(looked(source, wait, 1).ready) == []
    assert source.asked == ["p1", "p2", "p3"], "three in a row: it may be the API"
    assert list(looked(source, wait, 2).ready) == ["good"]


def test_ids_that_make_the_api_fail_go_to_the_end_of_the_line(looked):
    timeouts = [DstnyTimeoutError("too slow")] * 3
    source = Source(p1=[*timeouts], p2=[*timeouts], p3=[*timeouts], good=[READY])
    wait = waiting_for("p1", "p2", "p3", "good")
    looked(source, wait, 1)
    # A rescheduled sensor goes on with what was stored.
    again = TranscriptWait.from_json({**wait.to_json(), "unasked": None})
    assert list(looked(source, again, 61).ready) == ["good"]
