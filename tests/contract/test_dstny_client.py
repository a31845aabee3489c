"""The client against the simulator on a real port. The simulator holds every request against the documents."""

from __future__ import annotations

import threading
from contextlib import suppress
from datetime import UTC, date, datetime
from types import SimpleNamespace

import pytest

from airflow_provider_dstny.api.dstny import ROUTES, DstnyClient
from airflow_provider_dstny.api.errors import (
    DstnyAmbiguousError,
    DstnyAuthError,
    DstnyConnectionError,
    DstnyError,
    DstnyNotFoundError,
    DstnyRateLimitError,
    DstnyResponseError,
    DstnyServerError,
    DstnyTimeoutError,
    DstnyValidationError,
)
from airflow_provider_dstny.api.operation import operation
from airflow_provider_dstny.simulator import Fault, Simulator
from airflow_provider_dstny.simulator.contract import Contract, ContractError
from tests.contract.calling import SYNC_AND_ASYNC
from tests.contract.calling import call as call_client
from tests.unit.test_call_conversation import DOCUMENTED
from tests.unit.test_directory_models import AGENT, TEAM, USER

SALES = "75fc3b9a-0000-4000-8000-000000000001"

OPERATIONS = {
    "list_users": ((), {}),
    "create_user": ((USER,), {}),
    "update_user": ((1, USER), {}),
    "list_teams": ((), {}),
    "create_team": ((TEAM,), {}),
    "update_team": ((SALES, TEAM), {}),
    "list_team_users": ((SALES,), {}),
    "assign_team_users": ((SALES, [2]), {}),
    "list_conversations": (
        (),
        {
            "search": "Quarterly",
            "global_user_ids": [1, 95],
            "global_team_ids": ["be054e38-1a5c-4adb-a9dc-d8af1956cde5", "6f668ee4-9144-4ace-8580-7beb8ba2a516"],
            "campaign_ids": ["demo"],
            "recording_types": ["call", "meeting", "live"],
            "deals_status": ["closed won", "open & hot"],
            "global_start": date(2020, 1, 1),
            "global_end": "2025-12-31",
        },
    ),
    "create_call_conversation": ((DOCUMENTED,), {}),
    "get_insights": (("CONVERSATION",), {}),
    "get_transcript": (("CONVERSATION",), {}),
    "get_ai_analytics": (("CONVERSATION",), {}),
    "get_playbooks": (("CONVERSATION",), {}),
    "get_magic_variable_requests": (("CONVERSATION",), {}),
    "get_department_insights": (("CONVERSATION",), {}),
    "get_global_filters": ((), {}),
    "create_embed_token": (("erik.lindqvist@example.com",), {}),
    "list_departments": ((), {}),
    "list_department_teams": (("b2b-sales",), {}),
    "list_department_users": (("b2b-sales",), {}),
    "list_agents": ((), {}),
    "create_agent": ((AGENT,), {}),
    "get_agent": ((2,), {}),
    "update_agent": ((2, AGENT), {}),
    "delete_agent": ((2,), {}),
    "list_agent_templates": ((), {}),
    "list_meeting_role_assignments": ((), {}),
    "list_agent_requests": ((2,), {"is_test_run": True}),
    "get_agent_request": ((2, "REQUEST"), {}),
    "run_agent": ((1, "CONVERSATION"), {"is_test_run": False, "force": True}),
}

