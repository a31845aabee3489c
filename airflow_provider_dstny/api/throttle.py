"""Whose turn it is: the requests of a token are spaced, wherever they are sent from, and stop while the API says so."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, TypeAlias

from airflow_provider_dstny.api.errors import DstnyError, DstnyQuotaError, DstnyRateLimitError
from airflow_provider_dstny.api.operation import Request
from airflow_provider_dstny.api.retry import LONGEST_WAIT
from airflow_provider_dstny.api.slots import LocalSlots, Reservation, Slots
from airflow_provider_dstny.api.slots.address import Address
from airflow_provider_dstny.api.slots.shared import SharedSlots

#: The share of the allowed rate that is used; the rest absorbs the jitter of the network.
_USED_SHARE = 0.97
#: A used-up quota is taken as told for so long; then somebody asks the API again, in seconds.
_QUOTA_PAUSE = 900.0
#: A pause that ends so much later than it was seen to is another one, in seconds.
_CLOCK_JITTER = 0.25

_EVER = float("inf")

_Question: TypeAlias = Callable[[Slots], Any]


def spacing_of(requests_per_minute: float | None) -> float:
    """Return the seconds between two requests at a rate, 0 without one."""
    return 60 / (requests_per_minute * _USED_SHARE) if requests_per_minute else 0.0


def identity_of(base_url: str, token: str) -> str:
    """Return what a token of an API is known by, without being told: the same in every process."""
    return hashlib.sha256(f"{base_url}\n{token}".encode()).hexdigest()


class Throttle:
    """The turns of one token in one process.

    A process stands in the queue of a shared store but once, and all its calls wait behind that place: so processes
    get equal shares, however many calls each makes, and a call that is cancelled costs one slot at most. Awaited
    calls of an event loop wait behind one place of theirs.

    :param slots: where the slots are kept; as default, in this process.
    :param key: what the token is known by there.
    :param clock: seconds, monotonic.
    """

    def __init__(
        self, slots: Slots | None = None, key: str = "", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.slots: Slots = slots or LocalSlots(clock=clock)
        self._key = key
        self._quota_key, self._reset_key = f"{key}:quota", f"{key}:reset"
        self._clock = clock
        self._gate = threading.Lock()
        self._gates: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}
        self._gates_lock = threading.Lock()
        self._counted: set[str] = set()
        self._counted_on: date | None = None

    def take(self, request: Request, spacing: float, *, sleep: Callable[[float], object] = time.sleep) -> float:
        """Wait for the turn of a request, blocking, and return the seconds that it took.

        :param spacing: seconds from this turn until the next one.
        :raises DstnyRateLimitError: the turn would come later than the request's patience allows, or the API has told
            to pause for longer than ``LONGEST_WAIT``. Raised as soon as it is known; nothing is to be sent.
        :raises DstnyQuotaError: the daily quota is used up, and the request counts against it.
        """
        began = self._clock()
        with self._one_at_a_time(request, spacing):
            turn, answer = self._turn(request, spacing, began), None
            with suppress(StopIteration):
                while True:
                    step = turn.send(answer)
                    answer = step(self.slots) if callable(step) else sleep(step)
        return self._clock() - began

    async def atake(
        self, request: Request, spacing: float, *, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> float:
        """Wait for the turn of a request, awaiting; see :meth:`take`."""
        began = self._clock()
        async with self._aone_at_a_time(request, spacing):
            turn, answer = self._turn(request, spacing, began), None
            with suppress(StopIteration):
                while True:
                    step = turn.send(answer)
                    answer = await (self._aask(step) if callable(step) else sleep(step))
        return self._clock() - began

    def heed(self, error: DstnyError) -> None:
        """Let all who share these slots know what the API told one of us: to slow down, or that a quota is used up."""
        self._tell(error, self.slots)

    async def aheed(self, error: DstnyError) -> None:
        """The same, awaiting."""
        await self._aask(partial(self._tell, error))

    def count(self, request: Request) -> None:
        """Remember what a request took from the daily quota: it counts once a day (UTC)."""
        if request.counted is not None:
            today = datetime.now(UTC).date()
            if self._counted_on != today:
                self._counted, self._counted_on = set(), today
            self._counted.add(request.counted)

    def _turn(self, request: Request, spacing: float, began: float) -> Generator[_Question | float, Any, None]:
        """Take the steps of a turn: questions to the slots, whose answers are sent back, and seconds to sleep."""
        while True:
            yield from self._check_quota(request)
            asked_at = self._clock()
            patience = _EVER if request.patience is None else max(0.0, began + request.patience - asked_at)
            found: Reservation = yield partial(self._reserve, spacing, patience)
            if not found.taken:
                raise _too_late(request, found)
            yield found.seconds
            if not found.seconds:
                return
            # Somebody else may have been told to slow down while we slept.
            expected = max(0.0, found.paused - (self._clock() - asked_at))
            paused: float = yield self._pause_left
            if paused <= expected + _CLOCK_JITTER:
                return

    def _check_quota(self, request: Request) -> Generator[_Question, float, None]:
        known = self._counted if self._counted_on == datetime.now(UTC).date() else ()
        if request.counted is None or request.counted in known:
            return
        paused = yield lambda slots: slots.pause_left(self._quota_key)
        if paused:
            resets_at = datetime.now(UTC) + timedelta(seconds=(yield lambda slots: slots.pause_left(self._reset_key)))
            raise DstnyQuotaError(
                None,
                f"{request} was not sent: the API told that the daily quota of this token is used up.",
                hint=f"It starts anew at about {resets_at:%Y-%m-%d %H:%M} UTC; a retry before may be sent after "
                f"{paused:.0f} s, to see whether it has been raised.",
                resets_at=resets_at,
            )

    def _reserve(self, spacing: float, patience: float, slots: Slots) -> Reservation:
        return slots.reserve(self._key, spacing, patience, LONGEST_WAIT)

    def _pause_left(self, slots: Slots) -> float:
        return slots.pause_left(self._key)

    def _tell(self, error: DstnyError, slots: Slots) -> None:
        match error:
            case DstnyRateLimitError() if error.retry_after:
                slots.pause(self._key, error.retry_after)
            case DstnyQuotaError(resets_at=datetime() as resets_at):
                seconds = (resets_at - datetime.now(UTC)).total_seconds()
                slots.pause(self._reset_key, seconds)
                slots.pause(self._quota_key, min(seconds, _QUOTA_PAUSE))

    async def _aask(self, question: _Question) -> Any:
        return await asyncio.to_thread(question, self.slots) if self.slots.blocking else question(self.slots)

    @contextmanager
    def _one_at_a_time(self, request: Request, spacing: float) -> Iterator[None]:
        patience = threading.TIMEOUT_MAX if request.patience is None else max(0.0, request.patience)
        if not self._gate.acquire(timeout=min(patience, threading.TIMEOUT_MAX)):
            raise _crowded(request, spacing)
        try:
            yield
        finally:
            self._gate.release()

    @asynccontextmanager
    async def _aone_at_a_time(self, request: Request, spacing: float) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        with self._gates_lock:
            if loop not in self._gates:
                # Those of loops that have ended open for nobody.
                self._gates = {one: gate for one, gate in self._gates.items() if not one.is_closed()}
                self._gates[loop] = asyncio.Lock()
            gate = self._gates[loop]
        try:
            async with asyncio.timeout(request.patience):
                await gate.acquire()
        except TimeoutError:
            raise _crowded(request, spacing) from None
        try:
            yield
        finally:
            gate.release()


def _too_late(request: Request, found: Reservation) -> DstnyRateLimitError:
    """Return the error of a request whose slot lies too far ahead."""
    if found.paused > 0:
        cause = f"the API told this token to pause, which lasts for another {found.paused:.0f} s"
    else:
        cause = f"others with this token are ahead of it, and its turn would come in {found.seconds:.0f} s"
    return DstnyRateLimitError(
        None,
        f"{request} was not sent: {cause}.",
        hint=f"A retry after {found.seconds:.0f} s may pass.",
        retry_after=found.seconds,
    )


def _crowded(request: Request, spacing: float) -> DstnyRateLimitError:
    """Return the error of a request that never got to ask for a slot."""
    return DstnyRateLimitError(
        None,
        f"{request} was not sent: it waited {request.patience:g} s for its turn behind others of this process.",
        hint="A retry may pass when they are done.",
        retry_after=max(spacing, 1.0),
    )


_throttles: dict[tuple[str, Address | None], Throttle] = {}
_stores: dict[Address, SharedSlots] = {}
_registry_lock = threading.Lock()


def throttle_for(base_url: str, token: str, address: Address | None = None) -> Throttle:
    """Return the throttle that all clients of one token in this process share.

    :param address: where the slots are kept, None for this process.
    :raises DstnyValidationError: the store at this address cannot be used here.
    """
    key = identity_of(base_url, token)
    with _registry_lock:
        if address is not None and address not in _stores:
            _stores[address] = SharedSlots(address.open(), LocalSlots(), place=address.place, show=address.show)
        if (key, address) not in _throttles:
            _throttles[key, address] = Throttle(_stores[address] if address else None, key)
        return _throttles[key, address]
