"""The AI agents of the simulated API v2, and the requests that running them leaves behind."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from airflow_provider_dstny.simulator.contract import Call, ContractError
from airflow_provider_dstny.simulator.moments import to_text

AGENTS: tuple[dict[str, Any], ...] = (
    {"id": 1, "name": "Call summary", "type": "meeting_summary", "status": "active"},
    {"id": 2, "name": "Buying signals", "type": "magic_insight", "status": "active"},
)
TEMPLATES = (
    {"type": "meeting_summary", "name": "Meeting summary", "customPrompt": "Summarize the conversation."},
    {"type": "playbook", "name": "Playbook", "customPrompt": "Tell how far the playbook was followed."},
    {"type": "magic_variable", "name": "Magic variable", "customPrompt": "Find the value of the variable."},
    {"type": "magic_insight", "name": "Magic insight", "customPrompt": "Find what the customer asks for."},
)
MEETING_ROLES = {
    "sales": ["Seller", "Buyer"],
    "support": ["Agent", "Client"],
    "internal": ["Host", "Colleague"],
    "onboarding": ["Trainer", "Customer"],
    "project": ["Project lead", "Member"],
    "negotiation": ["Negotiator", "Counterpart"],
    "consulting": ["Consultant", "Client"],
    "customer_success": ["Success manager", "Customer"],
}
_DEFAULTS = {"meetingRoleAssignment": "sales", "enablePlaybookSummaryInstructions": False}
#: What the answer to a run has of a request, and what a list has of it.
_RESULT = ("id", "agent_id", "conversation_id", "is_test_run", "response")
_ROW = ("id", "agent_id", "conversation_id", "is_test_run", "status", "created_at")


class Agents:
    """Its public methods that take a call answer the operation of their name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._agents = {agent["id"]: agent for agent in AGENTS}
        # An id is not given again when its agent was deleted.
        self._ids = itertools.count(len(AGENTS) + 1)
        self._requests: list[dict[str, Any]] = []

    def list_agents(self, call: Call) -> Any:
        return {"data": list(self._agents.values())}

    def create_agent(self, call: Call) -> Any:
        agent_id = next(self._ids)
        self._agents[agent_id] = {"id": agent_id, **_DEFAULTS, **call.body}
        return {"data": self._agents[agent_id]}

    def get_agent(self, call: Call) -> Any:
        return {"data": self.find(call)}

    def update_agent(self, call: Call) -> Any:
        agent_id = self.find(call)["id"]
        self._agents[agent_id] = {"id": agent_id, **_DEFAULTS, **call.body}
        return {"data": self._agents[agent_id]}

    def delete_agent(self, call: Call) -> Any:
        del self._agents[self.find(call)["id"]]

    def list_agent_templates(self, call: Call) -> Any:
        return {"data": list(TEMPLATES)}

    def list_meeting_role_assignments(self, call: Call) -> Any:
        return {"data": MEETING_ROLES}

    def list_agent_requests(self, call: Call) -> Any:
        wanted = call.query.get("is_test_run")
        return {
            "data": [
                {name: request[name] for name in _ROW}
                for request in self._requests_of(self.find(call))
                if wanted in (None, "true" if request["is_test_run"] else "false")
            ]
        }

    def get_agent_request(self, call: Call) -> Any:
        for request in self._requests_of(self.find(call)):
            if request["id"] == call.ids["request_id"]:
                return {"data": request}
        raise ContractError(404, "AI agent request not found")

    def find(self, call: Call) -> dict[str, Any]:
        """Return the agent that a path names."""
        agent = self._agents.get(call.ids["agent_id"])
        if agent is None:
            raise ContractError(404, "AI agent not found")
        return agent

    def run(
        self,
        agent: dict[str, Any],
        conversation_id: str,
        summary: str,
        *,
        is_test_run: bool = True,
        force: bool = False,
    ) -> Any:
        """Answer a run: with the result that was stored for the conversation, or with a new one."""
        requests = [one for one in self._requests_of(agent) if one["conversation_id"] == conversation_id]
        stored = next((one for one in reversed(requests) if not one["is_test_run"]), None)
        if stored is None or force:
            stored = {
                "id": len(self._requests) + 1,
                "agent_id": agent["id"],
                "conversation_id": conversation_id,
                "is_test_run": is_test_run,
                "status": "completed",
                "created_at": to_text(self._clock()),
                "prompt": agent.get("customPrompt") or f"{agent['name']}: what was said?",
                "response": {"summary": summary},
            }
            self._requests.append(stored)
        return {"data": {name: stored[name] for name in _RESULT}}

    def runs_on(self, conversation_id: str) -> int:
        return sum(request["conversation_id"] == conversation_id for request in self._requests)

    def _requests_of(self, agent: dict[str, Any]) -> list[dict[str, Any]]:
        return [request for request in self._requests if request["agent_id"] == agent["id"]]
