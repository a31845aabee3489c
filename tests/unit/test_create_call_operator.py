from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred

from airflow_provider_dstny.api import DstnyClient, throttle
from airflow_provider_dstny.api.errors import DstnyAmbiguousError, DstnyApiError, DstnyRateLimitError, DstnyServerError
from airflow_provider_dstny.api.models import CallConversation
from airflow_provider_dstny.operators.conversations import DstnyCreateCallConversationOperator
from airflow_provider_dstny.simulator import Fault

PHONE = "+46701740605"


class TaskStateStore(dict):
    """As of Airflow 3.3: one per task instance, kept over its tries and over clearing."""

    def set(self, key, value):
        self[key] = json.loads(json.dumps(value))

    def delete(self, key):
        self.pop(key, None)


@pytest.fixture
def call(call, simulator):
    return {**call, "call_recording_url": f"{simulator.url}/recordings/a.wav"}


@pytest.fixture
def context():
    return {
        "ti": SimpleNamespace(try_number=1, max_tries=1, xcom_push=lambda key, value: None),
        "task_state_store": TaskStateStore(),
    }


def next_try(context):
    context["ti"].try_number += 1


def clear(context):
    """What Airflow does to a task instance that is cleared."""
    context["ti"].max_tries = context["ti"].try_number + 1
    context["ti"].try_number += 1


def operator(call, **kwargs):
    return DstnyCreateCallConversationOperator(task_id="create", call=call, **kwargs)


def test_the_conversation_id_is_returned(account, call, context):
    conversation_id = operator(call).execute(context)
    assert list(account.state.calls) == [conversation_id]
    assert operator(CallConversation.parse(call)).execute({"ti": context["ti"]}) in account.state.calls


@pytest.mark.parametrize("field", ["call_end_time", "call_direction", "owner_email"])
def test_an_invalid_call_fails_without_a_retry_and_sends_nothing(account, call, context, field):
    with pytest.raises(AirflowFailException, match=field):
        operator({**call, field: "wrong"}).execute(context)
    assert account.books.entries == []


@pytest.mark.parametrize("call", [None, 7, [], "calls.csv", "calls.csv#0", "calls.csv#x", "#1"])
def test_what_is_no_call_fails_without_a_retry(account, call, context):
    with pytest.raises(AirflowFailException):
        operator(call).execute(context)


class TestRowsOfFiles:
    @pytest.fixture
    def csv(self, tmp_path, call):
        rows = [
            {**call, "call_external_id": "pbx-1", "owner_phone_number": PHONE, "call_title": ""},
            {**call, "call_external_id": "pbx-2", "call_duration": "ninety"},
        ]
        path = tmp_path / "calls.csv"
        cells = [list(rows[0]), *[[str(row.get(name, "")) for name in rows[0]] for row in rows]]
        path.write_text("\n".join(",".join(row) for row in cells) + "\n")
        return path

    def test_a_row_of_a_csv_file_is_sent(self, account, csv, context):
        operator(f"{csv}#1").execute(context)
        body = next(iter(account.state.calls.values())).body
        assert body["owner_phone_number"] == PHONE
        assert body["call_duration"] == 90
        assert "call_title" not in body

    def test_a_bad_row_is_named_with_its_field_and_reason(self, account, csv, context):
        with pytest.raises(AirflowFailException, match=r"calls\.csv#2: .*call_duration: .*integer"):
            operator(f"file://{csv}#2").execute(context)
        assert account.books.entries == []

    @pytest.mark.parametrize("row", [3, 99])
    def test_a_row_that_is_not_there_is_named(self, account, csv, context, row):
        with pytest.raises(AirflowFailException, match=f"no row {row}"):
            operator(f"{csv}#{row}").execute(context)

    def test_a_row_of_a_jsonl_file_keeps_its_types(self, account, tmp_path, call, context):
        path = tmp_path / "calls.jsonl"
        path.write_text(json.dumps(call) + "\n\n[1]\nnot json\n")
        operator(f"{path}#1").execute(context)
        for row in (2, 3):
            with pytest.raises(AirflowFailException, match=r"calls\.jsonl"):
                operator(f"{path}#{row}").execute(context)

    def test_a_missing_file_is_named(self, account, tmp_path, context):
        with pytest.raises(AirflowFailException, match="does not exist"):
            operator(f"{tmp_path}/none.csv#1").execute(context)


