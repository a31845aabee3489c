from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_dstny.api.errors import DstnyResponseError, DstnyValidationError
from airflow_provider_dstny.api.models import Team, User
from airflow_provider_dstny.directory.apply import apply
from airflow_provider_dstny.directory.declared import declare
from airflow_provider_dstny.directory.plan import Account, AddMembers, CreateTeam, CreateUser, UpdateTeam, plan
from airflow_provider_dstny.directory.text import lines_of

PHONE = "+46701740605"
ERIK = {"email": "erik@example.com", "first_name": "Erik", "last_name": "Berg"}
SARA = {"email": "sara@example.com", "first_name": "Sara", "last_name": "Holm"}
SALES = {"name": "Sales", "description": "a"}


def account(users=(), teams=(), members=None):
    """An account of users with the ids 1, 2, … and teams with the ids t1, t2, …"""
    read = {number: User.read({"id": number, "username": one["email"], **one}) for number, one in enumerate(users, 1)}
    return Account(
        list(read.values()),
        [Team.read({"id": f"t{number}", **one}) for number, one in enumerate(teams, 1)],
        {team: [read[number] for number in numbers] for team, numbers in (members or {}).items()},
    )


def kinds(made):
    return [(type(action).__name__, str(action)) for action in made.actions]


def test_each_kind_of_action_in_a_safe_order():
    wanted = declare(
        [{**ERIK, "first_name": "Erika"}, SARA],
        [{**SALES, "description": "b", "members": [ERIK["email"], SARA["email"]]}, {**SALES, "name": "New"}],
    )
    made = plan(wanted, account([ERIK], [SALES], {"t1": [1]}))
    assert kinds(made) == [
        ("CreateUser", "user sara@example.com"),
        ("UpdateUser", "user erik@example.com"),
        ("CreateTeam", "team New"),
        ("UpdateTeam", "team Sales"),
        ("AddMembers", "members of team Sales"),
    ]
    assert made.counts() == {
        "users": {"added": 1, "changed": 1, "unchanged": 0, "unmanaged": 0},
        "teams": {"added": 1, "changed": 1, "unchanged": 0, "unmanaged": 0},
        "memberships": {"added": 1, "unchanged": 1, "unmanaged": 0},
    }


@pytest.mark.parametrize(
    "shown",
    [
        {"email": "Erik@Example.com", "username": "x"},
        {"email": "other@example.com", "username": "ERIK@example.com"},
    ],
)
def test_a_user_is_found_by_every_address_that_is_shown(shown):
    actual = account([SARA, {**ERIK, **shown}])
    made = plan(declare([ERIK]), actual)
    assert not [one for one in made.actions if isinstance(one, CreateUser)]
    assert made.users.unmanaged == ["sara@example.com"]


def test_an_e_mail_address_counts_before_another_ones_alias():
    actual = account([{**SARA, "email_aliases": [ERIK["email"]]}, ERIK])
    made = plan(declare([ERIK]), actual)
    assert made.actions == []
    assert made.users.unmanaged == ["sara@example.com"]


def test_what_is_not_shown_is_sent_on_creation_and_never_compared():
    hidden = {"settings": {"a": 1}, "deleteMeetingRecordingDays": "30"}
    made = plan(declare([{**ERIK, **hidden}, {**SARA, **hidden}]), account([ERIK]))
    (create,) = made.actions
    assert create.user.to_json() == {**SARA, **hidden}
    assert made.not_compared == {"settings": 1, "deleteMeetingRecordingDays": 1}
    assert made.users.unchanged == ["erik@example.com"]
    shown = account([{**ERIK, "settings": {"a": 2}, "deleteMeetingRecordingDays": "30"}])
    (update,) = plan(declare([{**ERIK, **hidden}]), shown).actions
    assert update.changes == {"settings": ({"a": 2}, {"a": 1})}


