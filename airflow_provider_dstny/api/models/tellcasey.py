"""What the tellcasey backend API answers."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import AliasChoices, Field

from airflow_provider_dstny.api.models.base import Answer, listed

ConversationStatus = Literal["pending", "in_progress", "completed", "abandoned", "archived"]


class CaseyConversation(Answer):
    """A conversation with an agent; times are ISO 8601.

    ``session_properties`` and ``path_taken`` are there only in a single conversation, not in the list.
    """

    id: str | int | None = None
    connection_code: str | None = Field(default=None, repr=False)
    agent_id: str | None = None
    status: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    turn_count: int | None = None
    participant_profile: dict[str, Any] | None = Field(default=None, repr=False)
    session_properties: dict[str, Any] | None = Field(default=None, repr=False)
    path_taken: list[Any] | None = Field(default=None, repr=False)


class CaseyConversationPage(Answer):
    """One page of the list. The cursors go to ``after`` and ``before``."""

    conversations: list[CaseyConversation] = Field(default_factory=list, repr=False)
    has_more: bool | None = Field(default=None, validation_alias=AliasChoices("has_more", "hasMore"))
    next_cursor: str | None = Field(default=None, validation_alias=AliasChoices("next_cursor", "nextCursor"))
    prev_cursor: str | None = Field(default=None, validation_alias=AliasChoices("prev_cursor", "prevCursor"))

    @classmethod
    def from_answer(cls, body: Any) -> Self:
        pagination = body.get("pagination") if isinstance(body, dict) else None
        page = cls.read(pagination)
        return page.model_copy(
            update={"conversations": [CaseyConversation.read(row) for row in listed(body, "data")], "raw": body}
        )
