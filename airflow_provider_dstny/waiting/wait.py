"""When is a wait over: one decision, fed by poke, by the trigger and by anything else that waits."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

from airflow_provider_dstny.api.errors import (
    DstnyApiError,
    DstnyConnectionError,
    DstnyError,
    DstnyNotFoundError,
    DstnyQuotaError,
    DstnyRateLimitError,
    DstnyResponseError,
    DstnyServerError,
    DstnyTimeoutError,
    DstnyValidationError,
)
from airflow_provider_dstny.api.ids import unique_ids

if TYPE_CHECKING:
    from airflow_provider_dstny.api.dstny import DstnyClient
    from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
    from airflow_provider_dstny.api.operation import Steps
    from airflow_provider_dstny.api.tellcasey import TellcaseyClient

    #: Any API can be waited for.
    AnyClient: TypeAlias = DstnyClient | DstnyRestClient | TellcaseyClient

#: Ends the stored cause of a wait with conversations that nobody has looked at so far.
_NOT_ALL_ASKED = " (not all were asked for yet)"
#: Statuses in which tellcasey ends a conversation that was not completed.
ENDED = ("abandoned", "archived")
#: The life of a tellcasey conversation, in order.
LIFE = ("pending", "in_progress", "completed")


def utc_now() -> datetime:
    return datetime.now(UTC)


class WaitState(StrEnum):
    """How a wait stands. All but WAITING are final."""

    WAITING = "waiting"
    READY = "ready"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    GAVE_UP = "gave_up"


@dataclass(frozen=True, slots=True)
class Decision:
    """The state of a wait, why, and what is ready: per conversation id what was found, in numbers and states."""

    state: WaitState
    reason: str
    ready: dict[str, dict[str, Any]] = field(default_factory=dict)

    def to_event(self) -> dict[str, Any]:
        return {"state": str(self.state), "reason": self.reason, "ready": self.ready}

    @classmethod
    def from_event(cls, event: Any) -> Decision:
        """Read an event back; anything but a well-formed final state counts as failed."""
        try:
            decision = cls(WaitState(event["state"]), str(event["reason"]), dict(event["ready"]))
        except (TypeError, KeyError, ValueError):
            return cls(WaitState.FAILED, f"The trigger sent an event that is not understood: {type(event).__name__}.")
        if decision.state is WaitState.WAITING:
            return cls(WaitState.FAILED, "The trigger ended without a final state.")
        return decision


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one look at one conversation showed: what was found, or why it is not there yet, or will never be."""

    found: dict[str, Any] | None = None
    cause: str = ""
    never: bool = False


