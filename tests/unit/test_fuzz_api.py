"""Whatever an API answers and a user gives, nothing comes out but values and documented errors, and no secret."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from itertools import cycle, islice
from types import SimpleNamespace

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_provider_dstny.api import arguments
from airflow_provider_dstny.api.answers import read_answer
from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyApiError, DstnyError, DstnyValidationError
from airflow_provider_dstny.api.ids import encode_id, unique_ids
from airflow_provider_dstny.api.iteration import Found
from airflow_provider_dstny.api.models import Transcript
from airflow_provider_dstny.api.models.agents import AgentDefinition
from airflow_provider_dstny.api.models.base import Answer
from airflow_provider_dstny.api.models.calls import CallConversation
from airflow_provider_dstny.api.models.directory import (
    EmbedUser,
    TeamCreate,
    TeamMembers,
    TeamUpdate,
    UserCreate,
    UserUpdate,
)
from airflow_provider_dstny.api.models.rest import NotetakerRequest
from airflow_provider_dstny.api.operation import Request, Route, override_routes
from airflow_provider_dstny.api.privacy import scrub, shown
from airflow_provider_dstny.api.tellcasey import TellcaseyClient
from airflow_provider_dstny.api.throttle import Throttle
from airflow_provider_dstny.api.times import aware_time, iso_time, utc_time
from tests.unit.fuzzing import (
    MARK,
    NASTY,
    TOKEN,
    any_text,
    anything,
    arguments_of,
    bodies,
    encoded,
    fuzz,
    header_maps,
    logged,
    mutated,
    seeds_of_the_simulator,
    statuses,
    told,
)
from tests.unit.test_call_conversation import DOCUMENTED
from tests.unit.test_directory_models import AGENT, TEAM, USER

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
URL = "https://api.example.com"
READ = Request("get_transcript", "GET", "/conversations/c1/transcript", True)
WRITE = Request("create_call_conversation", "POST", "/conversations", False)
SEEDS = seeds_of_the_simulator()
CLIENTS = {client.name: client for client in (DstnyClient, DstnyRestClient, TellcaseyClient)}
LISTED = {("dstny_rest", "iter_conversations"), ("tellcasey", "iter_conversations")}
ERRORS = (
    {"statusCode": 403, "message": "Missing 'insights' scope", "error": "Forbidden", "meta": {"request_id": "r-1"}},
    {"statusCode": 429, "message": "Too many requests", "retryAfter": 30},
    {"error": {"code": "rate_limited", "message": "Slow down"}, "meta": {"request_id": "r-2"}},
    {"detail": [{"loc": ["body", "email"], "msg": "value is not valid"}], "errors": {"a": [{"message": "x"}]}},
)
#: More requests than the most patient walk makes.
MOST_STEPS = 3000
replies = st.tuples(statuses, header_maps, st.sampled_from(sorted(SEEDS)).flatmap(lambda key: bodies(SEEDS[key])))


def client_of(kind, transport=None):
    """A client of its own pace that does not sleep, behind a transport that answers as it likes."""
    client = kind(URL, TOKEN, max_retries=1, requests_per_minute=10**9)
    client._throttle = Throttle()
    if transport is not None:
        options = {**client._http_options(), "transport": httpx.MockTransport(transport)}
        client._http, client._ahttp = httpx.Client(**options), None
        client._http_options = lambda: options
    return client


@pytest.fixture(autouse=True)
def _awake(mocker):
    async def asleep(seconds):
        assert 0 <= seconds <= 120

    mocker.patch("airflow_provider_dstny.api.client.time", SimpleNamespace(sleep=lambda seconds: None))
    awake = SimpleNamespace(sleep=asleep, get_running_loop=asyncio.get_running_loop, timeout=asyncio.timeout)
    mocker.patch("airflow_provider_dstny.api.client.asyncio", awake)


def read(status, headers, body, request=READ):
    return read_answer(request, status, headers, body, token=TOKEN, settings_page="Settings", now=NOW)


def check(error):
    """Check what an error tells: of the body of a success nothing, of that of an error what it says, scrubbed."""
    assert isinstance(error, DstnyError), repr(error)
    said = isinstance(error, DstnyApiError) and error.status_code is not None
    message = told(error, TOKEN, *(() if said else (MARK,)))
    if said:
        assert "signature=" not in message
        assert len(error.message) < 500
        retry_after = getattr(error, "retry_after", None)
        assert retry_after is None or (math.isfinite(retry_after) and retry_after >= 0)
    return message


def check_result(result):
    """Check that what came can be shown, and shows nothing that is hidden."""
    for one in result if isinstance(result, list) else [result]:
        repr(one)
        if isinstance(one, Answer):
            one.model_dump()
            one.model_copy()
        if isinstance(one, Transcript):
            assert one.is_ready == bool(one.segments)
            json.dumps(one.to_row())
            assert all(isinstance(segment.text, str) and segment.text for segment in one.segments)
            assert isinstance(one.source_shape, str)


@given(st.sampled_from([READ, WRITE]), statuses, header_maps, bodies(*ERRORS, *SEEDS.values()))
@fuzz(300)
def test_every_answer_is_json_or_an_error(request_, status, headers, body):
    # A content type is told, too.
    headers = {name: value.replace(MARK, "") for name, value in headers.items()}
    with logged(TOKEN, MARK):
        try:
            answer = read(status, headers, body, request_)
        except DstnyError as error:
            check(error)
        else:
            assert 200 <= status < 300
            json.dumps(answer)


def drive(generator, answers):
    """Feed a generator of requests with answers, an error now and then among them; return what it found."""
    found = []
    feed = generator.__next__
    try:
        for status, headers, body in islice(answers, MOST_STEPS):
            step = feed()
            while isinstance(step, Found):
                found.append(step.item)
                step = next(generator)
            str(step), repr(step)
            assert httpx.Request(step.method, URL + step.path, params=list(step.params) or None, json=step.json)
            try:
                answer = read(status, headers, body, step)
            except DstnyError as error:
                feed = partial(generator.throw, error)
            else:
                feed = partial(generator.send, answer)
        raise AssertionError("it does not end")
    except StopIteration as stop:
        return found or stop.value


OPERATIONS = sorted(SEEDS) + sorted(LISTED)


@st.composite
def answered(draw):
    """An operation, and what it is answered, again and again."""
    key = draw(st.sampled_from(OPERATIONS))
    seed = SEEDS[key if key in SEEDS else (key[0], "list_conversations")]
    nearly_ok = st.sampled_from([200] * 12 + [404, 429, 500])
    reply = st.tuples(nearly_ok, st.just({}), bodies(seed))
    return key, draw(st.lists(reply, min_size=1, max_size=4 if key in LISTED else 1))


@given(answered())
@fuzz(600)
def test_no_answer_breaks_an_operation(made):
    (name, operation), answers = made
    client = client_of(CLIENTS[name])
    with logged(TOKEN, MARK):
        try:
            if (name, operation) in LISTED:
                result = drive(getattr(client, operation).findings(), cycle(answers))
            else:
                args, kwargs = arguments_of(name, operation)
                result = drive(getattr(client, operation).steps(*args, **kwargs), cycle(answers))
        except DstnyError as error:
            check(error)
        else:
            check_result(result)


@st.composite
def pages(draw):
    """Pages whose cursors and rows are of a few odd values, so that they meet again."""
    odd = st.sampled_from([*NASTY, None, True, 5, 10**400]) | st.sampled_from(
        [f"2026-03-02T12:00:00.{milliseconds:03}Z" for milliseconds in range(4)]
    )
    row = st.fixed_dictionaries(
        {}, optional={"id": odd, "date": odd, "medium": odd, "user": st.none() | st.fixed_dictionaries({"id": odd})}
    )
    page = st.builds(
        lambda rows, more, cursor: {
            "conversations": rows,
            "data": rows,
            "pagination": {"has_more": more, "next_cursor": cursor, "limit": 25},
        },
        st.lists(row, max_size=3),
        st.sampled_from([True, True, True, None, False]),
        odd,
    )
    return draw(st.sampled_from(sorted(LISTED))), draw(st.lists(page, min_size=1, max_size=5))


@given(pages())
@fuzz(250)
def test_no_pages_break_a_walk(made):
    (name, operation), listed = made
    client = client_of(CLIENTS[name])
    with logged(TOKEN, MARK):
        try:
            drive(getattr(client, operation).findings(), cycle([(200, {}, encoded(page)) for page in listed]))
        except DstnyError as error:
            check(error)


@given(st.sampled_from(OPERATIONS), st.lists(replies, min_size=1, max_size=3), st.booleans())
@fuzz(200)
def test_no_response_breaks_a_client(key, answers, asynchronous):
    name, operation = key
    feed = cycle(answers)

    def answer(request):
        status, headers, body = next(feed)
        fields = [(name.encode(), value.encode("utf-8", "replace")) for name, value in headers.items()]
        return httpx.Response(status, headers=fields, content=body)

    client = client_of(CLIENTS[name], answer)
    args, kwargs = ((), {}) if key in LISTED else arguments_of(name, operation)

    async def awaited():
        async with client:
            bound = getattr(client, operation)
            if key in LISTED:
                return [one async for one in bound.aio()]
            return await bound.aio(*args, **kwargs)

    with logged(TOKEN, MARK):
        try:
            if asynchronous:
                check_result(asyncio.run(awaited()))
            else:
                result = getattr(client, operation)(*args, **kwargs)
                check_result(list(result) if key in LISTED else result)
        except DstnyError as error:
            check(error)
        finally:
            client.close()


@given(st.sampled_from(NASTY) | any_text.map(lambda text: f"https://{text}/x.mp3") | any_text, statuses, header_maps)
@fuzz(100)
def test_no_url_of_a_recording_breaks_opening_it(url, status, headers):
    client = client_of(DstnyRestClient)
    client._timeout = 0.001
    with logged(TOKEN, MARK):
        try:
            # Nobody is asked: a name that cannot be looked up is an error of its own.
            host = httpx.URL(url).host
        except Exception:
            host = ""
        assume(not host or host.startswith("xn--"))
        try:
            with client.open_url(url, {}):
                pass
        except DstnyError as error:
            check(error)


#: What Python has beyond JSON.
_objects = (
    anything
    | st.binary(max_size=4)
    | st.datetimes(timezones=st.none() | st.timezones())
    | st.dates()
    | st.sampled_from(
        [datetime.max.replace(tzinfo=timezone(timedelta(hours=-14))), float("nan"), {1: 2}, {"a"}, object]
    )
    | st.sampled_from([datetime.min.replace(tzinfo=timezone(timedelta(hours=14))), ("a",), 10**4299])
)
_emails = st.text(st.sampled_from('a@.<>"()[]:;,\\ \t\n\r=?_utf-8Qé\ud800\0'), max_size=20).map(
    lambda text: f"a{text}@b.c"
)
_hostile_emails = st.sampled_from(
    ["(" * 5000, "(" * 200 + "@a", f'"{"a" * 50000}"@b', "<" * 999, "a@[" + "[" * 999, "=?utf-8?q?=?=@b", "a" * 10**6]
)
_values = _objects | _emails | _hostile_emails | any_text.map(lambda text: f"https://{text}")
MEETING = {
    "meeting_url": "https://meet.google.com/abc-defg-hij",
    "meeting_title": "Renewal",
    "meeting_start_time": "2026-03-02T12:00:00Z",
    "meeting_end_time": "2026-03-02T13:00:00+01:00",
}
PAYLOADS = (
    (CallConversation, DOCUMENTED),
    (AgentDefinition, AGENT),
    (UserCreate, USER),
    (UserUpdate, USER),
    (TeamCreate, TEAM),
    (TeamUpdate, TEAM),
    (TeamMembers, {"user_ids": [1, 2]}),
    (EmbedUser, {"email": "ulla@example.com"}),
    (NotetakerRequest, MEETING),
)
payloads = st.sampled_from(PAYLOADS).flatmap(lambda one: st.tuples(st.just(one[0]), mutated([one[1]], _values, most=3)))


@given(payloads)
@fuzz(500)
def test_a_payload_can_be_sent_or_is_refused_unseen(made):
    model, values = made
    began = time.process_time()
    try:
        payload = model.parse(values)
    except DstnyValidationError as error:
        told(error, MARK)
    else:
        httpx.Request("POST", URL, json=payload.to_json())
        assert "signature=" not in repr(payload)
        assert "+46" not in repr(payload)
    assert time.process_time() - began < 5


@given(_objects | any_text | st.integers(), st.lists(_objects | any_text | st.integers(), max_size=3))
@fuzz(300)
def test_an_id_is_one_segment_of_a_path_or_refused(value, values):
    for ask in (lambda: [encode_id(value, "id")], lambda: unique_ids(value, "id"), lambda: unique_ids(values, "id")):
        try:
            ids = ask()
        except DstnyValidationError as error:
            told(error)
        else:
            for one in ids:
                path = Route("GET", "/a/{id}").path("get", {"id": one})
                assert re.fullmatch(r"/a/[A-Za-z0-9_.~%-]+", path)
                assert httpx.URL(URL + path).raw_path.decode() == path


_moments = (
    st.datetimes(timezones=st.timezones() | st.sampled_from([timezone(timedelta(hours=hours)) for hours in (-23, 23)]))
    | st.sampled_from(NASTY)
    | st.datetimes(timezones=st.none()).map(datetime.isoformat)
    | st.builds(
        "{}{}".format, st.datetimes(timezones=st.none()).map(datetime.isoformat), st.sampled_from(["Z", "+14:00"])
    )
    | _objects
)


@given(_moments)
@fuzz(400)
def test_a_time_is_read_or_refused(value):
    found = utc_time(value)
    assert found is None or found.tzinfo is UTC
    if found is not None:
        assert utc_time(iso_time(found)) == found
    try:
        moment = aware_time("since", value)
        assert moment is None or iso_time(moment).endswith("Z")
    except DstnyValidationError as error:
        told(error)
    try:
        assert all(date.fromisoformat(day) for _, day in arguments.day_param("day", value))
    except DstnyValidationError as error:
        told(error)


@given(_objects, any_text | st.sampled_from(NASTY))
@fuzz(300)
def test_an_argument_can_be_sent_or_is_refused(value, text):
    asked = [
        *(lambda check=check: check("x", value) for check in (arguments.check_boolean, arguments.check_integer)),
        lambda: arguments.rendered_flag("x", value),
        lambda: arguments.check_positive("x", value, 60),
        lambda: arguments.limit_param(value, 25),
        lambda: arguments.text_param("x", value),
        lambda: arguments.text_param("x", text),
        lambda: arguments.scalar_param("x", text),
        lambda: arguments.choice_param("x", value, ["a", "b"]),
        lambda: arguments.boolean_param("x", value),
        lambda: arguments.array_param("x", value),
        lambda: arguments.array_param("x", [text, 5]),
    ]
    for ask in asked:
        try:
            made = ask()
            if made is not None and not isinstance(made, bool):
                arguments.sendable("get", made)
        except DstnyValidationError as error:
            str(error)


@given(mutated([{"list_users": "/people", "get_agent": ["GET", "/a/{agent_id}"]}], _objects) | _objects)
@fuzz(150)
def test_a_path_is_overridden_or_refused(overrides):
    assume(isinstance(overrides, dict) and all(isinstance(name, str) for name in overrides))
    try:
        override_routes(DstnyClient.routes, overrides)
    except DstnyValidationError as error:
        str(error)


@given(
    st.sampled_from(NASTY) | any_text | any_text.map(lambda text: f"https://{text}"), st.sampled_from(NASTY) | any_text
)
@fuzz(200)
def test_a_connection_can_be_used_or_is_refused(url, token):
    for host, secret in ((url, "t0ken"), (URL, token)):
        try:
            client = DstnyRestClient(host, secret)
            httpx.Request("GET", client.base_url + "/account", headers={"Authorization": f"Bearer {client._token}"})
        except DstnyValidationError as error:
            told(error, *([secret] if len(secret.strip()) > 8 else []))


_hostile = st.sampled_from(["1-(", "1 ", "%20", "1.", "(1", "+1", "https://", "http://a?", "1-1", "\u20111", "\0"])
_crafted = st.lists(_hostile | st.sampled_from(NASTY) | any_text, max_size=12).map("".join)


@given(_crafted, st.integers(1, 3000), st.integers(0, 12), st.sampled_from(["", "\0", "\u200b", "\ud800", "\u2066"]))
@fuzz(300)
def test_scrubbed_text_is_one_short_line_without_the_token(text, times, place, between):
    split = f"{TOKEN[:place]}{between}{TOKEN[place:]}"
    began = time.process_time()
    line = scrub((text + split + text) * min(times, 1 + 10**6 // len(text + split)), TOKEN)
    assert time.process_time() - began < 2
    assert TOKEN not in line
    assert len(line) <= 301
    assert line.isprintable()
    line.encode()


@given(any_text | st.sampled_from(["owner_phone_number", "recording_url", "title"]), _objects | _crafted)
@fuzz(300)
def test_whatever_a_field_holds_can_be_shown(name, value):
    seen = str(shown(name, value))
    assert "signature=" not in seen or "url" not in name
    assert "+46 70 123 45 67" not in seen
