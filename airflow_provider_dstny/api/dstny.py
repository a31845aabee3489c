"""Dstny API v2: calls and what became of them, AI agents, people. Authenticated with a bearer JWT."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Literal, get_args

from airflow_provider_dstny.api.answers import lost_answer
from airflow_provider_dstny.api.client import ApiClient
from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.models.agents import Agent, AgentRun
from airflow_provider_dstny.api.models.base import rows, unwrap
from airflow_provider_dstny.api.models.calls import CallConversation
from airflow_provider_dstny.api.models.conversations import Conversation, GlobalFilters
from airflow_provider_dstny.api.models.directory import User
from airflow_provider_dstny.api.models.transcripts import Transcript
from airflow_provider_dstny.api.operation import Route, Steps, operation

RecordingType = Literal["meeting", "call", "live"]

_LONGEST_TIMEOUT = 86400.0

#: Where each operation lives below the base path. Only the conversation list and the global filters are
#: spelled out in the public documents; the others are assumed and can be overridden per connection.
ROUTES: Mapping[str, Route] = {
    "list_users": Route("GET", "/users"),
    "list_conversations": Route("GET", "/conversations"),
    "create_call_conversation": Route("POST", "/conversations"),
    "get_insights": Route("GET", "/conversations/{conversation_id}/insights"),
    "get_transcript": Route("GET", "/conversations/{conversation_id}/transcript"),
    "get_ai_analytics": Route("GET", "/conversations/{conversation_id}/ai-analytics"),
    "get_playbooks": Route("GET", "/conversations/{conversation_id}/playbooks"),
    "get_magic_variable_requests": Route("GET", "/conversations/{conversation_id}/magic-variable-requests"),
    "get_department_insights": Route("GET", "/conversations/{conversation_id}/department-insights"),
    "get_global_filters": Route("GET", "/global-filters"),
    "list_agents": Route("GET", "/ai-agents"),
    "run_agent": Route("POST", "/ai-agents/{agent_id}/conversations/{conversation_id}/run"),
}


class DstnyClient(ApiClient):
    """Client of API v2. Every operation is callable as ``client.op(…)`` and ``await client.op.aio(…)``.

    All of them raise :class:`~airflow_provider_dstny.api.errors.DstnyError` kinds: connection, timeout,
    unreadable answer, or the kind of the HTTP status; invalid input raises ``DstnyValidationError`` before
    anything is sent.
    """

    base_path = "/api/v2"
    routes = ROUTES

    @operation
    def list_users(self) -> Steps[list[User]]:
        """*Get users for account*."""
        return User.read_rows((yield self.request("list_users")))

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
            *_scalar("search", search),
            *_array("global_user_ids", global_user_ids),
            *_array("global_team_ids", global_team_ids),
            *_array("campaign_ids", campaign_ids),
            *_array("recording_types", recording_types),
            *_array("deals_status", deals_status),
            *_scalar("global_start", _day("global_start", global_start)),
            *_scalar("global_end", _day("global_end", global_end)),
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
        valid = call if isinstance(call, CallConversation) else CallConversation.parse(call)
        request = self.request("create_call_conversation", json=valid.to_json())
        body = unwrap((yield request))
        given = (body.get("conversation_id"), body.get("id")) if isinstance(body, dict) else ()
        conversation_id = next((one for one in given if isinstance(one, (str, int)) and one is not True and one), None)
        if conversation_id is None:
            raise lost_answer(request, "the answer has no conversation_id")
        return str(conversation_id)

    @operation
    def get_transcript(self, conversation_id: str) -> Steps[Transcript]:
        """*Get conversation transcript*. Before it exists, the API may also answer 404 (``DstnyNotFoundError``)."""
        body = yield self.request("get_transcript", conversation_id=conversation_id)
        return Transcript.from_answer(str(conversation_id), body)

    @operation
    def get_insights(self, conversation_id: str) -> Steps[list[Any]]:
        """*Get conversation insights*, rows as the API sends them."""
        return rows((yield self.request("get_insights", conversation_id=conversation_id)))

    @operation
    def get_ai_analytics(self, conversation_id: str) -> Steps[list[Any]]:
        """*Get conversation ai analytics*, rows as the API sends them."""
        return rows((yield self.request("get_ai_analytics", conversation_id=conversation_id)))

    @operation
    def get_playbooks(self, conversation_id: str) -> Steps[list[Any]]:
        """*Get conversation playbooks*, rows as the API sends them."""
        return rows((yield self.request("get_playbooks", conversation_id=conversation_id)))

    @operation
    def get_magic_variable_requests(self, conversation_id: str) -> Steps[list[Any]]:
        """*Get conversation magic variable requests*, rows as the API sends them."""
        return rows((yield self.request("get_magic_variable_requests", conversation_id=conversation_id)))

    @operation
    def get_department_insights(self, conversation_id: str) -> Steps[list[Any]]:
        """*Get conversation department insights*, rows as the API sends them."""
        return rows((yield self.request("get_department_insights", conversation_id=conversation_id)))

    @operation
    def get_global_filters(self) -> Steps[GlobalFilters]:
        """*Get global filters*: the ids and names that :meth:`list_conversations` takes."""
        return GlobalFilters.read_merged((yield self.request("get_global_filters")))

    @operation
    def list_agents(self) -> Steps[list[Agent]]:
        """*List all AI agents*."""
        return Agent.read_rows((yield self.request("list_agents")))

    @operation
    def run_agent(
        self,
        agent_id: int,
        conversation_id: str,
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
        _boolean("is_test_run", is_test_run)
        _boolean("force", force)
        _positive("request_timeout", request_timeout, up_to=_LONGEST_TIMEOUT)
        if isinstance(agent_id, bool) or not isinstance(agent_id, int):
            raise DstnyValidationError(None, f"agent_id must be an integer, not {agent_id!r}.")
        answer = yield self.request(
            "run_agent",
            json={"is_test_run": is_test_run, "force": force},
            timeout=request_timeout,
            agent_id=agent_id,
            conversation_id=conversation_id,
        )
        return AgentRun(
            agent_id=agent_id,
            conversation_id=str(conversation_id),
            is_test_run=is_test_run,
            result=unwrap(answer),
            raw=answer,
        )


def _scalar(name: str, value: str | None) -> Iterator[tuple[str, str]]:
    if value is not None:
        yield name, value


def _array(name: str, values: Sequence[object]) -> Iterator[tuple[str, str]]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise DstnyValidationError(None, f"{name} must be a list.")
    for value in values:
        yield f"{name}[]", str(value)


def _boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise DstnyValidationError(None, f"{name} must be True or False, not {value!r}.")


def _positive(name: str, value: object, up_to: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= up_to:
        raise DstnyValidationError(None, f"{name} must be a positive number up to {up_to:g}, not {value!r}.")


def _day(name: str, value: date | str | None) -> str | None:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise DstnyValidationError(None, f"{name} must be a date or a timezone-aware datetime.")
        value = value.astimezone(UTC).date()
    if isinstance(value, str):
        try:
            value = date.fromisoformat(value)
        except ValueError:
            raise DstnyValidationError(None, f"{name} must be a day like 2026-01-31.") from None
    if value is not None and not isinstance(value, date):
        raise DstnyValidationError(None, f"{name} must be a day, not {type(value).__name__}.")
    return value.isoformat() if value is not None else None
