from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.exceptions import AirflowRescheduleException
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.throttle import Throttle
from airflow_provider_dstny.sensors.transcripts import DstnyTranscriptSensor
from airflow_provider_dstny.simulator import Fault, Simulator
from airflow_provider_dstny.triggers.base import SAFE_FIRST_LOOK
from airflow_provider_dstny.triggers.transcripts import DstnyTranscriptTrigger
from tests.unit.accounts import Alarms


class TaskStateStore(dict):
    """As of Airflow 3.3."""

    def set(self, key, value):
        self[key] = json.loads(json.dumps(value))


class TaskInstance:
    try_number = 1
    max_tries = 0
    first_reschedule: datetime | None = None

    def xcom_push(self, key, value):
        self.xcoms = {key: value}

    def get_first_reschedule_date(self, context):
        return self.first_reschedule


@pytest.fixture
def ti():
    return TaskInstance()


@pytest.fixture
def context(ti):
    return {"ti": ti, "task_state_store": TaskStateStore()}


@pytest.fixture
def clock():
    class Clock:
        now = datetime(2026, 3, 2, 12, 0, tzinfo=UTC).timestamp()

        def __call__(self):
            return self.now

    return Clock()


@pytest.fixture
def account(monkeypatch, clock, mocker, moved_clock):
    """A simulator whose time, like that of everything that waits for it, is moved by sleeping."""

    def now():
        return datetime.fromtimestamp(clock.now, UTC)

    def sleep(seconds):
        clock.now += seconds

    async def asleep(seconds):
        clock.now += seconds

    throttle = Throttle(clock=clock)
    mocker.patch("airflow_provider_dstny.api.client.throttle_for", return_value=throttle)
    moved_clock(clock)
    mocker.patch("airflow_provider_dstny.api.client.time", SimpleNamespace(sleep=sleep))
    awaited = SimpleNamespace(sleep=asleep, get_running_loop=asyncio.get_running_loop, timeout=asyncio.timeout)
    mocker.patch("airflow_provider_dstny.api.client.asyncio", awaited)
    mocker.patch("airflow_provider_dstny.triggers.base.asyncio", SimpleNamespace(sleep=asleep))
    alarms = Alarms(clock)
    mocker.patch("airflow_provider_dstny.waiting.poller.idle_until", alarms.idle_until)
    mocker.patch("airflow_provider_dstny.waiting.poller._Alarm", alarms.set)
    mocker.patch("airflow.sdk.bases.sensor.time", SimpleNamespace(sleep=sleep, monotonic=clock))
    mocker.patch("airflow.sdk.bases.sensor.timezone", SimpleNamespace(utcnow=now))
    with Simulator(transcript_after=100, clock=clock) as simulator:
        connection = {"conn_type": "dstny", "host": simulator.url, "password": simulator.token}
        monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps(connection))
        yield simulator


@pytest.fixture
def conversation_ids(account, call):
    with DstnyClient(account.url, account.token) as dstny:
        ids = []
        for name in ("a", "b"):
            url = f"{account.url}/recordings/{name}.wav"
            ids.append(dstny.create_call_conversation({**call, "call_external_id": name, "call_recording_url": url}))
    account.state.settle()
    return ids


def sensor(ids, **kwargs):
    return DstnyTranscriptSensor(task_id="wait", conversation_ids=ids, poke_interval=20, **kwargs)


def run_trigger(deferred: TaskDeferred):
    path, kwargs = deferred.trigger.serialize()
    assert path == "airflow_provider_dstny.triggers.transcripts.DstnyTranscriptTrigger"
    trigger = DstnyTranscriptTrigger(**json.loads(json.dumps(kwargs)))

    async def first():
        return await anext(aiter(trigger.run()))

    return asyncio.run(first()).payload


