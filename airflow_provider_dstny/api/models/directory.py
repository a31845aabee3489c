"""The people of an account."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from airflow_provider_dstny.api.models.base import Answer


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