SHAPES = {
    "list_users": lambda users: users[0].email == "erik.lindqvist@example.com",
    "create_user": lambda user: user.id == 3 and USER.items() <= user.raw.items(),
    "update_user": lambda user: user.id == 1 and USER.items() <= user.raw.items(),
    "list_teams": lambda teams: [team.name for team in teams] == ["Sales"],
    "create_team": lambda team: len(team.id) == 36 and TEAM.items() <= team.raw.items(),
    "update_team": lambda team: team.id == SALES and TEAM.items() <= team.raw.items(),
    "list_team_users": lambda users: [user.first_name for user in users] == ["Erik"],
    "assign_team_users": lambda team: team.id == SALES,
    "list_conversations": lambda conversations: conversations[0].call_external_id == "a1b2c3d4e5",
    "create_call_conversation": lambda conversation_id: len(conversation_id) == 36,
    "get_insights": lambda rows: rows[0]["insight_type"] == "kpi",
    "get_transcript": lambda transcript: transcript.is_ready and transcript.segments[1].start_seconds == 4.0,
    "get_ai_analytics": lambda rows: rows[0]["talk_ratio"] == 0.52,
    "get_playbooks": lambda rows: rows[0]["name"] == "Discovery",
    "get_magic_variable_requests": lambda rows: rows[0]["variable"] == "start_date",
    "get_department_insights": lambda rows: rows[0]["topics"] == ["sso"],
    "get_global_filters": lambda filters: filters.teams[0]["name"] == "Sales",
    "create_embed_token": lambda token: isinstance(token, str) and token.count(".") == 2,
    "list_departments": lambda departments: [one.slug for one in departments] == ["b2b-sales"],
    "list_department_teams": lambda teams: [team.type for team in teams] == ["b2b-sales"],
    "list_department_users": lambda users: [user.id for user in users] == [1],
    "list_agents": lambda agents: [agent.id for agent in agents] == [1, 2],
    "create_agent": lambda agent: agent.raw == {"id": 3, **AGENT},
    "get_agent": lambda agent: agent.type == "magic_insight",
    "update_agent": lambda agent: agent.raw == {"id": 2, **AGENT},
    "delete_agent": lambda nothing: nothing is None,
    "list_agent_templates": lambda templates: templates[1]["type"] == "playbook",
    "list_meeting_role_assignments": lambda roles: roles["support"] == ["Agent", "Client"],
    "list_agent_requests": lambda requests: [request.is_test_run for request in requests] == [True],
    "get_agent_request": lambda request: request.agent_id == 2 and "single sign-on" in request.response["summary"],
    "run_agent": lambda run: run.result["response"]["summary"].startswith("Client AB"),
}

CREATIONS = {
    "create_user": USER,
    "create_team": TEAM,
    "create_agent": AGENT,
    "create_call_conversation": DOCUMENTED,
}

#: For what is decided without a request.
OFFLINE = DstnyClient("http://127.0.0.1:1", "token")


def call_operation(simulator, name, *args, asynchronous, token=None, **kwargs):
    options = {key: kwargs.pop(key) for key in ("max_retries", "timeout", "paths") if key in kwargs}
    client = DstnyClient(simulator.url, token or simulator.token, **options)
    return call_client(client, name, *args, asynchronous=asynchronous, **kwargs)


@pytest.fixture
def conversation_id(simulator):
    call = {**DOCUMENTED, "call_recording_url": f"{simulator.url}/recordings/a.wav"}
    with DstnyClient(simulator.url, simulator.token) as dstny:
        conversation_id = dstny.create_call_conversation(call)
    simulator.state.settle()
    return conversation_id


@pytest.fixture
def request_id(simulator, conversation_id):
    with DstnyClient(simulator.url, simulator.token) as dstny:
        return dstny.run_agent(2, conversation_id, is_test_run=True).result["id"]


def test_the_client_the_path_table_and_the_document_know_the_same_operations():
    assert set(Contract("dstny").operations) == set(ROUTES) == set(OPERATIONS) == set(SHAPES)
    assert set(ROUTES) == {name for name in dir(DstnyClient) if isinstance(getattr(DstnyClient, name), operation)}
    assert len(ROUTES) == 31


@SYNC_AND_ASYNC
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_sends_what_is_documented_and_reads_the_answer(
    simulator, conversation_id, request_id, name, asynchronous
):
    args, kwargs = OPERATIONS[name]
    ids = {"CONVERSATION": conversation_id, "REQUEST": request_id}
    args = tuple(ids.get(value, value) if isinstance(value, str) else value for value in args)
    answered = call_operation(simulator, name, *args, asynchronous=asynchronous, **kwargs)
    assert SHAPES[name](answered)
    entry = simulator.books.entries[-1]
    assert (entry.operation, entry.status) == (name, 200)
    assert simulator.books.violations == []