def wait_in(mode, task, context, ti, clock):
    """Bring a sensor to its end in one of the three modes."""
    if mode == "deferrable":
        try:
            return task.execute(context)
        except TaskDeferred as deferred:
            return task.resume_execution(deferred.method_name, {"event": run_trigger(deferred)}, context)
    while True:
        try:
            return task.execute(context)
        except AirflowRescheduleException as again:
            ti.first_reschedule = ti.first_reschedule or datetime.fromtimestamp(clock.now, UTC)
            clock.now = again.reschedule_date.timestamp()
            task._wait = None  # a rescheduled sensor is a new object


MODES = ("poke", "reschedule", "deferrable")


def kwargs_of(mode):
    return {"deferrable": True} if mode == "deferrable" else {"mode": mode}


@pytest.mark.parametrize("mode", MODES)
def test_one_id_and_many_are_awaited_alike_in_every_mode(mode, context, ti, clock, conversation_ids):
    for ids in (conversation_ids, conversation_ids[0]):
        context["task_state_store"].clear()
        result = wait_in(mode, sensor(ids, **kwargs_of(mode)), context, ti, clock)
        assert list(result) == ([ids] if isinstance(ids, str) else ids)
        for seen in result.values():
            assert seen["ready"] is True
            assert seen["segments"] >= 4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_timeout_is_the_same_in_every_mode(mode, soft_fail, context, ti, clock, conversation_ids):
    task = sensor(conversation_ids, timeout=60, soft_fail=soft_fail, **kwargs_of(mode))
    with pytest.raises(AirflowSkipException if soft_fail else AirflowSensorTimeout) as caught:
        wait_in(mode, task, context, ti, clock)
    if not soft_fail:
        assert "2 of 2 transcripts are missing" in str(caught.value)
        assert "404" in str(caught.value)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_revoked_token_is_the_same_in_every_mode(mode, soft_fail, context, ti, clock, account, conversation_ids):
    task = sensor(conversation_ids, soft_fail=soft_fail, **kwargs_of(mode))
    account.state.tokens.clear()
    with pytest.raises(AirflowSkipException if soft_fail else AirflowFailException) as caught:
        wait_in(mode, task, context, ti, clock)
    assert account.token not in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("mode", MODES)
def test_faults_delay_a_wait_and_never_end_it(mode, context, ti, clock, account, conversation_ids):
    for fault in (
        Fault("reset", "get_transcript", times=6),
        Fault("status", "get_transcript", status=429, retry_after=15),
        Fault("html", "get_transcript", status=502, times=7),
        Fault("truncated", "get_transcript"),
        Fault("status", "get_transcript", status=500, times=3),
    ):
        account.books.inject(fault)
    result = wait_in(mode, sensor(conversation_ids, timeout=3600, **kwargs_of(mode)), context, ti, clock)
    assert len(result) == 2
    assert not account.books.faults


