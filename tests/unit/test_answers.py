from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime

import pytest

from airflow_provider_dstny.api.answers import read_answer
from airflow_provider_dstny.api.errors import (
    DstnyAmbiguousError,
    DstnyApiError,
    DstnyAuthError,
    DstnyError,
    DstnyNotFoundError,
    DstnyQuotaError,
    DstnyRateLimitError,
    DstnyResponseError,
    DstnyScopeError,
    DstnyServerError,
    DstnyValidationError,
)
from airflow_provider_dstny.api.operation import Request

TOKEN = "eyJhbGciOiJIUzI1NiJ9.secret"
NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
READ = Request("get_transcript", "GET", "/conversations/c1/transcript", True)
WRITE = Request("create_call_conversation", "POST", "/conversations", False)


def read(status=200, body=b"", headers=None, request=READ):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(
        request, status, headers or {}, content, token=TOKEN, settings_page="Settings → REST API in Dstny", now=NOW
    )


def test_success_is_decoded():
    assert read(body={"a": 1}) == {"a": 1}


def test_nothing_is_an_answer_to_a_write_and_where_the_api_says_so():
    write = Request("update_user", "PATCH", "/users/u1", True)
    assert read(body=b"  \n", request=write) is None
    assert read(status=204) is None
    with pytest.raises(DstnyResponseError, match=r"get_transcript .* was answered with an empty body"):
        read(body=b"  \n")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, DstnyApiError),
        (400, DstnyValidationError),
        (401, DstnyAuthError),
        (403, DstnyScopeError),
        (404, DstnyNotFoundError),
        (405, DstnyApiError),
        (409, DstnyApiError),
        (422, DstnyValidationError),
        (429, DstnyRateLimitError),
        (500, DstnyServerError),
        (503, DstnyServerError),
        (599, DstnyServerError),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html><title>Oops</title>", {"message": "Oops"}, [1], b"\xff\xfe", "x", None])
def test_every_status_has_its_error_whatever_the_body(status, kind, body):
    with pytest.raises(kind) as caught:
        read(status, body)
    assert type(caught.value) is kind
    assert caught.value.status_code == status
    assert str(status) in str(caught.value)
    assert "get_transcript" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"statusCode": 403, "message": "Nope", "error": "Forbidden"}, "Nope"),
        ({"error": {"code": "x", "message": "Nope"}}, "Nope"),
        ({"message": ["one", "two"]}, "one; two"),
        (b"<html><head><TITLE>\n502 Bad &amp; Gateway</TITLE></head>", "502 Bad & Gateway"),
    ],
)
def test_the_message_of_the_api_is_found(body, message):
    with pytest.raises(DstnyApiError) as caught:
        read(409, body)
    assert message in caught.value.message


def test_tokens_and_phone_numbers_of_a_message_are_masked_and_it_is_cut():
    body = {"message": f"Token {TOKEN} may not call +46 70 174 06 05 or 0701740605 of {'x' * 900}", "statusCode": 400}
    with pytest.raises(DstnyValidationError) as caught:
        read(400, body)
    text = f"{caught.value} {caught.value!r} {caught.value.__dict__}"
    assert TOKEN not in text
    assert "174" not in text
    assert len(caught.value.message) < 500


def test_ids_in_a_message_stay_readable():
    with pytest.raises(DstnyApiError, match="1f07d9fe-b515-6c3e-8fd2-ce54fb85a059"):
        read(409, {"message": "conflict with 1f07d9fe-b515-6c3e-8fd2-ce54fb85a059"})