class Wait:
    """Waits for something of some conversations. Told what was seen, it decides what that means.

    :param conversation_ids: what to wait for; repeated ids count once, none at all is ready at once.
    :param accept_statuses: statuses in which tellcasey ends a conversation that count as well.
    :param started_at: UTC, when the wait began.
    :param deadline: UTC, when it ends without success.
    :param not_before: UTC, until when the API wants no question.
    :param ready: what was found so far, per conversation id.
    :param last_cause: why it is not over yet.
    :param unasked: what nobody has looked at so far, all that is missing unless given.
    :raises DstnyValidationError: an id is not a string, or no id at all.
    """

    #: What is waited for, in the plural.
    noun: ClassVar[str]
    #: How far a tellcasey conversation must have come.
    status = "completed"

    def __init__(
        self,
        conversation_ids: object,
        *,
        accept_statuses: Sequence[str] = (),
        started_at: datetime,
        deadline: datetime,
        not_before: datetime | None = None,
        ready: Mapping[str, dict[str, Any]] | None = None,
        last_cause: str = "not asked yet",
        unasked: Iterable[str] | None = None,
    ) -> None:
        self.accept_statuses = accepted(accept_statuses)
        self.started_at = started_at
        self.deadline = deadline
        self.ready = dict(ready or {})
        self.pending = [one for one in unique_ids(conversation_ids, "conversation_ids") if one not in self.ready]
        self.unasked = set(self.pending if unasked is None else unasked)
        self.not_before = not_before or started_at
        self._failure = ""
        self._last_cause = last_cause

    @property
    def kind(self) -> Hashable:
        """What is asked: waits of one kind learn the same from one answer."""
        return type(self).__name__, *self.accept_statuses

    @property
    def has_failed(self) -> bool:
        return bool(self._failure)

    def has_reached(self, status: str | None) -> bool:
        """Tell whether a tellcasey conversation in a status has come far enough."""
        return status in self.accept_statuses or (status in LIFE and LIFE.index(status) >= LIFE.index(self.status))

    def shown(self, status: str | None) -> Sighting | None:
        """Return what it means that a list shows a conversation; None where it must be asked for to know.

        :param status: None where the list shows none.
        """
        if status in LIFE and not self.has_reached(status):
            return Sighting(cause=f"a conversation is {status}, not yet {self.status}")
        return None

    def ask(self, client: AnyClient, conversation_id: str) -> Steps[Sighting]:
        """Look at one conversation, each request tried once: the next look is the retry."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return the wait in a form that Airflow can store: ids, times, counts and the last cause."""
        return {
            "conversation_ids": [*self.ready, *self.pending],
            "accept_statuses": self.accept_statuses,
            "started_at": self.started_at.isoformat(),
            "deadline": self.deadline.isoformat(),
            "not_before": self.not_before.isoformat(),
            "ready": self.ready,
            # Said in a field that every version knows: a triggerer may be upgraded later than the workers.
            "last_cause": self._last_cause + (_NOT_ALL_ASKED if self.unasked else ""),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Go on with a stored wait."""
        times = {name: datetime.fromisoformat(stored[name]) for name in ("started_at", "deadline", "not_before")}
        cause = stored["last_cause"].removesuffix(_NOT_ALL_ASKED)
        unasked = () if cause == stored["last_cause"] else None
        return cls(**{"unasked": unasked, **stored, "last_cause": cause, **times})

    def saw(self, conversation_id: str, sighting: Sighting, now: datetime) -> None:
        """Take in what a look showed."""
        self.unasked.discard(conversation_id)
        if sighting.found is not None:
            self.pending.remove(conversation_id)
            waited = round((now - self.started_at).total_seconds(), 1)
            self.ready[conversation_id] = {**sighting.found, "waited_seconds": waited}
        elif sighting.never:
            self._failure = sighting.cause
        else:
            self._last_cause = sighting.cause

    def failed_to_see(self, error: DstnyError, now: datetime, conversation_id: str = "") -> None:
        """Take in an error: "not yet", something that passes, or the end of the wait.

        :param conversation_id: whose error it is, where it is not that of all.
        """
        self.unasked.discard(conversation_id)
        if conversation_id in self.pending:
            # To the end of the line: others may be told more.
            self.pending.remove(conversation_id)
            self.pending.append(conversation_id)
        self._last_cause = str(error)
        match error:
            case DstnyNotFoundError():
                self._last_cause = f"conversation {conversation_id} or what is awaited of it is not known yet (404)"
            case DstnyQuotaError():
                self.not_before = error.resets_at or self.deadline
            case DstnyRateLimitError(status_code=None):
                pass  # Our own pace, in which another process may get its turn sooner.
            case DstnyRateLimitError() | DstnyServerError():
                self.not_before = max(self.not_before, now + timedelta(seconds=error.retry_after or 0))
            case DstnyConnectionError() | DstnyTimeoutError() | DstnyResponseError():
                pass
            case DstnyApiError(status_code=408 | 423 | 425):
                pass
            case _:
                self._failure = f"Conversation {conversation_id}: {error}" if conversation_id else str(error)

    def decide(self, now: datetime) -> Decision:
        """Tell how the wait stands."""
        if self._failure:
            return self._decision(WaitState.FAILED, self._failure)
        if not self.pending:
            return self._decision(WaitState.READY, f"{len(self.ready)} {self.noun} are ready")
        still = f"{len(self.pending)} of {len(self.pending) + len(self.ready)} {self.noun} are missing"
        if now >= self.deadline:
            limit = (self.deadline - self.started_at).total_seconds()
            return self._decision(
                WaitState.TIMED_OUT, f"Timed out after {limit:g} s: {still}. Last cause: {self._last_cause}"
            )
        if self.not_before >= self.deadline:
            return self._decision(
                WaitState.GAVE_UP,
                f"Gave up: {still}, and the API may not be asked again before the deadline "
                f"{self.deadline:%Y-%m-%d %H:%M:%S} UTC. Last cause: {self._last_cause}",
            )
        return self._decision(WaitState.WAITING, f"{still}; last cause: {self._last_cause}")

    def seconds_to_next_look(self, now: datetime, interval: float) -> float:
        """Seconds to sleep before looking again: the interval, what the API demands, but not past the deadline."""
        demanded = max(interval, (self.not_before - now).total_seconds())
        return max(0.0, min(demanded, (self.deadline - now).total_seconds()))

    def _decision(self, state: WaitState, reason: str) -> Decision:
        return Decision(state, reason, dict(self.ready))


def accepted(statuses: str | Iterable[str] | None) -> list[str]:
    """Check which ended statuses count.

    :raises DstnyValidationError: one that is not known to end a conversation.
    """
    names = [statuses] if isinstance(statuses, str) else list(statuses or ())
    if wrong := [name for name in names if name not in ENDED]:
        raise DstnyValidationError(None, f"accept_statuses has {wrong[0]!r}; it takes {' and '.join(ENDED)}.")
    return names
