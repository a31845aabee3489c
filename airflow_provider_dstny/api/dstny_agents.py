"""The AI agents of API v2: what they are, and running them on conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_dstny.api.answers import lost_answer
from airflow_provider_dstny.api.arguments import boolean_param, check_boolean, check_integer, check_positive
from airflow_provider_dstny.api.client import ApiClient
from airflow_provider_dstny.api.creation import read_created
from airflow_provider_dstny.api.models.agents import Agent, AgentDefinition, AgentRequest, AgentRun
from airflow_provider_dstny.api.models.base import rows, unwrap
from airflow_provider_dstny.api.operation import Steps, operation

_LONGEST_TIMEOUT = 86400.0


class AgentOperations(ApiClient):
    """A part of :class:`~airflow_provider_dstny.api.dstny.DstnyClient`."""

    @operation
    def list_agents(self) -> Steps[list[Agent]]:
        """*List all AI agents*."""
        return Agent.read_rows((yield self.request("list_agents")))

    @operation
    def create_agent(self, definition: AgentDefinition | Mapping[str, Any]) -> Steps[Agent]:
        """*Create an AI agent*.

        :raises DstnyValidationError: the definition is invalid; nothing was sent.
        :raises DstnyAmbiguousError: the answer was lost; look for the name before sending it again.
        """
        request = self.request("create_agent", json=AgentDefinition.parse(definition).to_json())
        return read_created(Agent, request, (yield request))

    @operation
    def get_agent(self, agent_id: int) -> Steps[Agent]:
        """*Get an AI agent*."""
        check_integer("agent_id", agent_id)
        return Agent.read(unwrap((yield self.request("get_agent", agent_id=agent_id))))

    @operation
    def update_agent(self, agent_id: int, definition: AgentDefinition | Mapping[str, Any]) -> Steps[Agent]:
        """*Update an AI agent*: replace its definition. What is left out may fall back to the API's defaults.

        :raises DstnyValidationError: the definition is invalid; nothing was sent.
        """
        check_integer("agent_id", agent_id)
        body = AgentDefinition.parse(definition).to_json()
        return Agent.read(unwrap((yield self.request("update_agent", json=body, agent_id=agent_id))))

    @operation
    def delete_agent(self, agent_id: int) -> Steps[None]:
        """*Delete an AI agent*: it processes no new conversations any more.

        :raises DstnyAmbiguousError: the answer was lost; :meth:`get_agent` raises ``DstnyNotFoundError`` if it is gone.
        """
        check_integer("agent_id", agent_id)
        # Never repeated by the client: the 404 of a repeat would turn a deletion that happened into an error.
        yield self.request("delete_agent", agent_id=agent_id)

    @operation
    def list_agent_templates(self) -> Steps[list[Any]]:
        """*Get AI agent type templates*: default configurations, prompts and sample data as the API sends them."""
        return rows((yield self.request("list_agent_templates")))

    @operation
    def list_meeting_role_assignments(self) -> Steps[Any]:
        """*Get meeting role assignments*: who speaks in a transcript, a dict as the API sends it."""
        return unwrap((yield self.request("list_meeting_role_assignments")))

    @operation
    def list_agent_requests(self, agent_id: int, *, is_test_run: bool | None = None) -> Steps[list[AgentRequest]]:
        """*List AI agent requests*: the runs of an agent.

        :param is_test_run: True for test runs only, False for those whose results are stored, None for all.
        """
        check_integer("agent_id", agent_id)
        params = boolean_param("is_test_run", is_test_run)
        return AgentRequest.read_rows((yield self.request("list_agent_requests", params=params, agent_id=agent_id)))

    @operation
    def get_agent_request(self, agent_id: int, request_id: int) -> Steps[AgentRequest]:
        """*Get AI agent request details*: with the prompt that was sent and the response that came."""
        check_integer("agent_id", agent_id)
        check_integer("request_id", request_id)
        request = self.request("get_agent_request", agent_id=agent_id, request_id=request_id)
        return AgentRequest.read(unwrap((yield request)))

    @operation
    def run_agent(
        self,
        agent_id: int,
        conversation_id: str | int,
        *,
        is_test_run: bool,
        force: bool = False,
        request_timeout: float = 300.0,
    ) -> Steps[AgentRun]:
        """*Run AI agent on a conversation*, which answers only when the agent is done.

        :param is_test_run: True persists nothing at Dstny. The API's default is True; here it must be said.
        :param force: run again even where a result exists. Without it a repeat returns the stored result.
        :param request_timeout: seconds to wait for the agent.
        :raises DstnyAmbiguousError: the answer was lost; without ``force``, a repeat is safe.
        """
        check_boolean("is_test_run", is_test_run)
        check_boolean("force", force)
        check_positive("request_timeout", request_timeout, up_to=_LONGEST_TIMEOUT)
        check_integer("agent_id", agent_id)
        request = self.request(
            "run_agent",
            json={"is_test_run": is_test_run, "force": force},
            timeout=request_timeout,
            agent_id=agent_id,
            conversation_id=conversation_id,
        )
        answer = yield request
        if unwrap(answer) is None:
            raise lost_answer(request, "the answer has no result")
        return AgentRun(
            agent_id=agent_id,
            conversation_id=str(conversation_id),
            is_test_run=is_test_run,
            result=unwrap(answer),
            raw=answer,
        )
