"""The link of a task to the page of its conversation."""

from __future__ import annotations

import json

import pytest
from airflow.sdk import DAG

from airflow_provider_dstny.api import DstnyClient
from airflow_provider_dstny.links import DstnyConversationLink
from airflow_provider_dstny.operators.agents import DstnyRunAgentOperator
from airflow_provider_dstny.operators.conversations import DstnyCreateCallConversationOperator
from airflow_provider_dstny.provider_info import PROVIDER_INFO
from airflow_provider_dstny.sensors.transcripts import DstnyTranscriptSensor

KEY = "_link_DstnyConversationLink"


class TaskInstance:
    try_number = max_tries = 1

    def __init__(self):
        self.xcoms = {}

    def xcom_push(self, key, value):
        self.xcoms[key] = value


@pytest.fixture
def connect(monkeypatch):
    def connect(conn_type="dstny", **extra):
        connection = {"conn_type": conn_type, "host": "https://api.example.com", "password": "x", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps(connection))

    return connect


def link_of(task):
    return DstnyConversationLink().get_link(task, ti_key=None)


@pytest.mark.parametrize(
    ("ids", "url"),
    [
        ("c 1", "https://app.meetric.com/recording/c%201"),
        (["../x"], "https://app.meetric.com/recording/..%2Fx"),
        (["a", "b"], "https://app.meetric.com"),
        ([], "https://app.meetric.com"),
    ],
)
def test_one_conversation_has_its_page_and_many_the_list(connect, ids, url):
    connect()
    assert link_of(DstnyTranscriptSensor(task_id="wait", conversation_ids=ids)) == url


def test_a_connection_may_say_where_its_app_lives(connect):
    connect(app_url="https://copilot.example.com/app/")
    task = DstnyRunAgentOperator(task_id="run", agent_id=1, conversation_ids="a", is_test_run=True)
    assert link_of(task) == "https://copilot.example.com/app/recording/a"


def test_where_the_page_is_not_known_there_is_no_link(connect, monkeypatch):
    connect("tellcasey")
    assert link_of(DstnyTranscriptSensor(task_id="wait", conversation_ids="a")) == ""
    monkeypatch.delenv("AIRFLOW_CONN_DSTNY_DEFAULT")
    assert link_of(DstnyTranscriptSensor(task_id="wait", conversation_ids="a")) == ""
    connect(app_url="javascript:alert(1)")
    assert link_of(DstnyTranscriptSensor(task_id="wait", conversation_ids="a")) == ""


def test_a_sent_call_links_to_its_conversation(account, call):
    task = DstnyCreateCallConversationOperator(task_id="call", call=call)
    conversation_id = task.execute({"ti": TaskInstance()})
    assert link_of(task).endswith(f"/recording/{conversation_id}")


def test_the_link_is_there_while_a_worker_waits(account, call):
    with DstnyClient(account.url, account.token) as dstny:
        conversation_id = dstny.create_call_conversation({**call, "call_recording_url": f"{account.url}/recordings/x"})
    context = {"ti": TaskInstance()}
    assert DstnyTranscriptSensor(task_id="wait", conversation_ids=conversation_id).poke(context) is False
    assert context["ti"].xcoms == {KEY: f"https://app.meetric.com/recording/{conversation_id}"}


def test_mapped_tasks_have_it_too_and_airflow_knows_the_class():
    with DAG("links", schedule=None) as dag:
        DstnyTranscriptSensor.partial(task_id="wait").expand(conversation_ids=["a", "b"])
    assert [link.name for link in dag.get_task("wait").operator_extra_links] == ["Open in Dstny"]
    assert PROVIDER_INFO["extra-links"] == [f"{DstnyConversationLink.__module__}.{DstnyConversationLink.__name__}"]