class TestSendingOnce:
    def test_a_retry_attaches_to_the_known_id(self, account, call, context):
        task = operator(call, wait_for_transcript=True, deferrable=True)
        account.books.inject(Fault("status", "get_transcript", status=404))
        with pytest.raises(TaskDeferred):
            task.execute(context)
        next_try(context)
        assert operator(call).execute(context) in account.state.calls
        assert len(account.state.calls) == 1

    @pytest.mark.parametrize("kind", ["reset", "truncated", "empty"])
    def test_after_a_lost_answer_the_call_is_looked_for_before_it_would_be_sent_again(
        self, account, call, context, kind
    ):
        account.books.inject(Fault(kind, "create_call_conversation"))
        with pytest.raises(DstnyAmbiguousError):
            operator(call).execute(context)
        next_try(context)
        assert operator(call).execute(context) in account.state.calls
        assert account.books.count("create_call_conversation") == 1

    def test_what_cannot_be_found_is_not_sent_again_unless_told_so(self, account, call, context):
        account.books.inject(Fault("reset", "create_call_conversation", before=True))
        with pytest.raises(DstnyAmbiguousError):
            operator(call).execute(context)
        next_try(context)
        with pytest.raises(DstnyAmbiguousError, match="resubmit_ambiguous"):
            operator(call).execute(context)
        assert account.books.count("create_call_conversation") == 1
        operator(call, resubmit_ambiguous=True).execute(context)
        assert account.books.count("create_call_conversation") == 2

    def test_a_500_counts_as_a_lost_answer(self, account, call, context):
        account.books.inject(Fault("status", "create_call_conversation"))
        with pytest.raises(DstnyServerError):
            operator(call).execute(context)
        next_try(context)
        with pytest.raises(DstnyAmbiguousError):
            operator(call).execute(context)

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, AirflowFailException),
            (401, AirflowFailException),
            (403, AirflowFailException),
            (409, DstnyApiError),
            (422, AirflowFailException),
        ],
    )
    def test_what_was_refused_is_sent_by_the_retry(self, account, call, context, status, error):
        account.books.inject(Fault("status", "create_call_conversation", status=status))
        with pytest.raises(error, match=str(status)):
            operator(call).execute(context)
        next_try(context)
        assert operator(call).execute(context) in account.state.calls

    def test_clearing_a_task_that_succeeded_runs_it_anew(self, account, call, context):
        first = operator(call).execute(context)
        clear(context)
        assert operator(call).execute(context) != first

    def test_a_retry_after_a_crash_in_the_last_moment_does_not(self, account, call, context):
        first = operator(call).execute(context)
        next_try(context)
        assert operator(call).execute(context) == first

    def test_clearing_a_task_that_failed_attaches(self, account, call, context):
        account.books.inject(Fault("reset", "create_call_conversation"))
        with pytest.raises(DstnyAmbiguousError):
            operator(call).execute(context)
        clear(context)
        operator(call).execute(context)
        assert len(account.state.calls) == 1

    def test_another_call_in_the_same_task_is_sent(self, account, call, context):
        operator(call).execute(context)
        next_try(context)
        operator({**call, "call_external_id": "pbx-2"}).execute(context)
        assert len(account.state.calls) == 2

    def test_a_corrected_call_is_sent_anew_and_a_newly_signed_url_is_not(self, account, call, context):
        operator({**call, "call_recording_url": f"{call['call_recording_url']}?signature=1"}).execute(context)
        next_try(context)
        operator({**call, "call_recording_url": f"{call['call_recording_url']}?signature=2"}).execute(context)
        assert len(account.state.calls) == 1
        operator({**call, "call_title": "Corrected"}).execute(context)
        assert len(account.state.calls) == 2

    def test_an_earlier_lost_answer_is_not_forgotten_when_sending_again_is_refused(self, account, call, context):
        account.books.inject(Fault("reset", "create_call_conversation"))
        account.books.inject(Fault("status", "list_conversations", status=404))
        account.books.inject(Fault("status", "create_call_conversation", status=429, retry_after=300))
        for _ in range(2):
            with pytest.raises(Exception, match=r"lost|404"):
                operator(call, resubmit_ambiguous=True).execute(context)
            next_try(context)
        assert operator(call, resubmit_ambiguous=True).execute(context) in account.state.calls
        assert len(account.state.calls) == 1

    @pytest.mark.parametrize(
        "start", ["2026-03-02T23:59:59Z", "2026-03-03T00:00:00+14:00", "2026-03-02T00:00:00-12:00"]
    )
    def test_a_call_near_midnight_is_found(self, account, call, context, start):
        account.books.inject(Fault("reset", "create_call_conversation"))
        with pytest.raises(DstnyAmbiguousError):
            operator({**call, "call_start_time": start}).execute(context)
        next_try(context)
        assert operator({**call, "call_start_time": start}).execute(context) in account.state.calls

    def test_without_a_task_state_the_risk_of_a_retry_is_told(self, account, call, caplog):
        operator(call).execute({"ti": SimpleNamespace(try_number=2, max_tries=2)})
        assert "second time" in caplog.text

    def test_a_429_is_waited_for_and_sent_once(self, account, call, context, no_sleep):
        account.books.inject(Fault("status", "create_call_conversation", status=429, retry_after=7))
        operator(call).execute(context)
        assert 7 in no_sleep
        assert len(account.state.calls) == 1


