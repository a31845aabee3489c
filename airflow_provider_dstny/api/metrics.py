"""What a client tells about its work, in numbers; whoever runs it says where they go."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

_log = logging.getLogger(__name__)

Tags = Mapping[str, str]


class Metrics(Protocol):
    """Where numbers go."""

    def count(self, name: str, value: int = 1, tags: Tags | None = None) -> None:
        """Add to a counter."""

    def timing(self, name: str, seconds: float, tags: Tags | None = None) -> None:
        """Add a duration."""

    def gauge(self, name: str, value: float, tags: Tags | None = None) -> None:
        """Set a level."""


class NoMetrics:
    """For programs that want no numbers."""

    def count(self, name: str, value: int = 1, tags: Tags | None = None) -> None:
        pass

    def timing(self, name: str, seconds: float, tags: Tags | None = None) -> None:
        pass

    def gauge(self, name: str, value: float, tags: Tags | None = None) -> None:
        pass


class SafeMetrics:
    """Metrics that never break what they count: an error of theirs is logged once, for debugging."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._failed = False

    def count(self, name: str, value: int = 1, tags: Tags | None = None) -> None:
        self._try(lambda: self._metrics.count(name, value, tags))

    def timing(self, name: str, seconds: float, tags: Tags | None = None) -> None:
        self._try(lambda: self._metrics.timing(name, seconds, tags))

    def gauge(self, name: str, value: float, tags: Tags | None = None) -> None:
        self._try(lambda: self._metrics.gauge(name, value, tags))

    def _try(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:  # a backend may raise anything
            if not self._failed:
                _log.debug("Metrics cannot be told", exc_info=True)
            self._failed = True