def test_managers_are_ids_or_addresses_of_anybody_known():
    team = {**SALES, "managers": ["ERIK@example.com", 2, "new@example.com"]}
    new = {**ERIK, "email": "new@example.com"}
    made = plan(declare([new], [team]), account([ERIK, SARA], [{**SALES, "managers": [{"id": 1}]}]))
    (update,) = [one for one in made.actions if isinstance(one, UpdateTeam)]
    assert update.managers == (1, 2, "new@example.com")
    assert update.changes == {
        "managers": (["erik@example.com"], ["erik@example.com", "sara@example.com", "new@example.com"])
    }
    known = {**SALES, "managers": "2;erik@example.com"}
    assert plan(declare(None, [known]), account([ERIK, SARA], [{**SALES, "managers": [1, 2]}])).actions == []


def test_members_may_be_named_by_an_alias_and_twice():
    user = {**SARA, "email_aliases": ["holm@example.com"]}
    team = {**SALES, "members": ["holm@example.com", "Sara@example.com", "erik@example.com"]}
    made = plan(declare([user], [team]), account([ERIK]))
    (add,) = [one for one in made.actions if isinstance(one, AddMembers)]
    assert add.added == {"sara@example.com": "Sara@example.com", 1: "erik@example.com"}
    assert add.team_id is None


def test_every_mistake_is_reported_with_its_row_and_field_and_no_phone_number():
    wanted = declare(
        [
            ERIK,
            {**SARA, "mobile_number": 46701740605, "phone": PHONE},
            {**ERIK, "email": "ERIK@example.com"},
            {"email": PHONE},
            "x",
        ],
        [
            {**SALES, "members": ["who@example.com", SARA["email"]], "managers": [7]},
            {"name": "B", "managers": "no-address", "colour": "red"},
            SALES,
        ],
    )
    with pytest.raises(DstnyValidationError) as caught:
        plan(wanted, account())
    text = str(caught.value)
    assert "9 mistakes" in text.splitlines()[0]
    for expected in (
        "users row 2: mobile_number: Input should be a valid string; phone: Extra inputs",
        "users row 3: email: ERIK@example.com is declared at users row 1",
        "users row 4: email: is not an e-mail address; first_name: Field required",
        "users row 5: must be an object",
        "teams row 1: members: who@example.com is neither",
        "teams row 1: managers: 7 is neither",
        "teams row 2: description: Field required; colour: Extra inputs are not permitted",
        "teams row 2: managers.0: is neither an e-mail address nor the id of a user",
        "teams row 3: name: Sales is declared at teams row 1",
    ):
        assert expected in text
    assert "46701740605" not in text
    assert "sara@example.com is neither" not in text


def test_an_address_that_is_a_phone_number_is_shown_neither_in_a_mistake_nor_in_a_plan():
    phone = {**ERIK, "email": f"{PHONE}@example.com", "email_aliases": []}
    team = {**SALES, "members": [phone["email"]], "managers": [f"{PHONE[1:]}@example.com"]}
    twice = declare([phone, phone], [team, {**team, "name": f"Call {PHONE}"}], users_from="s3://b/2026/03/01/users.csv")
    unknown = declare(None, [{**SALES, "name": f"Call {PHONE}"}] * 2)
    told = []
    for wanted, actual in (
        (twice, account()),
        (unknown, account()),
        (declare([phone]), account([phone, phone])),
        (declare([phone]), account([{**ERIK, "email_aliases": [phone["email"]]}])),
        (declare(None, [team]), account([phone, phone])),
    ):
        with pytest.raises(DstnyValidationError) as caught:
            plan(wanted, actual)
        told.append(str(caught.value))
    assert "s3://b/2026/03/01/users.csv row 2: email: ***@example.com is declared at" in told[0]
    made = plan(declare([phone], [{**SALES, "members": [phone["email"]]}]), account())
    told.append("\n".join(lines_of(made)))
    assert "members of team Sales  ***@example.com" in told[-1]
    assert not any(PHONE[1:] in text for text in told)


