"""The client of the REST API v1 against the simulator, on a real port."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_dstny.api.dstny_rest import ROUTES, DstnyRestClient
from airflow_provider_dstny.api.errors import (
    DstnyAmbiguousError,
    DstnyAuthError,
    DstnyError,
    DstnyNotFoundError,
    DstnyQuotaError,
    DstnyRateLimitError,
    DstnyResponseError,
    DstnyScopeError,
    DstnyServerError,
    DstnyValidationError,
)
from airflow_provider_dstny.simulator import Fault, Simulator
from airflow_provider_dstny.simulator.contract import Contract
from tests.contract.calling import SYNC_AND_ASYNC, call, collect

MEETING = {
    "meeting_url": "https://meet.google.com/abc-defg-hij",
    "meeting_title": "Customer sync",
    "meeting_start_time": "2026-08-24T14:15:22Z",
    "meeting_end_time": "2026-08-24T15:15:22Z",
    "meeting_platform": "google_meet",
}
OPERATIONS = {
    "get_account": ((), {}),
    "list_users": ((), {}),
    "list_teams": ((), {}),
    "list_departments": ((), {}),
    "list_conversations": ((), {"limit": 3, "medium": "call", "date_from": "2020-01-01T00:00:00Z"}),
    "get_conversation": (("CONVERSATION",), {"include_transcript": True, "include_insights": True}),
    "get_transcript": (("CONVERSATION",), {}),
    "get_insights": (("CONVERSATION",), {}),
    "get_recording_url": (("CONVERSATION",), {}),
    "get_summary": (("CONVERSATION",), {}),
    "request_notetaker": ((MEETING,), {}),
    "list_webhook_deliveries": ((), {"token_id": "0c7a1f2e-0000-4000-8000-000000000001"}),
}
SHAPES = {
    "get_account": lambda account: account.name and account.token_prefix == "mt_simulato" and account.server_time,
    "list_users": lambda users: users[0].email and users[0].full_name,
    "list_teams": lambda teams: teams[0].members[0].id,
    "list_departments": lambda departments: departments[0].slug,
    "list_conversations": lambda page: len(page.conversations) == 3 and page.server_time.tzinfo is UTC,
    "get_conversation": lambda one: one.summary and one.participants and one.transcript and one.insights,
    "get_transcript": lambda transcript: transcript.is_ready and len(transcript.segments) >= 4,
    "get_insights": lambda insights: insights[0].insight_type and insights[0].start_time_seconds is not None,
    "get_recording_url": lambda recording: recording.has_recording and recording.url.startswith("http://127.0.0.1"),
    "get_summary": lambda summary: summary.summary,
    "request_notetaker": lambda notetaker: notetaker.status == "joining" and notetaker.meeting_platform,
    "list_webhook_deliveries": lambda deliveries: deliveries[0].event_type == "conversation.completed",
}


@pytest.fixture
def account():
    with Simulator(requests_per_minute=None) as simulator:
        yield simulator


def client_of(simulator, token=None, **options):
    options = {"requests_per_minute": 60_000, "max_retries": 0, **options}
    return DstnyRestClient(simulator.url, token or simulator.rest_token, **options)


def test_the_client_the_path_table_and_the_document_know_the_same_operations():
    assert set(Contract("dstny_rest").operations) == set(ROUTES) == set(OPERATIONS)
    assert len(ROUTES) == 12


@SYNC_AND_ASYNC
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_sends_what_is_documented_and_reads_the_answer(account, name, asynchronous):
    args, kwargs = OPERATIONS[name]
    conversation = account.rest.add(has_recording=True)
    args = tuple(conversation.id if value == "CONVERSATION" else value for value in args)
    assert SHAPES[name](call(client_of(account), name, *args, asynchronous=asynchronous, **kwargs))
    entry = account.books.entries[-1]
    assert (entry.api, entry.operation, entry.status) == ("dstny_rest", name, 200)
    assert account.books.violations == []


@pytest.mark.parametrize("shape", ["segments", "sentences", "messages"])
def test_each_shape_of_a_transcript_reads_the_same(account, shape):
    with client_of(account) as rest:
        transcript = rest.get_transcript(account.rest.add(transcript_shape=shape).id)
    assert transcript.source_shape == shape
    first = transcript.segments[0]
    assert first.speaker
    assert first.text.startswith("Good morning")
    assert first.start_seconds == 0
    assert first.end_seconds > 0


@SYNC_AND_ASYNC
@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("inclusive_cursor", [True, False])
def test_a_walk_finds_every_conversation_once(newest_first, inclusive_cursor, asynchronous):
    with Simulator(
        requests_per_minute=None, samples=90, newest_first=newest_first, inclusive_cursor=inclusive_cursor
    ) as simulator:
        crowded = datetime.now(UTC) - timedelta(days=2)
        for _ in range(40):
            simulator.rest.add(date=crowded.timestamp())
        found = [one.id for one in collect(client_of(simulator), asynchronous=asynchronous)]
        assert len(found) == len(set(found))
        assert set(found) == {one.id for one in simulator.rest.conversations.values()}
        assert simulator.books.violations == []


def test_a_walk_is_lazy_and_takes_every_filter(account):
    with client_of(account) as rest:
        conversations = rest.iter_conversations()
        assert account.books.entries == []
        one = next(conversations)
        assert account.books.count("list_conversations") == 1
        conversations.close()
        alike = rest.iter_conversations(
            medium=one.medium,
            user_id=one.user.id,
            department_id=one.department.id,
            date_from=one.date,
            date_to=datetime.now(UTC),
        )
        assert one.id in [conversation.id for conversation in alike]
    assert account.books.violations == []


@pytest.mark.parametrize(
    "filters",
    [
        {"medium": "fax"},
        {"user_id": ""},
        {"department_id": 7},
        {"date_from": datetime(2026, 1, 1)},  # noqa: DTZ001 - a naive one is the point
        {"date_to": "yesterday"},
        {"date_from": 1767225600},
        {"date_from": "2026-02-02T00:00:00Z", "date_to": "2026-02-01T00:00:00Z"},
    ],
)
def test_a_wrong_filter_is_refused_at_the_call(account, filters):
    with client_of(account) as rest:
        with pytest.raises(DstnyValidationError, match=next(iter(filters))):
            rest.iter_conversations(**filters)
        with pytest.raises(DstnyValidationError, match=next(iter(filters))):
            rest.list_conversations(**filters)
    assert account.books.entries == []


@pytest.mark.parametrize("limit", [0, 26, True, "25", 2.5])
def test_a_wrong_limit_is_refused_before_sending(account, limit):
    with pytest.raises(DstnyValidationError, match="limit"):
        call(client_of(account), "list_conversations", limit=limit)
    assert account.books.entries == []


def test_asking_for_more_than_the_api_lists_is_said(account, caplog):
    with client_of(account) as rest:
        rest.iter_conversations(date_from=datetime.now(UTC) - timedelta(days=29))
        assert caplog.text == ""
        rest.iter_conversations(date_from=datetime.now(UTC) - timedelta(days=45))
    assert "last 30 days only" in caplog.text


SCOPED = {name: route.scope for name, route in ROUTES.items() if route.scope}


@SYNC_AND_ASYNC
@pytest.mark.parametrize("name", SCOPED)
def test_a_missing_scope_is_named_with_the_place_to_grant_it(name, asynchronous):
    scopes = set(SCOPED.values()) - {SCOPED[name]}
    with Simulator(rest_tokens={"mt_limited_token": scopes}, requests_per_minute=None) as simulator:
        args, kwargs = OPERATIONS[name]
        args = tuple(simulator.rest.add().id if value == "CONVERSATION" else value for value in args)
        with pytest.raises(DstnyScopeError) as caught:
            call(client_of(simulator), name, *args, asynchronous=asynchronous, **kwargs)
    assert caught.value.scope == SCOPED[name]
    assert f"'{SCOPED[name]}' scope" in str(caught.value)
    assert "Settings → REST API" in str(caught.value)
    assert ("include_recordings=true" in str(caught.value)) == (name == "get_recording_url")
    assert "mt_limited" not in str(caught.value)


def test_a_scope_that_only_the_server_knows_of_is_taken_from_its_message(account):
    account.rest.tokens["mt_some"] = {"conversations", "insights"}
    with pytest.raises(DstnyScopeError) as caught:
        call(client_of(account, "mt_some"), "get_conversation", account.rest.add().id, include_transcript=True)
    assert caught.value.scope == "transcripts"


def test_a_refused_token_says_where_to_get_another(account):
    with pytest.raises(DstnyAuthError, match="Settings → REST API"):
        call(client_of(account, token="mt_revoked"), "get_account")


def test_the_limit_of_a_minute_and_that_of_a_day_are_told_apart():
    with Simulator(requests_per_minute=5, daily_conversation_quota=2) as simulator, client_of(simulator) as rest:
        first, second, third = (simulator.rest.add().id for _ in range(3))
        rest.get_summary(first)
        rest.get_transcript(second)
        with pytest.raises(DstnyQuotaError) as quota:
            rest.get_summary(third)
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        assert abs(quota.value.resets_at - midnight) < timedelta(seconds=5)
        assert rest.get_insights(first), "a conversation that counted already still counts once"
        rest.get_account()
        with pytest.raises(DstnyRateLimitError) as limit:
            rest.get_account()
        assert 0 < limit.value.retry_after <= 60


def test_the_documented_pace_is_kept_without_a_setting(account, no_sleep):
    with DstnyRestClient(account.url, account.rest_token) as rest:
        for _ in range(5):
            rest.get_account()
    # No slot is waited for in this test, so that the fifth lies four whole spacings ahead.
    assert max(no_sleep) == pytest.approx(4 * 60 / (60 * 0.97), abs=0.5)


FAULTS = [
    (Fault("status", status=500), DstnyServerError),
    (Fault("html", status=200, message="Welcome"), DstnyResponseError),
    (Fault("truncated"), DstnyResponseError),
]


@SYNC_AND_ASYNC
@pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=[fault.kind for fault, _ in FAULTS])
def test_a_walk_that_meets_a_fault_says_so_and_goes_no_further(account, fault, kind, asynchronous):
    fault = Fault(**vars(fault))
    account.books.inject(fault)
    with pytest.raises(kind):
        collect(client_of(account), asynchronous=asynchronous)
    assert account.books.count("list_conversations") == 1


def test_a_lost_answer_of_a_notetaker_request_is_ambiguous(account):
    for fault in (Fault("reset", "request_notetaker"), Fault("truncated", "request_notetaker")):
        account.books.inject(fault)
        with pytest.raises(DstnyAmbiguousError):
            call(client_of(account, max_retries=4), "request_notetaker", MEETING)
    assert account.books.count("request_notetaker") == 2


def test_what_a_notetaker_hears_becomes_a_conversation(account):
    with client_of(account) as rest:
        rest.request_notetaker({"meeting_url": MEETING["meeting_url"], "meeting_title": "Customer sync"})
        titles = [conversation.title for conversation in rest.iter_conversations(medium="video")]
    assert "Customer sync" in titles


@pytest.mark.parametrize("name", ["../users", "a/b", "a?b=c", "%2e%2e"])
def test_an_id_stays_one_segment_on_the_wire(account, name):
    with pytest.raises(DstnyNotFoundError):
        call(client_of(account), "get_transcript", name)
    assert account.books.violations == []


def test_no_error_has_the_token(account):
    account.books.inject(Fault("status", status=400, message=f"bad {account.rest_token}"))
    with pytest.raises(DstnyError) as caught:
        call(client_of(account), "list_users")
    assert account.rest_token not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize("body", [None, [], "x", {}, {"conversations": 7}, {"data": []}])
def test_a_list_in_another_form_is_read_as_empty_and_is_no_end_of_a_walk(account, mocker, body):
    with client_of(account) as rest:
        mocker.patch.object(rest, "_send", return_value=body)
        assert rest.list_conversations().conversations == []
        with pytest.raises(DstnyResponseError, match="another form"):
            list(rest.iter_conversations())


@pytest.mark.parametrize("rows", [None, [], [None, 3, {"id": []}, {"id": ""}, {"id": "", "title": "x"}]])
def test_odd_rows_are_read_as_far_as_they_go(account, mocker, rows):
    with client_of(account) as rest:
        mocker.patch.object(rest, "_send", return_value={"conversations": rows})
        assert len(list(rest.iter_conversations())) == len(rows or [])


@pytest.mark.parametrize("pagination", [{"next_cursor": "CURSOR"}, {"hasMore": True, "nextCursor": "CURSOR"}])
def test_a_cursor_is_followed_unless_the_list_says_that_it_ends(account, mocker, pagination):
    rows = [{"id": f"c{n}", "date": f"2026-01-0{n}T00:00:00Z"} for n in (3, 2, 1)]
    cursor = {name: rows[1]["date"] if value == "CURSOR" else value for name, value in pagination.items()}
    answers = [
        {"conversations": rows[:2], "pagination": cursor},
        {"conversations": rows[1:], "pagination": {"has_more": False, "next_cursor": "2026-01-01T00:00:00Z"}},
    ]
    with client_of(account) as rest:
        mocker.patch.object(rest, "_send", side_effect=answers)
        assert [one.id for one in rest.iter_conversations()] == ["c3", "c2", "c1"]


def test_a_page_that_goes_on_without_saying_where_is_an_error(account, mocker):
    with client_of(account) as rest:
        mocker.patch.object(rest, "_send", return_value={"conversations": [], "pagination": {"has_more": True}})
        with pytest.raises(DstnyResponseError, match="not where"):
            list(rest.iter_conversations())
