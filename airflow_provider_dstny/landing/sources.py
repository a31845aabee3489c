"""What each API is asked for: its list of conversations, one conversation, its directory."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Collection
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Protocol

from airflow_provider_dstny.api.client import ApiClient
from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyNotFoundError, DstnyResponseError
from airflow_provider_dstny.api.models.base import listed as rows_below
from airflow_provider_dstny.api.models.base import unwrap
from airflow_provider_dstny.api.models.transcripts import has_text
from airflow_provider_dstny.api.tellcasey import TellcaseyClient
from airflow_provider_dstny.api.times import utc_time
from airflow_provider_dstny.export.layout import LAYOUTS, Layout
from airflow_provider_dstny.export.ledger import Listed
from airflow_provider_dstny.export.tables import json_text
from airflow_provider_dstny.export.windows import Window

#: What the list of v1 is documented to show; what else it may show can change with every request.
_VERSIONED = (
    "id",
    "title",
    "company",
    "date",
    "duration",
    "medium",
    "sentiment",
    "conversation_type",
    "department",
    "user",
)


class Source(Protocol):
    """One API, and what of it is landed.

    ``needs_row`` says that a conversation can only be read together with its row of the list, ``requests_each`` how
    many requests one takes.
    """

    layout: Layout
    #: How far back the list goes, None if it has no end.
    forgotten_after: timedelta | None
    #: Conversations a day, as documented; None without a quota.
    daily_quota: int | None
    needs_row: bool
    requests_each: int

    @property
    def server_time(self) -> datetime | None:
        """The API's clock, as far as it was told; UTC."""

    def listing(self, window: Window) -> AsyncIterator[tuple[Listed, Any]]:
        """Yield what a window lists: what the ledger takes in, and the row as it came."""

    async def read(self, conversation_id: str, row: Any) -> dict[str, Any]:
        """Return the answer on one conversation, in the form that the layout reads.

        :param row: its row of the list, None if it was not listed.
        :raises DstnyNotFoundError: there is none.
        """

    def listed(self, body: dict[str, Any]) -> Listed:
        """Return what the list would show of a conversation, by its answer."""

    def listed_body(self, conversation_id: str, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row of the list in the form that the layout reads."""

    def is_complete(self, body: dict[str, Any]) -> bool:
        """Tell whether an answer has all that it is going to have."""

    async def completed(self) -> dict[str, datetime]:
        """Return when conversations were told to be complete, UTC; empty if that is not told."""

    async def directory(self, tables: Collection[str]) -> dict[str, Any]:
        """Return the answers on users, teams and departments, as far as the tables need them."""


def source_of(client: ApiClient, tables: Collection[str]) -> Source:
    """Return what to ask an API for.

    :param tables: names of the tables to fill.
    """
    match client:
        case DstnyRestClient():
            return RestSource(client, tables)
        case DstnyClient():
            return DstnySource(client, tables)
        case TellcaseyClient():
            return TellcaseySource(client, tables)
    raise TypeError(f"no export of {client.name}")


class RestSource:
    """The REST API v1: one request per conversation, and a quota of conversations a day."""

    layout = LAYOUTS["dstny_rest"]
    forgotten_after: timedelta | None = timedelta(days=30)
    daily_quota: int | None = 1000
    needs_row = False
    requests_each = 1

    def __init__(self, client: DstnyRestClient, tables: Collection[str]) -> None:
        self._client = client
        self._include = {
            "include_transcript": "transcript_segments" in tables,
            "include_insights": "insights" in tables,
        }

    @property
    def server_time(self) -> datetime | None:
        return self._client.server_time

    async def listing(self, window: Window) -> AsyncIterator[tuple[Listed, Any]]:
        async for row in self._client.iter_conversations.aio(date_from=window.since, date_to=window.until):
            if row.id is not None and isinstance(row.raw, dict):
                yield self.listed(row.raw), row.raw

    async def read(self, conversation_id: str, row: Any) -> dict[str, Any]:
        answer = await self._client.get_conversation.aio(conversation_id, **self._include)
        body = _checked(conversation_id, answer.id, answer.raw)
        # It tells the beginning of the token.
        return {name: value for name, value in body.items() if name != "_meta"}

    def listed(self, body: dict[str, Any]) -> Listed:
        shown = {name: body.get(name) for name in _VERSIONED}
        return Listed(str(body.get("id")), utc_time(body.get("date")), version_of(shown))

    def listed_body(self, conversation_id: str, row: dict[str, Any]) -> dict[str, Any]:
        return row

    def is_complete(self, body: dict[str, Any]) -> bool:
        if self._include["include_transcript"]:
            return has_text({"transcript": body.get("transcript")})
        return bool(body.get("summary") or body.get("insights"))

    async def completed(self) -> dict[str, datetime]:
        told: dict[str, datetime] = {}
        for delivery in await self._client.list_webhook_deliveries.aio():
            moment = utc_time(delivery.created_at)
            if delivery.resource_id and moment and delivery.event_type == "conversation.completed":
                shown_id = str(delivery.resource_id)
                told[shown_id] = max(moment, told.get(shown_id, moment))
        return told

    async def directory(self, tables: Collection[str]) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        if "users" in tables:
            answers["users"] = [one.raw for one in await self._client.list_users.aio()]
        if not {"teams", "team_members"}.isdisjoint(tables):
            answers["teams"] = [one.raw for one in await self._client.list_teams.aio()]
        if "departments" in tables:
            answers["departments"] = [one.raw for one in await self._client.list_departments.aio()]
        return answers


class DstnySource:
    """API v2: a conversation is a row of the list and the answers of up to six further operations."""

    layout = LAYOUTS["dstny"]
    forgotten_after: timedelta | None = None
    daily_quota: int | None = None
    server_time: datetime | None = None
    needs_row = True

    def __init__(self, client: DstnyClient, tables: Collection[str]) -> None:
        self._client = client
        self._has_transcript = "transcript_segments" in tables
        reads = {
            "insights": client.get_insights,
            "ai_analytics": client.get_ai_analytics,
            "playbooks": client.get_playbooks,
            "magic_variables": client.get_magic_variable_requests,
            "department_insights": client.get_department_insights,
        }
        self._reads = {name: read for name, read in reads.items() if name in tables}
        self.requests_each = len(self._reads) + self._has_transcript

    async def listing(self, window: Window) -> AsyncIterator[tuple[Listed, Any]]:
        day = window.since.date()
        # The list has no pages: day by day, no answer grows too long.
        while day <= window.until.date():
            for row in await self._client.list_conversations.aio(global_start=day, global_end=day):
                if row.id is None or not isinstance(row.raw, dict):
                    continue
                moment = self.layout.occurred_at({"conversation": row.raw})
                # A day's list may hold what lies in another by the account's timezone.
                if moment is None or moment <= window.until:
                    yield self.listed(self.listed_body(str(row.id), row.raw)), row.raw
            day += timedelta(days=1)

    async def read(self, conversation_id: str, row: Any) -> dict[str, Any]:
        body: dict[str, Any] = {"conversation_id": conversation_id, "conversation": row}
        if self._has_transcript:
            body["transcript"] = None
            with suppress(DstnyNotFoundError):
                body["transcript"] = (await self._client.get_transcript.aio(conversation_id)).raw
        for name, read in self._reads.items():
            body[name] = []
            with suppress(DstnyNotFoundError):
                body[name] = await read.aio(conversation_id)
        return body

    def listed(self, body: dict[str, Any]) -> Listed:
        shown = {name: value for name, value in body["conversation"].items() if not isinstance(value, dict | list)}
        return Listed(body["conversation_id"], self.layout.occurred_at(body), version_of(shown))

    def listed_body(self, conversation_id: str, row: dict[str, Any]) -> dict[str, Any]:
        return {"conversation_id": conversation_id, "conversation": row}

    def is_complete(self, body: dict[str, Any]) -> bool:
        if self._has_transcript:
            return has_text(body["transcript"])
        return not self._reads or any(body[name] for name in self._reads)

    async def completed(self) -> dict[str, datetime]:
        return {}

    async def directory(self, tables: Collection[str]) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        if "users" in tables:
            answers["users"] = [one.raw for one in await self._client.list_users.aio()]
        if not {"teams", "team_members"}.isdisjoint(tables):
            answers["teams"] = []
            for team in await self._client.list_teams.aio():
                found = {**team.raw} if isinstance(team.raw, dict) else {}
                if "team_members" in tables and team.id is not None:
                    found["members"] = [one.raw for one in await self._client.list_team_users.aio(str(team.id))]
                answers["teams"].append(found)
        if "departments" in tables:
            answers["departments"] = [one.raw for one in await self._client.list_departments.aio()]
        return answers


class TellcaseySource:
    """tellcasey: a conversation and its messages. The list has no filter by time."""

    layout = LAYOUTS["tellcasey"]
    forgotten_after: timedelta | None = None
    daily_quota: int | None = None
    server_time: datetime | None = None
    needs_row = False

    def __init__(self, client: TellcaseyClient, tables: Collection[str]) -> None:
        self._client = client
        self._has_messages = "messages" in tables
        self.requests_each = 1 + self._has_messages

    async def listing(self, window: Window) -> AsyncIterator[tuple[Listed, Any]]:
        async for row in self._client.iter_conversations.aio():
            moment = utc_time(row.started_at)
            is_meant = moment is None or window.since <= moment <= window.until
            if row.id is not None and isinstance(row.raw, dict) and is_meant:
                yield self.listed(row.raw), row.raw

    async def read(self, conversation_id: str, row: Any) -> dict[str, Any]:
        answer = await self._client.get_conversation.aio(conversation_id)
        body = {**_checked(conversation_id, answer.id, unwrap(answer.raw))}
        if self._has_messages:
            body["messages"] = []
            with suppress(DstnyNotFoundError):
                transcript = await self._client.get_transcript.aio(conversation_id)
                body["messages"] = rows_below(unwrap(transcript.raw), "messages")
        return body

    def listed(self, body: dict[str, Any]) -> Listed:
        shown = {name: body.get(name) for name in ("status", "completed_at", "turn_count", "agent_id")}
        return Listed(str(body.get("id")), utc_time(body.get("started_at")), version_of(shown))

    def listed_body(self, conversation_id: str, row: dict[str, Any]) -> dict[str, Any]:
        return row

    def is_complete(self, body: dict[str, Any]) -> bool:
        ended = body.get("status") in ("completed", "abandoned", "archived")
        return ended and (body.get("status") != "completed" or not self._has_messages or bool(body["messages"]))

    async def completed(self) -> dict[str, datetime]:
        return {}

    async def directory(self, tables: Collection[str]) -> dict[str, Any]:
        return {}


def version_of(shown: Any) -> str:
    """Return what stands for a JSON value."""
    try:
        text = json_text(shown, sort_keys=True)
    except RecursionError:
        # Nobody nests like this but to break something.
        text = ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checked(asked: str, told: Any, body: Any) -> dict[str, Any]:
    if not isinstance(body, dict) or str(told) != asked:
        raise DstnyResponseError(f"The answer on conversation {asked} is not about it. A retry may pass.")
    return body