def test_what_is_ambiguous_is_refused():
    twice = account([ERIK, ERIK], [SALES, SALES])
    with pytest.raises(DstnyValidationError, match=r"users row 1: email: erik@example.com fits 2 users"):
        plan(declare([ERIK]), twice)
    with pytest.raises(DstnyValidationError, match=r"teams row 1: members: erik@example.com fits several"):
        plan(declare(None, [{**SALES, "members": [ERIK["email"]]}]), twice)
    with pytest.raises(DstnyValidationError, match="teams row 1: name: 2 teams"):
        plan(declare(None, [SALES]), twice)
    alias = account([{**ERIK, "email_aliases": [SARA["email"]]}])
    with pytest.raises(
        DstnyValidationError,
        match=r"users row 2: email: sara@example.com is an alias of erik@example.com: declare that",
    ):
        plan(declare([ERIK, SARA]), alias)
    username = account([{**ERIK, "username": SARA["email"]}])
    with pytest.raises(DstnyValidationError, match=r"users row 2: email: sara@example.com is the user of users row 1"):
        plan(declare([ERIK, SARA]), username)
    by_alias = plan(declare(None, [{**SALES, "members": [SARA["email"]]}]), alias)
    assert by_alias.actions[1].added == {1: SARA["email"]}


@pytest.mark.parametrize("there", [[], ["Sales", "SALES"]])
def test_names_of_teams_that_differ_in_case_only_are_a_mistake(there):
    actual = account(teams=[{**SALES, "name": name} for name in there])
    with pytest.raises(
        DstnyValidationError, match="teams row 2: name: sales is declared at teams row 1 already as Sales"
    ):
        plan(declare(None, [SALES, {**SALES, "name": "sales"}]), actual)
    assert [str(one) for one in plan(declare(None, [SALES]), actual).actions] == ([] if there else ["team Sales"])
    with pytest.raises(DstnyValidationError, match="teams row 1: name: Sales is called SALES in the account"):
        plan(declare(None, [SALES]), account(teams=[{**SALES, "name": "SALES"}]))


@pytest.mark.parametrize("shown", [[2], ["2"], [{"id": 2}], [{"user_id": "2"}], ["Sara@example.com"]])
def test_managers_who_are_not_declared_stay(shown):
    actual = account([ERIK, SARA], [{**SALES, "managers": shown}])
    made = plan(declare(None, [{**SALES, "managers": [ERIK["email"]]}]), actual)
    (update,) = made.actions
    assert update.managers == (2, 1)
    assert (
        lines_of(made)[0] == '~ team Sales  managers: ["sara@example.com"] -> ["sara@example.com", "erik@example.com"]'
    )
    for declared in ([], [2], [SARA["email"]]):
        assert plan(declare(None, [{**SALES, "managers": declared}]), actual).actions == []


@pytest.mark.parametrize("shown", [{"0": 1}, "1", [None], [{"id": [1]}], ["who@example.com"]])
def test_managers_that_cannot_be_told_are_not_compared(shown):
    made = plan(declare(None, [{**SALES, "managers": [1]}]), account([ERIK], [{**SALES, "managers": shown}]))
    assert (made.actions, made.not_compared) == ([], {"managers": 1})


def test_a_field_of_another_type_is_not_compared():
    made = plan(declare([{**ERIK, "settings": {"a": 1}}]), account([{**ERIK, "settings": "x", "first_name": ["y"]}]))
    assert (made.actions, made.not_compared) == ([], {"settings": 1, "first_name": 1})


def test_every_member_who_joins_is_a_change():
    emails = [f"user{number}@example.com" for number in range(500)]
    actual = account([{**ERIK, "email": email} for email in emails])
    made = plan(declare(None, [{**SALES, "members": emails}]), actual)
    assert (len(made.actions), made.changes) == (2, 501)


@pytest.mark.parametrize("body", [{"users": []}, {"id": None, "email": "a@example.com"}, {"id": "x"}])
def test_a_list_of_another_shape_is_not_an_empty_account(body):
    with pytest.raises(DstnyResponseError, match="nothing can be planned"):
        plan(declare([ERIK]), Account(User.read_rows([body])))


