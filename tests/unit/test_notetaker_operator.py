from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyAmbiguousError, DstnyValidationError
from airflow_provider_dstny.api.models import NotetakerRequest
from airflow_provider_dstny.operators.notetaker import DstnyRequestNotetakerOperator
from airflow_provider_dstny.simulator import Fault, Simulator

MEETING = "https://meet.google.com/abc-defg-hij"


class TaskInstance:
    def __init__(self):
        self.try_number = 1
        self.max_tries = 1


class Store(dict):
    set = dict.__setitem__
    delete = dict.pop


@pytest.fixture
def context():
    return {"ti": TaskInstance(), "task_state_store": Store()}


@pytest.fixture
def account(monkeypatch, no_sleep):
    with Simulator(requests_per_minute=None) as simulator:
        connection = {"conn_type": "dstny_rest", "host": simulator.url, "password": simulator.rest_token}
        monkeypatch.setenv("AIRFLOW_CONN_DSTNY_REST_DEFAULT", json.dumps(connection))
        yield simulator


def operator(**kwargs):
    return DstnyRequestNotetakerOperator(task_id="notetaker", **{"meeting_url": MEETING, **kwargs})


@pytest.mark.parametrize(
    "url",
    [
        MEETING,
        "https://us02web.zoom.us/j/89012345678?pwd=abc",
        "https://acme.zoom.us/my/room",
        "https://zoomgov.com/j/1",
        "https://teams.microsoft.com/l/meetup-join/19%3ameeting_x/0?context=%7b%7d",
        "https://teams.live.com/meet/9312345",
        "https://teams.cloud.microsoft/meet/1",
        " https://MEET.google.com/abc-defg-hij ",
    ],
)
def test_links_of_the_three_platforms_are_taken(url):
    assert NotetakerRequest.parse({"meeting_url": url}).to_json() == {"meeting_url": url.strip()}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "zoom",
        "http://meet.google.com/abc-defg-hij",
        "https://meet.google.com",
        "https://meet.google.com/",
        "https://meet.google.com.evil.example/abc",
        "https://evilzoom.us/j/1",
        "https://user:secret@zoom.us/j/1",
        "https://zoom.us@evil.example/j/1",
        "https://webex.com/meet/x",
        "https://zoom.us/j/1\nX: y",
        "https://[zoom.us/j/1",
        7,
        None,
    ],
)
def test_other_links_are_refused_without_being_shown(url):
    with pytest.raises(DstnyValidationError, match="meeting_url") as caught:
        NotetakerRequest.parse({"meeting_url": url})
    assert "evil" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"meeting_start_time": datetime(2026, 1, 1)}, "meeting_start_time"),  # noqa: DTZ001
        ({"meeting_start_time": "2026-01-01T09:00:00"}, "timezone"),
        ({"meeting_start_time": 1767258000}, "ISO 8601"),
        (
            {"meeting_start_time": "2026-01-01T09:00:00Z", "meeting_end_time": "2026-01-01T10:00:00+02:00"},
            "must be after",
        ),
        (
            {"meeting_start_time": "2026-01-01T09:00:00Z", "meeting_end_time": "2026-01-01T09:00:00Z"},
            "must be after",
        ),
        ({"meeting_titel": "x"}, "meeting_titel"),
    ],
)
def test_times_are_aware_and_in_order(fields, reason):
    with pytest.raises(DstnyValidationError, match=reason):
        NotetakerRequest.parse({"meeting_url": MEETING, **fields})


def test_times_are_sent_in_utc():
    sent = NotetakerRequest.parse(
        {
            "meeting_url": MEETING,
            "meeting_start_time": "2026-06-01T11:00:00+02:00",
            "meeting_end_time": datetime(2026, 6, 1, 10, tzinfo=UTC),
        }
    ).to_json()
    assert (sent["meeting_start_time"], sent["meeting_end_time"]) == ("2026-06-01T09:00:00Z", "2026-06-01T10:00:00Z")


