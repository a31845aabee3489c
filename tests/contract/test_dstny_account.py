"""What the simulated account remembers, seen through the client: people, teams, departments, agents, runs."""

from __future__ import annotations

import base64
import json

import pytest

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.errors import DstnyApiError, DstnyNotFoundError, DstnyValidationError
from airflow_provider_dstny.api.models import AgentDefinition, TeamCreate, UserCreate, UserUpdate
from tests.unit.test_directory_models import AGENT, TEAM, USER

SALES = "75fc3b9a-0000-4000-8000-000000000001"


@pytest.fixture
def dstny(simulator):
    with DstnyClient(simulator.url, simulator.token) as client:
        yield client
    assert simulator.books.violations == []


@pytest.fixture
def conversation_id(simulator, dstny, call):
    conversation_id = dstny.create_call_conversation(
        {**call, "call_recording_url": f"{simulator.url}/recordings/a.wav"}
    )
    simulator.state.settle()
    return conversation_id


def test_a_created_user_is_listed_and_keeps_what_is_not_changed(dstny):
    created = dstny.create_user(UserCreate(**USER))
    assert [user.id for user in dstny.list_users()] == [1, 2, created.id]
    changed = dstny.update_user(created.id, UserUpdate(first_name="Ursula"))
    assert changed.raw == {**created.raw, "first_name": "Ursula"}
    assert dstny.list_users()[-1].raw == changed.raw


def test_null_reaches_the_api_and_what_is_left_out_does_not(dstny):
    user = dstny.create_user(USER)
    assert dstny.update_user(user.id, {"is_passive": False}).raw["auto_join_meeting_bot"] == "0"
    assert dstny.update_user(user.id, {"auto_join_meeting_bot": None}).raw["auto_join_meeting_bot"] is None
    team = dstny.create_team({**TEAM, "auto_join_meeting_bot": None})
    assert team.raw["auto_join_meeting_bot"] is None
    assert "auto_join_meeting_bot" not in dstny.create_team({"name": "A", "description": ""}).raw
    prompt = "playbookSummaryInstructionsPrompt"
    agent = dstny.create_agent({**AGENT, prompt: None})
    assert agent.raw[prompt] is None
    least = {name: AGENT[name] for name in ("name", "type", "status")}
    assert prompt not in dstny.update_agent(agent.id, least).raw


def test_an_email_address_belongs_to_one_user(dstny):
    user = dstny.create_user(USER)
    for attempt in (
        lambda: dstny.create_user({**USER, "email": "USER@example.com"}),
        lambda: dstny.update_user(user.id, {"email": "sara.holm@example.com"}),
    ):
        with pytest.raises(DstnyApiError) as caught:
            attempt()
        assert caught.value.status_code == 409
    assert dstny.update_user(user.id, {"email": USER["email"]}).id == user.id
    assert len(dstny.list_users()) == 3


