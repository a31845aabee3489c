"""The REST API v1 of Dstny CI 2.0: conversations and what was found in them. Authenticated with an ``mt_`` token."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, get_args

from airflow_provider_dstny.api.arguments import boolean_param, choice_param, limit_param, text_param
from airflow_provider_dstny.api.client import ApiClient
from airflow_provider_dstny.api.creation import read_created
from airflow_provider_dstny.api.errors import DstnyScopeError, DstnyValidationError
from airflow_provider_dstny.api.iteration import Findings, iteration
from airflow_provider_dstny.api.models.base import listed
from airflow_provider_dstny.api.models.rest import (
    Account,
    Insight,
    Notetaker,
    NotetakerRequest,
    Recording,
    RestConversation,
    RestConversationPage,
    RestDepartment,
    RestTeam,
    RestUser,
    Summary,
    WebhookDelivery,
)
from airflow_provider_dstny.api.models.transcripts import Transcript
from airflow_provider_dstny.api.operation import Route, Steps, operation
from airflow_provider_dstny.api.pages import Page, Source, walk
from airflow_provider_dstny.api.times import aware_time, iso_time, utc_time

Medium = Literal["call", "video", "email", "chat", "live"]

#: Rows of a page, at the most.
PAGE_SIZE = 25
#: How far back the list goes.
LISTED_DAYS = 30

_TIMESTAMP = re.compile(r"[12]\d{3}-\d\d-\d\dT")
_log = logging.getLogger(__name__)

ROUTES: Mapping[str, Route] = {
    "get_account": Route("GET", "/account"),
    "list_users": Route("GET", "/users", "users"),
    "list_teams": Route("GET", "/teams", "teams"),
    "list_departments": Route("GET", "/departments", "departments"),
    "list_conversations": Route("GET", "/conversations", "conversations"),
    "get_conversation": Route("GET", "/conversations/{conversation_id}", "conversations", counted=True),
    "get_transcript": Route("GET", "/conversations/{conversation_id}/transcript", "transcripts", counted=True),
    "get_insights": Route("GET", "/conversations/{conversation_id}/insights", "insights", counted=True),
    "get_recording_url": Route("GET", "/conversations/{conversation_id}/recording-url", "recordings", counted=True),
    "get_summary": Route("GET", "/conversations/{conversation_id}/summary", "conversations", counted=True),
    "request_notetaker": Route("POST", "/notetaker/request", "notetaker"),
    "list_webhook_deliveries": Route("GET", "/webhooks/deliveries"),
}


class DstnyRestClient(ApiClient):
    """Client of the REST API v1. Every operation is callable as ``client.op(…)`` and ``await client.op.aio(…)``.

    A token may send 60 requests a minute, which is kept without further settings, and read 1000 different
    conversations a day; both can differ per token. All operations raise
    :class:`~airflow_provider_dstny.api.errors.DstnyError` kinds; ``DstnyScopeError.scope`` names a missing scope,
    ``DstnyQuotaError.resets_at`` is when a used-up quota starts anew. For 15 minutes after the API has told so, what
    counts against the quota raises it without asking again, except for conversations that this process has read the
    same day. Invalid input raises ``DstnyValidationError`` before anything is sent.
    """

    name = "dstny_rest"
    base_path = "/api/v1/rest"
    routes = ROUTES
    settings_page = "Settings → REST API in Dstny"
    documented_requests_per_minute = 60.0
    #: The clock of the API when it answered the last page of the list, UTC.
    server_time: datetime | None = None

    @operation
    def get_account(self) -> Steps[Account]:
        """*Get account*; needs no scope."""
        return Account.read((yield self.request("get_account")))

    @operation
    def list_users(self) -> Steps[list[RestUser]]:
        """*List users*: the active ones. Scope ``users``."""
        return RestUser.read_rows((yield self.request("list_users")), "users")

    @operation
    def list_teams(self) -> Steps[list[RestTeam]]:
        """*List teams* with their members. Scope ``teams``."""
        return RestTeam.read_rows((yield self.request("list_teams")), "teams")

    @operation
    def list_departments(self) -> Steps[list[RestDepartment]]:
        """*List departments*: the enabled ones. Scope ``departments``."""
        return RestDepartment.read_rows((yield self.request("list_departments")), "departments")

    @operation
    def list_conversations(
        self,
        *,
        cursor: str | None = None,
        limit: int = PAGE_SIZE,
        date_from: datetime | str | None = None,
        date_to: datetime | str | None = None,
        medium: Medium | None = None,
        user_id: str | None = None,
        department_id: str | None = None,
    ) -> Steps[RestConversationPage]:
        """*List conversations*: one page of those of the last 30 days. Scope ``conversations``.

        Following ``next_cursor`` by hand loses or repeats conversations that share a time;
        :meth:`iter_conversations` does not.

        :param cursor: ``next_cursor`` of the page before.
        :param limit: rows, 1 to 25.
        :param date_from: earliest time; timezone-aware.
        :param date_to: latest time; timezone-aware.
        :param medium: ``call``, ``video``, ``email``, ``chat`` or ``live``.
        :param user_id: the user of the conversation.
        :param department_id: its department.
        """
        filters = _filters(date_from, date_to, medium, user_id, department_id)
        return (yield from self._page(cursor, filters, limit))

    @iteration
    def iter_conversations(
        self,
        *,
        date_from: datetime | str | None = None,
        date_to: datetime | str | None = None,
        medium: Medium | None = None,
        user_id: str | None = None,
        department_id: str | None = None,
    ) -> Findings[RestConversation]:
        """Iterate over all conversations of the last 30 days that the filters of *List conversations* leave.

        A page is requested when its rows are asked for, 25 at a time. Each conversation comes once and none is
        left out, however many share a time. Where more of them do than fit on a page, they are listed by medium,
        by user (active ones, and those seen) and by department (enabled ones, and those seen), which takes the
        scopes ``users`` and ``departments``; a warning says so, since one that has none of these would be missing.

        :raises DstnyResponseError: the API's pages cannot be put together completely.
        """
        return walk(_Conversations(self, _filters(date_from, date_to, medium, user_id, department_id)))

    @operation
    def get_conversation(
        self, conversation_id: str | int, *, include_transcript: bool = False, include_insights: bool = False
    ) -> Steps[RestConversation]:
        """*Get conversation* with summary and participants. Scope ``conversations``; counts against the daily quota.

        :param include_transcript: with its transcript as the API stores it; scope ``transcripts``.
        :param include_insights: with its insights; scope ``insights``.
        """
        # Left out when False: some servers read any text as true.
        params = [
            *boolean_param("include_transcript", include_transcript or None),
            *boolean_param("include_insights", include_insights or None),
        ]
        body = yield self.request("get_conversation", params=params, conversation_id=conversation_id)
        return RestConversation.read(body)

    @operation
    def get_transcript(self, conversation_id: str | int) -> Steps[Transcript]:
        """*Get transcript*. Scope ``transcripts``; counts against the daily quota.

        Before it exists, the API may also answer 404 (``DstnyNotFoundError``).
        """
        body = yield self.request("get_transcript", conversation_id=conversation_id)
        return Transcript.from_answer(str(conversation_id), body)

    @operation
    def get_insights(self, conversation_id: str | int) -> Steps[list[Insight]]:
        """*Get insights/topics*. Scope ``insights``; counts against the daily quota."""
        body = yield self.request("get_insights", conversation_id=conversation_id)
        return [Insight.read(row) for row in listed(body, "insights")]

    @operation
    def get_recording_url(self, conversation_id: str | int) -> Steps[Recording]:
        """*Get recording URL*. Scope ``recordings``, and the token's setting ``include_recordings=true``.

        Counts against the daily quota.
        """
        body = yield self.request("get_recording_url", conversation_id=conversation_id)
        return Recording.read(body, conversation_id=str(conversation_id))

    @operation
    def get_summary(self, conversation_id: str | int) -> Steps[Summary]:
        """*Get summary*. Scope ``conversations``; counts against the daily quota."""
        body = yield self.request("get_summary", conversation_id=conversation_id)
        return Summary.read(body, conversation_id=str(conversation_id))

    @operation
    def request_notetaker(self, request: NotetakerRequest | Mapping[str, Any]) -> Steps[Notetaker]:
        """*Request notetaker*: have a notetaker join a meeting. Scope ``notetaker``.

        :raises DstnyValidationError: the request is invalid; nothing was sent.
        :raises DstnyAmbiguousError: the answer was lost; a repeat may send a second notetaker.
        """
        sent = self.request("request_notetaker", json=NotetakerRequest.parse(request).to_json())
        return read_created(Notetaker, sent, (yield sent))

    @operation
    def list_webhook_deliveries(self, *, token_id: str | None = None) -> Steps[list[WebhookDelivery]]:
        """*List webhook deliveries* of the last 7 days; needs no scope.

        :param token_id: only those of one API token.
        """
        params = list(text_param("token_id", token_id))
        body = yield self.request("list_webhook_deliveries", params=params)
        return WebhookDelivery.read_rows(body, "deliveries")

    def _page(self, cursor: str | None, filters: Mapping[str, str], limit: int) -> Steps[RestConversationPage]:
        params = [*text_param("cursor", cursor), *limit_param(limit, PAGE_SIZE), *filters.items()]
        page = RestConversationPage.from_answer((yield self.request("list_conversations", params=params)))
        self.server_time = page.server_time or self.server_time
        return page


class _Conversations(Source[RestConversation]):
    """The conversation list with a user's filters, as something to walk."""

    def __init__(self, client: DstnyRestClient, filters: Mapping[str, str]) -> None:
        self._client = client
        self._filters = filters
        self.splits = [name for name in ("medium", "user_id", "department_id") if name not in filters]

    def page(self, cursor: str | None) -> Steps[Page[RestConversation]]:
        return (yield from self._fetch(cursor, self._filters))

    def cursor_time(self, cursor: str) -> datetime | None:
        return utc_time(cursor) if _TIMESTAMP.match(cursor) else None

    def moment(self, row: RestConversation) -> datetime | None:
        return utc_time(row.date)

    def window(self, since: datetime, until: datetime, filters: Mapping[str, str]) -> Steps[Page[RestConversation]]:
        earliest, latest = (utc_time(self._filters.get(name)) for name in ("date_from", "date_to"))
        window = {
            "date_from": iso_time(max(since, earliest or since)),
            "date_to": iso_time(min(until, latest or until)),
        }
        return (yield from self._fetch(None, {**self._filters, **window, **filters}))

    def split_values(self, name: str, rows: Sequence[RestConversation]) -> Steps[Sequence[str] | None]:
        if name == "medium":
            media = get_args(Medium)
            return media if all(row.medium in media for row in rows) else None
        belongs = [row.user if name == "user_id" else row.department for row in rows]
        seen = [str(one.id) for one in belongs if one is not None and one.id is not None]
        if len(seen) < len(rows):
            # A conversation of nobody would be in none of the parts.
            return None
        whole = self._client.list_users if name == "user_id" else self._client.list_departments
        try:
            known = [str(one.id) for one in (yield from whole.steps()) if one.id is not None]
        except DstnyScopeError:
            return None
        return list(dict.fromkeys([*seen, *known]))

    def _fetch(self, cursor: str | None, filters: Mapping[str, str]) -> Steps[Page[RestConversation]]:
        page = yield from self._client._page(cursor, filters, PAGE_SIZE)
        return Page.read(page.raw, "conversations", page.conversations, page.has_more, page.next_cursor)


def _filters(
    date_from: datetime | str | None,
    date_to: datetime | str | None,
    medium: str | None,
    user_id: str | None,
    department_id: str | None,
) -> dict[str, str]:
    since, until = aware_time("date_from", date_from), aware_time("date_to", date_to)
    if since is not None and until is not None and until < since:
        raise DstnyValidationError(None, "date_to must not be before date_from.")
    oldest = datetime.now(UTC) - timedelta(days=LISTED_DAYS)
    if (since or until or oldest) < oldest - timedelta(hours=1):
        _log.warning("The API lists conversations of the last %d days only: earlier ones are missing", LISTED_DAYS)
    return {
        **({"date_from": iso_time(since)} if since is not None else {}),
        **({"date_to": iso_time(until)} if until is not None else {}),
        **dict(choice_param("medium", medium, get_args(Medium))),
        **dict(text_param("user_id", user_id)),
        **dict(text_param("department_id", department_id)),
    }
