"""The people of an account: users, teams, departments."""
# ruff: noqa: N815 - fields are named as the API names them

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictInt, StrictStr

from airflow_provider_dstny.api.models.base import Answer, Changes, Payload, SparsePayload
from airflow_provider_dstny.api.models.types import Boolean, Email, Omittable, Text


class _Preferences(SparsePayload):
    """What can be set for users and teams alike. Days are numbers, but documented as text."""

    deleteMeetingRecordingDays: Omittable[StrictStr] = None
    deleteContactDataDays: Omittable[StrictStr] = None
    auto_join_meeting_bot: StrictStr | None = None
    can_use_ai_agents: Omittable[Boolean] = None
    settings: Omittable[dict[str, Any]] = None


class _UserFields(_Preferences):
    mobile_number: Omittable[StrictStr] = Field(default=None, repr=False)
    is_passive: Omittable[Boolean] = None
    email_aliases: Omittable[list[Email]] = None


class UserCreate(_UserFields):
    """The body of *Create User*. ``auto_join_meeting_bot`` may be None, which is sent as null."""

    email: Email
    first_name: Text
    last_name: Text


class UserUpdate(_UserFields, Changes):
    """The body of *Edit User*: the fields to change. ``auto_join_meeting_bot`` may be None, which is sent as null."""

    email: Omittable[Email] = None
    first_name: Omittable[Text] = None
    last_name: Omittable[Text] = None


class _TeamFields(_Preferences):
    type: Omittable[StrictStr] = None
    selectManagers: Omittable[StrictStr] = None
    managers: Omittable[list[StrictInt]] = None
    low_priority_bot: Omittable[Boolean] = None


class TeamCreate(_TeamFields):
    """The body of *Create a team*. A ``type`` that is the slug of a department puts the team into it.

    ``managers`` are ids of users. ``auto_join_meeting_bot`` may be None, which is sent as null.
    """

    name: Text
    description: StrictStr


class TeamUpdate(_TeamFields, Changes):
    """The body of *Update a team*: the fields to change, as in :class:`TeamCreate`."""

    name: Omittable[Text] = None
    description: Omittable[StrictStr] = None


class TeamMembers(Payload):
    """The body of *Assign users to a team*."""

    user_ids: Annotated[list[StrictInt], Field(min_length=1)]


class EmbedUser(Payload):
    """The body of *Get a short-lived JWT token*: whose pages are embedded."""

    email: Email


class User(Answer):
    """A user of the account; ``accounts`` and ``teams`` are kept as the API sends them."""

    id: int | str | None = None
    username: str | None = None
    email: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    profile_picture_url: str | None = None
    mobile_number: int | str | None = Field(default=None, repr=False)
    teams: list[Any] | None = Field(default=None, repr=False)
    accounts: list[Any] | None = Field(default=None, repr=False)
    last_login: str | None = None


class Team(Answer):
    """A team of the account; ``managers`` are kept as the API sends them."""

    id: str | int | None = None
    name: str | None = None
    description: str | None = None
    type: str | None = None
    managers: list[Any] | None = Field(default=None, repr=False)
    created_at: str | None = None


class Department(Answer):
    """A department of the account. Its fields are not documented: all of them are in ``raw``."""

    id: str | int | None = None
    slug: str | None = None
    name: str | None = None
