from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred
from airflow.sdk import DAG, task

from airflow_provider_dstny import agent_runs
from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.errors import DstnyAmbiguousError
from airflow_provider_dstny.api.models import AgentDefinition, AgentRequest, AgentRun
from airflow_provider_dstny.operators.agents import (
    DstnyCreateAgentOperator,
    DstnyDeleteAgentOperator,
    DstnyRunAgentOperator,
    DstnyUpdateAgentOperator,
)
from airflow_provider_dstny.simulator import Fault
from airflow_provider_dstny.triggers.agents import DstnyAgentRunTrigger


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
    kwargs = {"agent_id": 1, "is_test_run": False, "concurrency": 1, **kwargs}
    return DstnyRunAgentOperator(task_id="run", conversation_ids=ids, **kwargs)


def test_results_go_to_the_file_and_counts_to_xcom(account, ids, tmp_path):
    path = str(tmp_path / "below" / "results.jsonl")
    xcom = operator(ids, output_path=path).execute({})
    assert xcom == {
        "agent_id": 1,
        "is_test_run": False,
        "conversations": 3,
        "succeeded": 3,
        "skipped": 0,
        "failed": [],
        "output_path": path,
    }
    rows = [json.loads(line) for line in (tmp_path / "below" / "results.jsonl").read_text().splitlines()]
    assert [row["conversation_id"] for row in rows] == ids
    assert all(row["result"]["response"]["summary"] for row in rows)
    assert [one.name for one in (tmp_path / "below").iterdir()] == ["results.jsonl"]


def test_a_rerun_sends_nothing_for_what_is_done_unless_forced(account, ids):
    assert operator(ids).execute({})["skipped"] == 0
    sent = account.books.count("run_agent")
    assert operator(ids).execute({})["skipped"] == 3
    assert account.books.count("run_agent") == sent
    assert account.books.count("list_agent_requests") == 2, "the API says what is stored"
    assert operator(ids, force=True).execute({})["skipped"] == 0
    assert {one["agent_runs"] for one in account.state.to_json()} == {2}


def test_a_result_that_is_stored_but_not_in_the_file_is_fetched_into_it(account, ids, tmp_path):
    operator(ids).execute({})
    path = tmp_path / "results.jsonl"
    assert operator(ids, output_path=str(path)).execute({})["skipped"] == 0
    assert len(path.read_text().splitlines()) == 3
    assert {one["agent_runs"] for one in account.state.to_json()} == {1}, "without force the agent does not run again"


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
        ({"max_failures": -1}, "max_failures"),
        ({"concurrency": 0}, "concurrency"),
        ({"output_path": " "}, "output_path"),
        ({"output_path": ""}, "output_path"),
        ({"output_path": "/tmp/answers.csv"}, "output_path must end in .jsonl"),
        ({"output_path": "/tmp/answers.json"}, "output_path must end in .jsonl"),
        ({"output_path": "None"}, "and 'None' does not"),
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


def test_what_an_earlier_run_found_stays_and_is_not_asked_for_again(account, ids, tmp_path):
    path = tmp_path / "results.jsonl"
    operator(ids, output_path=str(path)).execute({})
    sent = len(account.books.entries)
    assert operator(ids, output_path=str(path)).execute({})["skipped"] == 3
    assert len(account.books.entries) == sent
    assert {json.loads(line)["conversation_id"] for line in path.read_text().splitlines()} == set(ids)


@pytest.mark.parametrize(("status", "final"), [(401, True), (403, True), (429, False)])
def test_what_meets_all_ends_the_round_and_what_was_found_is_written(account, ids, tmp_path, status, final):
    path = tmp_path / "results.jsonl"
    operator(ids[:1], output_path=str(path)).execute({})
    account.books.inject(Fault("status", "run_agent", status=status, retry_after=600, times=9))
    sent = account.books.count("run_agent")
    with pytest.raises(AirflowException, match="failed on 2 of 3") as caught:
        operator(ids, output_path=str(path)).execute({})
    assert isinstance(caught.value, AirflowFailException) is final
    assert account.books.count("run_agent") == sent + 1
    assert len(path.read_text().splitlines()) == 1


