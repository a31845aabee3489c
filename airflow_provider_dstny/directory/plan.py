"""What leads from the account as it is to the one that is declared. Pure: no I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from airflow_provider_dstny.api.differences import compared, shown_of
from airflow_provider_dstny.api.errors import DstnyResponseError
from airflow_provider_dstny.api.models.base import Answer, SparsePayload
from airflow_provider_dstny.api.models.directory import Team, TeamCreate, User, UserCreate
from airflow_provider_dstny.directory.declared import Declared, DeclaredTeam, DeclaredUser, key_of
from airflow_provider_dstny.directory.people import People, Ref, refuse, user_id

#: Fields of a user or team by name, each as ``(old, new)``.
Changes: TypeAlias = Mapping[str, tuple[Any, Any]]


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
    """``manager_names`` are the managers as they are shown."""

    team: TeamCreate
    managers: tuple[Ref, ...] | None
    manager_names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"team {self.team.name}"


@dataclass(frozen=True)
class UpdateTeam:
    """``managers`` is what becomes of the change of that name, which shows e-mail addresses: all who shall be."""

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

    @property
    def changes(self) -> int:
        """How much is changed: each member who joins a team counts."""
        return sum(len(one.added) if isinstance(one, AddMembers) else 1 for one in self.actions)

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
        made.actions += [_creation(one, people) for one in creations]
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


def _creation(one: DeclaredTeam, people: People) -> CreateTeam:
    names = [person if isinstance(person, str) else people.name(person) for person in one.managers or ()]
    return CreateTeam(one.fields, _refs(people, one.managers), tuple(names))


def _plan_update(made: Plan, one: DeclaredTeam, team: Team, people: People) -> None:
    # The name is what the team was found by.
    changes = {name: change for name, change in _changes(made, one.fields, team).items() if name != "name"}
    managers: tuple[Ref, ...] | None = None
    if one.managers is not None:
        current = people.listed(shown_of(team, "managers")) if "managers" in team.model_fields_set else None
        if current is None:
            made.not_compared["managers"] += 1
        else:
            # Those who are not declared stay.
            managers = tuple(dict.fromkeys([*current, *(_refs(people, one.managers) or ())]))
            if len(managers) > len(current):
                changes["managers"] = [people.name(ref) for ref in current], [people.name(ref) for ref in managers]
    if changes:
        made.actions.append(UpdateTeam(team_id(team), one.key, changes, managers))
    else:
        made.teams.unchanged.append(one.key)


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
    """Return the changes of the fields that can be compared: others would be sent again by every run."""
    changes, not_compared = compared(wanted, actual)
    made.not_compared.update(not_compared)
    return changes


def _refs(people: People, managers: tuple[int | str, ...] | None) -> tuple[Ref, ...] | None:
    if managers is None:
        return None
    return tuple(dict.fromkeys(ref for one in managers if (ref := people.ref(one)) is not None))


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
    similar = {key_of(name): name for name in named}
    mistakes = []
    for one in declared.teams or ():
        if named[one.key] > 1:
            mistakes.append(f"{one.where}: name: {named[one.key]} teams of the account are called {one.key}")
        elif not named[one.key] and (other := similar.get(key_of(one.key))):
            mistakes.append(f"{one.where}: name: {one.key} is called {other} in the account: declare that name")
    refuse(mistakes)
    return {_team_name(team): team for team in teams}
