from __future__ import annotations

import asyncio
import csv
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from functools import partial

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred
from airflow.sdk import DAG, ObjectStoragePath, task
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_dstny import call_uploads, upload_journal
from airflow_provider_dstny.api import throttle
from airflow_provider_dstny.api.client import ApiClient
from airflow_provider_dstny.api.errors import (
    DstnyConnectionError,
    DstnyError,
    DstnyRateLimitError,
    DstnyServerError,
)
from airflow_provider_dstny.api.models import CallConversation
from airflow_provider_dstny.operators.conversations import DstnyUploadCallsOperator
from airflow_provider_dstny.simulator import Fault

try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # before Airflow 3.2
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

PHONE = "+46701740605"
SIGNATURE = "X-Signature=abcdef0123456789"
CREATE = "create_call_conversation"


@pytest.fixture
def call(call, account):
    return {
        **call,
        "call_recording_url": f"{account.url}/recordings/a.wav?{SIGNATURE}",
        "owner_phone_number": PHONE,
        "participant_phone_number": PHONE,
    }


@pytest.fixture
def calls(call):
    return [{**call, "call_external_id": f"pbx-{number}"} for number in range(1, 8)]


@pytest.fixture
def results(tmp_path):
    return tmp_path / "below" / "results.jsonl"


def write_csv(path, calls):
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(dict.fromkeys(name for call in calls for name in call)))
        table.writeheader()
        table.writerows(calls)
    return path


def write_lines(path, calls):
    path.write_text("".join(json.dumps(call) + "\n" for call in calls))
    return path


def upload(calls, results, **kwargs):
    source = {"calls": calls} if isinstance(calls, list) else {"calls_path": str(calls)}
    task = DstnyUploadCallsOperator(
        task_id="upload", results_path=str(results), **{"concurrency": 2, **source, **kwargs}
    )
    return task.execute({})


def rows_of(results):
    return [json.loads(line) for line in results.read_text().splitlines()]


def states_of(results):
    return {row["call_external_id"]: row["state"] for row in rows_of(results)}


def received(account):
    """How many conversations each call has become."""
    return Counter(one.body["call_external_id"] for one in account.state.calls.values())


def counts(**others):
    return {**dict.fromkeys(("calls", "sent", "skipped", "failed", "invalid", "ambiguous"), 0), **others}


@pytest.mark.parametrize("write", [write_csv, write_lines])
def test_the_calls_of_a_file_are_sent_and_a_row_of_each_is_written(account, calls, tmp_path, results, write):
    path = write(tmp_path / ("calls.csv" if write is write_csv else "calls.jsonl"), calls)
    assert upload(path, results) == {"results_path": str(results), **counts(calls=7, sent=7)}
    ids = {one.body["call_external_id"]: conversation_id for conversation_id, one in account.state.calls.items()}
    assert rows_of(results) == [
        {
            "call_external_id": f"pbx-{number}",
            "conversation_id": ids[f"pbx-{number}"],
            "state": "sent",
            "error": None,
            "row": number,
        }
        for number in range(1, 8)
    ]
    assert {one.body["owner_phone_number"] for one in account.state.calls.values()} == {PHONE}
    assert [file.name for file in results.parent.iterdir()] == ["results.jsonl"], "the journal is gone"
    assert account.books.violations == []


def test_calls_may_be_a_list_of_mappings_or_models(account, calls, results):
    assert upload([calls[0], CallConversation.parse(calls[1])], results)["sent"] == 2
    assert upload([], results)["calls"] == 0


def test_paths_may_be_of_object_storage(account, calls, tmp_path, results):
    path = write_csv(tmp_path / "calls.CSV", calls)
    task = DstnyUploadCallsOperator(
        task_id="upload", calls_path=ObjectStoragePath(f"file://{path}"), results_path=f"file://{results}"
    )
    assert task.execute({})["sent"] == 7


def test_it_works_in_an_object_storage(account, calls):
    attach("memory", fs=MemoryFileSystem())
    for sent in (7, 0):
        xcom = upload(calls, "memory://bucket/uploads/results.jsonl")
        assert (xcom["sent"], xcom["skipped"]) == (sent, 7 - sent)
    assert MemoryFileSystem.store.keys() == {"/bucket/uploads/results.jsonl"}


