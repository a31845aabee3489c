"""Conversations as the lists show them, and the values they can be filtered by."""

from __future__ import annotations

from typing import Any, Self

from pydantic import AliasChoices, Field

from airflow_provider_dstny.api.models.base import Answer, rows


class Conversation(Answer):
    """One row of a conversation list. Its fields are not documented: all but the ids are in ``raw``."""

    id: str | int | None = Field(
        default=None, validation_alias=AliasChoices("id", "conversation_id", "session_id", "uuid")
    )
    call_external_id: str | int | None = Field(
        default=None, validation_alias=AliasChoices("call_external_id", "external_id")
    )


class GlobalFilters(Answer):
    """The values that ``list_conversations`` takes, by kind (``teams`` and others, as the API names them)."""

    teams: list[dict[str, Any]] | None = None

    @classmethod
    def read_merged(cls, body: Any) -> Self:
        """Read an answer that is documented both as one object and as a list of objects."""
        merged: dict[str, Any] = {}
        for row in rows(body):
            merged |= row if isinstance(row, dict) else {}
        return cls.read(merged)
