"""Long work: several workers at a time, and how far it has come, in the log of its task."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self

#: Seconds between two lines.
_EVERY = 10.0
_log = logging.getLogger(__name__)


class Progress:
    """Counts what is done, and tells it with the rate and the time left: now and then, and in the end.

    A context manager; its lines are a group of Airflow's log.

    :param title: of the group, ``Reading``.
    :param total: how much there is to do, None if nobody knows.
    :param unit: what is counted, ``conversations``.
    :param clock: seconds.
    """

    def __init__(
        self,
        title: str,
        total: int | None,
        unit: str,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done = 0
        self._title, self._total, self._unit, self._clock = title, total, unit, clock
        self._began = self._told_at = clock()

    def __enter__(self) -> Self:
        known = "" if self._total is None else f"{self._total:,} "
        _log.info("::group::%s %s%s", self._title, known, self._unit)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _log.info("%s in %s", self._count, _duration(self._clock() - self._began))
        _log.info("::endgroup::")

    def add(self, done: int = 1) -> None:
        """Count what has been done."""
        self.done += done
        now = self._clock()
        if done and now - self._told_at >= _EVERY:
            self._told_at = now
            rate = self.done / (now - self._began)
            left = "" if self._total is None else f", {_duration((self._total - self.done) / rate)} left"
            _log.info("%s, %.0f a minute%s", self._count, 60 * rate, left)

    @property
    def _count(self) -> str:
        known = "" if self._total is None else f" of {self._total:,}"
        return f"{self.done:,}{known} {self._unit}"


async def together(work: Callable[[], Coroutine[Any, Any, None]], workers: int) -> None:
    """Do some work with so many workers at a time, until all of them have ended."""
    tasks = [asyncio.create_task(work()) for _ in range(workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        # If one has ended with an error, or the task is being ended, the others must not go on.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
