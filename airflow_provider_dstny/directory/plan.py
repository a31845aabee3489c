"""What leads from the account as it is to the one that is declared. Pure: no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from airflow_provider_dstny.api.differences import differences
from airflow_provider_dstny.api.errors import DstnyResponseError
from airflow_provider_dstny.api.models.base import Answer, SparsePayload
from airflow_provider_dstny.api.models.directory import Team, TeamCreate, User, UserCreate
from airflow_provider_dstny.directory.declared import Declared, DeclaredTeam, DeclaredUser
from airflow_provider_dstny.directory.people import People, Ref, refuse, user_id

#: Fields of a user or team by name, each as ``(old, new)``.
Changes: TypeAlias = Mapping[str, tuple[Any, Any]]

#: Nobody has it: a manager who is yet to be created is a difference.
_NO_ID = -1


@dataclass(frozen=True)
class Account:
    """The account as it is.

    :param members: who is in a team, by the id of the team; only of teams whose members are declared.
    :param requests: how many it took to read it.
    """

    users: Sequence[User] = ()
    teams: Sequence[Team] = ()
    members: Mapping[str, Sequence[User]] = field(default_factory=dict)
    requests: int = 0


@dataclass(frozen=True)
class CreateUser:
    key: str
    user: UserCreate

    def __str__(self) -> str:
        return f"user {self.user.email}"


@dataclass(frozen=True)
class UpdateUser:
    user_id: int
    email: str
    changes: Changes = field(repr=False)

    def __str__(self) -> str:
        return f"user {self.email}"


@dataclass(frozen=True)
class CreateTeam:
    team: TeamCreate
    managers: tuple[Ref, ...] | None

    def __str__(self) -> str:
        return f"team {self.team.name}"


@dataclass(frozen=True)
class UpdateTeam:
    """``managers`` is what becomes of the change of that name, which shows e-mail addresses."""

    team_id: str
    name: str
    changes: Changes
    managers: tuple[Ref, ...] | None

    def __str__(self) -> str:
        return f"team {self.name}"


@dataclass(frozen=True)
class AddMembers:
    """``added`` join ``current``; ``team_id`` is None for a team that is yet to be created."""

    team: str
    team_id: str | None
    current: tuple[int, ...]
    added: Mapping[Ref, str]

    def __str__(self) -> str:
        return f"members of team {self.team}"


Action: TypeAlias = CreateUser | UpdateUser | CreateTeam | UpdateTeam | AddMembers


@dataclass
class Untouched:
    """The names of those of a kind that stay as they are, because they are as declared, or not declared at all."""

    unchanged: list[str] = field(default_factory=list)
    unmanaged: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, int]:
        return {"unchanged": len(self.unchanged), "unmanaged": len(self.unmanaged)}


@dataclass
class Plan:
    """Actions in the order in which they are applied, and what they leave alone.

    ``not_compared`` counts, by field, what is declared of users and teams that there are but not shown of them.
    """

    actions: list[Action] = field(default_factory=list)
    users: Untouched = field(default_factory=Untouched)
    teams: Untouched = field(default_factory=Untouched)
    memberships: Untouched = field(default_factory=Untouched)
    not_compared: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, dict[str, int]]:
        return {kind: {**changed, **getattr(self, kind).counts()} for kind, changed in counts_of(self.actions).items()}


def counts_of(actions: Iterable[Action]) -> dict[str, dict[str, int]]:
    """Count what actions do, by kind."""
    done = list(actions)
    of_kind = Counter(type(action) for action in done)
    return {
        "users": {"added": of_kind[CreateUser], "changed": of_kind[UpdateUser]},
        "teams": {"added": of_kind[CreateTeam], "changed": of_kind[UpdateTeam]},
        "memberships": {"added": sum(len(one.added) for one in done if isinstance(one, AddMembers))},
    }


def plan(declared: Declared, actual: Account) -> Plan:
    """Compare what is declared with what there is.

    :raises DstnyValidationError: every mistake of the declaration.
    :raises DstnyResponseError: the account's lists cannot be trusted.
    """
    people = People(declared, actual.users)
    people.check()
    teams = _teams_by_name(declared, actual.teams)
    made = Plan()
    if declared.users is not None:
        _plan_users(made, declared.users, people)
    if declared.teams is not None:
        creations = [one for one in declared.teams if one.key not in teams]
        made.actions += [CreateTeam(one.fields, _refs(people, one.managers)) for one in creations]
        for one in declared.teams:
            if one.key in teams:
                _plan_update(made, one, teams[one.key], people)
        for one in declared.teams:
            _plan_members(made, one, teams.get(one.key), actual, people)
        names = {one.key for one in declared.teams}
        made.teams.unmanaged = [name for name in map(_team_name, actual.teams) if name not in names]
    return made


def _plan_users(made: Plan, users: Iterable[DeclaredUser], people: People) -> None:
    updates, matched = [], set()
    for one in users:
        found = people.match(one)
        if found is None:
            made.actions.append(CreateUser(one.key, one.fields))
            continue
        matched.add(found)
        if changes := _changes(made, one.fields, people.users[found]):
            updates.append(UpdateUser(found, one.fields.email, changes))
        else:
            made.users.unchanged.append(one.fields.email)
    made.actions += updates
    made.users.unmanaged = [people.name(one) for one in people.users if one not in matched]


def _plan_update(made: Plan, one: DeclaredTeam, team: Team, people: People) -> None:
    managers = _refs(people, one.managers)
    wanted = one.fields
    if managers is not None:
        ids = [ref if isinstance(ref, int) else _NO_ID for ref in managers]
        wanted = wanted.model_copy(update={"managers": ids})
    # The name is what the team was found by.
    changes = {name: change for name, change in _changes(made, wanted, team).items() if name != "name"}
    if not changes:
        made.teams.unchanged.append(one.key)
        return
    if managers is not None and "managers" in changes:
        changes["managers"] = _manager_names(people, changes["managers"][0]), [people.name(ref) for ref in managers]
    made.actions.append(UpdateTeam(team_id(team), one.key, changes, managers))


def _plan_members(made: Plan, one: DeclaredTeam, team: Team | None, actual: Account, people: People) -> None:
    if not one.members:
        return
    wanted = {ref: member for member in one.members if (ref := people.ref(member)) is not None}
    there = {} if team is None else {user_id(user): user for user in actual.members[team_id(team)]}
    added = {ref: member for ref, member in wanted.items() if ref not in there}
    if added:
        made.actions.append(AddMembers(one.key, None if team is None else team_id(team), tuple(there), added))
    made.memberships.unchanged += [f"{member} in {one.key}" for ref, member in wanted.items() if ref in there]
    made.memberships.unmanaged += [f"{people.name(ref)} in {one.key}" for ref in there if ref not in wanted]


def _changes(made: Plan, wanted: SparsePayload, actual: Answer) -> dict[str, tuple[Any, Any]]:
    """Return the changes of the fields that are shown: others would be sent again by every run."""
    hidden = wanted.model_fields_set - actual.model_fields_set
    made.not_compared.update(sorted(hidden))
    return {name: change for name, change in differences(wanted, actual).items() if name not in hidden}


def _refs(people: People, managers: tuple[int | str, ...] | None) -> tuple[Ref, ...] | None:
    if managers is None:
        return None
    return tuple(dict.fromkeys(ref for one in managers if (ref := people.ref(one)) is not None))


def _manager_names(people: People, managers: Any) -> list[str]:
    ids = [one.get("id") if isinstance(one, Mapping) else one for one in managers or ()]
    return [people.name(one) for one in ids]


def team_id(team: Team) -> str:
    """Return the id of a listed team.

    :raises DstnyResponseError: it has none.
    """
    if team.id is None or not str(team.id).strip():
        raise DstnyResponseError("The API lists a team without an id, so that nothing can be planned safely.")
    return str(team.id)


def _team_name(team: Team) -> str:
    return (team.name or "").strip()


def _teams_by_name(declared: Declared, teams: Sequence[Team]) -> dict[str, Team]:
    for team in teams:
        team_id(team)
    named = Counter(map(_team_name, teams))
    refuse(
        [
            f"{one.where}: name: {named[one.key]} teams of the account are called {one.key}"
            for one in declared.teams or ()
            if named[one.key] > 1
        ]
    )
    return {_team_name(team): team for team in teams}