def test_a_path_that_cannot_be_written_is_refused_before_the_agent_runs(account, ids, tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"a": 1}\nhalf{')
    folder = tmp_path / "folder.jsonl"
    folder.mkdir()
    for path in (broken, folder, "foo://bucket/results.jsonl"):
        with pytest.raises(AirflowFailException):
            operator(ids, output_path=str(path)).execute({})
    assert account.books.count("run_agent") == 0


def test_other_rows_of_the_file_stay(account, ids, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text('{"precious": 1}\n[2]\n')
    operator(ids[:2], agent_id=2, output_path=str(path)).execute({})
    operator(ids[:1], output_path=str(path)).execute({})
    operator(ids[1:], output_path=str(path)).execute({})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows[:2] == [{"precious": 1}, [2]]
    assert [(row["agent_id"], row["conversation_id"]) for row in rows[2:]] == [
        *((2, one) for one in ids[:2]),
        *((1, one) for one in ids),
    ]


@pytest.mark.parametrize("row", [{"result": None}, {"result": {"a": 1}, "is_test_run": True}, {"agent_id": "1"}])
def test_a_row_without_a_result_or_of_another_run_does_not_count(account, ids, tmp_path, row):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"conversation_id": ids[0], "agent_id": 1, "is_test_run": False, **row}) + "\n")
    assert operator(ids[0], output_path=str(path)).execute({})["skipped"] == 0


@pytest.mark.parametrize("kind", ["empty", "null", "failed"])
def test_an_answer_without_a_result_is_a_failure_and_not_kept(account, ids, tmp_path, mocker, kind):
    path = tmp_path / "results.jsonl"
    if kind == "empty":
        account.books.inject(Fault("empty", "run_agent"))
    else:
        answer = {"data": None if kind == "null" else {"status": "failed"}}
        mocker.patch("airflow_provider_dstny.api.client.ApiClient._asend", mocker.AsyncMock(return_value=answer))
    with pytest.raises(AirflowException, match="failed on 1 of 1"):
        operator(ids[0], output_path=str(path)).execute({})
    assert path.read_text() == ""


def test_a_path_that_cannot_be_written_costs_no_run(account, ids):
    with pytest.raises(OSError, match="nope"):
        operator(ids, output_path="/proc/nope/out.jsonl").execute({})
    assert account.books.count("run_agent") == 0


class StorageError(Exception):
    """What botocore, gcsfs and Azure raise is no OSError."""


@pytest.mark.parametrize("kind", [OSError, StorageError])
def test_a_batch_that_cannot_be_written_is_written_later(account, ids, tmp_path, mocker, kind):
    path = tmp_path / "results.jsonl"
    mocker.patch.object(agent_runs, "_BATCH", 1)
    true_write, broken = agent_runs.write_jsonl, iter([False, True, True])

    def write(*args):
        if next(broken, False):
            raise kind("storage hiccup")
        return true_write(*args)

    mocker.patch.object(agent_runs, "write_jsonl", write)
    assert operator(ids, output_path=str(path)).execute({})["succeeded"] == 3
    assert len(path.read_text().splitlines()) == 3


def test_a_worker_that_breaks_ends_the_others(ids, tmp_path, mocker):
    file = agent_runs.ResultsFile(str(tmp_path / "results.jsonl"))
    begun, ended = asyncio.Event(), []

    async def run_one(self, client, conversation_id):
        if conversation_id == ids[0]:
            await begun.wait()
            raise RuntimeError("a bug")
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(conversation_id)

    async def run_all():
        task = operator(ids, concurrency=3, output_path=file.path)
        with pytest.raises(RuntimeError, match="a bug"):
            await task._round({}).run(None, file)
        return list(ended)

    mocker.patch.object(agent_runs.AgentRound, "_run_one", run_one)
    assert sorted(asyncio.run(run_all())) == sorted(ids[1:]), "none goes on while the client is closed"


def test_a_write_that_ends_late_does_not_undo_a_later_one(tmp_path):
    file = agent_runs.ResultsFile(str(tmp_path / "results.jsonl"))
    rows = {str(n): {"conversation_id": str(n), "agent_id": 1, "is_test_run": False} for n in range(3)}
    file.write(rows)
    file.write({"0": rows["0"]})
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3