def test_every_documented_field_and_filter_is_sent(simulator, conversation_id):
    body = simulator.state.calls[conversation_id].body
    assert body == {**DOCUMENTED, "call_recording_url": f"{simulator.url}/recordings/a.wav"}
    with DstnyClient(simulator.url, simulator.token) as dstny:
        request = next(dstny.list_conversations.steps(**OPERATIONS["list_conversations"][1]))
        nothing = next(dstny.list_conversations.steps())
    assert request.params == (
        ("search", "Quarterly"),
        ("global_user_ids[]", "1"),
        ("global_user_ids[]", "95"),
        ("global_team_ids[]", "be054e38-1a5c-4adb-a9dc-d8af1956cde5"),
        ("global_team_ids[]", "6f668ee4-9144-4ace-8580-7beb8ba2a516"),
        ("campaign_ids[]", "demo"),
        ("recording_types[]", "call"),
        ("recording_types[]", "meeting"),
        ("recording_types[]", "live"),
        ("deals_status[]", "closed won"),
        ("deals_status[]", "open & hot"),
        ("global_start", "2020-01-01"),
        ("global_end", "2025-12-31"),
    )
    assert nothing.params == ()


@pytest.mark.parametrize(
    ("name", "args", "body"),
    [
        ("create_user", (USER,), USER),
        ("update_user", (1, {"auto_join_meeting_bot": None}), {"auto_join_meeting_bot": None}),
        ("update_user", (1, {"first_name": "Ulla"}), {"first_name": "Ulla"}),
        ("create_team", ({**TEAM, "auto_join_meeting_bot": None},), {**TEAM, "auto_join_meeting_bot": None}),
        ("update_team", (SALES, {"managers": []}), {"managers": []}),
        ("assign_team_users", (SALES, (1, 2)), {"user_ids": [1, 2]}),
        ("create_embed_token", (" erik@example.com ",), {"email": "erik@example.com"}),
        ("create_agent", (AGENT,), AGENT),
        ("update_agent", (1, AGENT), AGENT),
        ("delete_agent", (1,), None),
    ],
)
def test_a_body_is_what_was_given_and_nothing_else(name, args, body):
    assert next(getattr(OFFLINE, name).steps(*args)).json == body


@pytest.mark.parametrize(("is_test_run", "sent"), [(None, ()), (True, ("true",)), (False, ("false",))])
def test_requests_are_filtered_only_when_asked(is_test_run, sent):
    params = next(OFFLINE.list_agent_requests.steps(1, is_test_run=is_test_run)).params
    assert params == tuple(("is_test_run", value) for value in sent)


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "status"),
    [
        ("GET", "/nothing", [], b"", 404),
        ("DELETE", "/users", [], b"", 405),
        ("GET", "/conversations", [("recording_types", "call")], b"", 400),
        ("GET", "/conversations", [("recording_types[]", "fax")], b"", 422),
        ("GET", "/conversations", [("global_user_ids[]", "x")], b"", 422),
        ("GET", "/conversations", [("global_start", "01.01.2020")], b"", 422),
        ("GET", "/conversations", [("search", "a"), ("search", "b")], b"", 400),
        ("GET", "/conversations/a/b/transcript", [], b"", 404),
        ("GET", "/users", [], b"{}", 400),
        ("POST", "/conversations", [], b"{", 400),
        ("POST", "/conversations", [], b"{}", 422),
        ("POST", "/ai-agents/one/conversations/c/run", [], b"{}", 422),
        ("POST", "/ai-agents/1/conversations/c/run", [], b'{"is_test_run": "no"}', 422),
        ("POST", "/ai-agents/1/conversations/c/run", [], b'{"forse": true}', 422),
        ("POST", "/users", [], b'{"email": "a@example.com", "first_name": "A"}', 422),
        ("PATCH", "/users/one", [], b"{}", 422),
        ("PATCH", "/users/1", [], b'{"delete_contact_data_days": "1"}', 422),
        ("PATCH", "/users/1", [], b'{"first_name": null}', 422),
        ("PATCH", "/users/1", [], b'{"email_aliases": ["a"]}', 422),
        ("POST", "/teams/t/users", [], b'{"user_ids": ["1"]}', 422),
        ("POST", "/ai-agents", [], b'{"name": "A", "type": "playbook", "status": "paused"}', 422),
        ("PATCH", "/ai-agents/1", [], b"{}", 405),
        ("DELETE", "/ai-agents/templates", [], b"", 422),
        ("GET", "/ai-agents/1/requests", [("is_test_run", "True")], b"", 422),
    ],
)
def test_the_contract_refuses_what_is_not_documented(method, path, query, body, status):
    with pytest.raises(ContractError) as caught:
        Contract("dstny").check(method, path, query, body)
    assert caught.value.status == status


