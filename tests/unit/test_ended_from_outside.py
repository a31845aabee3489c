"""A task that is ended while it works or waits: what is done is saved, and what goes on in Dstny is told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowException

from airflow_provider_dstny.api.client import ApiClient
from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.operators.agents import DstnyRunAgentOperator
from airflow_provider_dstny.operators.conversations import (
    DstnyCreateCallConversationOperator,
    DstnyUploadCallsOperator,
)
from airflow_provider_dstny.sensors.transcripts import DstnyTranscriptSensor
from airflow_provider_dstny.transfers.object_storage import DstnyToObjectStorageOperator
from airflow_provider_dstny.triggers.agents import DstnyAgentRunTrigger
from airflow_provider_dstny.triggers.transcripts import DstnyTranscriptTrigger


@pytest.fixture
def calls(account, call):
    url = f"{account.url}/recordings/a.wav"
    return [{**call, "call_external_id": f"pbx-{n}", "call_recording_url": url} for n in range(5)]


@pytest.fixture
def ids(account, calls):
    with DstnyClient(account.url, account.token) as dstny:
        ids = [dstny.create_call_conversation(call) for call in calls]
    account.state.settle()
    return ids


@pytest.fixture
def ended(monkeypatch):
    """End a task as Airflow does, while its third request of an operation is on its way."""

    def end(task, operation, context=None):
        sent = []
        send = ApiClient._asend

        async def hold_third(client, request):
            if request.operation == operation:
                sent.append(request)
                if len(sent) == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                    await asyncio.Event().wait()
            return await send(client, request)

        before = signal.signal(signal.SIGTERM, lambda *_: task.on_kill())
        try:
            with monkeypatch.context() as patched:
                patched.setattr(ApiClient, "_asend", hold_third)
                with pytest.raises(AirflowException, match="ended from outside") as caught:
                    task.execute(context or {})
        finally:
            signal.signal(signal.SIGTERM, before)
        return str(caught.value)

    return end


def test_an_agent_round_saves_what_was_answered(account, ids, ended, tmp_path):
    path = tmp_path / "results.jsonl"

    def task():
        return DstnyRunAgentOperator(
            task_id="run",
            agent_id=1,
            conversation_ids=ids,
            is_test_run=True,
            concurrency=1,
            output_path=str(path),
            deferrable=False,
        )

    told = ended(task(), "run_agent")
    assert "Runs that were sent go on in Dstny" in told
    assert [json.loads(line)["conversation_id"] for line in path.read_text().splitlines()] == ids[:2]
    assert task().execute({})["skipped"] == 2


def test_an_upload_knows_what_was_sent_and_what_may_have_been(account, calls, ended, tmp_path):
    path = tmp_path / "results.jsonl"

    def task():
        return DstnyUploadCallsOperator(task_id="upload", calls=calls, results_path=str(path), concurrency=1)

    assert "a retry sends what is missing" in ended(task(), "create_call_conversation")
    states = {row["call_external_id"]: row["state"] for row in map(json.loads, path.read_text().splitlines())}
    assert states == {"pbx-0": "sent", "pbx-1": "sent", "pbx-2": "ambiguous"}
    # The third one never left, which nobody can know.
    with pytest.raises(AirflowException, match="pbx-2"):
        task().execute({})
    assert sorted(call["call_external_id"] for call in account.state.to_json()) == ["pbx-0", "pbx-1", "pbx-3", "pbx-4"]


def test_an_export_saves_what_was_read(account, ended, monkeypatch, tmp_path):
    connection = {
        "conn_type": "dstny_rest",
        "host": account.url,
        "password": account.rest_token,
        "extra": {"requests_per_minute": 100000},
    }
    monkeypatch.setenv("AIRFLOW_CONN_DSTNY_REST_DEFAULT", json.dumps(connection))
    for _ in range(5):
        account.rest.add()

    task = DstnyToObjectStorageOperator(
        task_id="land", path=f"file://{tmp_path}/lake", tables=["conversations"], concurrency=1
    )
    now = datetime.fromtimestamp(account.rest._clock(), UTC)
    context = {
        "dag_run": SimpleNamespace(data_interval_start=now, data_interval_end=now, run_after=now),
        "params": {},
        "outlet_events": {},
    }
    assert "a retry of the same interval goes on" in ended(task, "get_conversation", context)
    assert account.books.count("get_conversation") == 2
    assert task.execute(context)["listed"] >= 5
    assert account.books.count("get_conversation") == len(account.rest.conversations)


@pytest.mark.parametrize(
    "task",
    [
        DstnyTranscriptSensor(task_id="wait", conversation_ids="c-1"),
        DstnyCreateCallConversationOperator(task_id="create", call={}),
    ],
    ids=lambda task: task.task_id,
)
def test_a_task_that_only_waits_tells_what_goes_on(task, caplog):
    task.on_kill()
    assert "The task was ended from outside." in caplog.text
    assert task.goes_on in caplog.text


def test_a_trigger_tells_what_it_waited_for(capsys):
    now = datetime.now(UTC)
    trigger = DstnyTranscriptTrigger(
        conversation_ids=["c-1", "c-2"],
        started_at=(now - timedelta(minutes=5)).isoformat(),
        deadline=(now + timedelta(minutes=5)).isoformat(),
    )
    asyncio.run(trigger.on_kill())
    told = capsys.readouterr().out
    assert "2 of 2 transcripts are missing" in told
    assert "nothing there has to be stopped" in told


def test_a_trigger_tells_what_becomes_of_runs(capsys):
    trigger = DstnyAgentRunTrigger(round_of_runs={}, dstny_conn_id="dstny_default")
    asyncio.run(trigger.on_kill())
    assert "Runs that were sent go on in Dstny" in capsys.readouterr().out
