"""Request slots: requests of one token are spaced so that the allowed rate is never exceeded."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable

#: The share of the allowed rate that is used; the rest absorbs the jitter of the network.
_USED_SHARE = 0.97


class Throttle:
    """Slots spaced evenly in time. ``reserve`` is atomic and never blocks: the caller does the waiting.

    :param requests_per_minute: the allowed rate, None for no limit of our own.
    :param clock: seconds, monotonic.
    """

    def __init__(
        self, requests_per_minute: float | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._next_slot = clock()
        self._spacing = 0.0
        self.set_rate(requests_per_minute)

    def set_rate(self, requests_per_minute: float | None) -> None:
        """Change the rate; None leaves it, so that a client without a limit does not lift another's."""
        if requests_per_minute is not None:
            with self._lock:
                self._spacing = 60 / (requests_per_minute * _USED_SHARE)

    def reserve(self) -> float:
        """Take the next free slot and return the seconds until it."""
        with self._lock:
            now = self._clock()
            slot = max(self._next_slot, now)
            self._next_slot = slot + self._spacing
            return slot - now

    def pause(self, seconds: float) -> None:
        """Give out no slot for the next ``seconds``: the API told one of us to slow down."""
        with self._lock:
            self._next_slot = max(self._next_slot, self._clock() + seconds)


_throttles: dict[str, Throttle] = {}
_registry_lock = threading.Lock()


def throttle_for(base_url: str, token: str, requests_per_minute: float | None) -> Throttle:
    """Return the throttle that all clients of one token in this process share."""
    key = hashlib.sha256(f"{base_url}\n{token}".encode()).hexdigest()
    with _registry_lock:
        throttle = _throttles.setdefault(key, Throttle())
    throttle.set_rate(requests_per_minute)
    return throttle
