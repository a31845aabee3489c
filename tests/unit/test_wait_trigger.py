"""What the trigger does beside waiting: its connection, its token, and versions of it that meet."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from airflow_provider_dstny.simulator import Simulator
from airflow_provider_dstny.triggers.transcripts import DstnyTranscriptTrigger
from airflow_provider_dstny.waiting.poller import Poller, PollerEndedError
from airflow_provider_dstny.waiting.transcripts import TranscriptWait
from airflow_provider_dstny.waiting.wait import Sighting


@pytest.fixture
def account(monkeypatch):
    with Simulator(requests_per_minute=None) as simulator:
        connect(monkeypatch, simulator, simulator.rest_token)
        yield simulator


@pytest.fixture
def slept(mocker):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)
        await asyncio.sleep(0)

    mocker.patch("airflow_provider_dstny.triggers.base.asyncio", SimpleNamespace(sleep=sleep))
    return slept


def connect(monkeypatch, simulator, token, **options):
    extra = {"requests_per_minute": 100000, **options}
    connection = {"conn_type": "dstny_rest", "host": simulator.url, "password": token, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps(connection))


def trigger(*ids, **kwargs):
    now = datetime.now(UTC)
    times = {"started_at": (now - timedelta(hours=1)).isoformat(), "deadline": (now + timedelta(hours=1)).isoformat()}
    return DstnyTranscriptTrigger(conversation_ids=ids, poll_interval=1, **{**times, **kwargs})


def event_of(trigger):
    async def first():
        return await anext(aiter(trigger.run()))

    return asyncio.run(first()).payload


def test_a_token_that_was_replaced_while_the_task_waits_is_taken_up(account, monkeypatch, slept, mocker):
    conversation_id = account.rest.add().id
    revoked, account.rest.tokens = account.rest.tokens, {"mt_new": account.rest.tokens["mt_simulator"]}
    join = Poller.wait

    async def rotate(*args):
        try:
            return await join(*args)
        finally:
            connect(monkeypatch, account, "mt_new")

    mocker.patch.object(Poller, "wait", rotate)
    assert event_of(trigger(conversation_id))["state"] == "ready"
    assert [entry.status for entry in account.books.entries] == [401, 200]
    assert revoked


def test_a_token_that_was_not_replaced_fails_the_wait_once(account, slept):
    conversation_id = account.rest.add().id
    account.rest.tokens = {}
    event = event_of(trigger(conversation_id))
    assert event["state"] == "failed"
    assert "fresh one" in event["reason"]
    assert len(account.books.entries) == 1


def test_a_refused_token_is_not_tried_again_with_other_settings(account, monkeypatch, slept, mocker):
    conversation_id = account.rest.add().id
    account.rest.tokens = {}
    join = Poller.wait

    async def mend(*args):
        try:
            return await join(*args)
        finally:
            connect(monkeypatch, account, account.rest_token, timeout=5)

    mocker.patch.object(Poller, "wait", mend)
    assert event_of(trigger(conversation_id))["state"] == "failed"
    assert len(account.books.entries) == 1


def test_another_poller_is_joined_where_one_ends_before_its_time(account, slept, mocker):
    conversation_id = account.rest.add().id
    join = Poller.wait
    outcomes = [PollerEndedError(), None]

    async def wait(*args):
        if (error := outcomes.pop(0)) is not None:
            raise error
        return await join(*args)

    mocker.patch.object(Poller, "wait", wait)
    assert event_of(trigger(conversation_id))["state"] == "ready"
    assert outcomes == []


def test_a_connection_that_cannot_be_read_for_a_while_ends_no_wait(account, slept, mocker):
    conversation_id = account.rest.add().id
    from airflow_provider_dstny import hooks

    read = hooks.aget_client_hook
    outcomes = [OSError("the secrets backend is restarted"), KeyError("again"), None]

    async def aget_client_hook(conn_id):
        if (error := outcomes.pop(0)) is not None:
            raise error
        return await read(conn_id)

    mocker.patch("airflow_provider_dstny.hooks.aget_client_hook", aget_client_hook)
    assert event_of(trigger(conversation_id))["state"] == "ready"
    assert slept == [10, 10, 30]


def test_a_connection_that_is_never_there_fails_the_try(account, slept, mocker):
    mocker.patch("airflow_provider_dstny.hooks.aget_client_hook", side_effect=OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        event_of(trigger("a"))
    assert sum(slept) < 600


def test_what_nobody_has_looked_at_survives_the_way_through_airflow():
    now = datetime.now(UTC)
    wait = TranscriptWait(["a", "b"], started_at=now, deadline=now + timedelta(hours=1))
    stored = DstnyTranscriptTrigger(**wait.to_json()).serialize()[1]
    again = DstnyTranscriptTrigger(**json.loads(json.dumps(stored)))
    assert TranscriptWait.from_json(again.wait).unasked == {"a", "b"}


def test_what_was_looked_at_is_not_looked_at_first_again():
    now = datetime.now(UTC)
    wait = TranscriptWait(["a"], started_at=now, deadline=now + timedelta(hours=1))
    wait.saw("a", Sighting(cause="not there yet"), now)
    assert TranscriptWait.from_json(wait.to_json()).unasked == set()


def test_a_trigger_says_nothing_that_an_older_triggerer_does_not_know():
    _, kwargs = trigger("a").serialize()
    assert set(kwargs) == {
        "accept_statuses",
        "conversation_ids",
        "deadline",
        "dstny_conn_id",
        "last_cause",
        "not_before",
        "poll_interval",
        "ready",
        "started_at",
    }
