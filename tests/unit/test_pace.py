from __future__ import annotations

import pytest

from airflow_provider_dstny.api.errors import (
    DstnyAmbiguousError,
    DstnyAuthError,
    DstnyConnectionError,
    DstnyQuotaError,
    DstnyRateLimitError,
    DstnyResponseError,
    DstnyServerError,
    DstnyTimeoutError,
)
from airflow_provider_dstny.api.operation import Request
from airflow_provider_dstny.api.retry import is_retryable
from airflow_provider_dstny.api.throttle import Throttle, throttle_for

READ = Request("list_users", "GET", "/users", True)
WRITE = Request("create_call_conversation", "POST", "/conversations", False)


def limited(seconds):
    return DstnyRateLimitError(429, "slow down", retry_after=seconds)


@pytest.mark.parametrize(
    ("error", "read", "write"),
    [
        (DstnyConnectionError("refused"), True, True),
        (limited(None), True, True),
        (limited(120), True, True),
        (limited(121), False, False),
        (DstnyTimeoutError("slow"), True, False),
        (DstnyServerError(500, ""), True, False),
        (DstnyServerError(502, ""), True, False),
        (DstnyServerError(503, ""), True, False),
        (DstnyServerError(504, ""), True, False),
        (DstnyServerError(501, ""), False, False),
        (DstnyAuthError(401, ""), False, False),
        (DstnyQuotaError(429, ""), False, False),
        (DstnyResponseError("cut"), False, False),
        (DstnyAmbiguousError("lost"), False, False),
        (KeyError("a bug of ours"), False, False),
    ],
)
def test_what_is_sent_again(error, read, write):
    assert is_retryable(READ, error, attempt=1) is read
    assert is_retryable(WRITE, error, attempt=1) is write


def test_a_500_is_tried_only_once_more():
    assert not is_retryable(READ, DstnyServerError(500, ""), attempt=2)
    assert is_retryable(READ, DstnyServerError(503, ""), attempt=2)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_slots_are_spaced_below_the_allowed_rate():
    throttle = Throttle(60, clock=Clock())
    waits = [throttle.reserve() for _ in range(60)]
    assert waits[0] == 0
    assert waits[1] == pytest.approx(60 / (60 * 0.97))
    # 60 requests a minute are allowed; the 60th starts after more than 60 s.
    assert waits[-1] > 60


def test_unused_slots_are_not_saved_up():
    clock = Clock()
    throttle = Throttle(60, clock=clock)
    throttle.reserve()
    clock.now += 300
    assert throttle.reserve() == 0
    assert throttle.reserve() > 1


def test_a_pause_holds_for_everybody():
    throttle = Throttle(clock=Clock())
    throttle.pause(30)
    assert throttle.reserve() == 30
    throttle.pause(10)
    assert throttle.reserve() == 30


def test_no_rate_means_no_wait():
    throttle = Throttle(clock=Clock())
    assert [throttle.reserve() for _ in range(5)] == [0] * 5


def test_a_client_without_a_rate_does_not_lift_the_limit_of_another():
    throttle = throttle_for("https://b", "t", 60)
    throttle_for("https://b", "t", None)
    throttle.reserve()
    assert throttle.reserve() > 0


def test_a_503_that_names_a_long_pause_is_raised():
    assert is_retryable(READ, DstnyServerError(503, "", retry_after=60), attempt=1)
    assert not is_retryable(READ, DstnyServerError(503, "", retry_after=600), attempt=1)


def test_clients_of_one_token_share_a_throttle():
    assert throttle_for("https://a", "t", 60) is throttle_for("https://a", "t", 60)
    assert throttle_for("https://a", "t", 60) is not throttle_for("https://a", "other", 60)