@pytest.mark.parametrize("name", ["../users", "a/b", "a?b=c", "a#b", "å b", "%2e%2e", "a\\b", "x" * 300])
def test_an_id_stays_one_segment_on_the_wire(simulator, name):
    with pytest.raises(DstnyNotFoundError):
        call_operation(simulator, "get_transcript", name, asynchronous=False)
    assert simulator.books.violations == []
    assert simulator.books.entries[-1].operation == "get_transcript"


@pytest.mark.parametrize(
    "filters",
    [
        {"recording_types": ["fax"]},
        {"recording_types": "call"},
        {"recording_types": None},
        {"global_start": 5},
        {"global_start": "yesterday"},
        {"global_start": datetime(2026, 1, 1)},  # noqa: DTZ001 - a naive one is the point
    ],
)
def test_a_wrong_filter_is_refused_before_sending(simulator, filters):
    with pytest.raises(DstnyValidationError, match=next(iter(filters))):
        call_operation(simulator, "list_conversations", asynchronous=False, **filters)
    assert simulator.books.entries == []


def test_a_moment_counts_as_its_utc_day(simulator):
    with DstnyClient(simulator.url, simulator.token) as dstny:
        late = datetime.fromisoformat("2026-03-02T00:30:00+02:00")
        assert next(dstny.list_conversations.steps(global_start=late)).params == (("global_start", "2026-03-01"),)
        assert next(dstny.list_conversations.steps(global_end=datetime(2026, 3, 2, tzinfo=UTC))).params == (
            ("global_end", "2026-03-02"),
        )


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        (("1", "c"), {"is_test_run": True}, "agent_id"),
        ((True, "c"), {"is_test_run": True}, "agent_id"),
        ((1, "c"), {"is_test_run": "False"}, "is_test_run"),
        ((1, "c"), {"is_test_run": True, "force": 1}, "force"),
        ((1, "c"), {"is_test_run": True, "request_timeout": -1}, "request_timeout"),
        ((1, "c"), {"is_test_run": True, "request_timeout": float("nan")}, "request_timeout"),
        ((1, "c"), {"is_test_run": True, "request_timeout": 1e10}, "request_timeout"),
        ((1, "c"), {"is_test_run": True, "request_timeout": "300"}, "request_timeout"),
        ((1, ""), {"is_test_run": True}, "conversation_id"),
    ],
)
def test_a_wrong_argument_of_an_agent_run_is_refused_before_sending(simulator, args, kwargs, named):
    with pytest.raises(DstnyValidationError, match=named):
        call_operation(simulator, "run_agent", *args, asynchronous=False, **kwargs)
    assert simulator.books.entries == []


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "named"),
    [
        ("create_user", ({**USER, "emial": "a@example.com"},), {}, "emial"),
        ("create_user", ({**USER, "last_name": None},), {}, "last_name"),
        ("update_user", (1, {}), {}, "nothing to change"),
        ("update_user", (1, {"settings": None}), {}, "settings"),
        ("update_user", ("", {"first_name": "A"}), {}, "user_id"),
        ("update_user", (True, {"first_name": "A"}), {}, "user_id"),
        ("create_team", ({"name": "A"},), {}, "description"),
        ("update_team", (SALES, {}), {}, "nothing to change"),
        ("update_team", ("..", {"name": "A"}), {}, "team_id"),
        ("list_team_users", ("",), {}, "team_id"),
        ("assign_team_users", (SALES, []), {}, "user_ids"),
        ("assign_team_users", (SALES, ["1"]), {}, "user_ids"),
        ("assign_team_users", (SALES, 1), {}, "user_ids"),
        ("assign_team_users", (SALES, [True]), {}, "user_ids"),
        ("create_embed_token", ("erik",), {}, "email"),
        ("create_embed_token", (None,), {}, "email"),
        ("list_department_teams", ("",), {}, "department_slug"),
        ("list_department_users", (None,), {}, "department_slug"),
        ("create_agent", ({**AGENT, "type": "summary"},), {}, "type"),
        ("get_agent", ("1",), {}, "agent_id"),
        ("update_agent", ("1", AGENT), {}, "agent_id"),
        ("update_agent", (1, {"name": "A"}), {}, "status"),
        ("delete_agent", (True,), {}, "agent_id"),
        ("list_agent_requests", (None,), {}, "agent_id"),
        ("list_agent_requests", (1,), {"is_test_run": "true"}, "is_test_run"),
        ("get_agent_request", ("1", 1), {}, "agent_id"),
        ("get_agent_request", (1, "1"), {}, "request_id"),
    ],
)
def test_wrong_input_is_refused_before_sending(simulator, name, args, kwargs, named):
    with pytest.raises(DstnyValidationError, match=named) as caught:
        call_operation(simulator, name, *args, asynchronous=False, **kwargs)
    assert caught.value.status_code is None
    assert simulator.books.entries == []


