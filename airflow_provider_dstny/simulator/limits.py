"""What a token may do in a minute and in a day."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from airflow_provider_dstny.simulator.contract import ContractError
from airflow_provider_dstny.simulator.moments import next_midnight

_WINDOW = 60.0


class RateLimit:
    """Requests of each token within a sliding window of a minute; a refused request does not count.

    :param requests_per_minute: None for no limit.
    :param clock: seconds since the epoch.
    """

    def __init__(self, requests_per_minute: float | None, clock: Callable[[], float]) -> None:
        self._allowed = None if requests_per_minute is None else max(1, int(requests_per_minute))
        self._clock = clock
        self._taken: dict[str, deque[float]] = {}

    def take(self, token: str) -> ContractError | None:
        """Count a request, or return why it is refused."""
        if self._allowed is None:
            return None
        now, taken = self._clock(), self._taken.setdefault(token, deque())
        while taken and taken[0] <= now - _WINDOW:
            taken.popleft()
        if len(taken) < self._allowed:
            taken.append(now)
            return None
        free_at = taken[0] + _WINDOW
        return ContractError(
            429,
            "Rate limit exceeded. Please try again later.",
            retry_after=math.ceil(free_at - now),
            headers={
                "X-RateLimit-Limit": str(self._allowed),
                "X-RateLimit-Remaining": "0",
                "X-RateLimit-Reset": str(math.ceil(free_at)),
            },
        )


class DailyQuota:
    """Unique conversations of each token within a UTC day.

    :param conversations: None for no quota.
    :param clock: seconds since the epoch.
    """

    def __init__(self, conversations: int | None, clock: Callable[[], float]) -> None:
        self._allowed = conversations
        self._clock = clock
        self._seen: dict[str, set[str]] = {}
        self._ends_at = next_midnight(clock())

    def count(self, token: str, conversation_id: str) -> None:
        """Count a conversation.

        :raises ContractError: it is one too many.
        """
        now = self._clock()
        if self._ends_at != (midnight := next_midnight(now)):
            self._seen.clear()
            self._ends_at = midnight
        seen = self._seen.setdefault(token, set())
        if self._allowed is not None and conversation_id not in seen and len(seen) >= self._allowed:
            raise ContractError(429, "Daily conversation quota exceeded", retry_after=math.ceil(self._ends_at - now))
        seen.add(conversation_id)
