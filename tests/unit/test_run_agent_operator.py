from __future__ import annotations

import json

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.operators.agents import DstnyRunAgentOperator
from airflow_provider_dstny.simulator import Fault


@pytest.fixture
def ids(account, call):
    with DstnyClient(account.url, account.token) as dstny:
        url = f"{account.url}/recordings/a.wav"
        ids = [
            dstny.create_call_conversation({**call, "call_external_id": f"pbx-{n}", "call_recording_url": url})
            for n in range(3)
        ]
    account.state.settle()
    return ids


def operator(ids, **kwargs):
    kwargs = {"agent_id": 1, "is_test_run": False, **kwargs}
    return DstnyRunAgentOperator(task_id="run", conversation_ids=ids, **kwargs)


def test_results_go_to_the_file_and_counts_to_xcom(account, ids, tmp_path):
    path = str(tmp_path / "below" / "results.jsonl")
    xcom = operator(ids, output_path=path).execute({})
    assert xcom == {"agent_id": 1, "is_test_run": False, "conversations": 3, "succeeded": 3, "output_path": path}
    rows = [json.loads(line) for line in (tmp_path / "below" / "results.jsonl").read_text().splitlines()]
    assert [row["conversation_id"] for row in rows] == ids
    assert all(row["result"]["response"]["summary"] for row in rows)
    assert [one.name for one in (tmp_path / "below").iterdir()] == ["results.jsonl"]


def test_a_rerun_without_force_runs_nothing_twice(account, ids):
    for force, runs in ((False, 1), (False, 1), (True, 2)):
        operator(ids, force=force).execute({})
        assert {one["agent_runs"] for one in account.state.to_json()} == {runs}


def test_there_is_no_default_for_is_test_run():
    with pytest.raises(TypeError, match="is_test_run"):
        DstnyRunAgentOperator(task_id="run", agent_id=1, conversation_ids="c")


def test_what_cannot_work_is_refused_before_anything_is_sent(account, ids):
    sent = len(account.books.entries)
    for wrong, field in (
        ({"is_test_run": "maybe"}, "is_test_run"),
        ({"is_test_run": None}, "is_test_run"),
        ({"agent_id": "one"}, "agent_id"),
        ({"agent_id": True}, "agent_id"),
        ({"request_timeout": -1}, "request_timeout"),
        ({"ids": [ids[0], ""]}, "conversation_ids"),
        ({"ids": [ids[0], None]}, "conversation_ids"),
        ({"ids": None}, "conversation_ids"),
    ):
        with pytest.raises(AirflowFailException, match=field):
            operator(**{"ids": ids, **wrong}).execute({})
    assert len(account.books.entries) == sent


def test_what_a_template_renders_to_is_understood(account, ids):
    assert operator(ids, is_test_run="True", agent_id="1").execute({})["is_test_run"] is True


def test_one_failure_is_named_and_the_others_are_kept(account, ids, tmp_path):
    account.books.inject(Fault("status", "run_agent", status=500))
    path = tmp_path / "results.jsonl"
    with pytest.raises(AirflowException, match=f"failed on 1 of 3 conversations: {ids[0]}: 500") as caught:
        operator(ids, output_path=str(path)).execute({})
    assert not isinstance(caught.value, AirflowFailException)
    assert len(path.read_text().splitlines()) == 2


def test_a_try_that_fails_keeps_what_an_earlier_one_found(account, ids, tmp_path):
    path = tmp_path / "results.jsonl"
    operator(ids, output_path=str(path)).execute({})
    account.books.inject(Fault("status", "run_agent", status=429, message="Daily quota exceeded", times=9))
    with pytest.raises(AirflowException, match="quota"):
        operator(ids, output_path=str(path)).execute({})
    assert {json.loads(line)["conversation_id"] for line in path.read_text().splitlines()} == set(ids)


@pytest.mark.parametrize(("status", "final"), [(401, True), (403, True), (429, False)])
def test_what_meets_all_ends_the_round_and_what_was_found_is_written(account, ids, tmp_path, status, final):
    path = tmp_path / "results.jsonl"
    operator(ids[:1], output_path=str(path)).execute({})
    account.books.inject(Fault("slow", "run_agent", seconds=0))
    account.books.inject(Fault("status", "run_agent", status=status, retry_after=600, times=9))
    sent = account.books.count("run_agent")
    with pytest.raises(AirflowException, match="failed on 2 of 3") as caught:
        operator(ids, output_path=str(path)).execute({})
    assert isinstance(caught.value, AirflowFailException) is final
    assert account.books.count("run_agent") == sent + 2
    assert len(path.read_text().splitlines()) == 1


def test_a_path_that_cannot_be_written_is_refused_before_the_agent_runs(account, ids, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"a": 1}\nhalf{')
    for path in (broken, tmp_path, "foo://bucket/results.jsonl"):
        with pytest.raises(AirflowFailException):
            operator(ids, output_path=str(path)).execute({})
    assert account.books.count("run_agent") == 0


def test_rows_of_another_agent_are_not_kept(account, ids, tmp_path):
    path = tmp_path / "results.jsonl"
    operator(ids, agent_id=2, output_path=str(path)).execute({})
    account.books.inject(Fault("status", "run_agent", status=500))
    with pytest.raises(AirflowException, match="1 of 3"):
        operator(ids, output_path=str(path)).execute({})
    assert {json.loads(line)["agent_id"] for line in path.read_text().splitlines()} == {1}


def test_an_id_that_is_given_twice_is_run_once(account, ids, tmp_path):
    assert operator([ids[0], ids[0]]).execute({})["succeeded"] == 1


def test_no_conversations_are_no_work(account):
    assert operator([]).execute({})["conversations"] == 0
    assert account.books.entries == []