def test_the_text_says_what_changes_and_no_phone_number():
    wanted = declare(
        [{**ERIK, "mobile_number": PHONE}, {**SARA, "mobile_number": PHONE}],
        [{**SALES, "description": f"call {PHONE}"}],
    )
    actual = account([{**ERIK, "mobile_number": "0701740606"}, {**ERIK, "email": "x\n@example.com"}], [SALES])
    assert lines_of(plan(wanted, actual)) == [
        '+ user sara@example.com  mobile_number: ***  first_name: "Sara"  last_name: "Holm"',
        "~ user erik@example.com  mobile_number: *** -> ***",
        '~ team Sales  description: "a" -> "call ***"',
        "users: 1 added, 1 changed, 0 unchanged, 1 unmanaged",
        "  left as they are: x�@example.com",
        "teams: 0 added, 1 changed, 0 unchanged, 0 unmanaged",
        "memberships: 0 added, 0 unchanged, 0 unmanaged",
    ]


def test_a_new_team_is_shown_with_its_managers():
    made = plan(declare(None, [{**SALES, "managers": ["ERIK@example.com", 2]}]), account([ERIK, SARA]))
    assert lines_of(made)[0] == '+ team Sales  description: "a"  managers: ["ERIK@example.com", "sara@example.com"]'


@pytest.mark.parametrize(
    ("old", "new", "ends"),
    [
        ("x" * 500 + "old", "x" * 500 + "new", ('xold"', 'xnew"')),
        ("x" * 500, "x" * 501, ('x"', 'xx"')),
        (f"call {PHONE} now", "call +46701740606 now", ('call *** now"', "something else that is not shown")),
    ],
)
def test_two_texts_that_differ_never_look_the_same(old, new, ends):
    made = plan(declare(None, [{**SALES, "description": new}]), account([], [{**SALES, "description": old}]))
    line = lines_of(made)[0]
    before, after = line.removeprefix("~ team Sales  description: ").split(" -> ")
    assert before != after
    assert (before.endswith(ends[0]), after.endswith(ends[1])) == (True, True)
    assert len(line) < 180


def test_a_long_text_is_cut():
    many = [{**ERIK, "email": f"user{number}@example.com", "last_name": "x" * 500} for number in range(1000)]
    lines = lines_of(plan(declare(many), account()))
    assert len(lines) < 210
    assert "… and 800 more changes" in lines
    assert max(map(len, lines)) < 200


class Model:
    """An account that does what it is told and shows some fields only; ``replaces`` is how members are assigned."""

    def __init__(self, users, teams, members, shows, replaces):
        self.users: dict[int, dict[str, Any]] = {}
        self.teams: dict[str, dict[str, Any]] = {}
        self.members: dict[str, list[int]] = {}
        self.shows, self.replaces = {"id", "email", "name", *shows}, replaces
        for user in users:
            self.create_user(user)
        for team in teams:
            self.create_team(team)
            people = [one for one in members if one <= len(self.users)]
            self.members[f"t{len(self.teams)}"] = people

    def create_user(self, user):
        body = user if isinstance(user, dict) else user.to_json()
        self.users[len(self.users) + 1] = {"id": len(self.users) + 1, **body}
        return User.read(self.users[len(self.users)])

    def update_user(self, user_id, changes):
        self.users[user_id].update(changes)

    def create_team(self, team):
        team_id = f"t{len(self.teams) + 1}"
        self.teams[team_id] = {"id": team_id, **team}
        self.members[team_id] = []
        return Team.read(self.teams[team_id])

    def update_team(self, team_id, changes):
        self.teams[team_id].update(changes)

    def assign_team_users(self, team_id, user_ids):
        self.members[team_id] = [*([] if self.replaces else self.members[team_id]), *user_ids]

    def shown(self, row):
        return {name: value for name, value in row.items() if name in self.shows}

    def account(self):
        users = {one: User.read(self.shown(row)) for one, row in self.users.items()}
        members = {team: [users[one] for one in dict.fromkeys(ids)] for team, ids in self.members.items()}
        return Account(list(users.values()), [Team.read(self.shown(row)) for row in self.teams.values()], members)