def test_a_token_revoked_while_deferred_fails_with_the_reason(context, account, conversation_ids):
    task = sensor(conversation_ids, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    account.state.tokens.clear()
    event = run_trigger(deferred.value)
    assert event["state"] == "failed"
    with pytest.raises(AirflowFailException, match="401"):
        task.resume_execution("execute_complete", {"event": event}, context)


def test_what_is_ready_is_seen_before_deferring(context, clock, conversation_ids):
    clock.now += 200
    assert len(sensor(conversation_ids, deferrable=True).execute(context)) == 2


@pytest.mark.parametrize("poke_interval", [0, 1, 60])
def test_no_first_look_in_the_triggerer_comes_too_soon(poke_interval, clock, account, conversation_ids):
    clock.now += 200
    began = clock.now
    trigger = DstnyTranscriptTrigger(
        conversation_ids=conversation_ids,
        started_at=datetime.fromtimestamp(began, UTC).isoformat(),
        deadline=datetime.fromtimestamp(began + 1, UTC).isoformat(),
        poll_interval=poke_interval,
    )

    async def first():
        return await anext(aiter(trigger.run()))

    assert asyncio.run(first()).payload["state"] == "ready"
    assert clock.now - began >= SAFE_FIRST_LOOK >= 10


def test_a_deferral_hands_on_what_was_ready_and_an_outer_timeout(context, clock, account, call, conversation_ids):
    clock.now += 101
    with DstnyClient(account.url, account.token) as dstny:
        url = f"{account.url}/recordings/c.wav"
        late = dstny.create_call_conversation({**call, "call_external_id": "c", "call_recording_url": url})
    account.state.settle()
    with pytest.raises(TaskDeferred) as deferred:
        sensor([*conversation_ids, late], deferrable=True, timeout=600).execute(context)
    assert set(deferred.value.trigger.wait["ready"]) == set(conversation_ids)
    assert timedelta(seconds=600) < deferred.value.timeout <= timedelta(seconds=900)
    asked = account.books.count("get_transcript")
    assert list(run_trigger(deferred.value)["ready"]) == [*conversation_ids, late]
    assert account.books.count("get_transcript") - asked < 10, "only the missing one is asked for"


def test_a_deadline_survives_a_restart_of_the_triggerer(context, clock, account, conversation_ids):
    with pytest.raises(TaskDeferred) as deferred:
        sensor(conversation_ids, deferrable=True, timeout=60).execute(context)
    account.books.inject(Fault("status", "get_transcript", status=404, times=99))
    clock.now += 3600
    began = clock.now
    event = run_trigger(deferred.value)
    assert event["state"] == "timed_out"
    assert SAFE_FIRST_LOOK <= clock.now - began <= SAFE_FIRST_LOOK + 1


def test_a_transcript_that_came_in_time_is_not_thrown_away_after_a_restart(context, clock, conversation_ids):
    with pytest.raises(TaskDeferred) as deferred:
        sensor(conversation_ids, deferrable=True, timeout=60).execute(context)
    clock.now += 3600
    assert run_trigger(deferred.value)["state"] == "ready"


def test_events_and_xcom_carry_no_text(context, conversation_ids):
    with pytest.raises(TaskDeferred) as deferred:
        sensor(conversation_ids, deferrable=True).execute(context)
    event = json.dumps(run_trigger(deferred.value))
    assert "switchboard" not in event
    assert len(event) < 500


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ids", [None, 1.5, ["a", ""], ["a", "."], ["a", None]])
def test_what_is_no_id_fails_without_a_retry_before_any_request(mode, ids, context, account):
    with pytest.raises(AirflowFailException, match="conversation_ids"):
        sensor(ids, **kwargs_of(mode)).execute(context)
    assert account.books.entries == []


@pytest.mark.parametrize("mode", MODES)
def test_a_quiet_day_without_conversations_is_no_failure(mode, context, account):
    assert sensor([], **kwargs_of(mode)).execute(context) == {}
    assert account.books.entries == []


def test_a_timeout_of_centuries_is_no_problem(context, account, conversation_ids):
    with pytest.raises(TaskDeferred):
        sensor(conversation_ids, deferrable=True, timeout=1e12).execute(context)


def test_a_bad_connection_fails_without_a_retry(context, monkeypatch, account):
    monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps({"conn_type": "dstny", "host": "nowhere:x"}))
    with pytest.raises(AirflowFailException, match="host"):
        sensor("c").execute(context)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_asks_equally_often_and_waits_as_told(mode, context, ti, clock, account, call, conversation_ids):
    clock.now += 70
    with DstnyClient(account.url, account.token) as dstny:
        url = f"{account.url}/recordings/c.wav"
        late = dstny.create_call_conversation({**call, "call_external_id": "c", "call_recording_url": url})
    account.state.settle()
    account.books.inject(Fault("status", "get_transcript", status=429, retry_after=55))
    result = wait_in(mode, sensor([*conversation_ids, late], **kwargs_of(mode)), context, ti, clock)
    # The first is refused and ends its round; later all three are asked, then only the late one. The trigger
    # comes back at the very moment it may (55 s) and not at the next multiple of 20 s, so it needs one look more.
    assert account.books.count("get_transcript") == 1 + 3 + (3 if mode == "deferrable" else 2)
    waited = [seen["waited_seconds"] for seen in result.values()]
    assert waited[0] == pytest.approx(60, abs=6)
    assert waited[2] == pytest.approx(110, abs=11)
