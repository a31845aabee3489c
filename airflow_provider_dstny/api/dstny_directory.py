"""What API v2 knows of an account's people: users, teams, departments, and tokens for embedding their pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_provider_dstny.api.answers import lost_answer
from airflow_provider_dstny.api.client import ApiClient
from airflow_provider_dstny.api.creation import read_created
from airflow_provider_dstny.api.models.base import unwrap
from airflow_provider_dstny.api.models.directory import (
    Department,
    EmbedUser,
    Team,
    TeamCreate,
    TeamMembers,
    TeamUpdate,
    User,
    UserCreate,
    UserUpdate,
)
from airflow_provider_dstny.api.operation import Steps, operation


class DirectoryOperations(ApiClient):
    """A part of :class:`~airflow_provider_dstny.api.dstny.DstnyClient`."""

    @operation
    def list_users(self) -> Steps[list[User]]:
        """*Get users for account*."""
        return User.read_rows((yield self.request("list_users")))

    @operation
    def create_user(self, user: UserCreate | Mapping[str, Any]) -> Steps[User]:
        """*Create User*.

        :raises DstnyValidationError: the user is invalid; nothing was sent.
        :raises DstnyAmbiguousError: the answer was lost; look for the e-mail address before sending it again.
        """
        request = self.request("create_user", json=UserCreate.parse(user).to_json())
        return read_created(User, request, (yield request))

    @operation
    def update_user(self, user_id: int | str, changes: UserUpdate | Mapping[str, Any]) -> Steps[User]:
        """*Edit User*: change the given fields.

        :raises DstnyValidationError: the changes are invalid, or there are none; nothing was sent.
        :raises DstnyAmbiguousError: the answer was lost; the user may have been changed.
        """
        body = UserUpdate.parse(changes).to_json()
        return User.read(unwrap((yield self.request("update_user", json=body, user_id=user_id))))

    @operation
    def list_teams(self) -> Steps[list[Team]]:
        """*Get teams for account*."""
        return Team.read_rows((yield self.request("list_teams")))

    @operation
    def create_team(self, team: TeamCreate | Mapping[str, Any]) -> Steps[Team]:
        """*Create a team*.

        :raises DstnyValidationError: the team is invalid; nothing was sent.
        :raises DstnyAmbiguousError: the answer was lost; look for the name before sending it again.
        """
        request = self.request("create_team", json=TeamCreate.parse(team).to_json())
        return read_created(Team, request, (yield request))

    @operation
    def update_team(self, team_id: str, changes: TeamUpdate | Mapping[str, Any]) -> Steps[Team]:
        """*Update a team*: change the given fields.

        :raises DstnyValidationError: the changes are invalid, or there are none; nothing was sent.
        :raises DstnyAmbiguousError: the answer was lost; the team may have been changed.
        """
        body = TeamUpdate.parse(changes).to_json()
        return Team.read(unwrap((yield self.request("update_team", json=body, team_id=team_id))))

    @operation
    def list_team_users(self, team_id: str) -> Steps[list[User]]:
        """*Get users for a team*."""
        return User.read_rows((yield self.request("list_team_users", team_id=team_id)))

    @operation
    def assign_team_users(self, team_id: str, user_ids: Sequence[int]) -> Steps[Team]:
        """*Assign users to a team*.

        Whether they join those who are in the team or replace them is not documented: give all who shall be in it.

        :param user_ids: one at least.
        :raises DstnyValidationError: not a list of integers, or an empty one; nothing was sent.
        :raises DstnyAmbiguousError: the answer was lost; :meth:`list_team_users` tells who is in the team.
        """
        body = TeamMembers.parse({"user_ids": user_ids}).to_json()
        return Team.read(unwrap((yield self.request("assign_team_users", json=body, team_id=team_id))))

    @operation
    def create_embed_token(self, email: str) -> Steps[str]:
        """*Get a short-lived JWT token* with which pages of Dstny can be embedded.

        It opens them to anybody: keep it out of XCom. A client of a hook has told it to Airflow's masker, so that it
        is not shown in logs; elsewhere ``on_secret`` is told.

        :param email: of a user of the account.
        :raises DstnyAmbiguousError: the answer was lost; asking again is safe, it only makes another token.
        """
        request = self.request("create_embed_token", json=EmbedUser.parse({"email": email}).to_json())
        body = unwrap((yield request))
        token = body.get("JWT") if isinstance(body, dict) else None
        if not isinstance(token, str) or not token.strip():
            raise lost_answer(request, "the answer has no JWT")
        self.on_secret(token)
        return token

    @operation
    def list_departments(self) -> Steps[list[Department]]:
        """*Get departments for account*: those of its teams and users."""
        return Department.read_rows((yield self.request("list_departments")))

    @operation
    def list_department_teams(self, department_slug: str) -> Steps[list[Team]]:
        """*Get teams for a department*: those whose type is its slug, such as ``b2b-sales``."""
        return Team.read_rows((yield self.request("list_department_teams", department_slug=department_slug)))

    @operation
    def list_department_users(self, department_slug: str) -> Steps[list[User]]:
        """*Get users for a department*: those assigned to it, and the members of its teams."""
        return User.read_rows((yield self.request("list_department_users", department_slug=department_slug)))