@pytest.mark.parametrize("folder", ["[eu]", "a*b", "a?b"])
def test_a_folder_that_looks_like_a_pattern_is_only_itself(account, calls, mocker, folder):
    other = "/bucket/aXb/results.jsonl.journal/owner"
    mocker.patch.dict(MemoryFileSystem.store, clear=True)
    attach("memory", fs=MemoryFileSystem())
    MemoryFileSystem().pipe_file(other, b"an upload that runs")
    assert upload(calls, f"memory://bucket/{folder}/results.jsonl")["sent"] == 7
    assert MemoryFileSystem.store.keys() == {f"/bucket/{folder}/results.jsonl", other}


class TestChecks:
    def test_all_rows_are_checked_before_anything_is_sent(self, account, calls, tmp_path, results):
        calls[1]["call_direction"] = PHONE
        calls[3].update(call_duration=f"{PHONE}1", owner_email=PHONE)
        del calls[6]["call_external_id"]
        path = write_csv(tmp_path / "calls.csv", calls)
        with pytest.raises(AirflowFailException) as caught:
            upload(path, results, max_failures=2)
        text = str(caught.value)
        assert "3 of 7 calls are wrong, so nothing was sent" in text
        for named in (
            "row 2: call_direction: ",
            "row 4: call_duration: ",
            "owner_email: ",
            "row 7: call_external_id: ",
        ):
            assert named in text
        assert PHONE[1:] not in text
        assert account.books.entries == []
        assert not results.exists()

    def test_some_may_be_wrong_and_are_reported_in_the_file(self, account, calls, tmp_path, results):
        calls[1]["call_direction"] = PHONE
        path = write_csv(tmp_path / "calls.csv", calls)
        assert upload(path, results, max_failures=1) == {
            "results_path": str(results),
            **counts(calls=7, sent=6, invalid=1),
        }
        (bad,) = (row for row in rows_of(results) if row["state"] == "invalid")
        assert (bad["row"], bad["call_external_id"], bad["conversation_id"]) == (2, None, None)
        assert bad["error"].startswith("call_direction: ")
        calls[1]["call_direction"] = "incoming"
        write_csv(path, calls)
        assert upload(path, results) == {"results_path": str(results), **counts(calls=7, sent=1, skipped=6)}
        assert set(states_of(results).values()) == {"sent"}

    @pytest.mark.parametrize("row", [[1], 7, PHONE, None])
    def test_a_row_that_is_no_object_is_named(self, account, calls, tmp_path, results, row):
        path = write_lines(tmp_path / "calls.jsonl", [calls[0], row])
        for given in (path, [calls[0], row]):
            with pytest.raises(AirflowFailException, match=r"row 2: The row is not an object") as caught:
                upload(given, results)
            assert PHONE not in str(caught.value)

    def test_a_row_with_more_cells_than_the_header_is_named(self, account, calls, tmp_path, results):
        path = write_csv(tmp_path / "calls.csv", calls)
        path.write_text(f"{path.read_text()}a,b{',x' * 20},{PHONE}\n")
        with pytest.raises(AirflowFailException, match="row 8: The row has more cells"):
            upload(path, results)

    def test_only_ten_are_named(self, account, call, results):
        with pytest.raises(AirflowFailException, match="row 10: ") as caught:
            upload([{**call, "call_duration": -1}] * 30, results)
        assert "row 11" not in str(caught.value)
        assert "30 of 30" in str(caught.value)

    def test_rows_that_are_the_same_count_once(self, account, calls, results):
        same = {**calls[0], "call_start_time": "2026-03-02T09:00:00+01:00"}
        assert upload([*calls, calls[2], same], results) == {"results_path": str(results), **counts(calls=7, sent=7)}
        assert max(received(account).values()) == 1

    def test_different_rows_with_the_same_id_are_named_and_none_is_sent(self, account, calls, results):
        twice = [*calls, {**calls[2], "call_duration": 91}, {**calls[2], "call_duration": 92}]
        with pytest.raises(AirflowFailException, match=r"row 3: call_external_id: rows 3, 8, 9 have the same one"):
            upload(twice, results, max_failures=2)
        assert account.books.entries == []
        assert upload(twice, results, max_failures=3)["invalid"] == 3
        assert "pbx-3" not in received(account)

    def test_a_file_that_changes_while_it_is_sent_ends_the_upload(self, account, calls, tmp_path, results, mocker):
        path = write_csv(tmp_path / "calls.csv", calls)
        true_begin = upload_journal.UploadJournal.begin

        def begin(journal, again):
            write_csv(path, changed)
            true_begin(journal, again)

        mocker.patch.object(upload_journal.UploadJournal, "begin", begin)
        for change in (lambda: [*calls[:4], {**calls[4], "call_title": "x"}], lambda: calls[:4], lambda: calls[::-1]):
            write_csv(path, calls)
            changed = change()
            with pytest.raises(DstnyError, match="changed since they were checked, at row"):
                upload(path, results)

    @pytest.mark.parametrize(
        ("wrong", "reason"),
        [
            ({"max_failures": -1}, "max_failures"),
            ({"max_failures": None}, "max_failures"),
            ({"concurrency": 0}, "concurrency"),
            ({"concurrency": 1.5}, "concurrency"),
            ({"resubmit_ambiguous": "yes"}, "resubmit_ambiguous"),
            ({"results_path": "/tmp/results.csv"}, "end in .jsonl"),
            ({"results_path": "foo://bucket/results.jsonl"}, "cannot be used"),
            ({"calls_path": "/nowhere/calls.csv", "calls": None}, "does not exist"),
            ({"calls_path": "/nowhere/calls.xlsx", "calls": None}, "end in .csv or .jsonl"),
            ({"calls_path": "/a.jsonl", "results_path": "/a.jsonl", "calls": None}, "another file"),
        ],
    )
    def test_what_cannot_work_is_refused_before_anything_is_sent(self, account, calls, results, wrong, reason):
        kwargs = {"calls": calls, "results_path": str(results), **wrong}
        with pytest.raises(AirflowFailException, match=reason):
            DstnyUploadCallsOperator(task_id="upload", **kwargs).execute({})
        assert account.books.entries == []

    def test_there_is_one_source(self, calls):
        for given in ({}, {"calls": calls, "calls_path": "calls.csv"}):
            with pytest.raises(ValueError, match="either calls_path or calls"):
                DstnyUploadCallsOperator(task_id="upload", results_path="r.jsonl", **given)

    def test_a_file_of_results_that_is_none_is_not_overwritten(self, account, calls, results):
        results.parent.mkdir()
        results.write_text('{"a": 1}\nhalf{')
        with pytest.raises(AirflowFailException, match="JSON Lines"):
            upload(calls, results)
        assert results.read_text() == '{"a": 1}\nhalf{'
        assert account.books.entries == []

    def test_a_path_that_cannot_be_written_costs_nothing(self, account, calls):
        with pytest.raises(OSError, match="nope"):
            upload(calls, "/proc/nope/results.jsonl")
        assert account.books.entries == []

    def test_a_connection_of_another_api_is_refused(self, account, calls, results, monkeypatch):
        connection = {"conn_type": "dstny_rest", "host": account.url, "password": "mt_x"}
        monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps(connection))
        with pytest.raises(AirflowFailException, match="it must be 'dstny'"):
            upload(calls, results)
        assert not results.parent.exists()


