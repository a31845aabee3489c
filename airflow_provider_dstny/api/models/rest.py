"""What the REST API v1 of Dstny CI 2.0 answers, and the one thing that it takes."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, AliasChoices, Field, StrictStr, model_validator

from airflow_provider_dstny.api.models.base import Answer, Payload, listed
from airflow_provider_dstny.api.models.types import Text, Timestamp
from airflow_provider_dstny.api.times import utc_time

#: Where the meetings live that a notetaker can join.
_MEETING_HOSTS = re.compile(
    r"(?:[\w-]+\.)*zoom(?:gov)?\.(?:us|com)"
    r"|teams\.(?:microsoft|live)\.com|(?:[\w-]+\.)?teams\.microsoft\.us|teams\.cloud\.microsoft"
    r"|meet\.google\.com"
)


class RestAnswer(Answer):
    """An answer with its ``_meta``: the start of the token, and the clock of the server."""

    @property
    def token_prefix(self) -> str | None:
        prefix = _meta(self.raw).get("token_prefix")
        return prefix if isinstance(prefix, str) else None

    @property
    def server_time(self) -> datetime | None:
        """The server's clock, UTC; None where the answer does not tell it."""
        return utc_time(_meta(self.raw).get("timestamp"))


class Account(RestAnswer):
    """The account of the token, and its branding."""

    id: str | None = None
    name: str | None = None
    created_at: str | None = None
    updated_at: str | None = None
    brand_name: str | None = None
    brand_logo_url: str | None = None


class RestUser(Answer):
    """An active user of the account."""

    id: str | int | None = None
    full_name: str | None = Field(default=None, validation_alias=AliasChoices("full_name", "name"))
    email: str | None = None
    role: str | None = None
    team_id: str | None = None
    team_name: str | None = None


class RestTeam(Answer):
    """A team and its members."""

    id: str | int | None = None
    name: str | None = None
    created_at: str | None = None
    members: list[RestUser] | None = Field(default=None, repr=False)


class RestDepartment(Answer):
    """An enabled department."""

    id: str | int | None = None
    name: str | None = None
    slug: str | None = None
    enabled: bool | None = None
    display_name: str | None = None


class RestConversation(RestAnswer):
    """A conversation. Rows of the list have neither summary nor participants.

    ``date`` is when it took place (ISO 8601), which may be long before it was uploaded; ``duration`` is in
    seconds. ``transcript`` and ``insights`` are there when they were asked for.
    """

    id: str | int | None = None
    title: str | None = Field(default=None, repr=False)
    company: str | None = Field(default=None, repr=False)
    date: str | None = None
    duration: float | None = None
    medium: str | None = None
    sentiment: str | None = None
    conversation_type: str | None = None
    summary: str | None = Field(default=None, repr=False)
    department: RestDepartment | None = None
    user: RestUser | None = Field(default=None, repr=False)
    participants: list[Any] | None = Field(default=None, repr=False)
    transcript: Any = Field(default=None, repr=False)
    insights: list[Any] | None = Field(default=None, repr=False)


class RestConversationPage(RestAnswer):
    """One page of the list. ``next_cursor`` is an ISO timestamp, None on the last page."""

    conversations: list[RestConversation] = Field(default_factory=list, repr=False)
    has_more: bool | None = Field(default=None, validation_alias=AliasChoices("has_more", "hasMore"))
    next_cursor: str | None = Field(default=None, validation_alias=AliasChoices("next_cursor", "nextCursor"))
    limit: int | None = None

    @classmethod
    def from_answer(cls, body: Any) -> Self:
        pagination = body.get("pagination") if isinstance(body, dict) else None
        page = cls.read(pagination)
        rows = [RestConversation.read(row) for row in listed(body, "conversations")]
        return page.model_copy(update={"conversations": rows, "raw": body})


class Insight(Answer):
    """Something that was found in a conversation; times are seconds from its start."""

    id: str | int | None = None
    insight_type: str | None = None
    insight_text: str | None = Field(default=None, repr=False)
    kpi_slug: str | None = None
    kpi_label: str | None = None
    impact: str | None = None
    start_time_seconds: float | None = None
    end_time_seconds: float | None = None
    message_index: int | None = None


class Recording(RestAnswer):
    """Whether there is a recording, and where. The URL may be signed: it opens the recording to anybody."""

    conversation_id: str | None = None
    has_recording: bool | None = None
    url: str | None = Field(
        default=None,
        repr=False,
        validation_alias=AliasChoices("recording_url", "url", "signed_url", "download_url"),
    )


class Summary(RestAnswer):
    """The stored summary of a conversation."""

    conversation_id: str | None = None
    summary: str | None = Field(default=None, repr=False)
    created_at: str | None = None
    updated_at: str | None = None


class Notetaker(RestAnswer):
    """A notetaker that was asked to join a meeting."""

    id: str | int | None = None
    provider_bot_id: str | None = None
    meeting_platform: str | None = None
    meeting_title: str | None = Field(default=None, repr=False)
    meeting_start_time: str | None = None
    status: str | None = None
    status_message: str | None = None
    conversation_id: str | None = None
    created_at: str | None = None


class WebhookDelivery(Answer):
    """One delivery of a webhook, of the last 7 days."""

    id: str | int | None = None
    event_type: str | None = None
    resource_id: str | int | None = None
    status: str | None = None
    attempts: int | None = None
    last_attempt_at: str | None = None
    delivered_at: str | None = None
    response_status: int | None = None
    created_at: str | None = None


def _meeting_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        known = parts.scheme == "https" and bool(_MEETING_HOSTS.fullmatch((parts.hostname or "").lower()))
    except ValueError:
        known = False
    if not known or parts.username or len(parts.path) < 2 or re.search(r"[\s\x00-\x1f]", value):
        raise ValueError("must be the https link of a Zoom, Microsoft Teams or Google Meet meeting")
    return value


class NotetakerRequest(Payload):
    """The body of *Request notetaker*. Without times the notetaker joins at once; times are timezone-aware."""

    meeting_url: Annotated[StrictStr, AfterValidator(_meeting_url)]
    meeting_title: Text | None = None
    meeting_start_time: Timestamp | None = None
    meeting_end_time: Timestamp | None = None
    meeting_platform: Text | None = None

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        start, end = self.meeting_start_time, self.meeting_end_time
        if start is not None and end is not None and end <= start:
            raise ValueError("meeting_end_time must be after meeting_start_time")
        return self


def _meta(body: Any) -> dict[str, Any]:
    meta = body.get("_meta") if isinstance(body, dict) else None
    return meta if isinstance(meta, dict) else {}
