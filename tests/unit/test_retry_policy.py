"""What a task does after an error of the API: fail at once, wait as told, or what its own settings say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_dstny import exceptions

pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="Airflow before 3.3 knows no retry policies")

from airflow.sdk.definitions.retry_policy import RetryAction, RetryDecision

from airflow_provider_dstny.policies import DstnyRetryPolicy


def decide(error):
    return DstnyRetryPolicy().evaluate(error, 1, 3)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.DstnyAuthError(401, "get_account: no."),
        exceptions.DstnyScopeError(403, "get_account: no."),
        exceptions.DstnyValidationError(None, "limit must be an integer."),
        exceptions.DstnyAmbiguousError("create_call_conversation was sent but its answer was lost."),
    ],
)
def test_what_a_retry_cannot_mend_fails_at_once_and_says_why(error):
    assert decide(error) == RetryDecision.fail(str(error))


@pytest.mark.parametrize("kind", [exceptions.DstnyRateLimitError, exceptions.DstnyServerError])
def test_a_pause_that_the_api_told_is_kept(kind):
    decision = decide(kind(503, "get_account: not now.", retry_after=7))
    assert (decision.action, decision.retry_delay) == (RetryAction.RETRY, timedelta(seconds=7))


def test_a_quota_is_waited_for_until_it_starts_anew():
    resets_at = datetime.now(UTC) + timedelta(hours=5)
    decision = decide(exceptions.DstnyQuotaError(429, "get_conversation: used up.", resets_at=resets_at))
    assert decision.action is RetryAction.RETRY
    assert timedelta(hours=5) - decision.retry_delay < timedelta(minutes=1)
    over = decide(exceptions.DstnyQuotaError(429, "used up.", resets_at=resets_at - timedelta(days=1)))
    assert over.retry_delay == timedelta(0)


@pytest.mark.parametrize(
    "error",
    [
        exceptions.DstnyConnectionError("no."),
        exceptions.DstnyTimeoutError("no."),
        exceptions.DstnyRateLimitError(429, "no."),
        exceptions.DstnyServerError(500, "no."),
        exceptions.DstnyNotFoundError(404, "not there yet."),
        ZeroDivisionError(),
    ],
)
def test_all_else_is_left_to_the_task(error):
    assert decide(error) == RetryDecision.default()


def test_an_error_is_known_by_what_it_was_raised_from():
    error = RuntimeError("the report is not there")
    error.__cause__ = exceptions.DstnyAuthError(401, "get_account: no.")
    assert decide(error).action is RetryAction.FAIL


def test_a_circle_of_causes_ends():
    one, other = ValueError(), ValueError()
    one.__cause__, other.__cause__ = other, one
    assert decide(one) == RetryDecision.default()