class TestSendingOnce:
    def test_a_rerun_sends_only_what_is_missing(self, account, calls, results):
        assert upload(calls[:4], results)["sent"] == 4
        assert upload(calls, results) == {"results_path": str(results), **counts(calls=7, sent=3, skipped=4)}
        assert upload(calls, results)["skipped"] == 7
        assert received(account) == {f"pbx-{number}": 1 for number in range(1, 8)}
        assert account.books.count("list_conversations") == 0

    def test_other_rows_of_the_file_stay(self, account, calls, results):
        results.parent.mkdir()
        results.write_text('{"precious": 1}\n[2]\n')
        upload(calls[:2], results)
        upload(calls[2:], results)
        rows = rows_of(results)
        assert rows[:2] == [{"precious": 1}, [2]]
        assert {row["call_external_id"] for row in rows[2:]} == {call["call_external_id"] for call in calls}

    def test_a_refused_call_fails_the_task_and_is_sent_by_a_retry(self, account, calls, results):
        account.books.inject(Fault("status", CREATE, status=409))
        with pytest.raises(
            AirflowException, match=r"1 of 7 calls .*retry sends only.*: row \d \(pbx-\d\): 409"
        ) as caught:
            upload(calls, results)
        assert not isinstance(caught.value, AirflowFailException)
        assert Counter(states_of(results).values()) == {"sent": 6, "failed": 1}
        assert upload(calls, results) == {"results_path": str(results), **counts(calls=7, sent=1, skipped=6)}
        assert set(received(account).values()) == {1}

    def test_a_failure_that_was_not_tried_again_stays_in_the_file(self, account, calls, results):
        account.books.inject(Fault("status", CREATE, status=422, times=2))
        upload(calls[:2], results, max_failures=2)
        account.books.inject(Fault("status", CREATE, status=401))
        with pytest.raises(AirflowFailException, match="401"):
            upload(calls, results, concurrency=1)
        assert states_of(results) == {"pbx-1": "failed", "pbx-2": "failed"}
        assert upload(calls, results)["sent"] == 7

    def test_what_fails_in_the_same_way_is_not_retried(self, account, calls, results):
        account.books.inject(Fault("status", CREATE, status=422, times=2))
        with pytest.raises(AirflowFailException, match="2 of 7 calls"):
            upload(calls, results, max_failures=1)

    def test_some_may_fail(self, account, calls, results):
        account.books.inject(Fault("status", CREATE, status=422, times=2))
        xcom = upload(calls, results, max_failures=2)
        assert xcom == {"results_path": str(results), **counts(calls=7, sent=5, failed=2)}

    @pytest.mark.parametrize("kind", ["reset", "truncated", "empty"])
    def test_after_a_lost_answer_the_call_is_looked_for_and_found(self, account, calls, results, kind):
        account.books.inject(Fault(kind, CREATE))
        assert upload(calls, results)["sent"] == 7
        assert set(states_of(results).values()) == {"sent"}
        assert set(received(account).values()) == {1}
        assert account.books.count("list_conversations") == 1

    @pytest.mark.parametrize("fault", [Fault("reset", CREATE, before=True), Fault("status", CREATE, status=500)])
    def test_what_cannot_be_found_is_not_sent_again_unless_told_so(self, account, calls, results, fault):
        account.books.inject(Fault(**vars(fault)))
        for _ in range(2):
            with pytest.raises(AirflowException, match="1 of 7 calls") as caught:
                upload(calls, results)
            assert not isinstance(caught.value, AirflowFailException)
        assert "resubmit_ambiguous=True" in str(caught.value)
        assert account.books.count(CREATE) == 7
        assert Counter(states_of(results).values()) == {"sent": 6, "ambiguous": 1}
        assert upload(calls, results, max_failures=1)["ambiguous"] == 1
        xcom = upload(calls, results, resubmit_ambiguous=True)
        assert xcom == {"results_path": str(results), **counts(calls=7, sent=1, skipped=6)}
        assert set(received(account).values()) == {1}

    def test_what_shows_up_late_is_found_by_a_retry(self, account, calls, results):
        account.state._visible_after = 3600
        account.books.inject(Fault("reset", CREATE))
        with pytest.raises(AirflowException, match="1 of 7 calls"):
            upload(calls, results)
        account.state._visible_after = 0
        assert upload(calls, results, resubmit_ambiguous=True)["skipped"] == 7
        assert set(received(account).values()) == {1}

    def test_a_doubt_is_not_forgotten_when_sending_again_is_refused(self, account, calls, results):
        account.state._visible_after = 3600
        account.books.inject(Fault("reset", CREATE))
        account.books.inject(Fault("status", CREATE, status=422))
        for _ in range(2):
            with pytest.raises(AirflowException):
                upload(calls[:1], results, resubmit_ambiguous=True)
        assert states_of(results) == {"pbx-1": "ambiguous"}
        account.state._visible_after = 0
        assert upload(calls[:1], results)["skipped"] == 1

    def test_three_lost_answers_in_a_row_end_the_upload(self, account, calls, results):
        account.books.inject(Fault("status", CREATE, status=503, times=99))
        with pytest.raises(DstnyServerError):
            upload(calls, results, concurrency=1)
        assert account.books.count(CREATE) == 3
        assert Counter(states_of(results).values()) == {"ambiguous": 3}

    def test_lost_answers_that_cannot_be_looked_for_stay_in_doubt(self, account, calls, results):
        account.books.inject(Fault("reset", CREATE))
        account.books.inject(Fault("status", "list_conversations", status=404))
        with pytest.raises(AirflowException, match="1 of 7 calls"):
            upload(calls, results)
        assert upload(calls, results)["skipped"] == 7

    def test_nothing_is_sent_while_earlier_doubt_cannot_be_looked_into(self, account, calls, results):
        account.books.inject(Fault("reset", CREATE, before=True))
        with pytest.raises(AirflowException):
            upload(calls[:1], results)
        account.books.inject(Fault("status", "list_conversations", status=404, times=1))
        with pytest.raises(DstnyError, match="404"):
            upload(calls, results)
        assert account.books.count(CREATE) == 1
        assert upload(calls, results, max_failures=1) == {
            "results_path": str(results),
            **counts(calls=7, sent=6, ambiguous=1),
        }

    @pytest.mark.parametrize(
        "start", ["2026-03-02T23:59:59Z", "2026-03-03T00:00:00+14:00", "2026-03-02T00:00:00-12:00"]
    )
    def test_calls_near_midnight_are_found(self, account, calls, results, start):
        account.books.inject(Fault("reset", CREATE))
        assert upload([{**calls[0], "call_start_time": start}], results)["sent"] == 1