NO_ID = [None, [], {}, "done", {"id": None}, {"id": ""}, {"id": True}, {"id": 0}, {"data": {"name": "A"}, "id": 1}]
NO_JWT = [None, [], "eyJ.secret", {"jwt": "eyJ.secret"}, {"JWT": ""}, {"JWT": ["eyJ.secret"]}, {"data": None}]


@pytest.mark.parametrize(
    ("name", "given", "answer"),
    [
        *((name, given, answer) for answer in NO_ID for name, given in CREATIONS.items()),
        *(("create_embed_token", "erik@example.com", answer) for answer in NO_JWT),
    ],
)
def test_a_success_without_what_was_created_is_a_lost_answer(name, given, answer):
    steps = getattr(OFFLINE, name).steps(given)
    next(steps)
    with pytest.raises(DstnyAmbiguousError, match=r"the answer has no (id|JWT|conversation_id)") as caught:
        steps.send(answer)
    assert "secret" not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize("name", [name for name in CREATIONS if name != "create_call_conversation"])
@pytest.mark.parametrize("answer", [{"id": 7, "name": "A"}, {"data": {"id": 7, "name": "A"}}])
def test_what_was_created_is_read_bare_or_below_data(name, answer):
    steps = getattr(OFFLINE, name).steps(CREATIONS[name])
    next(steps)
    with pytest.raises(StopIteration) as done:
        steps.send(answer)
    assert (done.value.value.id, done.value.value.raw) == (7, {"id": 7, "name": "A"})


@SYNC_AND_ASYNC
def test_a_lost_creation_is_not_repeated_and_may_have_happened(simulator, no_sleep, asynchronous):
    simulator.books.inject(Fault("empty", "create_user"))
    with pytest.raises(DstnyAmbiguousError):
        call_operation(simulator, "create_user", USER, asynchronous=asynchronous)
    assert simulator.books.count("create_user") == 1
    assert call_operation(simulator, "list_users", asynchronous=asynchronous)[-1].email == USER["email"]


