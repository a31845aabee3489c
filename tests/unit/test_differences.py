from __future__ import annotations

import pytest

from airflow_provider_dstny.api.differences import compared, differences
from airflow_provider_dstny.api.models import Team, TeamCreate, TeamUpdate, User, UserCreate, UserUpdate


def of_user(old, new):
    return differences(UserUpdate.parse(new), User.read(old))


def of_team(old, new):
    return differences(TeamUpdate.parse(new), Team.read(old))


def test_only_fields_that_were_set_are_compared_and_in_the_order_of_the_model():
    user = User.read({"id": 1, "email": "a@example.com", "first_name": "A", "last_name": "B", "is_passive": True})
    wanted = UserCreate.parse({"last_name": "C", "email": "a@example.com", "first_name": "D"})
    assert list(differences(wanted, user).items()) == [("first_name", ("A", "D")), ("last_name", ("B", "C"))]
    team = Team.read({"name": "Sales", "description": None})
    wanted_team = TeamCreate.parse({"name": " Sales ", "description": "x"})
    assert differences(wanted_team, team) == {"description": (None, "x")}


def test_a_field_that_is_not_shown_is_different():
    assert of_user({"id": 1}, {"is_passive": False}) == {"is_passive": (None, False)}
    assert of_user({"id": 1}, {"auto_join_meeting_bot": None}) == {"auto_join_meeting_bot": (None, None)}
    assert of_user({"auto_join_meeting_bot": None}, {"auto_join_meeting_bot": None}) == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"email": "Erik@Example.com"}, {"email": "erik@example.com"}),
        ({"email_aliases": ["B@example.com", "a@example.com"]}, {"email_aliases": ["a@example.com", "b@example.com"]}),
        ({"email_aliases": []}, {"email_aliases": []}),
        ({"mobile_number": 46701740605}, {"mobile_number": "46701740605"}),
        ({"mobile_number": 46701740605}, {"mobile_number": "+46 70-174 06 05"}),
        ({"mobile_number": 701740605}, {"mobile_number": "0701740605"}),
        ({"mobile_number": "+46701740605"}, {"mobile_number": "+46701740605"}),
        ({"deleteMeetingRecordingDays": 30}, {"deleteMeetingRecordingDays": "30"}),
        ({"settings": {"a": [1], "b": 2}}, {"settings": {"b": 2, "a": [1]}}),
        ({"is_passive": 1}, {"is_passive": True}),
        ({"is_passive": "1"}, {"is_passive": True}),
        ({"is_passive": "0"}, {"is_passive": False}),
        ({"is_passive": None}, {"is_passive": False}),
        ({"auto_join_meeting_bot": False}, {"auto_join_meeting_bot": "0"}),
        ({"auto_join_meeting_bot": ""}, {"auto_join_meeting_bot": None}),
        ({"deleteContactDataDays": None}, {"deleteContactDataDays": ""}),
        ({"deleteContactDataDays": 30.0}, {"deleteContactDataDays": "30"}),
        ({"email_aliases": None}, {"email_aliases": []}),
        ({"email_aliases": [{"email": "A@example.com"}]}, {"email_aliases": ["a@example.com"]}),
        ({"settings": {"a": [1], "b": 2}}, {"settings": {"a": [1]}}),
        ({"settings": {"a": {"b": 1, "c": None}}}, {"settings": {"a": {"b": 1, "c": ""}}}),
        ({"settings": []}, {"settings": {}}),
        ({"mobile_number": "0046701740605"}, {"mobile_number": "+46 70-174 06 05"}),
        ({"mobile_number": "+46 70 1740605"}, {"mobile_number": "46701740605"}),
        ({"mobile_number": None}, {"mobile_number": ""}),
        ({"first_name": " \u00c5sa "}, {"first_name": "A\u030asa"}),
    ],
)
def test_what_is_the_same_of_a_user(old, new):
    assert of_user(old, new) == {}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"email": None}, {"email": "erik@example.com"}),
        ({"email_aliases": ["a@example.com"]}, {"email_aliases": ["a@example.com", "b@example.com"]}),
        ({"email_aliases": [7]}, {"email_aliases": ["a@example.com"]}),
        ({"mobile_number": 46701740605}, {"mobile_number": "46701740606"}),
        ({"mobile_number": 46701740605}, {"mobile_number": ""}),
        ({"mobile_number": None}, {"mobile_number": "46701740605"}),
        ({"mobile_number": "46701740605"}, {"mobile_number": "46701740606"}),
        ({"first_name": "erik"}, {"first_name": "Erik"}),
        ({"email": 7}, {"email": "erik@example.com"}),
        ({"email_aliases": "a@example.com"}, {"email_aliases": ["a@example.com"]}),
        ({"settings": [1]}, {"settings": {"a": 1}}),
        ({"settings": None}, {"settings": {"a": 1}}),
        ({"settings": {"a": {"b": 1}}}, {"settings": {"a": {"b": 2}}}),
        ({"is_passive": None}, {"is_passive": True}),
        ({"is_passive": "0"}, {"is_passive": True}),
        ({"is_passive": "perhaps"}, {"is_passive": True}),
        ({"is_passive": float("inf")}, {"is_passive": False}),
        ({"mobile_number": "0701740605"}, {"mobile_number": "+46701740605"}),
        ({"mobile_number": "701740605"}, {"mobile_number": "0701740605"}),
        ({"mobile_number": [1]}, {"mobile_number": "0701740605"}),
        ({"auto_join_meeting_bot": False}, {"auto_join_meeting_bot": None}),
        ({"auto_join_meeting_bot": "0"}, {"auto_join_meeting_bot": None}),
        ({"auto_join_meeting_bot": None}, {"auto_join_meeting_bot": "0"}),
        ({"auto_join_meeting_bot": True}, {"auto_join_meeting_bot": "0"}),
    ],
)
def test_what_differs_of_a_user(old, new):
    (name,) = new
    assert of_user(old, new) == {name: (old[name], new[name])}


@pytest.mark.parametrize("managers", [[2, 1], [{"id": 1, "email": "x"}, {"user_id": 2}], ["1", {"id": "2"}]])
def test_managers_come_as_ids_or_as_objects(managers):
    assert of_team({"managers": managers}, {"managers": [1, 2]}) == {}
    assert of_team({"managers": managers}, {"managers": [1]}) == {"managers": (managers, [1])}


@pytest.mark.parametrize("managers", [None, [], [{}], [None], [{"id": 3}], [[1]]])
def test_other_managers_differ(managers):
    assert of_team({"managers": managers}, {"managers": [1]}) == {"managers": (managers, [1])}


def test_an_update_of_an_object_keeps_what_is_not_wanted_of_it():
    old = {"a": {"b": 1, "c": 2}, "d": 3}
    assert of_user({"settings": old}, {"settings": {"a": {"b": 4}, "e": 5}}) == {
        "settings": (old, {"a": {"b": 4, "c": 2}, "d": 3, "e": 5})
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {"is_passive": True}),
        ({"is_passive": "perhaps"}, {"is_passive": True}),
        ({"settings": "x"}, {"settings": {"a": 1}}),
        ({"first_name": ["x"]}, {"first_name": "x"}),
        ({"email_aliases": [[]]}, {"email_aliases": ["a@example.com"]}),
    ],
)
def test_what_cannot_be_compared_is_told_from_what_differs(old, new):
    assert compared(UserUpdate.parse(new), User.read(old)) == ({}, list(new))
    assert list(of_user(old, new)) == list(new)
