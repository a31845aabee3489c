"""Input that once broke something: each is an error of its own kind, in time, and shows nothing."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone

import httpx
import pytest

from airflow_provider_dstny.api.arguments import day_param
from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import (
    DstnyAmbiguousError,
    DstnyApiError,
    DstnyError,
    DstnyResponseError,
    DstnyValidationError,
)
from airflow_provider_dstny.api.iteration import Found
from airflow_provider_dstny.api.models.directory import EmbedUser
from airflow_provider_dstny.api.privacy import scrub, shown
from airflow_provider_dstny.api.times import aware_time
from airflow_provider_dstny.export.redaction import Redaction
from tests.unit.test_answers import TOKEN, WRITE, read
from tests.unit.test_fuzz_webhooks import post

URL = "https://api.example.com"


def nested(levels):
    return b"[" * levels + b"]" * levels


def test_an_answer_that_is_nested_too_deep_to_be_read_is_none():
    assert read(body=nested(100)) is not None
    for levels in (102, 800, 100_000):
        with pytest.raises(DstnyResponseError, match="not whole JSON"):
            read(body=nested(levels))
    with pytest.raises(DstnyAmbiguousError):
        read(body=nested(800), request=WRITE)


@pytest.mark.parametrize("between", ["\0", "\u200b", "\u2066", "\ud800"])
def test_a_token_with_something_invisible_in_it_is_no_less_secret(between):
    assert scrub(f"bad token {TOKEN[:7]}{between}{TOKEN[7:]}!", TOKEN) == "bad token ***!"


def test_a_token_is_found_before_a_message_is_cut():
    with pytest.raises(DstnyApiError) as caught:
        read(status=400, body={"message": "x" + " " * 990 + TOKEN})
    assert caught.value.message.endswith("x ***.")


def test_a_request_id_is_a_text_or_a_number():
    for told, known in ((5, "5"), ("r-1", "r-1"), ({"name": "Jane"}, None), (["Jane"], None)):
        with pytest.raises(DstnyApiError) as caught:
            read(status=400, body={"meta": {"request_id": told}})
        assert caught.value.request_id == known


EAST, WEST = timezone(timedelta(hours=14)), timezone(-timedelta(hours=14))


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=EAST), datetime.max.replace(tzinfo=WEST)])
def test_a_time_that_utc_does_not_have_is_refused(moment):
    for value in (moment, moment.isoformat()):
        with pytest.raises(DstnyValidationError, match="since must be"):
            aware_time("since", value)
    with pytest.raises(DstnyValidationError, match="day lies outside"):
        list(day_param("day", moment))


def test_text_that_cannot_be_written_is_refused_before_anything_is_sent():
    client = DstnyClient(URL, TOKEN)
    for filters in ({"search": "\ud800"}, {"campaign_ids": ["\udfff"]}):
        with pytest.raises(DstnyValidationError, match=r"search|campaign_ids\[\]"):
            next(client.list_conversations.steps(**filters))


@pytest.mark.parametrize("local", ["(" * 5000, "(" * 300, "a" * 1_000_000, "<" * 5000])
def test_an_address_that_is_too_much_for_its_parser_is_refused(local):
    began = time.process_time()
    with pytest.raises(DstnyValidationError, match="is not an e-mail address"):
        EmbedUser.parse({"email": f"{local}@example.com"})
    assert time.process_time() - began < 1


def page(*rows, cursor):
    return {"conversations": rows, "pagination": {"has_more": True, "next_cursor": cursor}}


def walk(*pages):
    """Walk pages, the last of which comes again and again."""
    findings = DstnyRestClient(URL, TOKEN).iter_conversations.findings()
    step = next(findings)
    for number in range(1000):
        while isinstance(step, Found):
            step = next(findings)
        step = findings.send(json.loads(json.dumps(pages[min(number, len(pages) - 1)])))


def test_a_cursor_is_not_shown_and_one_that_cannot_be_sent_is_an_error():
    with pytest.raises(DstnyResponseError, match="its pages repeat") as caught:
        walk(page(cursor="Jane Doe" * 1000))
    assert "Jane" not in str(caught.value)
    with pytest.raises(DstnyError):
        walk(page(cursor="\ud800"))


@pytest.mark.parametrize("more", [{}, {"has_more": None}, {"hasMore": "perhaps"}])
@pytest.mark.parametrize("name", ["next_cursor", "nextCursor"])
def test_a_cursor_that_is_no_text_does_not_end_a_list_in_silence(name, more):
    with pytest.raises(DstnyResponseError, match="goes on, but not where"):
        walk({"conversations": [{"id": 1}], "pagination": {name: 1767225600000, **more}})


@pytest.mark.parametrize("date", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
def test_a_walk_does_not_leave_the_calendar(date):
    cursors = [f"2026-03-02T12:00:0{second}Z" for second in range(9)]
    pages = [page({"id": second, "date": date}, cursor=cursor) for second, cursor in enumerate(cursors)]
    with pytest.raises(DstnyResponseError, match="has a gap at 2026-03-02T12:00:00"):
        walk(pages[0], *[{**pages[1], "conversations": [{"id": n, "date": date}]} for n in range(10, 60)])


def test_a_host_that_cannot_be_written_out_is_refused():
    with pytest.raises(DstnyValidationError, match="host must be"):
        DstnyRestClient("https://xn--a", TOKEN)
    opened = DstnyRestClient(URL, TOKEN).open_url("https://xn--a/x.mp3", {})
    with pytest.raises(DstnyValidationError, match="no http or https URL"), opened:
        pass


def test_no_header_of_an_answer_has_a_say_in_the_next_request():
    asked = []

    def answer(request):
        asked.append(request.headers)
        odd = [(b"Set-Cookie", b"session=\xc3\xa9; Path=/"), (b"Location", b"http://xn--a/")]
        return httpx.Response(301 if len(asked) == 1 else 200, headers=odd, content=b'{"name": "Acme"}')

    client = DstnyRestClient(URL, TOKEN, max_retries=0, requests_per_minute=10**9)
    client._http = httpx.Client(**client._http_options(), transport=httpx.MockTransport(answer))
    with client:
        with pytest.raises(DstnyError):
            client.get_account()
        assert client.get_account().name == "Acme"
    assert "cookie" not in asked[1]


def test_the_length_of_a_body_may_be_any_number():
    assert post("/rest", [("content-length", "1" * 5000)], [b"{}"])[0] == 413


def test_rules_for_any_depth_take_no_longer_the_more_ways_lead_to_a_field():
    body = {"b": "Jane"}
    for _ in range(98):
        body = {"a": body, "b": 1}
    redaction = Redaction.parse({"drop": [".".join(["**.a"] * 12) + ".b"]})
    began = time.process_time()
    assert "Jane" not in json.dumps(redaction.redact(body))
    assert time.process_time() - began < 5


@pytest.mark.parametrize("text", ["1-(", "1 ", "(1", "1.1.", "%20", "\u2011-1"])
def test_what_nearly_is_a_phone_number_takes_no_longer_than_its_length(text):
    began = time.process_time()
    shown("call_title", text * 20_000)
    assert time.process_time() - began < 5
