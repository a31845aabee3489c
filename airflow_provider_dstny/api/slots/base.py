"""What every store of slots does, how the stores that think in Python do it, and the one of a single process."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

T = TypeVar("T")

#: Places in line. A process takes but one, so that no queue comes near it: at the documented pace it lasts an hour.
_LONGEST_QUEUE = 3600


def longest_queue(spacing: float) -> float:
    """Return the seconds beyond which no queue reaches.

    A slot that is taken there was left by a clock that was ahead, or by a pace that was a mistake.
    """
    # A second at least for each place: who has no limit may stand behind those who have one.
    return _LONGEST_QUEUE * max(spacing, 1.0)


@dataclass(frozen=True, slots=True)
class Reservation:
    """The answer to a request for a slot.

    :param seconds: until the slot.
    :param paused: seconds that the API's pause still lasts.
    :param taken: whether the slot is ours; False where it lay too far ahead and was left to others.
    """

    seconds: float
    paused: float
    taken: bool


class Slots(Protocol):
    """Slots of several tokens, each known by a key. Each call is atomic, whoever shares the store."""

    #: Whether a call may wait for a disk or a network, so that it has no place in an event loop.
    blocking: bool

    def reserve(self, key: str, spacing: float, patience: float, longest_pause: float = ...) -> Reservation:
        """Take the next free slot: not before the one that was taken last, and not while the API's pause lasts.

        One that lies beyond the :func:`longest_queue` does not count as taken.

        :param spacing: seconds from this slot until the next one.
        :param patience: seconds; no slot is taken that lies further ahead.
        :param longest_pause: seconds; no slot is taken while the API's pause lasts longer.
        """

    def pause(self, key: str, seconds: float) -> None:
        """Give out no slot for the next ``seconds``. A pause is never shortened."""

    def pause_left(self, key: str) -> float:
        """Return the seconds that the pause still lasts."""


class Kept(NamedTuple):
    """What is kept of a key, in seconds of the store's clock."""

    next_slot: float = 0.0
    paused_until: float = 0.0

    def reserve(self, now: float, spacing: float, patience: float, longest_pause: float) -> tuple[Kept, Reservation]:
        # Slots that nobody took are not saved up: none lies before now.
        slot = max(self.paused_until, now)
        if slot < self.next_slot <= slot + longest_queue(spacing):
            slot = self.next_slot
        paused = self.pause_left(now)
        if slot - now > patience or paused > longest_pause:
            return self, Reservation(slot - now, paused, taken=False)
        return self._replace(next_slot=slot + spacing), Reservation(slot - now, paused, taken=True)

    def pause(self, now: float, seconds: float) -> Kept:
        return self._replace(paused_until=max(self.paused_until, now + seconds))

    def pause_left(self, now: float) -> float:
        return max(0.0, self.paused_until - now)


class KeptSlots(ABC):
    """Slots of a store that hands out what is kept of a key and takes it back changed."""

    @abstractmethod
    def _change(self, key: str, change: Callable[[Kept, float], tuple[Kept, T]]) -> T:
        """Replace what is kept of a key by what ``change`` makes of it now, atomically."""

    def reserve(self, key: str, spacing: float, patience: float, longest_pause: float = float("inf")) -> Reservation:
        return self._change(key, lambda kept, now: kept.reserve(now, spacing, patience, longest_pause))

    def pause(self, key: str, seconds: float) -> None:
        self._change(key, lambda kept, now: (kept.pause(now, seconds), None))

    def pause_left(self, key: str) -> float:
        return self._change(key, lambda kept, now: (kept, kept.pause_left(now)))


class LocalSlots(KeptSlots):
    """Slots that the threads and event loops of one process share.

    :param clock: seconds, monotonic.
    """

    blocking = False

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, Kept] = {}

    def _change(self, key: str, change: Callable[[Kept, float], tuple[Kept, T]]) -> T:
        with self._lock:
            self._kept[key], result = change(self._kept.get(key, Kept()), self._clock())
        return result