def test_an_id_that_is_given_twice_is_run_once(account, ids, tmp_path):
    assert operator([ids[0], ids[0]]).execute({})["succeeded"] == 1


def test_no_conversations_are_no_work(account):
    assert operator([]).execute({})["conversations"] == 0
    assert account.books.entries == []


class TestManyConversations:
    @pytest.fixture
    def many(self, account, call):
        with DstnyClient(account.url, account.token) as dstny:
            url = f"{account.url}/recordings/a.wav"
            ids = [
                dstny.create_call_conversation({**call, "call_external_id": f"pbx-{n}", "call_recording_url": url})
                for n in range(200)
            ]
        account.state.settle()
        return ids

    @pytest.mark.parametrize("deferrable", [False, True])
    def test_three_of_two_hundred_fail_and_a_retry_runs_only_these(self, account, many, tmp_path, deferrable, no_sleep):
        path = tmp_path / "results.jsonl"
        account.books.inject(Fault("status", "run_agent", status=500, times=3))
        task = operator(many, output_path=str(path), concurrency=8, deferrable=deferrable)
        with pytest.raises(AirflowException, match="failed on 3 of 200 conversations") as caught:
            run(task)
        assert not isinstance(caught.value, AirflowFailException)
        assert str(caught.value).count("500 Internal Server Error") == 3
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert len(rows) == 197
        assert account.books.count("run_agent") == 200
        failed = set(many) - {row["conversation_id"] for row in rows}
        assert all(one in str(caught.value) for one in failed)
        xcom = run(operator(many, output_path=str(path), concurrency=8, deferrable=deferrable))
        assert (xcom["succeeded"], xcom["skipped"], xcom["failed"]) == (200, 197, [])
        assert account.books.count("run_agent") == 203
        assert len(path.read_text().splitlines()) == 200

    def test_some_may_fail(self, account, many):
        account.books.inject(Fault("status", "run_agent", status=500, times=3))
        xcom = operator(many, max_failures=3, concurrency=8).execute({})
        assert (xcom["succeeded"], len(xcom["failed"])) == (197, 3)

    def test_results_are_written_as_they_come(self, account, many, tmp_path, mocker):
        path = tmp_path / "results.jsonl"
        account.books.inject(Fault("status", "run_agent", status=500))
        write = mocker.spy(agent_runs, "write_jsonl")
        operator(many, output_path=str(path), concurrency=8, max_failures=1).execute({})
        assert write.call_count >= 200 // 25


def run(task, context=None):
    """Run a task to its end, through the trigger where it defers."""
    try:
        return task.execute(context or {})
    except TaskDeferred as deferred:
        path, kwargs = deferred.trigger.serialize()
        assert path == "airflow_provider_dstny.triggers.agents.DstnyAgentRunTrigger"
        trigger = DstnyAgentRunTrigger(**json.loads(json.dumps(kwargs)))

        async def first():
            return await anext(trigger.run())

        return task.execute_complete(context or {}, asyncio.run(first()).payload)


@pytest.fixture(autouse=True)
def prompt_trigger(mocker):
    """Record how long the trigger holds its event back instead of waiting."""
    held = []

    async def sleep(seconds):
        held.append(seconds)

    patched = SimpleNamespace(sleep=sleep, to_thread=asyncio.to_thread)
    mocker.patch("airflow_provider_dstny.triggers.agents.asyncio", patched)
    return held


def test_the_triggerer_runs_agents_and_fires_no_sooner_than_is_safe(account, ids, tmp_path, prompt_trigger):
    path = tmp_path / "results.jsonl"
    xcom = run(operator(ids, output_path=str(path), deferrable=True))
    assert xcom["succeeded"] == 3
    assert len(path.read_text().splitlines()) == 3
    assert prompt_trigger[-1] > 5
    assert account.books.violations == []


def test_nothing_is_deferred_when_nothing_is_left(account, ids, tmp_path):
    path = str(tmp_path / "results.jsonl")
    operator(ids, output_path=path).execute({})
    assert operator(ids, output_path=path, deferrable=True).execute({})["skipped"] == 3
    assert operator([], deferrable=True).execute({})["conversations"] == 0


