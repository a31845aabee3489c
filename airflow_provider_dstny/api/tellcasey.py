"""The tellcasey backend API: conversations that agents hold with people. Authenticated with an ``sk_`` key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from airflow_provider_dstny.api.arguments import choice_param, limit_param, text_param
from airflow_provider_dstny.api.client import ApiClient
from airflow_provider_dstny.api.iteration import Findings, iteration
from airflow_provider_dstny.api.models.base import unwrap
from airflow_provider_dstny.api.models.tellcasey import CaseyConversation, CaseyConversationPage, ConversationStatus
from airflow_provider_dstny.api.models.transcripts import Transcript
from airflow_provider_dstny.api.operation import Route, Steps, operation
from airflow_provider_dstny.api.pages import Page, Source, walk

#: Rows of a page, at the most.
PAGE_SIZE = 100

ROUTES: Mapping[str, Route] = {
    "list_conversations": Route("GET", "/conversations"),
    "get_conversation": Route("GET", "/conversations/{conversation_id}"),
    "get_transcript": Route("GET", "/conversations/{conversation_id}/transcript"),
}


class TellcaseyClient(ApiClient):
    """Client of the tellcasey backend API. Every operation is callable sync and as ``await client.op.aio(…)``.

    All of them raise :class:`~airflow_provider_dstny.api.errors.DstnyError` kinds; invalid input raises
    ``DstnyValidationError`` before anything is sent.

    :param base_url: where the API lives; the public one is ``https://api.tellcasey.com``.
    """

    name = "tellcasey"
    base_path = "/v1/backend"
    routes = ROUTES
    settings_page = "API keys in tellcasey"

    @operation
    def list_conversations(
        self,
        *,
        status: ConversationStatus | None = None,
        agent_id: str | None = None,
        limit: int = 20,
        after: str | None = None,
        before: str | None = None,
    ) -> Steps[CaseyConversationPage]:
        """*List conversations for the organization*: one page.

        :param status: ``pending``, ``in_progress``, ``completed``, ``abandoned`` or ``archived``.
        :param agent_id: the agent that held them.
        :param limit: rows, 1 to 100.
        :param after: ``next_cursor`` of another page.
        :param before: ``prev_cursor`` of another page.
        """
        params = [
            *_filters(status, agent_id).items(),
            *limit_param(limit, PAGE_SIZE),
            *text_param("after", after),
            *text_param("before", before),
        ]
        return CaseyConversationPage.from_answer((yield self.request("list_conversations", params=params)))

    @iteration
    def iter_conversations(
        self, *, status: ConversationStatus | None = None, agent_id: str | None = None
    ) -> Findings[CaseyConversation]:
        """Iterate over all conversations that the filters of *List conversations* leave, each once.

        A page is requested when its rows are asked for, 100 at a time.

        :raises DstnyResponseError: the API's pages cannot be put together completely.
        """
        return walk(_Conversations(self, _filters(status, agent_id)))

    @operation
    def get_conversation(self, conversation_id: str | int) -> Steps[CaseyConversation]:
        """*Get a single conversation by ID*, with its status, properties and path."""
        body = yield self.request("get_conversation", conversation_id=conversation_id)
        return CaseyConversation.read(unwrap(body)).model_copy(update={"raw": body})

    @operation
    def get_transcript(self, conversation_id: str | int) -> Steps[Transcript]:
        """*Get the transcript for a conversation*. It grows until the conversation is ``completed``."""
        body = yield self.request("get_transcript", conversation_id=conversation_id)
        return Transcript.from_answer(str(conversation_id), body)


class _Conversations(Source[CaseyConversation]):
    """The conversation list with a user's filters, as something to walk."""

    def __init__(self, client: TellcaseyClient, filters: Mapping[str, Any]) -> None:
        self._client = client
        self._filters = filters

    def page(self, cursor: str | None) -> Steps[Page[CaseyConversation]]:
        page = yield from self._client.list_conversations.steps(**self._filters, limit=PAGE_SIZE, after=cursor)
        return Page.read(page.raw, "data", page.conversations, page.has_more, page.next_cursor)


def _filters(status: str | None, agent_id: str | None) -> dict[str, Any]:
    return {
        **dict(choice_param("status", status, get_args(ConversationStatus))),
        **dict(text_param("agent_id", agent_id)),
    }
