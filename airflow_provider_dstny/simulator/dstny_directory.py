"""The people of the simulated API v2: users, teams, who is in which, and the departments that follow from it."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Collection
from typing import Any

from airflow_provider_dstny.simulator.contract import Call, ContractError
from airflow_provider_dstny.simulator.moments import to_text

USERS: tuple[dict[str, Any], ...] = (
    {
        "id": 1,
        "username": "erik.lindqvist@example.com",
        "email": "erik.lindqvist@example.com",
        "first_name": "Erik",
        "last_name": "Lindqvist",
        "accounts": [],
        "last_login": None,
    },
    {
        "id": 2,
        "username": "sara.holm@example.com",
        "email": "sara.holm@example.com",
        "first_name": "Sara",
        "last_name": "Holm",
        "accounts": [],
        "last_login": None,
    },
)
TEAMS: tuple[dict[str, Any], ...] = (
    {
        "id": "75fc3b9a-0000-4000-8000-000000000001",
        "name": "Sales",
        "description": "Sales",
        "type": "b2b-sales",
        "managers": [],
        "created_at": "2020-08-13T13:16:21.000Z",
    },
)
#: Seconds for which an embedded page can be opened.
_TOKEN_LIFETIME = 300


class Directory:
    """Its public methods answer the operations of their names."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._users = {user["id"]: user for user in USERS}
        self._teams = {team["id"]: team for team in TEAMS}
        # Erik is in Sales, so that a fresh account has a department with somebody in it.
        self._members: dict[str, set[int]] = {TEAMS[0]["id"]: {1}}

    def list_users(self, call: Call) -> Any:
        return self._shown(self._users)

    def create_user(self, call: Call) -> Any:
        self._refuse_taken(call.body["email"])
        user_id = len(self._users) + 1
        self._users[user_id] = {
            "id": user_id,
            "username": call.body["email"],
            "accounts": [],
            "last_login": None,
            **call.body,
        }
        return self._shown([user_id])[0]

    def update_user(self, call: Call) -> Any:
        user_id = call.ids["user_id"]
        if user_id not in self._users:
            raise ContractError(404, "User not found")
        self._refuse_taken(call.body.get("email"), by_other_than=user_id)
        self._users[user_id] = {**self._users[user_id], **call.body}
        return self._shown([user_id])[0]

    def list_teams(self, call: Call) -> Any:
        return list(self._teams.values())

    def create_team(self, call: Call) -> Any:
        self._refuse_unknown("managers", call.body.get("managers", ()))
        team_id = str(uuid.uuid4())
        self._teams[team_id] = {
            "id": team_id,
            "type": None,
            "managers": [],
            "created_at": to_text(self._clock()),
            **call.body,
        }
        self._members[team_id] = set()
        return self._teams[team_id]

    def update_team(self, call: Call) -> Any:
        team = self._team(call)
        self._refuse_unknown("managers", call.body.get("managers", ()))
        self._teams[team["id"]] = {**team, **call.body}
        return self._teams[team["id"]]

    def list_team_users(self, call: Call) -> Any:
        return {"data": self._shown(self._members[self._team(call)["id"]])}

    def assign_team_users(self, call: Call) -> Any:
        team = self._team(call)
        self._refuse_unknown("user_ids", call.body["user_ids"])
        # The documents do not say whether the others stay; here they do.
        self._members[team["id"]].update(call.body["user_ids"])
        return team

    def list_departments(self, call: Call) -> Any:
        slugs = {team["type"]: None for team in self._teams.values() if team["type"]}
        return {"data": [{"slug": slug, "name": slug.replace("-", " ").capitalize()} for slug in slugs]}

    def list_department_teams(self, call: Call) -> Any:
        return {"data": self._department(call)}

    def list_department_users(self, call: Call) -> Any:
        members = [self._members[team["id"]] for team in self._department(call)]
        return {"data": self._shown(set().union(*members))}

    def get_global_filters(self, call: Call) -> Any:
        return {
            "teams": list(self._teams.values()),
            "users": [{"id": user["id"], "email": user["email"]} for user in self._users.values()],
        }

    def create_embed_token(self, call: Call) -> Any:
        user = self._user_of(call.body["email"])
        if user is None:
            raise ContractError(404, "User not found")
        claims = {"sub": str(user["id"]), "exp": int(self._clock()) + _TOKEN_LIFETIME}
        return {"JWT": f"{_base64({'alg': 'HS256', 'typ': 'JWT'})}.{_base64(claims)}.simulated"}

    def _shown(self, user_ids: Collection[int]) -> list[dict[str, Any]]:
        return [
            {
                **self._users[user_id],
                "teams": [
                    {"id": team_id, "name": self._teams[team_id]["name"]}
                    for team_id, members in self._members.items()
                    if user_id in members
                ],
            }
            for user_id in sorted(user_ids)
        ]

    def _user_of(self, email: str) -> dict[str, Any] | None:
        return next((user for user in self._users.values() if user["email"].lower() == email.lower()), None)

    def _team(self, call: Call) -> dict[str, Any]:
        team = self._teams.get(call.ids["team_id"])
        if team is None:
            raise ContractError(404, "Team not found")
        return team

    def _department(self, call: Call) -> list[dict[str, Any]]:
        teams = [team for team in self._teams.values() if team["type"] == call.ids["department_slug"]]
        if not teams:
            raise ContractError(404, "Department not found")
        return teams

    def _refuse_taken(self, email: str | None, by_other_than: int | None = None) -> None:
        user = self._user_of(email) if email is not None else None
        if user is not None and user["id"] != by_other_than:
            raise ContractError(409, "A user with this e-mail address exists")

    def _refuse_unknown(self, name: str, user_ids: Collection[int]) -> None:
        if not set(user_ids) <= set(self._users):
            raise ContractError(422, f"{name} has an unknown user")


def _base64(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
