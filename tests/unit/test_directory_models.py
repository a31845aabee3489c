from __future__ import annotations

import pytest
from pydantic import ValidationError

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.models import (
    AgentDefinition,
    AgentRequest,
    Department,
    Team,
    TeamCreate,
    TeamUpdate,
    User,
    UserCreate,
    UserUpdate,
)

USER = {
    "email": "user@example.com",
    "first_name": "Ulla",
    "last_name": "Berg",
    "mobile_number": "+46701740605",
    "deleteMeetingRecordingDays": "30",
    "deleteContactDataDays": "",
    "is_passive": True,
    "email_aliases": ["ulla@example.com", "berg@example.com"],
    "auto_join_meeting_bot": "0",
    "can_use_ai_agents": True,
    "settings": {"language": "sv", "nested": {"list": [1, 2.5, None, "å"]}},
}
TEAM = {
    "name": "Onboarding",
    "description": "Foo bar",
    "type": "customer-success",
    "selectManagers": "some",
    "deleteMeetingRecordingDays": "30",
    "deleteContactDataDays": "90",
    "managers": [1, 2],
    "auto_join_meeting_bot": "0",
    "low_priority_bot": True,
    "can_use_ai_agents": False,
    "settings": {"language": "sv"},
}
AGENT = {
    "name": "Sales Playbook Agent",
    "type": "playbook",
    "status": "draft",
    "customPrompt": "Focus on customer objections and buying signals.",
    "typeSettings": {"playbook": {"steps": ["intro", "close"]}},
    "globalFilters": {},
    "meetingRoleAssignment": "negotiation",
    "enablePlaybookSummaryInstructions": False,
    "playbookSummaryInstructionsPrompt": "Be short.",
}
ENUMS = {
    "type": ["meeting_summary", "playbook", "magic_variable", "magic_insight"],
    "status": ["active", "draft", "pause"],
    "meetingRoleAssignment": [
        "sales",
        "support",
        "internal",
        "onboarding",
        "project",
        "negotiation",
        "consulting",
        "customer_success",
    ],
}

#: Model, what is documented, what is required, what takes null.
PAYLOADS = [
    (UserCreate, USER, {"email", "first_name", "last_name"}, "auto_join_meeting_bot"),
    (UserUpdate, USER, set(), "auto_join_meeting_bot"),
    (TeamCreate, TEAM, {"name", "description"}, "auto_join_meeting_bot"),
    (TeamUpdate, TEAM, set(), "auto_join_meeting_bot"),
    (AgentDefinition, AGENT, {"name", "type", "status"}, "playbookSummaryInstructionsPrompt"),
]
EVERY_PAYLOAD = pytest.mark.parametrize(
    ("model", "documented", "required", "nullable"), PAYLOADS, ids=[model.__name__ for model, *_ in PAYLOADS]
)


@EVERY_PAYLOAD
def test_every_documented_field_is_sent_as_it_is(model, documented, required, nullable):
    assert model.parse(documented).to_json() == documented
    assert set(model.model_fields) == set(documented)


@EVERY_PAYLOAD
def test_what_is_required_is_required_and_what_was_not_set_is_not_sent(model, documented, required, nullable):
    least = {name: documented[name] for name in required or {"can_use_ai_agents"}}
    assert model.parse(least).to_json() == least
    for name in required:
        with pytest.raises(DstnyValidationError, match=f"{name}: Field required"):
            model.parse({other: value for other, value in least.items() if other != name})


@EVERY_PAYLOAD
def test_null_is_sent_where_it_means_something_and_refused_elsewhere(model, documented, required, nullable):
    assert model.parse({**documented, nullable: None}).to_json() == {**documented, nullable: None}
    for name in documented:
        if name != nullable:
            with pytest.raises(DstnyValidationError, match=rf"{model.__name__}: {name}: "):
                model.parse({**documented, name: None})


@EVERY_PAYLOAD
def test_an_unknown_field_is_refused(model, documented, required, nullable):
    with pytest.raises(DstnyValidationError, match="delete_contact_data_days: Extra inputs are not permitted"):
        model.parse({**documented, "delete_contact_data_days": "1"})


@pytest.mark.parametrize("model", [UserUpdate, TeamUpdate])
def test_an_update_without_a_field_is_refused(model):
    with pytest.raises(DstnyValidationError, match="nothing to change"):
        model.parse({})
    with pytest.raises(ValidationError, match="nothing to change"):
        model()
    assert model(auto_join_meeting_bot=None).to_json() == {"auto_join_meeting_bot": None}


