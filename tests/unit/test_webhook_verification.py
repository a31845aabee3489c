"""A webhook is believed only if it is signed, fresh, and what the API sends."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dstny.webhooks.verify import (
    COMPLETED,
    Refusal,
    WebhookEvent,
    WebhookRejected,
    hinted,
    is_signed,
    verify,
)

NOW = datetime(2026, 2, 8, 0, 1, tzinfo=UTC)
SECRET = "whsec-of-today"
CONVERSATION, DELIVERY = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "bbbbbbbb-cccc-dddd-eeee-ffffffffffff"


def told(**changes):
    return {
        "event": COMPLETED,
        "timestamp": "2026-02-08T00:00:00.000Z",
        "data": {"conversation": {"id": CONVERSATION, "title": "private", "transcript": {"segments": []}}},
        "_meta": {"token_prefix": "mt_ab12cd34", "delivery_id": DELIVERY},
        **changes,
    }


def encoded(body=None):
    return body if isinstance(body, bytes) else json.dumps(told() if body is None else body).encode()


def signature(body, secret=SECRET):
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


def verified(body=None, *, secrets=(SECRET,), now=NOW, headers=None, **options):
    body = encoded(body)
    given_headers = {"X-Webhook-Signature": signature(body)} if headers is None else headers
    return verify(body, given_headers, secrets, now=now, **options)


def refused(*arguments, **options):
    with pytest.raises(WebhookRejected) as caught:
        verified(*arguments, **options)
    assert "private" not in str(caught.value)
    return caught.value.reason


def test_an_event_says_who_and_when_and_nothing_else():
    event = verified()
    assert event == WebhookEvent(DELIVERY, COMPLETED, CONVERSATION, datetime(2026, 2, 8, tzinfo=UTC))
    assert event.to_json() == {
        "delivery_id": DELIVERY,
        "event": COMPLETED,
        "conversation_id": CONVERSATION,
        "timestamp": "2026-02-08T00:00:00.000Z",
    }


def test_another_kind_of_event_is_about_nothing():
    event = verified(told(event="token.revoked", data=None))
    assert not event.is_about_completion
    assert event.to_json()["event"] == "token.revoked"


class TestSignatures:
    def test_several_secrets_may_be_in_use(self):
        body = encoded()
        for secret in ("old", "new"):
            assert is_signed(body, signature(body, secret), ["old", "new"])
        assert not is_signed(body, signature(body, "older"), ["old", "new"])

    @pytest.mark.parametrize(
        "change",
        [
            lambda told: "",
            lambda told: told.removeprefix("sha256="),
            lambda told: told.upper(),
            lambda told: "sha256=" + told.removeprefix("sha256=").upper(),
            lambda told: told[:-1],
            lambda told: told + "0",
            lambda told: told + " ",
            lambda told: told + "\n",
            lambda told: " " + told,
            lambda told: f"{told},{told}",
            lambda told: told.replace("sha256", "sha1"),
            lambda told: "sha256=" + "å" * 64,
            lambda told: "sha256=" + "٣" * 64,
            lambda told: "\x00" + told,
        ],
    )
    def test_only_one_form_is_a_signature(self, change):
        body = encoded()
        assert is_signed(body, signature(body), [SECRET])
        assert not is_signed(body, change(signature(body)), [SECRET])

    @pytest.mark.parametrize("secrets", [[], [""], [" "], [SECRET, ""], [None], SECRET, None])
    def test_no_secret_is_not_an_empty_one(self, secrets):
        body = encoded()
        with pytest.raises(ValueError, match="not empty"):
            is_signed(body, signature(body, ""), secrets)

    def test_a_wrong_secret_or_body_is_refused(self):
        assert refused(secrets=["another"]) is Refusal.UNSIGNED
        assert refused(headers={}) is Refusal.UNSIGNED
        body = encoded()
        assert refused(body + b" ", headers={"x-webhook-signature": signature(body)}) is Refusal.UNSIGNED

    @given(st.binary(max_size=200), st.binary(max_size=200))
    def test_a_signature_is_of_one_body(self, body, other):
        assert is_signed(body, signature(body), [SECRET])
        assert is_signed(other, signature(body), [SECRET]) == (body == other)


class TestFreshness:
    @pytest.mark.parametrize(
        ("age", "stale"),
        [
            (timedelta(0), False),
            (timedelta(hours=23), False),
            (timedelta(hours=25), True),
            (timedelta(minutes=-4), False),
            (timedelta(minutes=-6), True),
        ],
    )
    def test_the_body_says_how_old_it_is(self, age, stale):
        now = datetime(2026, 2, 8, tzinfo=UTC) + age
        if stale:
            assert refused(now=now) is Refusal.STALE
        else:
            assert verified(now=now).conversation_id == CONVERSATION

    def test_fresh_headers_do_not_make_an_old_body_fresh(self):
        body, later = encoded(), NOW + timedelta(days=3)
        headers = {"X-Webhook-Signature": signature(body), "X-Webhook-Timestamp": str(int(later.timestamp()))}
        assert refused(body, headers=headers, now=later) is Refusal.STALE

    def test_the_tolerance_can_be_told_in_seconds(self):
        assert refused(tolerance=59) is Refusal.STALE
        assert verified(tolerance=61)

    @pytest.mark.parametrize("timestamp", [None, "", "yesterday", 1770508800, {}])
    def test_a_body_without_a_time_is_refused(self, timestamp):
        assert refused(told(timestamp=timestamp)) is Refusal.MALFORMED


class TestHeaders:
    def test_headers_that_agree_are_fine(self):
        body = encoded()
        headers = {
            "X-WEBHOOK-SIGNATURE": signature(body),
            "x-webhook-event": COMPLETED,
            "X-Webhook-Delivery-Id": DELIVERY,
            "X-Webhook-Timestamp": str(int(NOW.timestamp())),
        }
        assert verified(body, headers=headers)

    @pytest.mark.parametrize(
        ("name", "value", "reason"),
        [
            ("X-Webhook-Event", "conversation.created", Refusal.CONTRADICTED),
            ("X-Webhook-Delivery-Id", "another", Refusal.CONTRADICTED),
            ("X-Webhook-Timestamp", "soon", Refusal.CONTRADICTED),
            ("X-Webhook-Timestamp", "-5", Refusal.CONTRADICTED),
            ("X-Webhook-Timestamp", "9" * 30, Refusal.CONTRADICTED),
            ("X-Webhook-Timestamp", "0", Refusal.STALE),
            ("X-Webhook-Timestamp", "99999999999", Refusal.STALE),
        ],
    )
    def test_headers_that_say_something_else_are_refused(self, name, value, reason):
        body = encoded()
        assert refused(body, headers={"X-Webhook-Signature": signature(body), name: value}) is reason


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"not json",
        b'{"event": "conversation.completed"',
        b"\xff\xfe",
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b'{"event": NaN}',
        b'{"event": "x", "event": "conversation.completed"}',
        json.dumps(told(event=None)).encode(),
        json.dumps(told(event=["conversation.completed"])).encode(),
        json.dumps(told(_meta=None)).encode(),
        json.dumps(told(_meta={"delivery_id": ""})).encode(),
        json.dumps(told(_meta={"delivery_id": "../../etc"})).encode(),
        json.dumps(told(_meta={"delivery_id": "d" * 200})).encode(),
        json.dumps(told(data={"conversation": {}})).encode(),
        json.dumps(told(data={"conversation": {"id": 5}})).encode(),
        json.dumps(told(data={"conversation": {"id": "<script>"}})).encode(),
        json.dumps(told(data=[])).encode(),
        json.dumps(told()).replace('"data"', '"data": {"conversation": {"id": "other"}}, "data"').encode(),
    ],
)
def test_a_signed_body_of_another_form_is_refused(body):
    assert refused(body) is Refusal.MALFORMED


class TestHints:
    def test_api_v2_tells_that_a_conversation_was_created(self):
        body = encoded({"event_type": "conversation_created", "payload": {"conversation_id": CONVERSATION}})
        assert hinted(body) == WebhookEvent(f"created:{CONVERSATION}", "conversation_created", CONVERSATION, None)

    def test_tellcasey_tells_that_one_is_completed(self):
        envelope = {
            "event_type": "conversation.completed",
            "event_id": "evt_1",
            "timestamp": "2026-02-08T00:00:00Z",
            "organization_id": "org",
        }
        for data in ({"id": "c"}, {"conversation_id": "c"}, {"conversation": {"id": "c"}}):
            event = hinted(encoded({**envelope, "data": data}))
            assert event == WebhookEvent("evt_1", "conversation.completed", "c", datetime(2026, 2, 8, tzinfo=UTC))
        test = hinted(encoded({**envelope, "event_type": "test.event", "data": {}}))
        assert not test.is_about_completion

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"event_type": 5},
            {"event_type": "conversation_created"},
            {"event_type": "x", "payload": {}},
            {"data": 1},
        ],
    )
    def test_what_has_no_known_form_is_refused(self, body):
        with pytest.raises(WebhookRejected):
            hinted(encoded(body))
