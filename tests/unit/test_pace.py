from __future__ import annotations

from dataclasses import replace

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
from airflow_provider_dstny.api.throttle import spacing_of

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


def test_a_request_that_was_not_sent_is_not_tried_again_by_waiting():
    # Its turn comes later than it may wait, or the API's pause is longer than anybody should sleep.
    assert not is_retryable(READ, DstnyRateLimitError(None, "not sent", retry_after=5), attempt=1)
    assert not is_retryable(WRITE, DstnyQuotaError(None, "not sent"), attempt=1)


def test_patience_bounds_the_wait_after_a_429():
    assert is_retryable(replace(READ, patience=10), limited(10), attempt=1)
    assert not is_retryable(replace(READ, patience=10), limited(11), attempt=1)
    assert not is_retryable(replace(READ, patience=1000), limited(121), attempt=1)


def test_the_spacing_stays_below_the_allowed_rate():
    # 60 requests a minute are allowed; the 60th starts after more than 60 s.
    assert 59 * spacing_of(60) > 60
    assert spacing_of(None) == 0


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_failure_of_the_api_that_names_a_long_pause_is_raised(status):
    assert is_retryable(READ, DstnyServerError(status, "", retry_after=60), attempt=1)
    assert not is_retryable(READ, DstnyServerError(status, "", retry_after=600), attempt=1)