class TestPreflight:
    def test_a_recording_that_can_be_fetched_is_no_obstacle(self, account, call, context):
        call["call_recording_url"] = f"{account.url}/recordings/big-1000000000.bin?signature=s3cr3t"
        conversation_id = operator(call, preflight_recording=True).execute(context)
        assert conversation_id in account.state.calls
        first = account.books.downloads[0]
        assert (first.range, first.authorized) == ("bytes=0-0", False)

    @pytest.mark.parametrize(
        ("fault", "final"),
        [
            (Fault("status", "recording", status=403), True),
            (Fault("status", "recording", status=404), True),
            (Fault("html", "recording", status=200), True),
            (Fault("status", "recording", status=503), False),
            (Fault("reset", "recording"), False),
        ],
        ids=["403", "404", "page", "503", "reset"],
    )
    def test_one_that_cannot_is_told_before_anything_is_sent(self, account, call, context, fault, final):
        call["call_recording_url"] = f"{account.url}/recordings/a.wav?signature=s3cr3t"
        account.books.inject(Fault(**vars(fault)))
        with pytest.raises(Exception, match=r"call_recording_url|connection to 127") as caught:
            operator(call, preflight_recording=True).execute(context)
        assert isinstance(caught.value, AirflowFailException) is final
        assert "s3cr3t" not in str(caught.value)
        assert account.books.count("create_call_conversation") == 0

    def test_what_was_sent_already_is_not_asked_about_again(self, account, call, context):
        call["call_recording_url"] = f"{account.url}/recordings/a.wav"
        first = operator(call, preflight_recording=True).execute(context)
        account.state.settle()
        account.books.inject(Fault("status", "recording", status=403))
        context["ti"].try_number = 2
        assert operator(call, preflight_recording=True).execute(context) == first