class TestWhatAffectsAll:
    @pytest.mark.parametrize(("status", "final"), [(401, True), (403, True), (429, False)])
    def test_it_ends_the_upload_and_what_was_sent_is_kept(self, account, calls, results, status, final, caplog):
        upload(calls[:2], results)
        account.books.inject(Fault("status", CREATE, status=status, retry_after=600, times=99))
        with pytest.raises(AirflowFailException if final else DstnyRateLimitError, match=str(status)):
            upload(calls, results, concurrency=1)
        assert account.books.count(CREATE) == 3
        assert states_of(results) == {"pbx-1": "sent", "pbx-2": "sent"}, "it is not the trouble of the third call"
        assert [file.name for file in results.parent.iterdir()] == ["results.jsonl"]
        assert "ended early (7 calls, 0 sent, 2 skipped" in caplog.text
        account.books.faults.clear()
        throttle._throttles.clear()  # ten minutes later
        assert upload(calls, results)["sent"] == 5
        assert set(received(account).values()) == {1}

    def test_an_api_that_is_not_reached(self, account, calls, results, monkeypatch):
        connection = {"conn_type": "dstny", "host": "http://127.0.0.1:9", "password": "x", "extra": {"max_retries": 0}}
        monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps(connection))
        with pytest.raises(DstnyConnectionError):
            upload(calls, results)
        assert rows_of(results) == []

    def test_a_long_pause_is_spent_in_the_triggerer(self, account, calls, results):
        account.books.inject(Fault("slow", CREATE, seconds=0))
        account.books.inject(Fault("status", CREATE, status=429, retry_after=600))
        make = partial(DstnyUploadCallsOperator, task_id="upload", results_path=str(results), calls=calls)
        with pytest.raises(TaskDeferred) as deferred:
            make(deferrable=True, concurrency=1).execute({})
        assert "DateTimeTrigger" in deferred.value.trigger.serialize()[0]
        throttle._throttles.clear()  # ten minutes later
        xcom = make().resume_execution(deferred.value.method_name, {"event": "x"}, {})
        assert xcom == {"results_path": str(results), **counts(calls=7, sent=6, skipped=1)}
        assert set(received(account).values()) == {1}


