"""Dstny REST API v1 as a state that moves with time: conversations arrive, then get their transcripts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields as fields_of
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_dstny.simulator.api import Api
from airflow_provider_dstny.simulator.contract import Call, Contract, ContractError
from airflow_provider_dstny.simulator.limits import DailyQuota, RateLimit
from airflow_provider_dstny.simulator.moments import to_epoch, to_text
from airflow_provider_dstny.simulator.rest_conversations import (
    RestConversation,
    default_fields,
    fresh_fields,
    sample_fields,
)
from airflow_provider_dstny.simulator.rest_directory import ACCOUNT, DEPARTMENTS, TEAMS, USERS
from airflow_provider_dstny.simulator.rest_store import RestStore
from airflow_provider_dstny.simulator.samples import NotReady, id_of, new_id, seeded
from airflow_provider_dstny.simulator.webhooks import Sender, delivered

_SCOPE_OF = {
    "list_users": "users",
    "list_teams": "teams",
    "list_departments": "departments",
    "list_conversations": "conversations",
    "get_conversation": "conversations",
    "get_transcript": "transcripts",
    "get_insights": "insights",
    "get_recording_url": "recordings",
    "get_summary": "conversations",
    "request_notetaker": "notetaker",
}
_SCOPE_OF_FLAG = {"include_transcript": "transcripts", "include_insights": "insights"}
SCOPES = tuple(dict.fromkeys(_SCOPE_OF.values()))

_DAY = 86400.0
_CHANGEABLE = {field.name for field in fields_of(RestConversation) if field.init} - {"id"}
_MEETING_HOSTS = {
    "zoom.us": "zoom",
    "zoom.com": "zoom",
    "teams.microsoft.com": "microsoft_teams",
    "teams.live.com": "microsoft_teams",
    "meet.google.com": "google_meet",
}


class RestState(Api):
    """The account behind the simulated API v1."""

    name = "dstny_rest"

    def __init__(
        self,
        *,
        tokens: Mapping[str, Iterable[str]],
        recordings_url: str,
        requests_per_minute: float | None,
        daily_conversation_quota: int | None,
        newest_first: bool,
        inclusive_cursor: bool,
        visible_after: float,
        transcript_after: float,
        jitter: float,
        not_ready: NotReady,
        samples: int,
        fresh: int,
        seed: int,
        clock: Callable[[], float],
        webhooks: bool = True,
        sender: Sender | None = None,
    ) -> None:
        # As documented for v1, invalid parameters are a 400.
        self.contract = Contract(self.name, invalid_status=400)
        self.tokens = {token: frozenset(scopes) for token, scopes in tokens.items()}
        self.conversations = RestStore(newest_first=newest_first)
        #: May be set at any time.
        self.webhooks = webhooks
        self._sender = sender
        self._recordings_url = recordings_url
        self._inclusive_cursor = inclusive_cursor
        self._visible_after = visible_after
        self._transcript_after = transcript_after
        self._jitter = jitter
        self._not_ready = not_ready
        self._clock = clock
        self._rate_limit = RateLimit(requests_per_minute, clock)
        self._quota = DailyQuota(daily_conversation_quota, clock)
        self._random = seeded(f"{seed} rest")
        self._lock = threading.RLock()
        start = clock()
        for fields in sample_fields(seed, start, samples):
            self.add(**fields)
        for fields in fresh_fields(seed, start, fresh, transcript_after=transcript_after, jitter=jitter):
            self.add(**fields)
        if sender is not None:
            sender.leave_out(self._complete())

    def add(self, **fields: Any) -> RestConversation:
        """Add a conversation; what is not given is made up, and without moments it is complete now."""
        with self._lock:
            now = self._clock()
            made = {**default_fields(len(self.conversations), new_id(self._random), now), **fields}
            made["date"] = round(made["date"], 3)
            made.setdefault("arrives_at", min(made["date"] + made["duration"], now))
            made.setdefault("transcript_at", made["arrives_at"])
            made.setdefault("recording", f"{made['id']}.{'mp3' if made['medium'] == 'call' else 'mp4'}")
            conversation = RestConversation(**made)
            self.conversations[conversation.id] = conversation
            return conversation

    def change(self, conversation_id: str, **fields: Any) -> RestConversation:
        """Change fields of a conversation, which is seen at once.

        :raises KeyError: there is no such conversation.
        :raises TypeError: there is no such field, or it is the id.
        """
        if unknown := sorted(fields.keys() - _CHANGEABLE):
            raise TypeError(f"a conversation has nothing to change called {', '.join(unknown)}")
        with self._lock:
            one = self.conversations[conversation_id]
            if "date" in fields:
                fields["date"] = round(fields["date"], 3)
            if "summary" in fields:
                fields.setdefault("summary_changed_at", self._clock())
            for name, value in fields.items():
                setattr(one, name, value)
            return one

    def delete(self, conversation_id: str) -> None:
        """Delete a conversation: nothing tells of it any more.

        :raises KeyError: there is no such conversation.
        """
        with self._lock:
            del self.conversations[conversation_id]

    def send_webhooks(self) -> None:
        """Tell the receiver of conversations that have become complete, and again of what it did not take."""
        if self.webhooks and self._sender is not None:
            with self._lock:
                complete = self._complete()
            self._sender.send(complete)

    def authorize(self, token: str) -> ContractError | None:
        if token not in self.tokens:
            return ContractError(401, "Invalid or expired token")
        return self._rate_limit.take(token)

    def answer(self, call: Call, token: str) -> Any:
        with self._lock:
            for scope in _scopes(call):
                if scope not in self.tokens[token]:
                    raise ContractError(403, f"Token does not have the '{scope}' scope")
            operation = getattr(self, f"_{call.operation}")
            if "conversation_id" in call.ids:
                conversation = self._visible(call.ids["conversation_id"])
                self._quota.count(token, conversation.id)
                answer = operation(conversation, call.query)
            else:
                answer = operation(call.body or call.query)
            return {**answer, "_meta": {"token_prefix": token[:11], "timestamp": to_text(self._clock())}}

    def _get_account(self, query: Mapping[str, Any]) -> dict[str, Any]:
        return ACCOUNT

    def _list_users(self, query: Mapping[str, Any]) -> dict[str, Any]:
        return {"users": USERS}

    def _list_teams(self, query: Mapping[str, Any]) -> dict[str, Any]:
        return {"teams": TEAMS}

    def _list_departments(self, query: Mapping[str, Any]) -> dict[str, Any]:
        return {"departments": DEPARTMENTS}

    def _list_conversations(self, query: Mapping[str, Any]) -> dict[str, Any]:
        now, limit = self._clock(), query.get("limit", 25)
        first = max(now - 30 * _DAY, to_epoch(query["date_from"]) if "date_from" in query else 0)
        last = to_epoch(query["date_to"]) if "date_to" in query else float("inf")
        # A mere time: exclusive, it skips others of that time; inclusive, it sticks where they are more than a page.
        cursor = to_epoch(query["cursor"]) if "cursor" in query else None
        rows = (
            one
            for one in self.conversations.between(first, last, cursor=cursor, inclusive=self._inclusive_cursor)
            if now >= one.arrives_at
            and query.get("medium", one.medium) == one.medium
            and query.get("department_id", _id(one.department)) == _id(one.department)
            and query.get("user_id", _id(one.user)) == _id(one.user)
        )
        page = list(islice(rows, limit))
        has_more = next(rows, None) is not None
        return {
            "conversations": [one.row() for one in page],
            "pagination": {
                "has_more": has_more,
                "next_cursor": to_text(page[-1].date) if has_more else None,
                "limit": limit,
            },
        }

    def _get_conversation(self, one: RestConversation, query: Mapping[str, Any]) -> dict[str, Any]:
        ready = self._is_ready(one)
        detail = {**one.row(), "summary": one.summary if ready else None, "participants": one.participants}
        if query.get("include_transcript") == "true":
            detail["transcript"] = one.transcript() if ready else self._no_transcript()
        if query.get("include_insights") == "true":
            detail["insights"] = one.insights() if ready else []
        return detail

    def _get_transcript(self, one: RestConversation, query: Mapping[str, Any]) -> dict[str, Any]:
        if not self._is_ready(one) and self._not_ready == "404":
            raise ContractError(404, "Transcript not found")
        return {
            "conversation_id": one.id,
            "transcript": one.transcript() if self._is_ready(one) else self._no_transcript(),
        }

    def _no_transcript(self) -> dict[str, Any] | None:
        styles: dict[str, dict[str, Any] | None] = {"404": None, "null": None, "empty": {"segments": []}, "blank": {}}
        return styles[self._not_ready]

    def _get_insights(self, one: RestConversation, query: Mapping[str, Any]) -> dict[str, Any]:
        return {"conversation_id": one.id, "insights": one.insights() if self._is_ready(one) else []}

    def _get_recording_url(self, one: RestConversation, query: Mapping[str, Any]) -> dict[str, Any]:
        answer = {"conversation_id": one.id, "has_recording": one.has_recording}
        if one.has_recording:
            signature = id_of("signature", one.id, self._clock())
            answer["recording_url"] = f"{self._recordings_url}/{one.recording}?signature={signature}"
        return answer

    def _get_summary(self, one: RestConversation, query: Mapping[str, Any]) -> dict[str, Any]:
        if not self._is_ready(one) or one.summary is None:
            raise ContractError(404, "Summary not found")
        return {
            "conversation_id": one.id,
            "summary": one.summary,
            "created_at": to_text(one.transcript_at),
            "updated_at": to_text(max(one.transcript_at, one.summary_changed_at or 0)),
        }

    def _request_notetaker(self, body: Mapping[str, Any]) -> dict[str, Any]:
        now, platform = self._clock(), _platform(body["meeting_url"])
        takes_place = to_epoch(body["meeting_start_time"]) if "meeting_start_time" in body else now
        arrives_at = max(now, takes_place) + self._visible_after
        self.add(
            title=body.get("meeting_title", "Ad-hoc meeting"),
            date=takes_place,
            medium="video",
            arrives_at=arrives_at,
            transcript_at=arrives_at + self._transcript_after + self._random.uniform(0, self._jitter),
        )
        return {
            "id": new_id(self._random),
            "provider_bot_id": f"bot_{len(self.conversations)}",
            "meeting_platform": platform,
            "meeting_title": body.get("meeting_title"),
            "meeting_start_time": body.get("meeting_start_time"),
            "status": "joining",
            "status_message": None,
            "conversation_id": None,
            "created_at": to_text(now),
        }

    def _list_webhook_deliveries(self, query: Mapping[str, Any]) -> dict[str, Any]:
        now = self._clock()
        latest = [one for one in self._complete() if self.webhooks and one.transcript_at > now - 7 * _DAY]
        latest.sort(key=lambda one: (-one.transcript_at, one.id))
        rows = [delivered(one) if self._sender is None else self._sender.row(one) for one in latest]
        return {"deliveries": [row for row in rows if row is not None]}

    def _complete(self) -> list[RestConversation]:
        return [one for one in self.conversations.values() if self._is_ready(one)]

    def _visible(self, conversation_id: str) -> RestConversation:
        one = self.conversations.get(conversation_id)
        if one is None or self._clock() < one.arrives_at:
            raise ContractError(404, "Conversation not found")
        return one

    def _is_ready(self, one: RestConversation) -> bool:
        return self._clock() >= max(one.arrives_at, one.transcript_at)


def _scopes(call: Call) -> list[str]:
    flags = [scope for flag, scope in _SCOPE_OF_FLAG.items() if call.query.get(flag) == "true"]
    return [_SCOPE_OF[call.operation], *flags] if call.operation in _SCOPE_OF else []


def _id(named: Mapping[str, Any] | None) -> Any:
    return named["id"] if named else None


def _platform(meeting_url: str) -> str:
    host = urlsplit(meeting_url).hostname or ""
    for known, platform in _MEETING_HOSTS.items():
        if host == known or host.endswith(f".{known}"):
            return platform
    raise ContractError(400, "meeting_url must be a Zoom, Microsoft Teams or Google Meet URL")
