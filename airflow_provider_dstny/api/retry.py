"""When a request is sent again, and after how long. The one policy of the sync and the async client."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from tenacity import RetryCallState, stop_after_attempt, wait_random_exponential

from airflow_provider_dstny.api.errors import (
    DstnyApiError,
    DstnyConnectionError,
    DstnyRateLimitError,
    DstnyServerError,
    DstnyTimeoutError,
)
from airflow_provider_dstny.api.operation import Request

#: Longer waits are raised, so that a task can be deferred or rescheduled instead of sleeping, in seconds.
LONGEST_WAIT = 120.0

_log = logging.getLogger(__name__)
_full_jitter = wait_random_exponential(multiplier=1, max=30)


def is_retryable(request: Request, error: BaseException | None, attempt: int) -> bool:
    """Tell whether a request that failed on its ``attempt``-th try (from 1) may be sent again.

    A write is only repeated when it surely did not happen: it never arrived, or was refused with 429.
    """
    match error:
        case DstnyConnectionError():
            return True
        case DstnyRateLimitError(status_code=None):
            # It was not sent, because its turn comes later than it may wait.
            return False
        case DstnyRateLimitError():
            patience = LONGEST_WAIT if request.patience is None else request.patience
            return (error.retry_after or 0) <= min(LONGEST_WAIT, patience)
        case DstnyTimeoutError():
            return request.repeatable
        case DstnyServerError() if (error.retry_after or 0) > LONGEST_WAIT:
            return False
        case DstnyServerError(status_code=502 | 503 | 504):
            return request.repeatable
        case DstnyServerError(status_code=500):
            # A bug of the API repeats itself, a hiccup does not: one more try tells them apart.
            return request.repeatable and attempt == 1
    return False


def retry_options(
    request: Request, max_retries: int, *, on_retry: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Return the keyword arguments for tenacity's ``Retrying`` and ``AsyncRetrying``.

    :param on_retry: is called before each further attempt.
    """

    def retry(state: RetryCallState) -> bool:
        return is_retryable(request, _failure(state), state.attempt_number)

    def wait(state: RetryCallState) -> float:
        told = getattr(_failure(state), "retry_after", None)
        return _full_jitter(state) if told is None else float(told)

    def before_sleep(state: RetryCallState) -> None:
        failure = _failure(state)
        cause = failure.status_code if isinstance(failure, DstnyApiError) else type(failure).__name__
        _log.warning(
            "%s failed on attempt %d of %d (%s); next attempt in %.1f s",
            request,
            state.attempt_number,
            max_retries + 1,
            cause,
            state.upcoming_sleep,
        )
        on_retry()

    return {
        "stop": stop_after_attempt(max_retries + 1),
        "retry": retry,
        "wait": wait,
        "before_sleep": before_sleep,
        "reraise": True,
    }


def _failure(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
