"""Slots within one process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from airflow_provider_dstny.api.slots.base import Kept, KeptSlots

T = TypeVar("T")


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
