"""One poller for all that wait in an event loop with one token and its settings, however many they are."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from airflow_provider_dstny.api.errors import DstnyAuthError, DstnyTimeoutError
from airflow_provider_dstny.waiting.lookout import OWN_SPACING, Lookout, as_logged
from airflow_provider_dstny.waiting.wait import WaitState, utc_now

if TYPE_CHECKING:
    from airflow_provider_dstny.waiting.lookout import Question
    from airflow_provider_dstny.waiting.wait import AnyClient, Decision, Wait

#: Requests that are under way at a time, so that a slow answer keeps nobody waiting.
_CONCURRENCY = 4
#: Between two looks lies at least this, in seconds: those who join together are looked after together.
_SHORTEST_IDLE = 1.0
#: What is due is asked for at least for so long in each look, in seconds.
_SHORTEST_ASKING = timedelta(seconds=30)
#: Seconds after which a question, or a list, counts as not answered, its time in line included.
_LONGEST_QUESTION = 600.0
_LONGEST_READING = 1800.0
#: How often the clock is looked at, in seconds: it may be set meanwhile.
_LONGEST_ALARM = 900.0
#: A question that was sent in time may be answered so much later than the deadline.
_GRACE = timedelta(seconds=10)
#: How long one whose deadline passed while no triggerer ran waits for its last look.
_LAST_LOOK = timedelta(minutes=4)

_log = logging.getLogger(__name__)
#: By event loop, then by settings: who comes with a connection that was mended is not served by the old one.
_pollers: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Poller]] = WeakKeyDictionary()


def poller_of(client: AnyClient) -> Poller:
    """Return the poller of the running event loop for the settings of a client.

    :param client: is used by all if this is the first one, and closed when the last one has left.
    """
    pollers = _pollers.setdefault(asyncio.get_running_loop(), {})
    if client.settings not in pollers:
        pollers[client.settings] = Poller(client)
    return pollers[client.settings]


class PollerEndedError(Exception):
    """The poller has ended before its time; whoever waits may join another."""


class Poller:
    """Looks out for many waits with one client, in a task of its own that lives as long as somebody waits.

    :param client: closed at the end.
    :ivar identity: that of the token.
    """

    def __init__(self, client: AnyClient) -> None:
        self.identity = client.identity
        self._client = client
        # What the API does not limit is not asked for as fast as it can answer.
        client.spacing = client.spacing or OWN_SPACING
        self._lookout = Lookout()
        self._waiting: dict[Wait, asyncio.Future[Decision]] = {}
        self._joined = asyncio.Event()
        self._next_look = utc_now()
        # In a context of its own: else it would log into the task of whoever came first.
        self._task = asyncio.get_running_loop().create_task(self._run(), context=contextvars.Context())
        self._task.add_done_callback(self._end)

    async def wait(self, wait: Wait, interval: float) -> Decision:
        """Wait together with all others that have joined; return soon after the deadline at the latest.

        :param interval: seconds between two looks.
        :raises DstnyAuthError: the token is refused.
        :raises PollerEndedError: for no fault of this wait.
        """
        now = utc_now()
        decision = wait.decide(now)
        overdue = decision.state is WaitState.TIMED_OUT
        if decision.state is not WaitState.WAITING and not overdue:
            self._leave(wait)
            return decision
        latest = now + _LAST_LOOK if overdue else wait.deadline + _GRACE
        future: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting[wait] = future
        self._lookout.add(wait, interval)
        if self._next_look > now + timedelta(seconds=interval) or not self._lookout.has_looked(wait):
            self._joined.set()
        alarm = _Alarm(latest, lambda: self._let_go(wait, wait.decide(utc_now())))
        try:
            return await future
        finally:
            alarm.cancel()
            self._leave(wait)

    def _leave(self, wait: Wait) -> None:
        self._waiting.pop(wait, None)
        self._lookout.remove(wait)
        if not self._waiting:
            self._retire()
            self._task.cancel()

    def _retire(self) -> None:
        """Let nobody join any more."""
        pollers = _pollers.get(asyncio.get_running_loop(), {})
        if pollers.get(self._client.settings) is self:
            del pollers[self._client.settings]

    def _end(self, task: asyncio.Task[None]) -> None:
        """Tell those who still wait why there is nobody any more to wait for."""
        self._retire()
        error = None if task.cancelled() else task.exception()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error if isinstance(error, DstnyAuthError) else PollerEndedError())

    async def _run(self) -> None:
        try:
            while True:
                self._joined.clear()
                try:
                    await self._look()
                    self._next_look = self._lookout.next_look()
                except DstnyAuthError:
                    raise
                except Exception as error:
                    # Whatever it is, those who wait must not wait for nobody.
                    self._next_look = utc_now() + self._lookout.interval
                    _log.error(
                        "A look has failed (%s); the next one comes at %s UTC", as_logged(error), self._next_look
                    )
                await idle_until(self._joined, max(_SHORTEST_IDLE, (self._next_look - utc_now()).total_seconds()))
        finally:
            self._client.metrics.gauge("dstny.waiting", 0, {"api": self._client.name})
            await self._client.aclose()

    async def _look(self) -> None:
        lookout = self._lookout
        lookout.begin(self._client)
        await self._ask()
        try:
            async with (
                asyncio.timeout(_LONGEST_READING),
                aclosing(self._client.aiterate(lookout.pages())) as pages,
            ):
                async for _ in pages:
                    await self._ask()
        except DstnyAuthError:
            raise
        except Exception as error:
            # What the client raises for no reason of the API's.
            lookout.list_failed(error)
        await self._ask(max(lookout.interval, _SHORTEST_ASKING))
        self._settle(lookout.waits, overdue=True)

    async def _ask(self, long: timedelta = timedelta()) -> None:
        """Ask for some of what is due, several at a time, or for so long; what is left is due first the next time."""
        until = utc_now() + long
        refused: list[DstnyAuthError] = []

        async def work(questions: Iterator[Question]) -> None:
            for question in questions:
                if refused:
                    return
                waits = list(question.waits)
                try:
                    async with asyncio.timeout(_LONGEST_QUESTION):
                        await self._client.arun(self._lookout.ask(self._client, question))
                except DstnyAuthError as error:
                    refused.append(error)
                except TimeoutError:
                    self._lookout.take_in_error(question, DstnyTimeoutError("No answer, and no end to the waiting."))
                except Exception as error:
                    self._lookout.take_in_bug(question, error)
                self._settle(waits)

        while not refused and utc_now() <= until and (due := self._lookout.due()):
            questions = iter(due)
            await asyncio.gather(*(work(questions) for _ in range(min(_CONCURRENCY, len(due)))))
        if refused:
            raise refused[0]

    def _settle(self, waits: Iterable[Wait], *, overdue: bool = False) -> None:
        """Let those go whose wait is over; in the middle of a look, not yet those who only ran out of time."""
        now = utc_now()
        for wait in list(waits):
            decision = wait.decide(now)
            timed_out = decision.state is WaitState.TIMED_OUT
            if decision.state is WaitState.WAITING or (timed_out and not (overdue and self._lookout.has_looked(wait))):
                continue
            self._let_go(wait, decision)

    def _let_go(self, wait: Wait, decision: Decision) -> None:
        future = self._waiting.get(wait)
        if future is not None and not future.done():
            future.set_result(decision)
        self._lookout.remove(wait)


class _Alarm:
    """Calls at a moment of the wall clock, whatever is done to the clock meanwhile."""

    def __init__(self, moment: datetime, call: Callable[[], object]) -> None:
        self._moment = moment
        self._call = call
        self._set()

    def _set(self) -> None:
        left = (self._moment - utc_now()).total_seconds()
        if left <= 0:
            self._call()
        else:
            self._handle = asyncio.get_running_loop().call_later(min(left, _LONGEST_ALARM), self._set)

    def cancel(self) -> None:
        self._handle.cancel()


async def idle_until(event: asyncio.Event, seconds: float) -> None:
    """Sleep, but after a moment no longer than until the event."""
    await asyncio.sleep(min(seconds, _SHORTEST_IDLE))
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), max(0.0, seconds - _SHORTEST_IDLE))
