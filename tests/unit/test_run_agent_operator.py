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


def test_a_template_that_is_no_boolean_is_refused_before_sending(account):
    with pytest.raises(AirflowFailException, match="is_test_run"):
        operator("c", is_test_run="False").execute({})
    with pytest.raises(AirflowFailException, match="agent_id"):
        operator("c", agent_id="one").execute({})
    assert account.books.entries == []


def test_one_failure_is_named_and_the_others_are_kept(account, ids, tmp_path):
    account.books.inject(Fault("status", "run_agent", status=500))
    path = tmp_path / "results.jsonl"
    with pytest.raises(AirflowException, match=f"failed on 1 of 3 conversations: {ids[0]}: 500"):
        operator(ids, agent_id="1", output_path=str(path)).execute({})
    assert len(path.read_text().splitlines()) == 2


def test_a_refused_token_ends_it_at_once(account, ids):
    account.app.tokens.clear()
    with pytest.raises(AirflowFailException, match="401"):
        operator(ids).execute({})
    assert account.books.count("run_agent") == 1


def test_no_conversations_are_no_work(account):
    assert operator([]).execute({})["conversations"] == 0
    assert account.books.entries == []