@SYNC_AND_ASYNC
@pytest.mark.parametrize("fault", [None, Fault("truncated"), Fault("reset")], ids=lambda fault: fault and fault.kind)
def test_a_token_for_embedding_is_in_no_log_and_no_error(simulator, caplog, fault, asynchronous):
    token = call_operation(simulator, "create_embed_token", "sara.holm@example.com", asynchronous=asynchronous)
    # The head is the same for every token.
    head = token.partition(".")[0]
    seen = ""
    if fault is not None:
        simulator.books.inject(Fault(**vars(fault)))
    caplog.clear()
    # Airflow, if it was imported, keeps httpx quiet.
    with caplog.at_level("DEBUG"), caplog.at_level("DEBUG", "httpx"), caplog.at_level("DEBUG", "httpcore"):
        try:
            call_operation(simulator, "create_embed_token", "sara.holm@example.com", asynchronous=asynchronous)
        except DstnyAmbiguousError as error:
            seen = f"{error} {error!r} {vars(error)} {error.__context__!r}"
    assert bool(seen) == (fault is not None)
    assert "create_embed_token" in seen or "/embed/token" in caplog.text
    assert head not in f"{seen} {caplog.text}"


@SYNC_AND_ASYNC
def test_a_path_override_is_used(simulator, asynchronous):
    with pytest.raises(DstnyNotFoundError):
        call_operation(simulator, "list_users", asynchronous=asynchronous, paths={"list_users": "/people"})
    assert simulator.books.violations == ["GET /api/v2/people: Cannot GET /people"]


FAULTS = [
    (Fault("status", status=401, message="Token expired"), DstnyAuthError, DstnyAuthError),
    (Fault("status", status=429, retry_after=3), DstnyRateLimitError, DstnyRateLimitError),
    (Fault("status", status=500), DstnyServerError, DstnyServerError),
    (Fault("html", status=502, message="Bad Gateway"), DstnyServerError, DstnyAmbiguousError),
    (Fault("html", status=200, message="Welcome"), DstnyResponseError, DstnyAmbiguousError),
    (Fault("reset"), DstnyConnectionError, DstnyAmbiguousError),
    (Fault("truncated"), DstnyResponseError, DstnyAmbiguousError),
    (Fault("slow", seconds=1), DstnyTimeoutError, DstnyAmbiguousError),
]


@SYNC_AND_ASYNC
@pytest.mark.parametrize(("fault", "read", "write"), FAULTS, ids=[f"{f.kind}-{f.status}" for f, _, _ in FAULTS])
def test_every_fault_has_its_error_and_no_error_has_the_token(simulator, fault, read, write, asynchronous):
    for kind, name, args, kwargs in (
        (read, "list_users", (), {}),
        (write, "create_call_conversation", (DOCUMENTED,), {}),
    ):
        simulator.books.inject(Fault(**vars(fault)))
        with pytest.raises(DstnyError) as caught:
            call_operation(simulator, name, *args, asynchronous=asynchronous, max_retries=0, timeout=0.5, **kwargs)
        assert type(caught.value) is kind
        assert_clean(caught.value, simulator.token)


def assert_clean(error, token):
    seen = error
    while seen is not None:
        assert token not in f"{seen} {seen!r} {vars(seen)}"
        assert DOCUMENTED["owner_phone_number"] not in f"{seen} {seen!r}"
        seen = seen.__cause__ or seen.__context__


@SYNC_AND_ASYNC
def test_a_wrong_host_is_a_connection_error(asynchronous, no_sleep):
    class Nowhere:
        url, token = "http://127.0.0.1:1", "secret-token"

    with pytest.raises(DstnyConnectionError, match=r"could not reach http://127\.0\.0\.1:1") as caught:
        call_operation(Nowhere, "list_users", asynchronous=asynchronous)
    assert_clean(caught.value, "secret-token")
    # Before each of the five attempts a slot of the throttle, between them the backoff.
    assert len(no_sleep) == 5 + 4


