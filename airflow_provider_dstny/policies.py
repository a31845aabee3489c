"""When tasks are retried after errors of the API, on Airflow 3.3 and later."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

try:
    from airflow.sdk import RetryDecision, RetryPolicy
except ImportError:
    raise ImportError("airflow_provider_dstny.policies needs Airflow 3.3, which knows retry policies.") from None

from airflow_provider_dstny.api.errors import (
    DstnyAmbiguousError,
    DstnyError,
    DstnyQuotaError,
    DstnyRateLimitError,
    DstnyServerError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context


class DstnyRetryPolicy(RetryPolicy):
    """Retries when a retry may pass, and not before the API said that it may.

    .. code-block:: python

        @task(retries=5, retry_policy=DstnyRetryPolicy())
        def titles() -> list[str]: ...

    Errors of token, scope and input fail at once, and so does a write whose answer was lost. A rate limit is waited for
    as long as the API said, a used-up quota until it starts anew. All else is left to ``retries`` and ``retry_delay``:
    also a write that was answered with 500 or 503, so let a task of your own look before it writes again. Airflow
    counts each of these retries, and asks no policy about a task that was killed.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        error = next((one for one in _causes(exception) if isinstance(one, DstnyError)), None)
        match error:
            case DstnyAmbiguousError() | DstnyError(final=True):
                return RetryDecision.fail(str(error))
            case DstnyQuotaError(resets_at=datetime() as resets_at):
                return RetryDecision.retry(max(timedelta(0), resets_at - datetime.now(UTC)), str(error))
            case DstnyRateLimitError() | DstnyServerError() if error.retry_after is not None:
                return RetryDecision.retry(timedelta(seconds=error.retry_after), str(error))
        return RetryDecision.default()

    def serialize(self) -> dict[str, Any]:
        return {}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> DstnyRetryPolicy:
        return cls()


def _causes(exception: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, and those that it was raised from."""
    seen: set[int] = set()
    while exception is not None and id(exception) not in seen:
        seen.add(id(exception))
        yield exception
        exception = exception.__cause__