def test_calls_are_sent_at_the_same_time_but_not_more_than_allowed(account, calls, results, mocker):
    running, most = 0, 0

    async def arun(self, steps):
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(20):
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        running -= 1
        return "c"

    mocker.patch.object(ApiClient, "arun", arun)
    upload(calls, results, concurrency=3)
    assert most == 3


def test_the_cost_of_the_journal(account, call, results, mocker):
    """Of n calls, c at a time: n/c records and a mark; the file each thousand calls and at both ends."""

    async def arun(self, steps):
        return f"c{next(ids)}"

    ids = iter(range(5000))
    mocker.patch.object(ApiClient, "arun", arun)
    records = mocker.spy(upload_journal.UploadJournal, "_write")
    files = mocker.spy(upload_journal, "write_jsonl")
    upload([{**call, "call_external_id": f"pbx-{number}"} for number in range(2000)], results, concurrency=4)
    assert records.call_count == 1 + 2000 // 4
    assert files.call_count == 4
    assert len(rows_of(results)) == 2000


class Killed(BaseException):
    """Stands for a kill -9: nothing that comes after it has any effect."""


class Mortal:
    """Lets a process die at its n-th step: before, within or after each thing that lasts."""

    def __init__(self, patch, dies_at):
        self.steps = 0
        self.dies_at = dies_at
        self.is_dead = False
        true_write, true_remove = upload_journal.UploadJournal._write, upload_journal.remove_file
        true_file, true_send = upload_journal.write_jsonl, ApiClient._asend

        def write(journal, name, content):
            self.step()
            if self.step(kill=False):
                true_write(journal, name, content[: len(content) // 2])
                raise Killed
            true_write(journal, name, content)
            self.step()

        def write_file(path, rows):
            self.step()
            count = true_file(path, rows)
            self.step()
            return count

        def remove(path):
            self.step()
            true_remove(path)
            self.step()

        async def send(client, request):
            self.step()
            answer = await true_send(client, request)
            self.step()
            return answer

        patch.setattr(upload_journal.UploadJournal, "_write", write)
        patch.setattr(upload_journal, "remove_file", remove)
        patch.setattr(upload_journal, "write_jsonl", write_file)
        patch.setattr(ApiClient, "_asend", send)

    def step(self, kill=True):
        if self.is_dead:
            raise Killed
        self.steps += 1
        self.is_dead = self.steps == self.dies_at
        if self.is_dead and kill:
            raise Killed
        return self.is_dead


def live(calls, results, dies_at=None, **kwargs):
    """Run the task, to its end or until it is killed; return how many steps that took."""
    with pytest.MonkeyPatch.context() as patch:
        mortal = Mortal(patch, dies_at)
        try:
            upload(calls, results, **{"max_failures": len(calls), **kwargs})
        except Killed:
            assert mortal.is_dead
    return mortal.steps


class TestKills:
    @pytest.fixture(autouse=True)
    def _small_checkpoints(self, monkeypatch):
        monkeypatch.setattr(call_uploads, "_CHECKPOINT", 4)

    def assert_once(self, account, calls, results, concurrency):
        """A run after the kill leaves each call sent once, or tells that it may not have been."""
        xcom = upload(calls, results, max_failures=len(calls), concurrency=concurrency)
        states, arrived = states_of(results), received(account)
        assert set(states) == {call["call_external_id"] for call in calls}
        assert len(rows_of(results)) == len(calls)
        assert set(states.values()) <= {"sent", "ambiguous"}
        for call in calls:
            external_id = call["call_external_id"]
            assert arrived[external_id] == (states[external_id] == "sent"), external_id
        ids = {row["call_external_id"]: row["conversation_id"] for row in rows_of(results)}
        assert all(ids[one.body["call_external_id"]] == key for key, one in account.state.calls.items())
        assert [file.name for file in results.parent.iterdir()] == ["results.jsonl"]
        return xcom

    @pytest.mark.parametrize("concurrency", [1, 2])
    def test_a_kill_at_any_step_sends_nothing_twice(self, account, calls, results, concurrency):
        steps = live(calls, results, concurrency=concurrency)
        assert steps > 40
        for dies_at in range(1, steps + 1):
            account.state.calls.clear()
            results.unlink(missing_ok=True)
            live(calls, results, dies_at, concurrency=concurrency)
            xcom = self.assert_once(account, calls, results, concurrency)
            assert xcom["ambiguous"] < 2 * concurrency, dies_at
            upload(calls, results, resubmit_ambiguous=True)
            assert received(account) == {call["call_external_id"]: 1 for call in calls}

    def test_nor_does_one_while_failed_calls_are_tried_again(self, account, calls, results):
        for dies_at in itertools.count(1):
            account.state.calls.clear()
            results.unlink(missing_ok=True)
            account.books.inject(Fault("status", CREATE, status=409, times=3))
            upload(calls[:3], results, max_failures=3)
            steps = live(calls[:3], results, dies_at)
            self.assert_once(account, calls[:3], results, 2)
            if steps < dies_at:
                break
        assert dies_at > 20

    @pytest.mark.parametrize("seed", range(4))
    def test_nor_do_kills_of_one_try_after_the_other(self, account, calls, results, seed):
        chance = random.Random(seed)
        for _ in range(10):
            account.state.calls.clear()
            results.unlink(missing_ok=True)
            for _ in range(4):
                account.books.inject(Fault("status", CREATE, status=chance.choice([409, 409, 422, 500])))
                live(calls, results, chance.randint(1, 40), resubmit_ambiguous=False)
                account.books.faults.clear()
            assert set(received(account).values()) <= {1}
            self.assert_once(account, calls, results, 2)

    def test_what_is_not_listed_yet_is_told_and_not_sent_again(self, account, calls, results):
        account.state._visible_after = 3600
        for dies_at in range(8, 40):
            account.state.calls.clear()
            results.unlink(missing_ok=True)
            live(calls, results, dies_at)
            upload(calls, results, max_failures=len(calls))
            states, arrived = states_of(results), received(account)
            assert max(arrived.values()) == 1
            assert {one for one, state in states.items() if state == "sent"} <= set(arrived)
            assert set(states) == {call["call_external_id"] for call in calls}

    def test_calls_in_doubt_that_the_next_file_lacks_are_told_too(self, account, calls, results):
        live(calls[:2], results, 9, concurrency=2)
        assert states_of(results) == {}
        upload(calls[4:], results)
        assert {"pbx-1", "pbx-2"} <= set(states_of(results))

    def test_a_kill_9(self, account, call, results, tmp_path):
        calls = [{**call, "call_external_id": f"pbx-{number}"} for number in range(60)]
        path = write_lines(tmp_path / "calls.jsonl", calls)
        script = (
            "from airflow_provider_dstny.operators.conversations import DstnyUploadCallsOperator\n"
            f"task = DstnyUploadCallsOperator(task_id='u', calls_path={str(path)!r}, results_path={str(results)!r})\n"
            "task.execute({})"
        )
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        for enough in (10, 30):
            process = subprocess.Popen(
                [sys.executable, "-c", script], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            while len(account.state.calls) < enough and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        assert len(account.state.calls) >= 30
        xcom = self.assert_once(account, calls, results, 4)
        assert xcom["ambiguous"] < 16

    def test_a_task_that_is_ended_says_what_was_under_way(self, account, calls, results, mocker):
        async def arun(self, steps):
            raise KeyboardInterrupt

        mocker.patch.object(ApiClient, "arun", arun)
        with pytest.raises(KeyboardInterrupt):
            upload(calls, results, concurrency=1)
        assert states_of(results) == {"pbx-1": "ambiguous"}
        assert [file.name for file in results.parent.iterdir()] == ["results.jsonl"]

    def test_a_journal_that_cannot_be_written_ends_the_upload(self, account, calls, results, mocker):
        true_write, names = upload_journal.UploadJournal._write, []

        def write(journal, name, content):
            names.append(name)
            if len(names) == 4:
                raise OSError("no space")
            true_write(journal, name, content)

        mocker.patch.object(upload_journal.UploadJournal, "_write", write)
        with pytest.raises(OSError, match="no space"):
            upload(calls, results, concurrency=1)
        assert states_of(results) == {"pbx-1": "sent", "pbx-2": "sent"}
        assert upload(calls, results)["skipped"] == 2

    def test_of_two_uploads_the_earlier_ends_before_it_sends_more(self, account, calls, results, mocker):
        true_send, others = ApiClient._asend, []

        async def send(client, request):
            if request.operation == CREATE and not others:
                others.append({})
                await asyncio.to_thread(lambda: others[0].update(upload(calls, results, max_failures=9)))
            return await true_send(client, request)

        mocker.patch.object(ApiClient, "_asend", send)
        with pytest.raises(DstnyError, match="Another task writes"):
            upload(calls, results)
        # Up to three that the earlier one had on their way may have been there already.
        assert 2 <= others[0]["sent"] <= 5
        assert max(received(account).values()) == 1
        self.assert_once(account, calls, results, 2)


def dag_with(native=False, **kwargs):
    with DAG(
        "d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), render_template_as_native_obj=native
    ) as dag:
        DstnyUploadCallsOperator(task_id="upload", results_path="{{ params.folder }}/results.jsonl", **kwargs)
    return dag


def assert_private(text):
    for secret in (PHONE[1:], SIGNATURE, "user:pw"):
        assert secret not in text


class TestPrivacy:
    def test_nothing_private_is_in_logs_results_journal_xcom_or_errors(
        self, account, calls, tmp_path, results, caplog, mocker
    ):
        caplog.set_level("DEBUG")
        calls[2]["participant_company_name"] = PHONE
        records = mocker.spy(upload_journal.UploadJournal, "_write")
        path = write_csv(tmp_path / "calls.csv", calls)
        account.books.inject(Fault("status", CREATE, status=422, message=f"{PHONE} is wrong"))
        account.books.inject(Fault("reset", CREATE, before=True))
        with pytest.raises(AirflowException, match="2 of 7") as caught:
            upload(path, results)
        xcom = upload(path, results, max_failures=1)
        journal = b"".join(one.args[2] for one in records.call_args_list).decode()
        for text in (caplog.text, results.read_text(), journal, json.dumps(xcom), repr(caught.value)):
            assert_private(text)
        assert "pbx-1" in journal

    def test_an_id_that_is_a_phone_number_is_not_shown(self, account, call, results, caplog):
        account.books.inject(Fault("status", CREATE, status=422))
        with pytest.raises(AirflowFailException, match=r"row 1 \(\*\*\*\)") as caught:
            upload([{**call, "call_external_id": PHONE}], results)
        assert_private(caplog.text + str(caught.value))

    def test_calls_given_as_a_list_are_masked(self, calls):
        calls[0]["call_title"] = "{{ params.title }}"
        calls[1][PHONE] = PHONE
        given = [*calls, PHONE, CallConversation.parse(calls[3])]
        dag = dag_with(calls=given)
        original = dag.get_task("upload")
        assert_private(json.dumps(DagSerialization.to_dict(dag)) + repr(original.calls))
        for title in ("first", "second"):
            copied = original.prepare_for_execution()
            copied.render_template_fields({"params": {"title": title, "folder": "f"}})
            assert copied.calls.fields[0]["call_title"] == title
            assert copied.calls.fields[0]["owner_phone_number"] == PHONE
            rendered = json.dumps(_serialize_rendered_fields(copied))
            assert_private(rendered)
            assert "pbx-1" in rendered
            assert "f/results.jsonl" in rendered

    def test_a_template_that_fails_is_logged_without_what_is_private(self, calls, caplog):
        calls[0]["call_title"] = "{{ nothing.there }}"
        with pytest.raises(Exception, match="nothing"):
            dag_with(calls=calls).get_task("upload").render_template_fields({"params": {"folder": "f"}})
        assert_private(caplog.text)

    def test_a_path_that_was_rendered_to_nothing_is_told_as_such(self):
        dag = dag_with(calls_path="{{ params.nothing }}")
        dag.render_template_as_native_obj = True
        task = dag.get_task("upload")
        task.render_template_fields({"params": {"nothing": None, "folder": "f"}})
        with pytest.raises(AirflowFailException, match="The task that gives calls_path, or calls, gave nothing"):
            task.execute({})

    @pytest.mark.parametrize("given", [PHONE, {"owner_phone_number": PHONE}, 46701740605, b"x"])
    def test_what_is_no_list_is_refused_and_not_shown(self, given):
        with pytest.raises(AirflowFailException, match="calls must be a list") as caught:
            dag_with(calls=given)
        assert_private(str(caught.value))
        with pytest.raises(AirflowFailException, match="render_template_as_native_obj") as caught:
            dag_with(calls="{{ params.given }}").get_task("upload").render_template_fields(
                {"params": {"given": given, "folder": "f"}}
            )
        assert_private(str(caught.value))


class TestTemplates:
    def test_a_template_may_render_to_a_list(self, account, calls, results):
        upload_task = dag_with(calls="{{ params.calls }}", native=True).get_task("upload")
        upload_task.render_template_fields({"params": {"calls": calls, "folder": str(results.parent)}})
        assert_private(json.dumps(_serialize_rendered_fields(upload_task)))
        assert upload_task.execute({})["sent"] == 7

    def test_what_comes_of_another_task_is_upstream_and_no_template(self, account, calls):
        calls[0]["call_title"] = "{{ literal }}"
        with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):

            @task
            def up():
                return calls

            whole = DstnyUploadCallsOperator(task_id="whole", results_path="r.jsonl", calls=up())
            part = DstnyUploadCallsOperator(task_id="part", results_path="r.jsonl", calls=[up(), calls[1]])
            mapped = DstnyUploadCallsOperator.partial(task_id="mapped", results_path="r.jsonl").expand(calls=[calls])
        assert len(whole.upstream_task_ids) == len(part.upstream_task_ids) == 1
        unmapped = mapped.unmap({"calls": calls})
        unmapped._do_render_template_fields(
            unmapped, unmapped.template_fields, {}, unmapped.get_template_env(), {id(calls)}
        )
        assert unmapped.calls.fields[0]["call_title"] == "{{ literal }}"
        assert_private(json.dumps(_serialize_rendered_fields(unmapped)))

    def test_it_can_be_mapped_over_files(self, account, calls, tmp_path):
        with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
            mapped = DstnyUploadCallsOperator.partial(task_id="mapped").expand_kwargs(
                [{"calls_path": "a.csv", "results_path": "a.jsonl"}]
            )
        path = write_csv(tmp_path / "calls.csv", calls)
        unmapped = mapped.unmap({"calls_path": str(path), "results_path": str(tmp_path / "r.jsonl")})
        assert unmapped.execute({})["sent"] == 7