class TestWaiting:
    @pytest.mark.parametrize("name", ["timeout", "poke_interval"])
    @pytest.mark.parametrize("value", ["60", None, -1, 1e300, True, float("nan")])
    def test_a_time_that_cannot_work_is_refused_when_the_dag_is_read(self, call, name, value):
        with pytest.raises(ValueError, match=name):
            operator(call, **{name: value})

    def test_times_may_be_timedeltas(self, call):
        assert operator(call, timeout=timedelta(hours=1)).timeout == 3600

    def test_in_the_worker(self, account, call, context, mocker):
        slept: list[float] = []

        def sleep(seconds):
            slept.append(round(seconds))
            account.state.settle()

        mocker.patch("airflow_provider_dstny.operators.conversations.time", SimpleNamespace(sleep=sleep))
        account.books.inject(Fault("status", "get_transcript", status=404, times=2))
        assert operator(call, wait_for_transcript=True, poke_interval=30).execute(context) in account.state.calls
        assert slept == [30, 30]

    def test_in_the_triggerer(self, account, call, context):
        account.books.inject(Fault("status", "get_transcript", status=404))
        task = operator(call, wait_for_transcript=True, deferrable=True)
        with pytest.raises(TaskDeferred) as deferred:
            task.execute(context)
        conversation_id = deferred.value.trigger.wait["conversation_ids"][0]
        seen = {"ready": True, "segments": 4, "waited_seconds": 12.0}
        event = {"state": "ready", "reason": "ok", "ready": {conversation_id: seen}}
        assert task.execute_complete(context, event) == conversation_id

    @pytest.mark.parametrize(("deferrable", "patience"), [(True, 5.0), (False, None)])
    def test_a_worker_does_not_stand_in_line_for_what_the_triggerer_can_ask(
        self, account, call, context, mocker, deferrable, patience
    ):
        slept = SimpleNamespace(sleep=lambda seconds: account.state.settle())
        mocker.patch("airflow_provider_dstny.operators.conversations.time", slept)
        sent = mocker.spy(DstnyClient, "_send")
        with suppress(TaskDeferred):
            operator(call, wait_for_transcript=True, deferrable=deferrable).execute(context)
        requests = [called.args[1] for called in sent.call_args_list]
        assert {one.patience for one in requests if one.operation == "get_transcript"} == {patience}

    def test_a_timeout_may_be_retried_and_a_failure_not(self, account, call, context):
        task = operator(call)
        with pytest.raises(AirflowException, match="too late") as caught:
            task.execute_complete(context, {"state": "timed_out", "reason": "too late", "ready": {}})
        assert not isinstance(caught.value, AirflowFailException)
        for event in ({"state": "failed", "reason": "no scope", "ready": {}}, None):
            with pytest.raises(AirflowFailException):
                task.execute_complete(context, event)


def test_a_long_pause_is_spent_in_the_triggerer_and_nothing_is_sent_twice(account, call, context):
    account.books.inject(Fault("status", "create_call_conversation", status=429, retry_after=600))
    task = operator(call, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context)
    assert deferred.value.timeout is None
    path, kwargs = deferred.value.trigger.serialize()
    assert path == "airflow.providers.standard.triggers.temporal.DateTimeTrigger"
    wait = kwargs["moment"] - datetime.now(UTC)
    assert timedelta(seconds=590) < wait <= timedelta(seconds=600)
    assert account.state.calls == {}
    again = operator(call, deferrable=True)
    throttle._throttles.clear()  # ten minutes later
    conversation_id = again.resume_execution(deferred.value.method_name, {"event": kwargs["moment"]}, context)
    assert list(account.state.calls) == [conversation_id]


@pytest.mark.parametrize("seconds", [0, 2])
def test_a_quota_that_is_over_soon_is_waited_for_as_long_as_is_safe(account, call, context, seconds):
    fault = Fault("status", "create_call_conversation", status=429, retry_after=seconds, message="Daily quota exceeded")
    account.books.inject(fault)
    before = datetime.now(UTC)
    with pytest.raises(TaskDeferred) as deferred:
        operator(call, deferrable=True).execute(context)
    wait = deferred.value.trigger.moment - before
    assert wait >= timedelta(seconds=30), "a trigger that fires at once can fail the task"


def test_a_long_pause_ends_the_try_of_a_task_that_may_not_defer(account, call, context):
    account.books.inject(Fault("status", "create_call_conversation", status=429, retry_after=600))
    with pytest.raises(DstnyRateLimitError, match="600"):
        operator(call).execute(context)