def test_a_triggerer_that_starts_again_goes_on_where_the_file_ends(account, ids, tmp_path):
    path = str(tmp_path / "results.jsonl")
    with pytest.raises(TaskDeferred) as deferred:
        operator(ids, output_path=path, deferrable=True, force=True).execute(retry_context())
    _, kwargs = deferred.value.trigger.serialize()

    async def run_trigger():
        return (await anext(DstnyAgentRunTrigger(**kwargs).run())).payload

    assert asyncio.run(run_trigger())["skipped"] == 0
    assert asyncio.run(run_trigger())["skipped"] == 3
    assert {one["agent_runs"] for one in account.state.to_json()} == {1}


def test_what_passes_is_retried_after_the_triggerer_met_it(account, ids, mocker):
    account.books.inject(Fault("status", "list_agent_requests", status=503, times=99))
    with pytest.raises(AirflowException, match="503") as caught:
        run(operator(ids, deferrable=True))
    assert not isinstance(caught.value, AirflowFailException)
    mocker.patch.object(agent_runs.AgentRound, "run", side_effect=RuntimeError("a bug"))
    with pytest.raises(AirflowException, match="RuntimeError in the triggerer") as caught:
        run(operator(ids, deferrable=True))
    assert not isinstance(caught.value, AirflowFailException)


def test_a_connection_that_will_not_do_is_told_before_deferring(account, ids, monkeypatch):
    connection = {"conn_type": "dstny_rest", "host": account.url, "password": "mt_x"}
    monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps(connection))
    with pytest.raises(AirflowFailException, match="it must be 'dstny'"):
        operator(ids, deferrable=True).execute({})


def test_a_test_run_that_a_server_lists_among_others_is_no_stored_result(account, ids, mocker):
    requests = [AgentRequest(conversation_id=ids[0], is_test_run=True, status="completed")]
    requests += [AgentRequest(conversation_id=ids[1], status="canceled"), AgentRequest(conversation_id=ids[2])]
    mocker.patch.object(AgentRequest, "read_rows", return_value=requests)
    assert operator(ids).execute({})["skipped"] == 0


@pytest.mark.parametrize("event", [None, {}, {"error": "no scope", "final": True}, {"succeeded": "x"}])
def test_an_event_that_is_not_understood_fails_closed(account, ids, event):
    with pytest.raises(AirflowFailException):
        operator(ids).execute_complete({}, event)


def test_the_trigger_tells_what_keeps_it_from_running(account, ids, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps({"conn_type": "dstny", "password": "x"}))
    with pytest.raises(AirflowFailException, match="has no host"):
        run(operator(ids, deferrable=True))


class Store(dict):
    set = dict.__setitem__
    delete = dict.pop


def retry_context(store=None, max_tries=1):
    return {"task_state_store": Store() if store is None else store, "ti": SimpleNamespace(max_tries=max_tries)}


def test_a_forced_retry_leaves_out_what_its_first_try_wrote_and_a_cleared_task_does_not(account, ids, tmp_path):
    path = str(tmp_path / "results.jsonl")
    operator(ids, output_path=path).execute({})
    store = Store()
    account.books.inject(Fault("status", "run_agent", status=500))
    with pytest.raises(AirflowException, match="1 of 3"):
        operator(ids, output_path=path, force=True).execute(retry_context(store))
    xcom = operator(ids, output_path=path, force=True).execute(retry_context(store))
    assert (xcom["succeeded"], xcom["skipped"]) == (3, 2)
    assert {one["agent_runs"] for one in account.state.to_json()} == {2}
    cleared = operator(ids, output_path=path, force=True).execute(retry_context(store, max_tries=2))
    assert cleared["skipped"] == 0


def test_agents_run_at_the_same_time_but_not_more_than_allowed(account, ids, mocker):
    running, most = 0, 0

    async def arun(self, steps):
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(20):
            await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        running -= 1
        return AgentRun(agent_id=1, conversation_id="c", is_test_run=True, result={})

    mocker.patch("airflow_provider_dstny.api.client.ApiClient.arun", arun)
    operator([str(n) for n in range(12)], is_test_run=True, concurrency=3).execute({})
    assert most == 3


