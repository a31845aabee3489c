"""Whom to ask next: many waits of one token, at the cost of what becomes ready.

A list page tells of 25 or 100 conversations at once. What waits is first looked for in the list, and only those that
are there are asked for what is awaited of them. Where no list helps, each is asked in turn.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING

from airflow_provider_dstny.api.errors import (
    DstnyApiError,
    DstnyAuthError,
    DstnyConnectionError,
    DstnyError,
    DstnyQuotaError,
    DstnyRateLimitError,
    DstnyScopeError,
    DstnyServerError,
    DstnyTimeoutError,
)
from airflow_provider_dstny.api.operation import with_patience
from airflow_provider_dstny.waiting.listing import listing_of
from airflow_provider_dstny.waiting.reading import ListReader
from airflow_provider_dstny.waiting.wait import Sighting, Wait, utc_now

if TYPE_CHECKING:
    from airflow_provider_dstny.api.iteration import Findings
    from airflow_provider_dstny.api.metrics import Metrics
    from airflow_provider_dstny.api.operation import Steps
    from airflow_provider_dstny.waiting.listing import Entry
    from airflow_provider_dstny.waiting.wait import AnyClient

#: The pace where none is documented or set, in seconds between two requests.
OWN_SPACING = 0.2
#: So few are asked for one by one: a list would cost as much.
_FEW = 2
#: The share of the pace that may go to conversations that are not known to exist.
_SPARE_SHARE = 1 / 6
#: The share of the pace that may go to pages on which there was news lately.
_LIST_SHARE = 1 / 2
#: A list is not read more often than once in so many slots.
_SLOTS_OF_A_LIST = 10
#: Questions that are handed out at a time, so that what becomes urgent meanwhile goes first.
_BATCH = 16
#: A last question is asked so long before its deadline at the latest, in seconds.
_LAST_CHANCE = 3.0
#: Others have a share of the pace, too: so many slots are reckoned for a last question.
_SLOTS_OF_A_CHANCE = 3
#: So many durations must have been seen before anything is concluded from them.
_ENOUGH = 5
#: Nothing counts as overdue before, in seconds.
_OVERDUE = 3600.0
#: Failures in a row after which they are taken to be everybody's.
_STRIKES = 3
#: How many intervals one whose requests fail is left alone at the most.
_LONGEST_BACKOFF = 8
#: For how long a list that fails is left alone, and a used-up quota.
_LIST_PAUSE = timedelta(minutes=10)
_QUOTA_PAUSE = timedelta(minutes=15)

_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_AT_ONCE = datetime.min.replace(tzinfo=UTC)
_NEVER = datetime.max.replace(tzinfo=UTC)

_log = logging.getLogger(__name__)


class Question:
    """What one or many waits want to know of one conversation.

    :ivar known: the conversation is there, so that asking makes sense.
    :ivar owed: nobody has asked for it so far.
    :ivar listed_at: UTC, when a list first showed it.
    :ivar due_at: UTC, when to ask for it next, if asking makes sense.
    :ivar asked_at: UTC, when it was last asked for; its task did when the wait began.
    :ivar look: the look in which it was handed out, or told by a list.
    :ivar failures: requests in a row that the API failed to answer.
    :ivar is_last_chance: it was handed out because its deadline is near.
    :ivar answered_for: the deadline for which it had its last chance.
    """

    __slots__ = (
        "answered_for",
        "asked_at",
        "conversation_id",
        "due_at",
        "failures",
        "interval",
        "is_last_chance",
        "known",
        "listed_at",
        "look",
        "owed",
        "waits",
    )

    def __init__(self, conversation_id: str, asked_at: datetime, interval: timedelta) -> None:
        self.conversation_id = conversation_id
        self.waits: list[Wait] = []
        self.interval = interval
        self.known = False
        self.owed = False
        self.listed_at: datetime | None = None
        self.asked_at = asked_at
        self.due_at = asked_at + interval
        self.look = 0
        self.failures = 0
        self.is_last_chance = False
        self.answered_for: datetime | None = None

    @property
    def deadline(self) -> datetime:
        """The earliest of those who wait, if they have not all left."""
        return min((wait.deadline for wait in self.waits), default=_NEVER)

    @property
    def is_newly_listed(self) -> bool:
        """Tell whether a list has shown it since it was last asked for."""
        return self.listed_at is not None and self.asked_at < self.listed_at

    def is_of(self, wait: Wait, conversation_id: str) -> bool:
        return self.conversation_id == conversation_id and self.waits[0].kind == wait.kind


class Lookout:
    """Knows what is awaited, what the API has shown of it, and when to ask for what.

    A look is: begin, ask for what is due, read the list, ask again.

    :param every_look: what is known is due in every look, as it is the caller who keeps to the interval.
    """

    def __init__(self, *, every_look: bool = False) -> None:
        self.waits: dict[Wait, float] = {}
        self._every_look = every_look
        self._look = 0
        self._begun_at = _AT_ONCE
        self._until: datetime | None = None
        self._patience: float | None = None
        #: By conversation id, as lists may spell it.
        self._questions: dict[str, list[Question]] = {}
        #: When conversations may be asked for again after an error of everybody; it ends the look.
        self._ask_from = _AT_ONCE
        self._is_over = False
        #: A page of the list was read in this look, so that what fails is not the API.
        self._is_answering = False
        self._spacing = OWN_SPACING
        self._metrics: Metrics
        self._tags: dict[str, str]
        #: None where no list helps; known from the first look on.
        self._list: ListReader | None = None
        self._list_due_at = _AT_ONCE
        self._list_failures = 0
        #: Until when the list does not help.
        self._blind_until = _AT_ONCE
        #: How many that nobody has asked for may be asked for, and from when on there are more.
        self._spare = 0
        self._spare_from = _AT_ONCE
        #: Conversations in a row whose requests the API failed to answer, or refused for the token.
        self._failing: set[str] = set()
        self._refused: set[str] = set()
        #: Seconds from listed to ready, of the last ones.
        self._durations: deque[float] = deque(maxlen=50)

    def add(self, wait: Wait, interval: float) -> None:
        """Take up a wait; each of its conversations is asked for every ``interval`` seconds, as far as the pace allows.

        One whose deadline has passed, as after a long restart, is asked for once more.
        """
        now = utc_now()
        gap = timedelta(seconds=0 if self._every_look else interval)
        self.waits[wait] = interval
        for conversation_id in wait.pending:
            asked = self._questions.setdefault(_key(conversation_id), [])
            question = next((one for one in asked if one.is_of(wait, conversation_id)), None)
            if question is None:
                question = Question(conversation_id, wait.started_at, gap)
                asked.append(question)
            question.waits.append(wait)
            question.interval = min(question.interval, gap)
            if conversation_id in wait.unasked or now >= wait.deadline:
                question.owed, question.due_at = True, now
            question.due_at = max(question.due_at, wait.not_before)

    def remove(self, wait: Wait) -> None:
        """Forget a wait."""
        self.waits.pop(wait, None)
        for question in list(self._all_of(wait)):
            question.waits.remove(wait)
            if not question.waits:
                self._drop(question)

    @property
    def interval(self) -> timedelta:
        """The shortest that anybody wants between two looks."""
        return timedelta(seconds=min(self.waits.values(), default=0))

    def has_looked(self, wait: Wait) -> bool:
        """Tell whether each conversation of a wait that nobody had asked for has been."""
        return not any(question.owed for question in self._all_of(wait))

    def begin(self, client: AnyClient, *, until: datetime | None = None, patience: float | None = None) -> None:
        """Begin a look.

        :param until: UTC, after which no page of a list is asked for.
        :param patience: seconds that a request may wait for its turn, None for as long as it takes.
        """
        self._look += 1
        self._is_over = self._is_answering = False
        self._failing.clear()
        self._until, self._patience = until, patience
        now = utc_now()
        if now < self._begun_at:
            self._clock_was_set_back(now)
        self._begun_at = now
        self._spacing = client.spacing or OWN_SPACING
        self._metrics, self._tags = client.metrics, {"api": client.name}
        self._metrics.gauge("dstny.waiting", len(self._questions), self._tags)
        if self._look == 1 and (listing := listing_of(client)) is not None:
            self._list = ListReader(listing)

    def pages(self) -> Findings[None]:
        """Read as much of the list as is worth it. Hands out nothing now and then, so that one can ask in between.

        :raises DstnyAuthError: the token is refused.
        """
        now = utc_now()
        if self._list is None or now < self._when_to_list():
            return
        self._list_due_at = now + self._gap_of_lists()
        unknown = [question.asked_at for question in self._tellable() if not question.known]
        try:
            yield from self._list.read(
                self._take_in,
                min(unknown, default=now),
                deepest=self._in_a_while(_LIST_SHARE),
                spare=self._few(),
                until=self._until,
                patience=self._patience,
            )
            self._list_failures = 0
        except Exception as error:
            self.list_failed(error)

    def list_failed(self, error: Exception) -> None:
        """Take in that the list was not read to its end: whatever is wrong with it, those who wait can be asked for.

        :raises DstnyAuthError: the token is refused, and was before.
        """
        if self._list is None:
            return
        self._list.give_up()
        if isinstance(error, DstnyRateLimitError):
            self._pause(error)
            return
        if isinstance(error, DstnyAuthError):
            # Twice makes it sure, and so does one conversation more.
            self._was_refused(error, "", f"look {self._look}")
        _log.warning("The list of conversations was not read to its end: %s", as_logged(error))
        self._list_failures += _STRIKES if isinstance(error, DstnyScopeError) else 1
        if self._list_failures >= _STRIKES:
            _log.warning("The list does not help those who wait for now: each is asked for in turn")
            self._blind_until = utc_now() + _LIST_PAUSE

    def due(self) -> list[Question]:
        """Return what to ask for next, some at a time.

        By turns: what is newly listed, last chances, what is known to be there, what is not, and what failed. None of
        these keeps the others waiting, however many they are.
        """
        now = utc_now()
        if self._is_over or now < self._ask_from:
            return []
        # Who keeps to the interval does not come back before it has passed.
        soon = now + self.interval if self._every_look else now
        asked_for = [question for question in self._askable() if question.due_at <= now and question.look != self._look]
        asked_for.sort(key=lambda one: (one.due_at, one.asked_at, one.deadline))
        last_chances = [one for at, one in self._last_chances() if at <= soon and one.look != self._look][::-1]
        for question in last_chances:
            question.is_last_chance = True
        handed_out = _by_turns(
            [one for one in asked_for if one.is_newly_listed and not one.failures],
            last_chances,
            [one for one in asked_for if one.known and not one.is_newly_listed and not one.failures],
            [one for one in asked_for if not one.known and not one.failures],
            [one for one in asked_for if one.failures],
        )[:_BATCH]
        for question in handed_out:
            question.look = self._look
        return handed_out

    def next_look(self) -> datetime:
        """Return when there is something to do, in UTC."""
        to_ask = [question.due_at for question in self._askable()]
        to_ask += [at for at, _ in self._last_chances()]
        return min(self._when_to_list(), max(self._ask_from, min(to_ask, default=_NEVER)))

    def ask(self, client: AnyClient, question: Question) -> Steps[None]:
        """Ask for one conversation and tell the waits what was seen.

        :raises DstnyAuthError: the token is refused, whatever is asked for.
        """
        if not question.waits or self._is_over:
            # What happened since it was handed out.
            return
        try:
            steps = question.waits[0].ask(client, question.conversation_id)
            sighting = yield from (steps if self._patience is None else with_patience(steps, self._patience))
        except DstnyError as error:
            self.take_in_error(question, error)
        except Exception as error:
            self.take_in_bug(question, error)
        else:
            self._was_answered(question)
            question.known = True
            # They may have left meanwhile.
            if question.waits:
                self._tell(question, sighting)

    def take_in_bug(self, question: Question, error: Exception) -> None:
        """Take in what nobody has foreseen: one conversation must not keep the others waiting."""
        _log.error("Conversation %s cannot be read: %s", question.conversation_id, as_logged(error))
        self._tell(question, Sighting(cause=f"its answer could not be read ({type(error).__name__})"))

    # Whom to ask, and when.

    def _all(self) -> Iterator[Question]:
        for asked in self._questions.values():
            yield from asked

    def _all_of(self, wait: Wait) -> Iterator[Question]:
        for conversation_id in wait.pending:
            for question in self._questions.get(_key(conversation_id), ()):
                if wait in question.waits and question.conversation_id == conversation_id:
                    yield question

    def _askable(self) -> list[Question]:
        """Return what may be asked for when it is due: what is known to be there, and some that are not."""
        if self._asks_blindly():
            return list(self._all())
        if self._list is not None and self._list.was_read_through:
            # What is there has been seen by then, and what comes will be.
            return [question for question in self._all() if question.known]
        if utc_now() >= self._spare_from:
            self._spare, self._spare_from = self._few(), utc_now() + self._while()
        owed = sorted((one for one in self._all() if one.owed and not one.known), key=lambda one: one.deadline)
        return [*(question for question in self._all() if question.known), *owed[: max(0, self._spare)]]

    def _asks_blindly(self) -> bool:
        """Tell whether each is asked for without being known: they are few, or no list tells of them."""
        if self._list is None or utc_now() < self._blind_until:
            return True
        unknown = [question for question in self._all() if not question.known]
        # In its first look a caller that comes back rarely does not wait for lists.
        return len(unknown) <= self._few() or (self._every_look and all(question.owed for question in unknown))

    def _tellable(self) -> list[Question]:
        """Return what the list can tell something of."""
        with_status = self._list is not None and self._list.listing.shows_status
        return [question for question in self._all() if with_status or not question.known]

    def _when_to_list(self) -> datetime:
        if self._list is None or len(self._tellable()) <= self._few():
            return _NEVER
        return max(self._list_due_at, self._blind_until)

    def _gap_of_lists(self) -> timedelta:
        return timedelta() if self._every_look else self._while()

    def _while(self) -> timedelta:
        """Return the interval, or longer where the pace makes it so: shares of the pace are reckoned by it."""
        return max(self.interval, timedelta(seconds=_SLOTS_OF_A_LIST * self._spacing))

    def _few(self) -> int:
        """How many may be asked for one by one in a while without being known to exist."""
        if self._list is not None and self._list.listing.shows_status:
            return _FEW
        return self._in_a_while(_SPARE_SHARE)

    def _in_a_while(self, share: float) -> int:
        """Return how many requests are a share of the pace."""
        return max(_FEW, int(self._while().total_seconds() / self._spacing * share))

    def _last_chances(self) -> Iterator[tuple[datetime, Question]]:
        """Yield when each must be asked for so that all are before their deadlines; the last deadline first."""
        step = timedelta(seconds=_SLOTS_OF_A_CHANCE * self._spacing)
        at = _NEVER
        for question in sorted(self._all(), key=lambda one: one.deadline, reverse=True):
            at = min(at, question.deadline - timedelta(seconds=_LAST_CHANCE)) - step
            if question.asked_at < at and question.answered_for != question.deadline:
                yield at, question

    def _gap_after(self, question: Question) -> timedelta:
        """Return for how long not to ask again: the interval, or longer if there is more to do than the pace allows.

        Then nothing is asked for before half of the shortest time that was seen from listed to ready, and what takes
        longer than all others is asked for ever less often.
        """
        if question.listed_at is None or len(self._durations) < _ENOUGH or self._every_look:
            return question.interval
        if sum(one.known for one in self._all()) * self._spacing <= question.interval.total_seconds():
            return question.interval
        age = (question.asked_at - question.listed_at).total_seconds()
        too_early = min(self._durations) / 2 - age
        overdue = age - max(_OVERDUE, 2 * max(self._durations))
        return max(question.interval, timedelta(seconds=max(too_early, overdue / 10)))

    # What a list or an answer means.

    def _take_in(self, entries: Sequence[Entry]) -> bool:
        """Take in what a page of the list shows; return whether it was news to anybody."""
        now = utc_now()
        news = False
        self._is_answering = True
        self._refused.clear()
        if len(self._failing) >= _STRIKES:
            # Then it was the conversations that failed, and those who wait for others are asked for again.
            self._is_over, self._ask_from = False, now
        for entry in entries:
            for question in list(self._questions.get(_key(entry.id), ())):
                if question.known and (entry.status is None or question.look == self._look):
                    continue
                news = True
                question.known, question.listed_at = True, question.listed_at or now
                shown = question.waits[0].shown(entry.status)
                if shown is None and question.failures:
                    # It is there, which was known, and asked for when it is due.
                    continue
                if shown is None:
                    # What took place first may have been ready for longest.
                    question.due_at = min(entry.moment or now, now)
                else:
                    self._tell(question, shown)
                    question.look = self._look
                    # Later than the next reading, which tells again.
                    question.due_at = now + 1.5 * question.interval
        return news

    def _tell(self, question: Question, sighting: Sighting) -> None:
        now = utc_now()
        self._was_looked_at(question, hit=sighting.found is not None)
        for wait in list(question.waits):
            wait.saw(question.conversation_id, sighting, now)
            if sighting.found is not None:
                self._metrics.timing("dstny.ready_latency", (now - wait.started_at).total_seconds(), self._tags)
        if sighting.found is not None:
            if question.listed_at is not None:
                self._durations.append((now - question.listed_at).total_seconds())
            self._drop(question)

    def take_in_error(self, question: Question, error: DstnyError) -> None:
        """Take in an error: of this conversation, or of everybody."""
        now = utc_now()
        match error:
            case DstnyRateLimitError():
                self._pause(error)
                return
            case DstnyAuthError():
                self._was_refused(error, question.conversation_id)
                self._tell(question, Sighting(cause=str(error)))
                return
        self._was_looked_at(question)
        match error:
            case DstnyConnectionError() | DstnyTimeoutError() | DstnyServerError():
                question.failures += 1
                backoff = question.interval * min(2**question.failures, _LONGEST_BACKOFF)
                question.due_at = now + max(backoff, _demanded(error))
                self._failing.add(question.conversation_id)
                if len(self._failing) >= _STRIKES and not self._is_answering:
                    # Then it is not the list that is at fault.
                    self._list_failures, self._blind_until = 0, _AT_ONCE
                    self._pause(error)
            case DstnyQuotaError():
                question.due_at = max(question.due_at, min(error.resets_at or _NEVER, now + _QUOTA_PAUSE))
            case _:
                self._was_answered(question)
                question.due_at = max(question.due_at, now + _demanded(error))
        for wait in list(question.waits):
            wait.failed_to_see(error, now, question.conversation_id)

    def _was_looked_at(self, question: Question, *, hit: bool = False) -> None:
        if question.owed and not hit:
            self._spare -= 1
        question.owed = False
        if question.is_last_chance:
            question.answered_for, question.is_last_chance = question.deadline, False
        question.asked_at = utc_now()
        question.due_at = question.asked_at + self._gap_after(question)

    def _was_refused(self, error: DstnyAuthError, *marks: str) -> None:
        """Take in that the token was refused, which may be about one conversation.

        :raises DstnyAuthError: that makes three in a row, or everybody.
        """
        self._refused.update(marks)
        if len(self._refused) >= min(_STRIKES, len(self._questions)) or self._every_look:
            raise error

    def _was_answered(self, question: Question) -> None:
        question.failures = 0
        self._failing.clear()
        self._refused.clear()

    def _pause(self, error: DstnyError) -> None:
        """End the look, and ask for nobody for a while: everybody would meet this error."""
        now = utc_now()
        for wait in self.waits:
            wait.failed_to_see(error, now)
        gap = timedelta() if self._every_look else self.interval
        self._is_over = True
        self._ask_from = max(self._ask_from, now + (_demanded(error) or gap))
        if isinstance(error, DstnyRateLimitError):
            # It is the token's, whatever is asked.
            self._list_due_at = max(self._list_due_at, self._ask_from)

    def _clock_was_set_back(self, now: datetime) -> None:
        self._ask_from, self._list_due_at = min(self._ask_from, now), min(self._list_due_at, now)
        self._blind_until, self._spare_from = min(self._blind_until, now), min(self._spare_from, now)
        for question in self._all():
            question.due_at, question.asked_at = min(question.due_at, now), min(question.asked_at, now)

    def _drop(self, question: Question) -> None:
        key = _key(question.conversation_id)
        asked = self._questions[key]
        asked.remove(question)
        if not asked:
            del self._questions[key]


def look(client: AnyClient, lookout: Lookout, *, until: datetime | None = None, patience: float | None = None) -> None:
    """Look once, blocking: at the list as far as it helps, and at every conversation that is due.

    :param until: UTC, after which nothing more is asked; what is left is asked by the next look.
    :param patience: seconds to wait for the turn of a request, None for as long as it takes.
    """

    def is_over() -> bool:
        return (until is not None and utc_now() > until) or any(wait.has_failed for wait in lookout.waits)

    def ask(questions: Iterable[Question]) -> None:
        for question in questions:
            if is_over():
                return
            client.run(lookout.ask(client, question))

    def ask_all() -> None:
        while not is_over() and (due := lookout.due()):
            ask(due)

    lookout.begin(client, until=until, patience=patience)
    try:
        ask_all()
        if not is_over():
            for _ in client.iterate(lookout.pages()):
                ask_all()
            ask_all()
    except DstnyAuthError as error:
        for wait in lookout.waits:
            wait.failed_to_see(error, utc_now())


def _by_turns(*lines: Sequence[Question]) -> list[Question]:
    """Return the first of each line, then the second of each, and so on; nobody twice."""
    return list(dict.fromkeys(one for turn in zip_longest(*lines) for one in turn if one is not None))


def _key(conversation_id: str) -> str:
    """Return by what a conversation is known: lists may spell a UUID in another way."""
    return conversation_id.lower() if _UUID.fullmatch(conversation_id) else conversation_id


def _demanded(error: DstnyError) -> timedelta:
    """Return for how long the API wants to be left alone."""
    return timedelta(seconds=(error.retry_after or 0) if isinstance(error, DstnyApiError) else 0)


def as_logged(error: Exception) -> str:
    """Return an error as it may be logged: one that nobody has foreseen may quote what was said in a conversation."""
    if isinstance(error, DstnyError):
        return str(error)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in extract_tb(error.__traceback__)[-3:]]
    return f"{type(error).__name__} at {', '.join(places)}"
