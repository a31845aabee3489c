"""One sensor over three APIs: the same DAG works whichever of them the connection names."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    PokeReturnValue,
    TaskDeferred,
)

from airflow_provider_dstny.api import DstnyClient
from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.sensors.conversations import DstnyConversationSensor
from airflow_provider_dstny.sensors.transcripts import DstnyTranscriptSensor
from airflow_provider_dstny.simulator import Fault, Simulator
from airflow_provider_dstny.triggers.conversations import DstnyConversationTrigger
from airflow_provider_dstny.triggers.transcripts import DstnyTranscriptTrigger

CONNECTIONS = {"dstny": "token", "dstny_rest": "rest_token", "tellcasey": "tellcasey_token"}
DAY = 86400


class TaskInstance:
    try_number = 1

    def __init__(self):
        self.xcoms = {}

    def xcom_push(self, key, value):
        self.xcoms[key] = value

    def get_first_reschedule_date(self, context):
        return None


@pytest.fixture
def context():
    return {"ti": TaskInstance()}


@pytest.fixture
def account(monkeypatch, no_sleep):
    with Simulator(requests_per_minute=None) as simulator:
        for name, token in CONNECTIONS.items():
            connection = {"conn_type": name, "host": simulator.url, "password": getattr(simulator, token)}
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}_DEFAULT", json.dumps(connection))
        yield simulator


@pytest.fixture(params=list(CONNECTIONS))
def api(request):
    return request.param


@pytest.fixture
def conversation_id(account, api, call):
    """A conversation that is complete."""
    now = time.time()
    match api:
        case "dstny":
            with DstnyClient(account.url, account.token) as dstny:
                url = f"{account.url}/recordings/a.wav"
                made = dstny.create_call_conversation({**call, "call_recording_url": url})
            account.state.settle()
            return made
        case "dstny_rest":
            return account.rest.add().id
    plan = [(now - 3 * DAY, "pending"), (now - 2 * DAY, "in_progress"), (now - DAY, "completed")]
    return account.tellcasey.add(plan=plan, messages=["Hello", "Hi", "Bye"]).id


def casey(account, *plan, messages=("Hello", "Hi")):
    now = time.time()
    return account.tellcasey.add(plan=[(now + at, status) for at, status in plan], messages=list(messages)).id


def sensor(kind, ids, conn_id, **kwargs):
    return kind(task_id="wait", conversation_ids=ids, dstny_conn_id=conn_id, poke_interval=1, **kwargs)


def poke(task, context):
    outcome = task.poke(context)
    return outcome.xcom_value if isinstance(outcome, PokeReturnValue) else outcome


def test_a_transcript_is_awaited_through_each_api(account, api, conversation_id, context):
    found = poke(sensor(DstnyTranscriptSensor, conversation_id, f"{api}_default"), context)
    assert found[conversation_id]["ready"]
    assert found[conversation_id]["segments"] >= 3
    assert account.books.violations == []


def test_a_conversation_is_awaited_through_each_api(account, api, conversation_id, context):
    found = poke(sensor(DstnyConversationSensor, conversation_id, f"{api}_default"), context)
    assert found[conversation_id]["exists"]
    assert found[conversation_id].get("status") == ("completed" if api == "tellcasey" else None)
    assert account.books.violations == []


@pytest.mark.parametrize("kind", [DstnyTranscriptSensor, DstnyConversationSensor])
def test_an_unknown_conversation_delays_the_wait(account, api, kind, context):
    task = sensor(kind, "497f6eca-6276-4993-bfeb-53cbbbba6f08", f"{api}_default", timeout=0)
    with pytest.raises(AirflowSensorTimeout, match="not known yet"):
        poke(task, context)


@pytest.mark.parametrize("kind", [DstnyTranscriptSensor, DstnyConversationSensor])
def test_a_passing_fault_delays_and_a_refused_token_ends_it(account, api, conversation_id, kind, context, monkeypatch):
    task = sensor(kind, conversation_id, f"{api}_default")
    account.books.inject(Fault("status", status=503))
    assert poke(task, context) is False
    assert poke(task, context)[conversation_id]
    connection = {"conn_type": api, "host": account.url, "password": "revoked"}
    monkeypatch.setenv(f"AIRFLOW_CONN_{api.upper()}_DEFAULT", json.dumps(connection))
    with pytest.raises(AirflowFailException, match="fresh one"):
        poke(sensor(kind, conversation_id, f"{api}_default"), context)


@pytest.mark.parametrize(
    ("kind", "trigger_class"),
    [(DstnyTranscriptSensor, DstnyTranscriptTrigger), (DstnyConversationSensor, DstnyConversationTrigger)],
)
def test_the_triggerer_waits_through_each_api(account, api, conversation_id, kind, trigger_class, context, mocker):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    mocker.patch("airflow_provider_dstny.triggers.base.asyncio", SimpleNamespace(sleep=sleep))
    account.books.inject(Fault("status", status=503, times=2))
    task = sensor(kind, conversation_id, f"{api}_default", deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    path, kwargs = deferred.value.trigger.serialize()
    assert path == f"{trigger_class.__module__}.{trigger_class.__qualname__}"
    trigger = trigger_class(**json.loads(json.dumps(kwargs)))

    async def first():
        return await anext(trigger.run())

    event = asyncio.run(first()).payload
    assert event["state"] == "ready", event
    assert slept[0] >= 10
    assert set(task.execute_complete(context, event)) == {conversation_id}


class TestStatusesOfTellcasey:
    def test_a_transcript_that_still_grows_is_not_ready(self, account, context):
        talking = casey(account, (-60, "pending"), (-30, "in_progress"), (DAY, "completed"))
        task = sensor(DstnyTranscriptSensor, talking, "tellcasey_default")
        assert poke(task, context) is False
        assert "is in_progress, not yet completed" in task._wait.decide(datetime.now(UTC)).reason
        assert account.books.count("get_transcript", "tellcasey") == 0, "nothing is read before it is whole"

    @pytest.mark.parametrize("ended", ["abandoned", "archived"])
    @pytest.mark.parametrize("kind", [DstnyTranscriptSensor, DstnyConversationSensor])
    def test_one_that_ended_fails_the_wait_with_the_reason_or_is_accepted(self, account, context, kind, ended):
        gone = casey(account, (-60, "pending"), (-30, "in_progress"), (-10, ended))
        with pytest.raises(AirflowFailException, match=f"is {ended}: it will not become completed.*accept_statuses"):
            poke(sensor(kind, gone, "tellcasey_default"), context)
        assert poke(sensor(kind, gone, "tellcasey_default", accept_statuses=[ended]), context)[gone]

    def test_one_that_was_abandoned_before_a_word_was_said_is_accepted_empty(self, account, context):
        silent = casey(account, (-60, "pending"), (-30, "abandoned"), messages=())
        task = sensor(DstnyTranscriptSensor, silent, "tellcasey_default", accept_statuses=["abandoned"])
        assert poke(task, context)[silent]["segments"] == 0

    @pytest.mark.parametrize(("status", "done"), [("pending", True), ("in_progress", True), ("completed", False)])
    def test_a_status_is_reached_when_it_is_passed(self, account, context, status, done):
        talking = casey(account, (-60, "pending"), (-30, "in_progress"), (DAY, "completed"))
        found = poke(sensor(DstnyConversationSensor, talking, "tellcasey_default", status=status), context)
        assert bool(found) is done

    def test_a_status_that_is_not_known_delays(self, account, context):
        odd = casey(account, (-60, "pending"), (-30, "paused"))
        assert poke(sensor(DstnyConversationSensor, odd, "tellcasey_default"), context) is False

    @pytest.mark.parametrize(
        ("options", "named"), [({"status": "done"}, "status"), ({"accept_statuses": ["completed"]}, "accept_statuses")]
    )
    def test_a_wrong_status_fails_before_anything_is_asked(self, account, context, options, named):
        with pytest.raises(AirflowFailException, match=named):
            poke(sensor(DstnyConversationSensor, "a", "tellcasey_default", **options), context)
        assert account.books.entries == []

    def test_what_the_trigger_waits_for_survives_its_restart(self, account):
        now = datetime.now(UTC)
        trigger = DstnyConversationTrigger(
            conversation_ids=["a"],
            status="pending",
            accept_statuses=["archived"],
            started_at=now.isoformat(),
            deadline=(now + timedelta(hours=1)).isoformat(),
        )
        _, kwargs = trigger.serialize()
        wait = trigger.wait_class().from_json(DstnyConversationTrigger(**kwargs).wait)
        assert (wait.status, wait.accept_statuses, wait.pending) == ("pending", ["archived"], ["a"])


def test_a_scope_that_is_missing_ends_the_wait_at_once_and_is_named(account, context):
    account.rest.tokens[account.rest_token] = {"conversations"}
    with pytest.raises(AirflowFailException, match=r"'transcripts' scope under Settings → REST API"):
        poke(sensor(DstnyTranscriptSensor, account.rest.add().id, "dstny_rest_default"), context)


def test_a_used_up_quota_that_lasts_past_the_deadline_is_told_at_once(account, context):
    account.books.inject(Fault("status", status=429, message="Daily conversation quota exceeded", times=9))
    task = sensor(DstnyTranscriptSensor, account.rest.add().id, "dstny_rest_default", timeout=1)
    with pytest.raises(AirflowSensorTimeout, match="Gave up"):
        poke(task, context)


def test_a_connection_of_another_provider_is_refused(context, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "http", "host": "https://example.com"}))
    with pytest.raises(AirflowFailException, match="is of type 'http'"):
        poke(sensor(DstnyTranscriptSensor, "a", "other"), context)


def test_a_trigger_with_a_connection_of_another_provider_fails_closed(monkeypatch, mocker):
    async def sleep(seconds):
        pass

    mocker.patch("airflow_provider_dstny.triggers.base.asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({"conn_type": "http", "host": "https://example.com"}))
    now = datetime.now(UTC).isoformat()
    trigger = DstnyTranscriptTrigger(conversation_ids=["a"], started_at=now, deadline=now, dstny_conn_id="other")

    async def first():
        return await anext(trigger.run())

    assert asyncio.run(first()).payload["state"] == "failed"


def test_an_abandoned_one_is_no_reason_to_retry_and_others_that_are_ready_do_not_hide_it(account, context):
    ready = casey(account, (-60, "pending"), (-30, "in_progress"), (-10, "completed"))
    gone = casey(account, (-60, "pending"), (-10, "abandoned"))
    with pytest.raises(AirflowException) as caught:
        poke(sensor(DstnyTranscriptSensor, [ready, gone], "tellcasey_default"), context)
    assert isinstance(caught.value, AirflowFailException)
    assert gone in str(caught.value)


def test_default_args_reach_every_sensor():
    defaults = {"dstny_conn_id": "mine", "deferrable": True}
    for kind in (DstnyTranscriptSensor, DstnyConversationSensor):
        task = kind(task_id="wait", conversation_ids="a", default_args=defaults)
        assert (task.dstny_conn_id, task.deferrable) == ("mine", True)


def test_a_conversation_wait_refuses_ids_that_are_none():
    from airflow_provider_dstny.waiting.conversations import ConversationWait

    now = datetime.now(UTC)
    with pytest.raises(DstnyValidationError, match="conversation_ids"):
        ConversationWait([None], started_at=now, deadline=now)
