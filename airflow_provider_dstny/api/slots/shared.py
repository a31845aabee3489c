"""Slots that several processes share, and what each does when their store is lost."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from airflow_provider_dstny.api.slots.base import Reservation, Slots

T = TypeVar("T")

#: Seconds after which a lost store is tried again.
_TRY_AGAIN = 30.0

_log = logging.getLogger(__name__)


class SharedSlots:
    """Slots of a shared store, and of this process alone while that store is lost.

    :param shared: the store; whatever it raises means that it is lost.
    :param own: the slots of this process.
    :param place: how the store is called in the log, without a password.
    :param show: an error of the store as it may be shown, without a password.
    :param clock: seconds, monotonic.
    """

    blocking = True

    def __init__(
        self,
        shared: Slots,
        own: Slots,
        *,
        place: str,
        show: Callable[[Exception], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared = shared
        self._own = own
        self.place = place
        self._show = show
        self._clock = clock
        self._lock = threading.Lock()
        #: When a lost store is tried again, None while it is there.
        self._try_at: float | None = None

    @property
    def lost(self) -> bool:
        """Whether the store could not be reached when it was asked last."""
        return self._try_at is not None

    def reserve(self, key: str, spacing: float, patience: float, longest_pause: float = float("inf")) -> Reservation:
        return self._ask(lambda slots: slots.reserve(key, spacing, patience, longest_pause))

    def pause(self, key: str, seconds: float) -> None:
        # Our own hear of it in any case, since the store may be lost before the pause is over.
        self._own.pause(key, seconds)
        self._ask(lambda slots: slots.pause(key, seconds))

    def pause_left(self, key: str) -> float:
        return self._ask(lambda slots: slots.pause_left(key))

    def _ask(self, question: Callable[[Slots], T]) -> T:
        if self._is_due():
            try:
                answer = question(self._shared)
            except Exception as error:  # a driver may raise anything
                self._is_lost(error)
            else:
                self._is_there()
                return answer
        return question(self._own)

    def _is_due(self) -> bool:
        with self._lock:
            if self._try_at is None:
                return True
            if self._clock() < self._try_at:
                return False
            # One call tries, so that the others do not hang with it.
            self._try_at = self._clock() + _TRY_AGAIN
            return True

    def _is_lost(self, error: Exception) -> None:
        with self._lock:
            is_news = self._try_at is None
            self._try_at = self._clock() + _TRY_AGAIN
        if is_news:
            _log.warning(
                "%s, which throttle_url names, is lost (%s): until it is back, the pace is kept in this process "
                "alone, and the API's 429 is what holds the others",
                self.place,
                self._show(error),
            )

    def _is_there(self) -> None:
        with self._lock:
            is_news, self._try_at = self._try_at is not None, None
        if is_news:
            _log.info("%s is back: the pace is shared again", self.place)