DEFINITION = {"name": "Objections", "type": "magic_insight", "status": "draft", "customPrompt": "Find objections."}


def agent_context(try_number=1):
    return {**retry_context(), "ti": SimpleNamespace(max_tries=1, try_number=try_number)}


class TestDefiningAgents:
    def test_an_agent_is_created_changed_and_deleted(self, account):
        agent_id = DstnyCreateAgentOperator(task_id="a", agent=DEFINITION).execute(agent_context())
        update = {**DEFINITION, "status": "active", "playbookSummaryInstructionsPrompt": None}
        assert DstnyUpdateAgentOperator(task_id="b", agent_id=agent_id, agent=update).execute({}) == agent_id
        with DstnyClient(account.url, account.token) as dstny:
            assert dstny.get_agent(int(agent_id)).status == "active"
        assert DstnyDeleteAgentOperator(task_id="c", agent_id=agent_id).execute(agent_context()) == agent_id
        for try_number in (1, 2):
            with pytest.raises(AirflowFailException, match=f"no agent {agent_id}"):
                DstnyDeleteAgentOperator(task_id="c", agent_id=agent_id).execute(agent_context(try_number))
        assert account.books.violations == []

    @pytest.mark.parametrize(("before", "requests"), [(False, 1), (True, 2)])
    def test_a_retry_after_a_lost_deletion_finds_it_done_or_does_it(self, account, before, requests):
        context = agent_context()
        account.books.inject(Fault("reset", "delete_agent", before=before))
        task = DstnyDeleteAgentOperator(task_id="c", agent_id=2)
        with pytest.raises(DstnyAmbiguousError):
            task.execute(context)
        assert task.execute(context) == "2"
        assert account.books.count("delete_agent") == requests

    @pytest.mark.parametrize("wrong", [{"type": "summary"}, {"status": "on"}, {"nmae": "x"}, {"customPrompt": None}])
    def test_a_wrong_definition_fails_at_once_and_sends_nothing(self, account, wrong):
        with pytest.raises(AirflowFailException, match=next(iter(wrong))):
            DstnyCreateAgentOperator(task_id="a", agent={**DEFINITION, **wrong}).execute(agent_context())
        with pytest.raises(AirflowFailException, match=next(iter(wrong))):
            DstnyUpdateAgentOperator(task_id="b", agent_id=1, agent={**DEFINITION, **wrong}).execute({})
        assert account.books.entries == []

    def test_a_retry_after_a_lost_answer_finds_the_agent(self, account):
        context = agent_context()
        account.books.inject(Fault("reset", "create_agent"))
        task = DstnyCreateAgentOperator(task_id="a", agent=AgentDefinition.parse(DEFINITION))
        with pytest.raises(DstnyAmbiguousError):
            task.execute(context)
        assert task.execute(context) == "3"
        assert account.books.count("create_agent") == 1

    @pytest.mark.parametrize("make", [DstnyCreateAgentOperator, partial(DstnyUpdateAgentOperator, agent_id=1)])
    def test_with_native_objects_only_templates_are_rendered_at_any_depth(self, account, mocker, make):
        settings = {"version": "1.10", "number": "+46701740605"}
        agent = {**DEFINITION, "customPrompt": "['budget', 'authority']", "typeSettings": settings}
        with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), render_template_as_native_obj=True):

            @task
            def up():
                return "x"

            output = up()
            defining = make(
                task_id="a", agent={**agent, "name": output, "typeSettings": {**settings, "top": "{{ params.top }}"}}
            )
        assert defining.upstream_task_ids == {"up"}
        mocker.patch.object(type(output), "resolve", return_value="1.20")
        defining.render_template_fields({"params": {"top": 3}})
        assert defining.agent == {**agent, "name": "1.20", "typeSettings": {**settings, "top": 3}}
        agent_id = defining.execute(agent_context())
        with DstnyClient(account.url, account.token) as dstny:
            assert dstny.get_agent(int(agent_id)).raw["customPrompt"] == agent["customPrompt"]
        assert account.books.violations == []