def test_a_missing_scope_is_named():
    with pytest.raises(DstnyScopeError) as caught:
        read(403, {"message": "Token does not have the 'transcripts' scope"})
    assert caught.value.scope == "transcripts"
    assert "'transcripts' scope under Settings → REST API in Dstny" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "headers", "seconds"),
    [
        ({"retryAfter": 60}, {"retry-after": "5"}, 60),
        ({"retryAfter": "7"}, {}, 7),
        ({}, {"retry-after": "5"}, 5),
        ({}, {"retry-after": "Mon, 02 Mar 2026 12:00:30 GMT"}, 30),
        ({}, {"retry-after": "Mon, 02 Mar 2026 11:00:00 GMT"}, 0),
        ({"retryAfter": "soon"}, {"retry-after": "later"}, None),
        ({"retryAfter": -1}, {}, None),
        ({"retryAfter": True}, {}, None),
        ({"retryAfter": 1e999}, {}, None),
        ([], {}, None),
        ({"retryAfter": {"s": 1}}, {}, None),
        ({"retryAfter": [1]}, {}, None),
        ({"retryAfter": 10**400}, {}, None),
        ({}, {"retry-after": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
    ],
)
def test_the_delay_comes_from_the_body_then_from_the_header(body, headers, seconds):
    with pytest.raises(DstnyRateLimitError) as caught:
        read(429, body, headers)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("body", "resets_at"),
    [
        ({"message": "Daily conversation quota exceeded"}, datetime(2026, 3, 3, tzinfo=UTC)),
        ({"message": "Too many", "retryAfter": 7200}, datetime(2026, 3, 2, 14, tzinfo=UTC)),
        ({"message": "Too many", "retryAfter": 1e20}, datetime(2026, 3, 3, tzinfo=UTC)),
    ],
)
def test_a_daily_quota_is_told_from_a_rate_limit(body, resets_at):
    with pytest.raises(DstnyQuotaError) as caught:
        read(429, body)
    assert caught.value.resets_at == resets_at


@pytest.mark.parametrize("body", [b'{"text": "secret wo', b"<html>hello</html>", b"\xff", b"[" * 100_000])
def test_an_unreadable_success_names_neither_text_nor_cause_with_text(body):
    with pytest.raises(DstnyResponseError) as caught:
        read(200, body)
    assert "secret wo" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(("status", "body"), [(200, b'{"conv'), (502, b""), (504, b"")])
def test_a_write_whose_answer_is_lost_is_ambiguous(status, body):
    with pytest.raises(DstnyAmbiguousError, match="may have happened"):
        read(status, body, request=WRITE)


def test_a_deep_error_body_is_no_problem():
    with pytest.raises(DstnyServerError):
        read(500, b"[" * 700 + b"1" + b"]" * 700)
    with pytest.raises(DstnyServerError):
        read(500, b'{"message":' * 700 + b"1" + b"}" * 700)


def test_headers_are_scrubbed_too():
    private = f"{TOKEN} +46701740605"
    for status, headers in ((500, {"x-request-id": private}), (200, {"content-type": private})):
        with pytest.raises(DstnyError) as caught:
            read(status, b"<html>", headers)
        assert TOKEN not in f"{caught.value!r}"
        assert "46701740605" not in f"{caught.value!r}"


def test_a_503_tells_when_to_come_back():
    with pytest.raises(DstnyServerError) as caught:
        read(503, {"retryAfter": 1e20})
    assert caught.value.retry_after == 31 * 86400
    with pytest.raises(DstnyServerError) as caught:
        read(503, {}, {"retry-after": "17"})
    assert caught.value.retry_after == 17


@pytest.mark.parametrize(("request_", "hint"), [(READ, "a retry later may pass"), (WRITE, "look before sending")])
def test_a_failed_write_does_not_promise_that_a_retry_is_safe(request_, hint):
    with pytest.raises(DstnyServerError, match=hint):
        read(500, b"", request=request_)


def test_request_ids_are_kept():
    with pytest.raises(DstnyApiError, match="request id r-1"):
        read(500, {}, {"x-request-id": "r-1"})
    with pytest.raises(DstnyApiError, match="request id r-2"):
        read(500, {"meta": {"request_id": "r-2"}})


def test_errors_survive_pickling():
    error = DstnyScopeError(403, "no", "r-1", "hint", scope="users")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.scope, copy.request_id) == (str(error), "users", "r-1")
