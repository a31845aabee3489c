"""Phone numbers, tokens and signatures must not reach what Airflow stores or shows."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from airflow.sdk import DAG
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields

from airflow_provider_dstny.api.models import CallConversation
from airflow_provider_dstny.operators.conversations import DstnyCreateCallConversationOperator

try:
    from airflow.serialization.serialized_objects import DagSerialization
except ImportError:  # before Airflow 3.2
    from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

PHONE = "+46701740605"
SIGNATURE = "X-Signature=abcdef0123456789"


@pytest.fixture
def private_call(call):
    return {
        **call,
        "owner_phone_number": PHONE,
        "participant_phone_number": PHONE,
        "call_recording_url": f"https://user:pw@recordings.example.com/a.wav?{SIGNATURE}",
        "call_title": "{{ params.title }}",
    }


def assert_private(text):
    assert PHONE not in text
    assert PHONE[1:] not in text
    assert SIGNATURE not in text
    assert "user:pw" not in text
    assert "pbx-1" in text, "what is not private stays readable"


def dag_with(call):
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        DstnyCreateCallConversationOperator(task_id="create", call=call)
    return dag


def test_a_serialized_dag_is_private(private_call):
    assert_private(json.dumps(DagSerialization.to_dict(dag_with(private_call))))


def test_rendered_fields_are_private_and_templates_are_rendered(private_call):
    task = dag_with(private_call).get_task("create")
    task.render_template_fields({"params": {"title": "Rendered"}})
    assert task.call.fields["call_title"] == "Rendered"
    assert task.call.fields["owner_phone_number"] == PHONE
    rendered = json.dumps(_serialize_rendered_fields(task))
    assert_private(rendered)
    assert "Rendered" in rendered


def test_a_call_that_comes_from_another_task_is_private_when_rendered(private_call):
    task = dag_with("{{ call }}").get_task("create")
    task.call = private_call
    assert_private(json.dumps(_serialize_rendered_fields(task)))
    assert_private(repr(task.call))


def test_a_model_given_as_the_call_is_private(private_call):
    private_call["call_recording_url"] = f"https://recordings.example.com/a.wav?{SIGNATURE}"
    call = CallConversation.parse(private_call)
    assert_private(json.dumps(DagSerialization.to_dict(dag_with(call))))
    assert_private(json.dumps(_serialize_rendered_fields(dag_with(call).get_task("create"))))