@SYNC_AND_ASYNC
@pytest.mark.parametrize(
    ("fault", "attempts"),
    [
        (Fault("status", status=429, retry_after=3, times=9), 5),
        (Fault("status", status=429, retry_after=3, times=2), 3),
        (Fault("status", status=429, retry_after=600, times=9), 1),
        (Fault("status", status=429, message="Daily quota exceeded", times=9), 1),
        (Fault("status", status=503, times=9), 5),
        (Fault("status", status=500, times=9), 2),
        (Fault("reset", times=2), 3),
        (Fault("status", status=401, times=9), 1),
        (Fault("truncated", times=9), 1),
    ],
)
def test_safe_reads_are_repeated_within_bounds(simulator, no_sleep, fault, attempts, asynchronous):
    simulator.books.inject(Fault(**vars(fault)))
    with suppress(DstnyError):
        call_operation(simulator, "list_users", asynchronous=asynchronous)
    assert simulator.books.count("list_users") == attempts
    if fault.retry_after == 3:
        # The retry waits as told; the throttle holds everybody else of this token for as long.
        assert no_sleep.count(3) == attempts - 1


@SYNC_AND_ASYNC
@pytest.mark.parametrize(
    ("fault", "attempts"),
    [
        (Fault("status", status=429, retry_after=3, times=2), 3),
        (Fault("reset", times=9), 1),
        (Fault("status", status=503, times=9), 1),
        (Fault("status", status=500, times=9), 1),
    ],
)
@pytest.mark.parametrize("name", ["create_call_conversation", "update_user", "assign_team_users", "delete_agent"])
def test_a_write_is_repeated_only_when_it_surely_did_not_happen(
    simulator, no_sleep, name, fault, attempts, asynchronous
):
    simulator.books.inject(Fault(**vars(fault)))
    with suppress(DstnyError):
        call_operation(simulator, name, *OPERATIONS[name][0], asynchronous=asynchronous)
    assert simulator.books.count(name) == attempts


@SYNC_AND_ASYNC
def test_replacing_an_agent_twice_is_replacing_it_once_so_it_is_repeated(simulator, no_sleep, asynchronous):
    simulator.books.inject(Fault("reset", "update_agent", times=2))
    assert call_operation(simulator, "update_agent", 2, AGENT, asynchronous=asynchronous).name == AGENT["name"]
    assert simulator.books.count("update_agent") == 3


def test_requests_of_many_threads_and_clients_keep_the_pace(simulator, mocker):
    slept: list[float] = []
    mocker.patch("airflow_provider_dstny.api.client.time", SimpleNamespace(sleep=slept.append))

    def work():
        with DstnyClient(simulator.url, simulator.token, requests_per_minute=60) as dstny:
            for _ in range(5):
                dstny.list_agents()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(slept) == 20
    # Slots are handed out one after the other, whoever asks: the last lies nineteen spacings ahead.
    assert max(slept) > 19 * 60 / (60 * 0.97) - 5
    assert sorted(slept)[-1] - sorted(slept)[-2] > 1


@pytest.mark.parametrize("not_ready", ["404", "null", "empty", "blank"])
def test_every_not_yet_of_the_simulator_is_understood(not_ready, call):
    with (
        Simulator(transcript_after=3600, not_ready=not_ready) as simulator,
        DstnyClient(simulator.url, simulator.token) as dstny,
    ):
        call["call_recording_url"] = f"{simulator.url}/recordings/a.wav"
        conversation_id = dstny.create_call_conversation(call)
        if not_ready == "404":
            with pytest.raises(DstnyNotFoundError):
                dstny.get_transcript(conversation_id)
        else:
            assert not dstny.get_transcript(conversation_id).is_ready


def test_a_recording_is_fetched_once_and_one_that_cannot_be_gives_no_transcript(simulator, conversation_id, call):
    assert simulator.books.recordings_fetched == {f"{simulator.url}/recordings/a.wav": 1}
    with DstnyClient(simulator.url, simulator.token) as dstny:
        assert dstny.get_transcript(conversation_id).is_ready
        lost = dstny.create_call_conversation({**call, "call_recording_url": f"{simulator.url}/recordings/none"})
        simulator.state.settle()
        with pytest.raises(DstnyNotFoundError):
            dstny.get_transcript(lost)