def test_a_team_and_its_members_make_a_department(dstny):
    assert [department.slug for department in dstny.list_departments()] == ["b2b-sales"]
    team = dstny.create_team(TeamCreate(**TEAM))
    assert [one.id for one in dstny.list_teams()] == [SALES, team.id]
    assert dstny.list_team_users(team.id) == []
    assert dstny.assign_team_users(team.id, [2]).id == team.id
    dstny.assign_team_users(team.id, (1,))
    assert [user.id for user in dstny.list_team_users(team.id)] == [1, 2]
    assert [user.id for user in dstny.list_team_users(SALES)] == [1]
    assert [one["name"] for one in dstny.list_users()[0].teams] == ["Sales", "Onboarding"]
    assert [department.name for department in dstny.list_departments()] == ["B2b sales", "Customer success"]
    assert [one.id for one in dstny.list_department_teams("customer-success")] == [team.id]
    assert [user.id for user in dstny.list_department_users("customer-success")] == [1, 2]
    moved = dstny.update_team(team.id, {"type": "b2b-sales"})
    assert moved.raw == {**team.raw, "type": "b2b-sales"}
    assert [one.id for one in dstny.list_department_teams("b2b-sales")] == [SALES, team.id]
    with pytest.raises(DstnyNotFoundError):
        dstny.list_department_users("customer-success")
    assert [one["id"] for one in dstny.get_global_filters().teams] == [SALES, team.id]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("assign_team_users", (SALES, [1, 99])),
        ("create_team", ({**TEAM, "managers": [99]},)),
        ("update_team", (SALES, {"managers": [99]})),
    ],
)
def test_a_team_takes_only_users_of_the_account(dstny, name, args):
    with pytest.raises(DstnyValidationError) as caught:
        getattr(dstny, name)(*args)
    assert caught.value.status_code == 422


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("update_user", (99, {"first_name": "Nobody"})),
        ("update_team", ("none", {"name": "None"})),
        ("list_team_users", ("none",)),
        ("assign_team_users", ("none", [1])),
        ("list_department_teams", ("none",)),
        ("list_department_users", ("none",)),
        ("create_embed_token", ("nobody@example.com",)),
        ("get_agent", (99,)),
        ("update_agent", (99, AGENT)),
        ("delete_agent", (99,)),
        ("list_agent_requests", (99,)),
        ("get_agent_request", (1, 99)),
    ],
)
def test_what_does_not_exist_is_not_found(dstny, name, args):
    with pytest.raises(DstnyNotFoundError):
        getattr(dstny, name)(*args)


def test_a_token_for_embedding_is_of_the_user(dstny):
    _, claims, _ = dstny.create_embed_token("Sara.Holm@example.com").split(".")
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["sub"] == "2"


def test_an_update_replaces_an_agent(dstny):
    agent = dstny.create_agent(AgentDefinition(**AGENT))
    assert dstny.get_agent(agent.id).raw == agent.raw == {"id": 3, **AGENT}
    least = {"name": "Short", "type": "magic_variable", "status": "pause"}
    defaults = {"meetingRoleAssignment": "sales", "enablePlaybookSummaryInstructions": False}
    assert dstny.update_agent(agent.id, least).raw == {"id": 3, **least, **defaults}
    assert [one.name for one in dstny.list_agents()] == ["Call summary", "Buying signals", "Short"]


def test_a_deleted_agent_is_gone_and_can_no_longer_run(dstny, conversation_id):
    agent = dstny.create_agent(AGENT)
    dstny.run_agent(agent.id, conversation_id, is_test_run=False)
    dstny.delete_agent(agent.id)
    assert [one.id for one in dstny.list_agents()] == [1, 2]
    for attempt in (
        lambda: dstny.get_agent(agent.id),
        lambda: dstny.delete_agent(agent.id),
        lambda: dstny.run_agent(agent.id, conversation_id, is_test_run=False),
    ):
        with pytest.raises(DstnyNotFoundError):
            attempt()
    assert dstny.create_agent(AGENT).id == agent.id + 1


def test_runs_leave_requests_that_can_be_filtered_and_read(simulator, dstny, conversation_id):
    tried = dstny.run_agent(1, conversation_id, is_test_run=True).result
    stored = dstny.run_agent(1, conversation_id, is_test_run=False).result
    assert dstny.run_agent(1, conversation_id, is_test_run=False).result == stored
    forced = dstny.run_agent(1, conversation_id, is_test_run=False, force=True).result
    assert [request.id for request in dstny.list_agent_requests(1)] == [tried["id"], stored["id"], forced["id"]]
    assert [request.id for request in dstny.list_agent_requests(1, is_test_run=True)] == [tried["id"]]
    assert [request.id for request in dstny.list_agent_requests(1, is_test_run=False)] == [stored["id"], forced["id"]]
    assert dstny.list_agent_requests(2) == []
    details = dstny.get_agent_request(1, stored["id"])
    assert (details.conversation_id, details.is_test_run, details.status) == (conversation_id, False, "completed")
    assert details.prompt
    assert details.response == stored["response"]
    with pytest.raises(DstnyNotFoundError):
        dstny.get_agent_request(2, stored["id"])
    assert [call["agent_runs"] for call in simulator.state.to_json()] == [3]
