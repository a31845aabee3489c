"""AI agents, and what they found in conversations."""
# ruff: noqa: N815 - fields are named as the API names them

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field, StrictStr

from airflow_provider_dstny.api.models.base import Answer, SparsePayload
from airflow_provider_dstny.api.models.types import Boolean, Omittable, Text

AgentType = Literal["meeting_summary", "playbook", "magic_variable", "magic_insight"]
AgentStatus = Literal["active", "draft", "pause"]
MeetingRole = Literal[
    "sales", "support", "internal", "onboarding", "project", "negotiation", "consulting", "customer_success"
]


class AgentDefinition(SparsePayload):
    """The body of *Create an AI agent* and *Update an AI agent*.

    ``playbookSummaryInstructionsPrompt`` may be None, which is sent as null.
    """

    name: Text
    type: AgentType
    status: AgentStatus
    customPrompt: Omittable[StrictStr] = None
    typeSettings: Omittable[dict[str, Any]] = None
    globalFilters: Omittable[dict[str, Any]] = None
    meetingRoleAssignment: Omittable[MeetingRole] = None
    enablePlaybookSummaryInstructions: Omittable[Boolean] = None
    playbookSummaryInstructionsPrompt: StrictStr | None = None


class Agent(Answer):
    """An AI agent of the account."""

    id: int | str | None = None
    name: str | None = None
    type: str | None = None
    status: str | None = None


class AgentRun(Answer):
    """The outcome of one agent on one conversation. ``result`` is what the API returned below ``data``."""

    agent_id: int
    conversation_id: str
    is_test_run: bool
    result: Any = Field(default=None, repr=False)

    def to_row(self) -> dict[str, Any]:
        """Return the outcome as one row of a file: the three fields of the request, and ``result``."""
        return {
            "conversation_id": self.conversation_id,
            "agent_id": self.agent_id,
            "is_test_run": self.is_test_run,
            "result": self.result,
        }


class AgentRequest(Answer):
    """One run of an agent, as the API remembers it. Its fields are not documented: all of them are in ``raw``.

    ``prompt`` and ``response`` come with the details of a request, not with the list.
    """

    id: int | str | None = None
    agent_id: int | str | None = None
    conversation_id: str | int | None = Field(
        default=None, validation_alias=AliasChoices("conversation_id", "session_id")
    )
    is_test_run: bool | None = None
    status: str | None = None
    prompt: Any = Field(default=None, repr=False)
    response: Any = Field(default=None, repr=False)
