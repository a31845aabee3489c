"""Phone numbers, tokens and signatures must not reach what Airflow stores or shows."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG, task
from airflow.sdk.execution_time.task_runner import _serialize_rendered_fields
from jinja2 import UndefinedError

from airflow_provider_dstny.api.models import CallConversation
from airflow_provider_dstny.api.privacy import scrub, shown
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


def test_a_template_that_fails_is_logged_without_what_is_private(private_call, caplog):
    task = dag_with({**private_call, "call_title": "{{ nothing.there }}"}).get_task("create")
    with pytest.raises(UndefinedError):
        task.render_template_fields({})
    assert_private(caplog.text)


@pytest.mark.parametrize("text", [f"{{'owner_phone_number': '{PHONE}'}}", PHONE, "calls.csv", ""])
def test_a_call_that_renders_to_other_text_is_refused_and_not_shown(text):
    task = dag_with("{{ call }}").get_task("create")
    with pytest.raises(AirflowFailException, match="render_template_as_native_obj") as caught:
        task.render_template_fields({"call": text})
    assert PHONE not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "seen"),
    [
        ("owner_phone_number", 46701740605.0, "***"),
        ("owner_phone", [PHONE], "***"),
        ("call_recording_url", f"https://h/x;{SIGNATURE}", "https://h/x?***"),
        ("call_recording_url", f"//h/x?{SIGNATURE}", "***"),
        ("call_recording_url", "https://[x?y", "https://[x?***"),
        ("call_title", {"a": PHONE}, "***"),
        ("call_title", "Renewal", "Renewal"),
        ("call_title", f"Call with {PHONE}", "Call with ***"),
        ("call_recording_url", f"https://h/{PHONE}.mp3", "https://h/***.mp3"),
        (7, None, None),
        ("participant_external_id", 46701740605, "***"),
        ("participant_external_id", 46701740605.0, "***"),
    ],
)
def test_what_is_shown_of_a_field(name, value, seen):
    assert shown(name, value) == seen


@pytest.mark.parametrize("value", [0, 90, -1, 123456, 90.5, True, False])
def test_an_ordinary_number_is_shown_as_it_is(value):
    assert shown("call_duration", value) is value


@pytest.mark.parametrize(
    "text",
    [
        "+46 70 174 06 05", "+46701740605x1", "n+46701740605", "%2B46701740605", "070\u2011174\u201106\u201105",
        "070/174/06/05", "+46 (0)70 - 174 06 05", "0701740605", "(070) 174 06 05", "%2B46%2070%20174%2006%2005",
    ],
)  # fmt: skip
def test_phone_numbers_are_scrubbed(text):
    assert "174" not in scrub(f"number {text} is wrong", "token")


@pytest.mark.parametrize(
    "text",
    [
        "before 2026-03-02T08:00:00Z",
        "1f07d9fe-b515-6c3e-8fd2-ce54fb85a059",
        "limit 1000",
        "pbx-20260302-0001",
        "10.244.10.123 refused",
        "04/03/2024 10:00",
    ],
)
def test_dates_and_ids_stay_readable(text):
    assert scrub(text, "token") == text


def test_hostile_text_is_cut_before_it_is_searched(mocker):
    search = mocker.patch("airflow_provider_dstny.api.privacy._URL_TAIL")
    search.sub.side_effect = lambda _, line: line
    scrub("http://" * 150_000, "token")
    assert len(search.sub.call_args.args[1]) <= 2000


def test_what_cannot_be_printed_or_encoded_is_left_out():
    assert scrub("a\ud800b\x00c\u202e", "token").encode() == b"abc"


def test_each_rendering_starts_from_the_templates(private_call):
    task = dag_with(private_call).get_task("create")
    for title in ("first", "second"):
        copied = task.prepare_for_execution()
        copied.render_template_fields({"params": {"title": title}})
        assert copied.call.fields["call_title"] == title


def test_with_native_objects_a_literal_phone_number_stays_text(private_call):
    task = dag_with(private_call).get_task("create")
    task.dag.render_template_as_native_obj = True
    task.render_template_fields({"params": {"title": "x"}})
    assert task.call.fields["owner_phone_number"] == PHONE


def test_a_phone_number_that_is_a_number_is_private(private_call):
    dag = dag_with({**private_call, "participant_external_id": int(PHONE[1:])})
    assert_private(json.dumps(DagSerialization.to_dict(dag)))
    task = dag.get_task("create")
    task.render_template_fields({"params": {"title": "x"}})
    assert_private(json.dumps(_serialize_rendered_fields(task)))
    assert task.call.fields["participant_external_id"] == int(PHONE[1:])


def test_a_template_in_a_file_and_one_of_a_comment_are_rendered(private_call, tmp_path):
    class FromFile(DstnyCreateCallConversationOperator):
        template_ext = (".j2",)

    (tmp_path / "title.j2").write_text("About {{ params.title }}")
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), template_searchpath=str(tmp_path)):
        task = FromFile(
            task_id="create", call={**private_call, "call_title": "title.j2", "owner_email": "{# whose #}a@b.se"}
        )
    task.render_template_fields({"params": {"title": "x"}})
    assert task.call.fields["call_title"] == "About x"
    assert task.call.fields["owner_email"] == "a@b.se"


def test_what_is_no_field_is_not_shown_by_name(call):
    assert PHONE not in repr(dag_with({**call, PHONE: "x", 1: PHONE}).get_task("create").call)


def test_queries_of_urls_are_scrubbed():
    assert scrub(f"https://s3/x.wav?{SIGNATURE} is not reachable", "token") == "https://s3/x.wav?*** is not reachable"


def test_mailboxes_are_scrubbed_and_their_domains_stay():
    told = scrub("Users jane.doe+x@example.com, o'neil@mail.example.org and a%40b.example exist; see @docs", "token")
    assert told == "Users ***@example.com, o'***@mail.example.org and ***@b.example exist; see @docs"


def test_an_upstream_task_within_a_call_is_upstream(call):
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):

        @task
        def up():
            return "x"

        create = DstnyCreateCallConversationOperator(task_id="create", call={**call, "call_external_id": up()})
    assert create.upstream_task_ids == {"up"}


def test_a_model_given_as_the_call_is_private(private_call):
    private_call["call_recording_url"] = f"https://recordings.example.com/a.wav?{SIGNATURE}"
    call = CallConversation.parse(private_call)
    assert_private(json.dumps(DagSerialization.to_dict(dag_with(call))))
    assert_private(json.dumps(_serialize_rendered_fields(dag_with(call).get_task("create"))))
