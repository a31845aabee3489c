"""Reading an account for a plan, and applying the plan. One request at a time, each outcome told as it comes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.api.errors import DstnyError
from airflow_provider_dstny.directory.declared import Declared
from airflow_provider_dstny.directory.people import People, Ref, user_id
from airflow_provider_dstny.directory.plan import (
    Account,
    Action,
    AddMembers,
    CreateTeam,
    CreateUser,
    UpdateTeam,
    UpdateUser,
    team_id,
)

if TYPE_CHECKING:
    from airflow_provider_dstny.api.dstny import DstnyClient


def read_account(dstny: DstnyClient, declared: Declared) -> Account:
    """List what a declaration has to be compared with, and no more.

    :raises DstnyValidationError: every mistake of the declaration; teams were not asked for yet.
    """
    users = dstny.list_users() if declared.needs_users else []
    People(declared, users).check()
    if declared.teams is None:
        return Account(users, requests=int(declared.needs_users))
    teams = dstny.list_teams()
    with_members = {one.key for one in declared.teams if one.members}
    ids = [team_id(team) for team in teams if (team.name or "").strip() in with_members]
    members = {one: dstny.list_team_users(one) for one in ids}
    return Account(users, teams, members, requests=int(declared.needs_users) + 1 + len(members))


@dataclass(frozen=True)
class Result:
    """What became of an action: done, failed, or not tried for want of users and teams whose creation failed."""

    action: Action
    error: DstnyError | None = None
    missing: tuple[str, ...] = ()


class _MissingError(Exception):
    """Users and teams that were to be created before."""


def apply(dstny: DstnyClient, actions: Iterable[Action]) -> Iterator[Result]:
    """Apply actions in their order; those that fail are told and the others go on."""
    applying = _Applying(dstny)
    for action in actions:
        yield from applying.apply(action)


class _Applying:
    def __init__(self, dstny: DstnyClient) -> None:
        self._dstny = dstny
        self._users: dict[str, int] = {}
        self._teams: dict[str, str] = {}

    def apply(self, action: Action) -> Iterator[Result]:
        if isinstance(action, AddMembers):
            # One who could not be created must not keep the others out.
            absent = {ref: name for ref, name in action.added.items() if not self._exists(ref)}
            present = {ref: name for ref, name in action.added.items() if ref not in absent}
            if present:
                yield self._result(replace(action, added=present))
            if absent:
                yield Result(replace(action, added=absent), missing=tuple(absent.values()))
        else:
            yield self._result(action)

    def _result(self, action: Action) -> Result:
        try:
            self._send(action)
        except _MissingError as missing:
            return Result(action, missing=tuple(missing.args))
        except DstnyError as error:
            return Result(action, error)
        return Result(action)

    def _send(self, action: Action) -> None:
        match action:
            case CreateUser(key, user):
                self._users[key] = user_id(self._dstny.create_user(user))
            case UpdateUser(one, _, changes):
                self._dstny.update_user(one, _new(changes))
            case CreateTeam(team, managers):
                created = self._dstny.create_team(team.to_json() | self._managers(managers))
                self._teams[team.name] = team_id(created)
            case UpdateTeam(known, _, changes, managers):
                self._dstny.update_team(
                    known, _new(changes) | (self._managers(managers) if "managers" in changes else {})
                )
            case AddMembers(name, known_team, current, added):
                to = known_team or self._teams.get(name)
                if to is None:
                    raise _MissingError(f"team {name}")
                # Whether those who are given join the others or replace them is not documented: all are given.
                self._dstny.assign_team_users(to, [*current, *self._ids(added)])

    def _managers(self, managers: tuple[Ref, ...] | None) -> dict[str, list[int]]:
        return {} if managers is None else {"managers": self._ids(managers)}

    def _exists(self, ref: Ref) -> bool:
        return isinstance(ref, int) or ref in self._users

    def _ids(self, refs: Iterable[Ref]) -> list[int]:
        if absent := [str(ref) for ref in refs if not self._exists(ref)]:
            raise _MissingError(*absent)
        return [ref if isinstance(ref, int) else self._users[ref] for ref in refs]


def _new(changes: Mapping[str, tuple[Any, Any]]) -> dict[str, Any]:
    return {name: new for name, (_, new) in changes.items()}