@pytest.mark.parametrize(
    ("model", "documented", "field", "value", "reason"),
    [
        (UserUpdate, USER, "email", "ulla", "e-mail"),
        (UserUpdate, USER, "email_aliases", ["ulla@example.com", "ulla"], "e-mail"),
        (UserUpdate, USER, "email_aliases", "ulla@example.com", "list"),
        (UserUpdate, USER, "first_name", " ", "at least 1 character"),
        (UserUpdate, USER, "mobile_number", 46701740605, "string"),
        (UserUpdate, USER, "deleteMeetingRecordingDays", 30, "string"),
        (UserUpdate, USER, "is_passive", "yes", "boolean"),
        (UserUpdate, USER, "can_use_ai_agents", 1, "boolean"),
        (UserUpdate, USER, "auto_join_meeting_bot", 0, "string"),
        (UserUpdate, USER, "settings", [], "dictionary"),
        (UserUpdate, USER, "settings", {"ratio": float("nan")}, "JSON"),
        (UserUpdate, USER, "settings", {"when": object()}, "JSON"),
        (UserUpdate, USER, "settings", {"name": "\ud800"}, "JSON"),
        (UserUpdate, USER, "first_name", "\ud800", "first_name"),
        (TeamUpdate, TEAM, "managers", ["1"], "integer"),
        (TeamUpdate, TEAM, "managers", [True], "integer"),
        (TeamUpdate, TEAM, "managers", 1, "list"),
        (TeamUpdate, TEAM, "low_priority_bot", "no", "boolean"),
        (TeamUpdate, TEAM, "name", "", "at least 1 character"),
        (AgentDefinition, AGENT, "type", "summary", "'magic_insight'"),
        (AgentDefinition, AGENT, "status", "paused", "'pause'"),
        (AgentDefinition, AGENT, "meetingRoleAssignment", "Sales", "'customer_success'"),
        (AgentDefinition, AGENT, "typeSettings", "{}", "dictionary"),
        (AgentDefinition, AGENT, "globalFilters", [], "dictionary"),
        (AgentDefinition, AGENT, "playbookSummaryInstructionsPrompt", 1, "string"),
    ],
)
def test_a_wrong_field_is_named_with_its_reason(model, documented, field, value, reason):
    with pytest.raises(DstnyValidationError, match=reason) as caught:
        model.parse({**documented, field: value})
    assert field in str(caught.value)


def test_settings_nested_too_deep_to_be_sent_are_refused():
    settings: dict[str, object] = {}
    for _ in range(100_000):
        settings = {"a": settings}
    with pytest.raises(DstnyValidationError, match="settings: cannot be written as JSON"):
        UserUpdate.parse({"settings": settings})


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in ENUMS.items() for value in values])
def test_every_documented_value_of_an_agent_is_taken(field, value):
    assert AgentDefinition.parse({**AGENT, field: value}).to_json()[field] == value


def test_text_of_templates_and_files_is_understood():
    texts = {"email": " user@example.com ", "is_passive": "True", "can_use_ai_agents": "false"}
    assert UserUpdate.parse(texts).to_json() == {
        "email": "user@example.com",
        "is_passive": True,
        "can_use_ai_agents": False,
    }


def test_a_model_is_taken_as_it_is_and_only_its_own():
    user = UserCreate(email="user@example.com", first_name="Ulla", last_name="Berg")
    assert UserCreate.parse(user) is user
    for other in (user, None, [("email", "user@example.com")], "email"):
        with pytest.raises(DstnyValidationError, match="must be a mapping or a UserUpdate"):
            UserUpdate.parse(other)


def test_neither_errors_nor_prints_show_the_input():
    private = "0701-55"
    for model, documented in ((UserCreate, USER), (TeamCreate, TEAM), (AgentDefinition, AGENT)):
        for field in documented:
            for wrong in ([private], {private: object()}, object()):
                with pytest.raises(DstnyValidationError) as caught:
                    model.parse({**documented, field: wrong})
                error = caught.value
                assert private not in f"{error} {error!r} {error.__context__!r} {error.__cause__!r}"
    with pytest.raises(ValidationError) as raw:
        UserCreate(**{**USER, "mobile_number": [private], "email": private})
    assert private not in str(raw.value)
    settings = {"mobile_number": private, "settings": {"phone": private}, "email_aliases": [f"{private}@example.com"]}
    assert private not in repr(UserCreate.parse({**USER, **settings}))


@pytest.mark.parametrize("strange", [None, [], {}, "x", 1.5, True, {"a": []}])
@pytest.mark.parametrize("model", [Team, Department, AgentRequest])
def test_a_field_of_another_type_never_breaks_a_read(model, strange):
    body = dict.fromkeys(model.model_fields, strange) | {"new_field": strange}
    read = model.read(body)
    assert (read.raw, read.new_field) == (body, strange)
    assert isinstance(model.read(strange), model)


def test_what_was_said_does_not_show_when_printed():
    request = AgentRequest.read({"id": 1, "session_id": "c", "prompt": "a secret", "response": {"a": "a secret"}})
    assert (request.id, request.conversation_id, request.response) == (1, "c", {"a": "a secret"})
    assert "secret" not in repr(request)
    assert "secret" not in repr(Team.read({"id": "t", "managers": ["secret"], "notes": "secret"}))
    assert User.read({"teams": [{"id": "t"}]}).teams == [{"id": "t"}]