EMAILS = [f"{letter}@example.com" for letter in "abcdef"]
USERS = st.lists(
    st.fixed_dictionaries(
        {"email": st.sampled_from(EMAILS), "first_name": st.sampled_from(["X", "Y"]), "last_name": st.just("Z")},
        optional={
            "is_passive": st.booleans(),
            "settings": st.fixed_dictionaries({"a": st.integers(0, 1)}),
            "mobile_number": st.sampled_from(["1", "2"]),
            "auto_join_meeting_bot": st.sampled_from([None, "0"]),
        },
    ),
    unique_by=lambda user: user["email"],
    max_size=6,
)
TEAMS = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["A", "B", "C"]), "description": st.sampled_from(["X", "Y"])},
        optional={
            "managers": st.lists(st.sampled_from([1, 2, *EMAILS]), max_size=2),
            "low_priority_bot": st.booleans(),
        },
    ),
    unique_by=lambda team: team["name"],
    max_size=3,
)
FIELDS = [
    *("first_name", "last_name", "is_passive", "settings", "mobile_number", "auto_join_meeting_bot"),
    *("description", "managers", "low_priority_bot"),
]


@settings(max_examples=300, deadline=None)
@given(data=st.data(), users=USERS, there=USERS, teams=TEAMS, teams_there=TEAMS, replaces=st.booleans())
def test_applied_once_nothing_is_left_to_do_and_nothing_unmanaged_is_touched(
    data, users, there, teams, teams_there, replaces
):
    known = {user["email"] for user in [*users, *there]}
    ids = set(range(1, len(there) + 1))
    for team in teams:
        if "managers" in team:
            team["managers"] = [one for one in team["managers"] if one in known or one in ids]
        team["members"] = data.draw(st.lists(st.sampled_from(sorted(known)), max_size=4)) if known else []
    model = Model(
        there,
        [{**team, "managers": [one for one in team.get("managers", []) if one in ids]} for team in teams_there],
        data.draw(st.lists(st.integers(1, 6), unique=True)),
        data.draw(st.sets(st.sampled_from(FIELDS))),
        replaces,
    )
    kept_users = {one: dict(row) for one, row in model.users.items() if row["email"] not in {u["email"] for u in users}}
    kept_teams = {one: dict(row) for one, row in model.teams.items() if row["name"] not in {t["name"] for t in teams}}
    members = {team: set(ids) for team, ids in model.members.items()}
    managers = {team: set(row.get("managers", ())) for team, row in model.teams.items()}

    declared = declare(users, teams)
    results = list(apply(model, plan(declared, model.account()).actions))
    assert all(result.error is None and not result.missing for result in results)

    again = plan(declared, model.account())
    assert again.actions == []
    assert {one: row for one, row in model.users.items() if one in kept_users} == kept_users
    assert {one: row for one, row in model.teams.items() if one in kept_teams} == kept_teams
    assert all(set(model.members[team]) >= ids for team, ids in members.items())
    assert all(set(model.teams[team].get("managers", ())) >= ids for team, ids in managers.items())
    assert set(again.users.unmanaged) == {row["email"] for row in kept_users.values()}
    for row in model.teams.values():
        for team in teams:
            if team["name"] == row["name"]:
                emails = {model.users[one]["email"] for one in model.members[row["id"]]}
                assert emails >= set(team["members"])


def test_a_kind_that_is_not_declared_is_not_planned():
    made = plan(declare(None, [SALES]), account([ERIK]))
    assert [type(one) for one in made.actions] == [CreateTeam]
    assert made.counts()["users"] == {"added": 0, "changed": 0, "unchanged": 0, "unmanaged": 0}