def test_the_xcom_is_the_id_of_the_request(account, context):
    xcom = operator(meeting_title="Sync", meeting_end_time="").execute(context)
    assert isinstance(xcom, str)
    assert account.books.count("request_notetaker") == 1
    assert account.books.violations == []


def test_what_a_template_renders_to_nothing_is_left_out(account, context, mocker):
    asked = mocker.spy(DstnyRestClient, "_send")
    task = operator(meeting_title="{{ params.title }}", meeting_start_time="{{ params.start }}")
    task.render_template_fields({"params": {"title": None, "start": None}})
    task.execute(context)
    assert [called.args[1].json for called in asked.call_args_list] == [{"meeting_url": MEETING}]


def test_a_title_without_a_template_stays_text_where_templates_render_to_native_types():
    with DAG("d", schedule=None, render_template_as_native_obj=True):
        task = operator(meeting_title="2026")
    task.render_template_fields({})
    assert task.meeting_title == "2026"


@pytest.mark.parametrize("fields", [{"meeting_url": "https://example.com/x"}, {"meeting_start_time": "soon"}])
def test_a_wrong_request_fails_at_once_and_sends_nothing(account, context, fields):
    with pytest.raises(AirflowFailException):
        operator(**fields).execute(context)
    assert account.books.entries == []


def test_a_retry_after_a_lost_answer_sends_no_second_notetaker(account, context):
    account.books.inject(Fault("reset", "request_notetaker"))
    with pytest.raises(DstnyAmbiguousError):
        operator().execute(context)
    context["ti"].try_number = 2
    with pytest.raises(DstnyAmbiguousError, match="mark this task as success if it did, or clear it"):
        operator(meeting_title="A title that is rendered anew on each try").execute(context)
    assert account.books.count("request_notetaker") == 1
    operator(resubmit_ambiguous=True).execute(context)
    assert account.books.count("request_notetaker") == 2


def test_clearing_after_a_lost_answer_sends_another(account, context):
    account.books.inject(Fault("reset", "request_notetaker"))
    with pytest.raises(DstnyAmbiguousError):
        operator().execute(context)
    # Somebody looked and cleared the task, which raises max_tries.
    context["ti"].max_tries = 2
    operator().execute(context)
    assert account.books.count("request_notetaker") == 2


def test_a_retry_after_a_refusal_or_a_crash_behaves(account, context):
    account.books.inject(Fault("status", "request_notetaker", status=503))
    with pytest.raises(Exception, match="503"):
        operator().execute(context)
    context["task_state_store"].clear()
    first = operator().execute(context)
    # The process died after the answer, before Airflow knew: the retry re-attaches.
    context["ti"].try_number = 2
    assert operator().execute(context) == first
    # Clearing raises max_tries: it asks anew.
    context["ti"].max_tries = 2
    assert operator().execute(context) != first


def test_a_notetaker_that_is_not_let_in_fails_and_can_be_asked_again(account, context, mocker):
    answer = {"id": "n1", "status": "failed", "status_message": "call +46701234567"}
    mocker.patch("airflow_provider_dstny.api.dstny_rest.DstnyRestClient._send", return_value=answer)
    with pytest.raises(AirflowFailException, match="n1 is failed") as caught:
        operator().execute(context)
    assert "+46" not in str(caught.value)
    context["ti"].max_tries = 2
    with pytest.raises(AirflowFailException, match="n1 is failed"):
        operator().execute(context)


def test_a_connection_of_api_v2_is_refused(account, context, monkeypatch):
    connection = {"conn_type": "dstny", "host": account.url, "password": account.token}
    monkeypatch.setenv("AIRFLOW_CONN_DSTNY_REST_DEFAULT", json.dumps(connection))
    with pytest.raises(AirflowFailException, match="it must be 'dstny_rest'"):
        operator().execute(context)
