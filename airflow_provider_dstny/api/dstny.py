"""Dstny API v2: calls and what became of them, AI agents, people. Authenticated with a bearer JWT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, get_args

from airflow_provider_dstny.api.arguments import array_param, day_param, scalar_param
from airflow_provider_dstny.api.creation import created_id
from airflow_provider_dstny.api.dstny_agents import AgentOperations
from airflow_provider_dstny.api.dstny_directory import DirectoryOperations
from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.models.base import rows
from airflow_provider_dstny.api.models.calls import CallConversation
from airflow_provider_dstny.api.models.conversations import Conversation, GlobalFilters
from airflow_provider_dstny.api.models.transcripts import Transcript
from airflow_provider_dstny.api.operation import Route, Steps, operation

RecordingType = Literal["meeting", "call", "live"]

#: Where each operation lives below the base path. Only the conversation list and the global filters are
#: spelled out in the public documents; the others are assumed and can be overridden per connection.
ROUTES: Mapping[str, Route] = {
    "list_users": Route("GET", "/users"),
    "create_user": Route("POST", "/users"),
    "update_user": Route("PATCH", "/users/{user_id}"),
    "list_teams": Route("GET", "/teams"),
    "create_team": Route("POST", "/teams"),
    "update_team": Route("PATCH", "/teams/{team_id}"),
    "list_team_users": Route("GET", "/teams/{team_id}/users"),
    "assign_team_users": Route("POST", "/teams/{team_id}/users"),
    "list_conversations": Route("GET", "/conversations"),
    "create_call_conversation": Route("POST", "/conversations"),
    "get_insights": Route("GET", "/conversations/{conversation_id}/insights"),
    "get_transcript": Route("GET", "/conversations/{conversation_id}/transcript"),
    "get_ai_analytics": Route("GET", "/conversations/{conversation_id}/ai-analytics"),
    "get_playbooks": Route("GET", "/conversations/{conversation_id}/playbooks"),
    "get_magic_variable_requests": Route("GET", "/conversations/{conversation_id}/magic-variable-requests"),
    "get_department_insights": Route("GET", "/conversations/{conversation_id}/department-insights"),
    "get_global_filters": Route("GET", "/global-filters"),
    "create_embed_token": Route("POST", "/embed/token"),
    "list_departments": Route("GET", "/departments"),
    "list_department_teams": Route("GET", "/departments/{department_slug}/teams"),
    "list_department_users": Route("GET", "/departments/{department_slug}/users"),
    "list_agents": Route("GET", "/ai-agents"),
    "create_agent": Route("POST", "/ai-agents"),
    "get_agent": Route("GET", "/ai-agents/{agent_id}"),
    "update_agent": Route("PUT", "/ai-agents/{agent_id}"),
    "delete_agent": Route("DELETE", "/ai-agents/{agent_id}"),
    "list_agent_templates": Route("GET", "/ai-agents/templates"),
    "list_meeting_role_assignments": Route("GET", "/ai-agents/meeting-role-assignments"),
    "list_agent_requests": Route("GET", "/ai-agents/{agent_id}/requests"),
    "get_agent_request": Route("GET", "/ai-agents/{agent_id}/requests/{request_id}"),
    "run_agent": Route("POST", "/ai-agents/{agent_id}/conversations/{conversation_id}/run"),
}


class DstnyClient(DirectoryOperations, AgentOperations):
    """Client of API v2. Every operation is callable as ``client.op(…)`` and ``await client.op.aio(…)``.

    All of them raise :class:`~airflow_provider_dstny.api.errors.DstnyError` kinds: connection, timeout,
    unreadable answer, or the kind of the HTTP status; invalid input raises ``DstnyValidationError`` before
    anything is sent.
    """

    name = "dstny"
    base_path = "/api/v2"
    routes = ROUTES
    settings_page = "Settings → Api → Token in Dstny"

    @operation
    def list_conversations(
        self,
        *,
        search: str | None = None,
        global_user_ids: Sequence[int] = (),
        global_team_ids: Sequence[str] = (),
        campaign_ids: Sequence[str] = (),
        recording_types: Sequence[RecordingType] = (),
        deals_status: Sequence[str] = (),
        global_start: date | str | None = None,
        global_end: date | str | None = None,
    ) -> Steps[list[Conversation]]:
        """*Get conversations for account*, filtered.

        The API documents no pages: one request returns all that match, so keep the days narrow.

        :param search: full text.
        :param global_user_ids: organizers; this and the other ids come from :meth:`get_global_filters`.
        :param global_team_ids: teams whose members organized the conversations.
        :param campaign_ids: names of campaigns.
        :param recording_types: ``meeting``, ``call``, ``live``.
        :param deals_status: states of the deals that belong to the conversations.
        :param global_start: earliest day, inclusive; a timezone-aware datetime counts as its UTC day.
        :param global_end: latest day, inclusive.
        """
        params = [
            *scalar_param("search", search),
            *array_param("global_user_ids", global_user_ids),
            *array_param("global_team_ids", global_team_ids),
            *array_param("campaign_ids", campaign_ids),
            *array_param("recording_types", recording_types),
            *array_param("deals_status", deals_status),
            *day_param("global_start", global_start),
            *day_param("global_end", global_end),
        ]
        allowed = get_args(RecordingType)
        if wrong := [value for name, value in params if name == "recording_types[]" and value not in allowed]:
            raise DstnyValidationError(
                None, f"recording_types has {', '.join(wrong)}; allowed are {', '.join(allowed)}."
            )
        return Conversation.read_rows((yield self.request("list_conversations", params=params)))

    @operation
    def create_call_conversation(self, call: CallConversation | Mapping[str, Any]) -> Steps[str]:
        """*Create a new call conversation*; returns its id at once, its data follow minutes later.

        :raises DstnyValidationError: the call is invalid; nothing was sent.
        :raises DstnyAmbiguousError: the answer was lost; look for the call before sending it again.
        """
        request = self.request("create_call_conversation", json=CallConversation.parse(call).to_json())
        return str(created_id(request, (yield request), "conversation_id", "id"))

    @operation
    def get_transcript(self, conversation_id: str | int) -> Steps[Transcript]:
        """*Get conversation transcript*. Before it exists, the API may also answer 404 (``DstnyNotFoundError``)."""
        body = yield self.request("get_transcript", conversation_id=conversation_id)
        return Transcript.from_answer(str(conversation_id), body)

    @operation
    def get_insights(self, conversation_id: str | int) -> Steps[list[Any]]:
        """*Get conversation insights*, rows as the API sends them."""
        return rows((yield self.request("get_insights", conversation_id=conversation_id)))

    @operation
    def get_ai_analytics(self, conversation_id: str | int) -> Steps[list[Any]]:
        """*Get conversation ai analytics*, rows as the API sends them."""
        return rows((yield self.request("get_ai_analytics", conversation_id=conversation_id)))

    @operation
    def get_playbooks(self, conversation_id: str | int) -> Steps[list[Any]]:
        """*Get conversation playbooks*, rows as the API sends them."""
        return rows((yield self.request("get_playbooks", conversation_id=conversation_id)))

    @operation
    def get_magic_variable_requests(self, conversation_id: str | int) -> Steps[list[Any]]:
        """*Get conversation magic variable requests*, rows as the API sends them."""
        return rows((yield self.request("get_magic_variable_requests", conversation_id=conversation_id)))

    @operation
    def get_department_insights(self, conversation_id: str | int) -> Steps[list[Any]]:
        """*Get conversation department insights*, rows as the API sends them."""
        return rows((yield self.request("get_department_insights", conversation_id=conversation_id)))

    @operation
    def get_global_filters(self) -> Steps[GlobalFilters]:
        """*Get global filters*: the ids and names that :meth:`list_conversations` takes."""
        return GlobalFilters.read_merged((yield self.request("get_global_filters")))
