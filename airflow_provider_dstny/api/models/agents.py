"""AI agents and what they found in a conversation."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from airflow_provider_dstny.api.models.base import Answer


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
