from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.models import CallConversation

DOCUMENTED = {
    "call_external_id": "a1b2c3d4e5",
    "call_start_time": "2025-04-17T08:00:00Z",
    "call_end_time": "2025-04-17T08:15:00Z",
    "call_duration": 900,
    "call_recording_url": "https://recordings.example.com/a1.mp3?signature=abc",
    "call_is_stereo": False,
    "call_direction": "outgoing",
    "call_title": "Quarterly Review",
    "call_outcome": "Won",
    "call_participant_channel": "right",
    "owner_email": "john.doe@example.com",
    "owner_name": "John Doe",
    "owner_phone_number": "+46701740605",
    "participant_email": "client@example.org",
    "participant_first_name": "Client",
    "participant_last_name": "Smith",
    "participant_phone_number": "+46701740606",
    "participant_company_name": "Client AB",
    "participant_external_id": "external-1234",
}


def test_every_documented_field_is_sent_as_it_is():
    assert CallConversation.parse(DOCUMENTED).to_json() == DOCUMENTED
    assert set(CallConversation.model_fields) == set(DOCUMENTED)


def test_what_is_not_given_is_not_sent(call):
    assert CallConversation.parse({**call, "call_title": None}).to_json() == call


def test_times_are_sent_in_utc(call):
    local = datetime(2026, 3, 2, 9, 0, tzinfo=timezone(timedelta(hours=1)))
    assert CallConversation.parse({**call, "call_start_time": local}).to_json()["call_start_time"] == (
        "2026-03-02T08:00:00Z"
    )


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("call_start_time", "2026-03-02T08:00:00", "timezone"),
        ("call_start_time", "2026-03-02", "timezone"),
        ("call_start_time", 1772438400, "ISO 8601"),
        ("call_start_time", "1772438400", "ISO 8601"),
        ("call_start_time", "yesterday", "ISO 8601"),
        ("call_start_time", "0001-01-01T00:00:00+05:00", "1970"),
        ("call_end_time", "9999-12-31T23:59:59-05:00", "1970"),
        ("call_end_time", "2026-03-02T07:59:00Z", "before call_start_time"),
        ("call_end_time", "2026-03-02T08:01:28Z", "call_duration is 90 s"),
        ("call_duration", -1, "greater than or equal to 0"),
        ("call_duration", "ninety", "integer"),
        ("call_duration", 10**20, "less than or equal"),
        ("call_duration", True, "integer"),
        ("call_duration", 1.5, "integer"),
        ("call_recording_url", "ftp://example.com/a.wav", "http or https"),
        ("call_recording_url", "/var/recordings/a.wav", "http or https"),
        ("call_recording_url", "https://user:pw@example.com/a.wav", "publicly accessible"),
        ("call_is_stereo", "yes", "boolean"),
        ("call_direction", "inbound", "'incoming' or 'outgoing'"),
        ("call_participant_channel", "middle", "'left' or 'right'"),
        ("call_external_id", "", "at least 1 character"),
        ("call_external_id", 5, "string"),
        ("owner_email", "erik", "e-mail"),
        ("owner_email", "a@[<b", "e-mail"),
        ("owner_email", "erik@example.com, sara@example.com", "e-mail"),
        ("participant_email", "erik@", "e-mail"),
        ("call_titel", "typo", "not permitted"),
    ],
)
def test_a_wrong_field_is_named_with_its_reason(call, field, value, reason):
    with pytest.raises(DstnyValidationError, match=reason) as caught:
        CallConversation.parse({**call, field: value})
    assert field in str(caught.value)
    assert caught.value.status_code is None


@pytest.mark.parametrize("field", ["call_external_id", "call_start_time", "call_recording_url", "owner_email"])
def test_required_fields_are_required(call, field):
    del call[field]
    with pytest.raises(DstnyValidationError, match=f"{field}: Field required"):
        CallConversation.parse(call)


def test_end_or_duration_is_needed_and_both_must_agree(call):
    del call["call_duration"]
    with pytest.raises(DstnyValidationError, match="call_end_time or call_duration"):
        CallConversation.parse(call)
    CallConversation.parse({**call, "call_end_time": "2026-03-02T08:01:30Z"})
    CallConversation.parse({**call, "call_end_time": "2026-03-02T08:01:30.900Z", "call_duration": 90})


def test_stereo_without_a_channel_takes_the_documented_default(call):
    assert CallConversation.parse({**call, "call_is_stereo": True}).call_participant_channel == "right"
    left = CallConversation.parse({**call, "call_is_stereo": True, "call_participant_channel": "left"})
    assert left.call_participant_channel == "left"
    assert CallConversation.parse(call).call_participant_channel is None


@pytest.mark.parametrize("email", ["erik.lindstrom@telco-demo.test", "erik@corp.local"])
def test_reserved_mail_domains_are_in_use(call, email):
    assert CallConversation.parse({**call, "owner_email": email}).owner_email == email


def test_text_of_templates_and_files_is_understood(call):
    texts = {name: str(value) for name, value in call.items()} | {"call_is_stereo": "True"}
    parsed = CallConversation.parse(texts)
    assert (parsed.call_duration, parsed.call_is_stereo) == (90, True)


def test_neither_errors_nor_prints_show_the_input(call):
    private = "+46701740605"
    with pytest.raises(DstnyValidationError) as caught:
        CallConversation.parse({**call, "owner_phone_number": [private], "call_duration": private})
    assert private not in f"{caught.value} {caught.value!r}"
    for wrong in ({"call_start_time": private}, {private: "x"}, {"call_direction": private}, {"owner_email": private}):
        with pytest.raises(DstnyValidationError) as caught:
            CallConversation.parse({**call, **wrong})
        assert private not in f"{caught.value} {caught.value!r} {caught.value.__context__!r}"
    with pytest.raises(ValidationError) as raw:
        CallConversation(**{**call, "owner_phone_number": [private]})
    assert private not in str(raw.value)
    assert private not in f"{CallConversation.parse({**call, 'owner_phone_number': private})!r}"
