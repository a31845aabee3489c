"""Which conversations are complete: asked for now and then, for those who are told nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyError, DstnyNotFoundError, DstnyValidationError
from airflow_provider_dstny.api.tellcasey import TellcaseyClient
from airflow_provider_dstny.api.times import utc_time

if TYPE_CHECKING:
    from airflow_provider_dstny.waiting.wait import AnyClient

#: How far back is looked: as far as the API lists deliveries.
SHOWN = timedelta(days=7)
#: After so long without a delivery, webhooks may have been switched off.
_FRESH = timedelta(days=1)
#: Where deliveries do not tell, conversations are asked for as long.
_ASKED_FOR = timedelta(days=2)
#: Transcripts that are asked for in one look at the most.
_MOST = 25
#: Each API token of an account has a delivery of its own of one completion, at about the same time.
_SAME = timedelta(minutes=1)
_NEVER = datetime.min.replace(tzinfo=UTC)
_COMPLETED = "conversation.completed"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Completion:
    """A conversation that is complete.

    :param key: the same whenever one source shows it: the delivery's id, or else the conversation's. Another one if a
        delivery tells that the conversation was completed again.
    :param at: UTC, when it was completed, or took place where that is not told.
    """

    key: str
    conversation_id: str
    at: datetime


@dataclass
class Completions:
    """Looks for complete conversations with one client.

    REST API v1: the account's webhook deliveries, wherever they went; without one of the last day also the transcripts
    of what else the list shows of the last two days, each of which counts against the daily quota. tellcasey: the list.

    :raises DstnyValidationError: of API v2, which has no list that tells.
    """

    client: AnyClient
    _complete: dict[str, Completion] = field(default_factory=dict)
    _asked_at: dict[str, datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.client, DstnyClient):
            raise DstnyValidationError(
                None,
                "API v2 has no list that tells what is complete.",
                hint="Take its webhooks in, or use a connection of type dstny_rest.",
            )

    async def look(self, now: datetime) -> list[Completion]:
        """Return what is complete of the last days, all of it each time, the oldest first.

        :param now: UTC.
        :raises DstnyError: the API did not tell; a later look may.
        """
        found: Iterable[Completion] = ()
        match self.client:
            case DstnyRestClient() as rest:
                delivered = await self._delivered(rest, now)
                is_fresh = any(one.at > now - _FRESH for one in delivered)
                found = delivered if is_fresh else [*delivered, *await self._transcribed(rest, now, but=delivered)]
            case TellcaseyClient() as casey:
                found = await self._listed_as_complete(casey, now)
        return sorted(found, key=lambda one: (one.at, one.key))

    async def _delivered(self, client: DstnyRestClient, now: datetime) -> list[Completion]:
        try:
            deliveries = await client.list_webhook_deliveries.aio()
        except DstnyNotFoundError:
            # An account without webhooks may have no list of them.
            return []
        return [
            Completion(str(delivery.id), str(delivery.resource_id), at)
            for delivery in deliveries
            if delivery.event_type == _COMPLETED
            and delivery.id
            and delivery.resource_id
            and (at := utc_time(delivery.created_at)) is not None
            and at > now - SHOWN
        ]

    async def _transcribed(
        self, client: DstnyRestClient, now: datetime, *, but: Iterable[Completion]
    ) -> Iterable[Completion]:
        told = {one.conversation_id for one in but}
        listed: dict[str, datetime] = {}
        async for row in client.iter_conversations.aio(date_from=now - _ASKED_FOR, date_to=now):
            if row.id is not None and str(row.id) not in told:
                listed[str(row.id)] = utc_time(row.date) or now
        self._complete = {one: known for one, known in self._complete.items() if one in listed}
        self._asked_at = {one: at for one, at in self._asked_at.items() if one in listed}
        # The newest first, of which most is not complete yet; then all take turns.
        unknown = sorted(listed.keys() - self._complete.keys(), key=lambda one: listed[one], reverse=True)
        unknown.sort(key=lambda one: self._asked_at.get(one, _NEVER))
        for conversation_id in unknown[:_MOST]:
            self._asked_at[conversation_id] = now
            try:
                transcript = await client.get_transcript.aio(conversation_id)
            except DstnyNotFoundError:
                continue
            except DstnyError as error:
                if error.affects_all and not self._complete:
                    raise
                _log.warning("Conversation %s: %s", conversation_id, error)
                if error.affects_all:
                    # What is known is told all the same.
                    break
                continue
            if transcript.is_ready:
                self._complete[conversation_id] = Completion(conversation_id, conversation_id, listed[conversation_id])
        return self._complete.values()

    async def _listed_as_complete(self, client: TellcaseyClient, now: datetime) -> list[Completion]:
        found = []
        async for row in client.iter_conversations.aio(status="completed"):
            at = utc_time(row.completed_at) or utc_time(row.started_at) or now
            if row.id is not None and at > now - SHOWN:
                found.append(Completion(str(row.id), str(row.id), at))
        return found


@dataclass
class Fired:
    """Which completions were told before.

    :param since: UTC; what was completed before is nobody's news.
    :param told: by conversation id, the keys of its completions, with their times.
    """

    since: datetime
    told: dict[str, dict[str, datetime]] = field(default_factory=dict)

    def __or__(self, other: Fired) -> Fired:
        """Return what either knows: what one has told is told, and what came after the earlier one began is news."""
        told = {one: self.told.get(one, {}) | other.told.get(one, {}) for one in self.told.keys() | other.told.keys()}
        return Fired(min(self.since, other.since), told)

    def news(self, found: Iterable[Completion]) -> list[Completion]:
        """Return what was not told before, and remember it; what is not shown any more is forgotten.

        :param found: the oldest first.
        """
        found = [one for one in found if one.at > self.since]
        new = []
        for one in found:
            if not self._is_told(one):
                new.append(one)
            self.told.setdefault(one.conversation_id, {}).setdefault(one.key, one.at)
        latest = max((one.at for one in found), default=self.since)
        # Twice as long, since the API may show a delivery a little longer than we do.
        self.told = {one: keys for one, keys in self.told.items() if max(keys.values()) > latest - 2 * SHOWN}
        return new

    def _is_told(self, one: Completion) -> bool:
        """Tell whether it was told, if only from the other source: a transcript and the first delivery are the same."""
        keys = self.told.get(one.conversation_id, {})
        by_transcript = one.conversation_id
        if one.key in keys or keys.keys() == {by_transcript} or (keys and one.key == by_transcript):
            return True
        return any(abs(one.at - at) <= _SAME for at in keys.values())

    def to_json(self) -> dict[str, object]:
        told = {one: {key: at.isoformat() for key, at in keys.items()} for one, keys in self.told.items()}
        return {"since": self.since.isoformat(), "told": told}

    @classmethod
    def from_json(cls, stored: object) -> Fired | None:
        """Read what :meth:`to_json` wrote, None if it is something else."""
        try:
            assert isinstance(stored, Mapping)
            told = {
                str(one): {str(key): datetime.fromisoformat(at) for key, at in keys.items()}
                for one, keys in stored["told"].items()
                if keys
            }
            return cls(datetime.fromisoformat(stored["since"]), told)
        except (AssertionError, KeyError, TypeError, ValueError, AttributeError):
            return None
