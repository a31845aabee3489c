"""What hostile input is made of. ``DSTNY_FUZZ=<examples>`` has every test of it look for so many, at random."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import traceback
from contextlib import contextmanager

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.tellcasey import TellcaseyClient
from airflow_provider_dstny.simulator import Simulator
from tests.contract import test_dstny_client, test_dstny_rest_client, test_tellcasey_client

#: What must be in no message and no log line: of the first kind never, of the second only where messages are quoted.
TOKEN = "mt_f00dCafe5ecret"
MARK = "Kart0ffelsalat"
#: Stands for so many levels of nesting, which json.dumps could not write.
_DEEP = "@deep-{}@"
_DEPTHS = (5, 90, 99, 300, 900, 960, 980, 990, 1000, 1900, 1980, 2000, 100_000)

_EXAMPLES = os.environ.get("DSTNY_FUZZ")


def fuzz(examples):
    return settings(
        max_examples=int(_EXAMPLES or examples),
        derandomize=_EXAMPLES is None,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
    )


NASTY = (
    "",
    " ",
    "\0",
    "\ud800",
    "x\udfff\ud83d",
    "\u202e\u2066right-to-left",
    "\ufeff\u200b",
    TOKEN,
    f"{TOKEN[:5]}\u200b{TOKEN[5:]}",
    f"{TOKEN[:5]}\0{TOKEN[5:]} {' ' * 900}{TOKEN}",
    f"{' ' * 990}x{TOKEN}",
    f"https://files.example/{MARK}?signature={TOKEN}",
    "https://user:password@[::1",
    "http://xn--a/",
    MARK,
    MARK * 3000,
    "+46 70 123 45 67",
    "9" * 4301,
    "1e400",
    "nan",
    "-Infinity",
    "١٢٣",
    "true",
    "None",
    "['a']",
    "..",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999-14:00",
    "2999-01-01T00:00:00Z",
    "1000-01-01T00:00:00+00:00",
    "2026-03-02T12:00:00Z",
    "2026-03-02T12:00:00.001Z",
    "2026-02-30",
    "__class__",
    "model_config",
    "raw",
    "id",
    "data",
    "%s%(x)s{0}{x.y}",
)
any_text = st.text(st.characters(exclude_categories=()), max_size=8)
leaves = (
    st.none()
    | st.booleans()
    | st.sampled_from([0, -1, 1, 25, 2**31, 2**53 + 1, 2**64, -(10**400), 10**4299, 1e308, -0.0, 1e-320])
    | st.floats()
    | st.sampled_from(NASTY)
    | any_text
    | st.sampled_from([_DEEP.format(depth) for depth in _DEPTHS])
)
#: The names that answers, payloads and webhooks have are in the seeds; these come in addition.
names = st.sampled_from(
    [*NASTY, "message", "segments", "text", "speaker", "users", "members", "next_cursor", "hasMore"]
)
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | any_text, inner, max_size=4),
    max_leaves=12,
)
raw_texts = st.sampled_from(
    [
        b"",
        b" \n",
        b"\xff\xfe\x00",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"data":[' * 485 + b"]}" * 485,
        b'{"data":[' * 970 + b"]}" * 970,
        b'{"message": ' * 990 + b'"x"' + b"}" * 990,
        b"1e400",
        b"-1e400",
        b"9" * 5000,
        b'{"statusCode": 429, "retryAfter": 1e400}',
        b'{"id": 1, "id": 2, "data": [], "data": null}',
        b'"\\ud800"',
        b'{"data": [{"id": "\\ud800"}], "\\udfff": 1}',
        f"<html><title>{MARK} {TOKEN}</title>".encode(),
        b"<title>" * 5000,
        b'{"data": "\xc3\x28"}',
        json.dumps({"data": [MARK]}).encode("utf-16"),
        json.dumps({"data": [MARK]}).encode("utf-32-be"),
        f'{{"data": "{MARK}'.encode(),
    ]
)


@st.composite
def mutated(draw, seeds, others=anything, most=4):
    """One of the seeds with some of its fields replaced, wrapped, renamed, doubled or gone."""
    holder = [copy.deepcopy(draw(st.sampled_from(seeds)))]
    for _ in range(draw(st.integers(0, most))):
        place, key = holder, 0
        while isinstance(place[key], (dict, list)) and place[key] and draw(st.integers(0, 3)):
            place = place[key]
            key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        match draw(st.sampled_from(["replace", "replace", "wrap", "name", "rename", "twice", "drop"])):
            case "replace":
                place[key] = copy.deepcopy(draw(others))
            case "wrap":
                place[key] = [place[key]]
            case "name":
                place[key] = {draw(names): place[key]}
            case "rename" if isinstance(place, dict):
                place[draw(names)] = place.pop(key)
            case "twice" if isinstance(place, list) and place is not holder:
                place.append(copy.deepcopy(place[key]))
            case "drop" if place is not holder:
                del place[key]
    return holder[0]


def encoded(value):
    """A value as the bytes of JSON, as deep as it says, and with what is no JSON."""
    text = json.dumps(value)
    for depth in _DEPTHS:
        mark = f'"{_DEEP.format(depth)}"'
        text = text.replace(f"{mark}:", '"deep":').replace(mark, "[" * depth + "]" * depth)
    return text.encode()


def bodies(*seeds):
    """Bodies of answers, most of them nearly those of the seeds."""
    near = mutated(list(seeds)).map(encoded) if seeds else st.nothing()
    return near | near | anything.map(encoded) | raw_texts | st.binary(max_size=30)


_WORDS = "Mon, Fri 20 Nov 2026 9999 0 00:00:00 24:61:61 1:2:3:4 GMT +9999 -1400 , - : 20-Nov-2026 1, PM ."
_dates = st.lists(st.sampled_from(_WORDS.split()), max_size=8).map(" ".join)
_header_values = (
    _dates
    | st.sampled_from(["application/json", "text/html; charset=\xe9", "-1", "0", "60", "1e400", "nan", "9" * 400])
    | st.sampled_from(["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 +1400", "Sat, 1 Jan 99 0:0:0 -9999"])
    | st.sampled_from(NASTY)
    | any_text
)
header_maps = st.dictionaries(
    st.sampled_from(["retry-after", "content-type", "x-request-id", "date", "location", "set-cookie", "server"]),
    _header_values,
    max_size=4,
)
statuses = st.sampled_from([200] * 8 + [201, 204, 301, 304, 400, 401, 403, 404, 405, 422, 429, 500, 502, 503, 504])
statuses |= st.integers(100, 999)


_OPERATIONS = {
    "dstny": test_dstny_client.OPERATIONS,
    "dstny_rest": test_dstny_rest_client.OPERATIONS,
    "tellcasey": test_tellcasey_client.OPERATIONS,
}


def seeds_of_the_simulator():
    """Real answers by API and operation, long lists cut. Each is of a new account, since some change it."""
    return {(name, operation): _asked(name, operation) for name in _OPERATIONS for operation in _OPERATIONS[name]}


def arguments_of(name, operation):
    """The arguments with which the contract tests call an operation of an API."""
    args, kwargs = _OPERATIONS[name][operation]
    kwargs = {} if operation == "list_conversations" else kwargs
    return tuple(1 if value == "REQUEST" else value for value in args), kwargs


def _asked(name, operation):
    account = Simulator(dstny_samples=3, clock=lambda: 1_772_452_800.0)
    account._socket.close()
    kind, token, known = {
        "dstny": (DstnyClient, account.token, account.state.calls),
        "dstny_rest": (DstnyRestClient, account.rest_token, account.rest.conversations),
        "tellcasey": (TellcaseyClient, account.tellcasey_token, account.tellcasey.conversations),
    }[name]
    args, kwargs = arguments_of(name, operation)
    args = tuple(next(iter(known)) if value == "CONVERSATION" else value for value in args)

    async def ask():
        client = kind("http://simulator", token, requests_per_minute=10**9)
        transport = httpx.ASGITransport(account.app.asgi)
        async with httpx.AsyncClient(transport=transport, headers=client._http_options()["headers"]) as http:
            if name == "dstny":
                run = next(client.run_agent.steps(2, next(iter(known)), is_test_run=True))
                await http.request(**client._http_request(run))
            request = next(getattr(client, operation).steps(*args, **kwargs))
            answer = await http.request(**client._http_request(request))
        assert answer.is_success
        return answer.json()

    return _cut(asyncio.run(ask()))


def _cut(value):
    if isinstance(value, dict):
        return {name: _cut(one) for name, one in value.items()}
    return [_cut(one) for one in value[:2]] if isinstance(value, list) else value


class _Lines(logging.Handler):
    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


@contextmanager
def logged(*banned):
    """Whatever is logged meanwhile can be written and has nothing that is banned."""
    handler, logger = _Lines(), logging.getLogger()
    level, others = logger.level, logger.handlers[:]
    logger.handlers = [handler]
    logger.setLevel(logging.DEBUG)
    try:
        yield handler.lines
    finally:
        logger.handlers = others
        logger.setLevel(level)
    text = "\n".join(handler.lines)
    text.encode()
    for one in banned:
        assert one not in text


def told(error, *banned):
    """Check that an error can be shown as it is, alone and with its causes, and return its message."""
    message = str(error)
    assert not isinstance(error.__context__, (ValueError, RecursionError)) or error.__suppress_context__
    assert len(message) < 3000
    shown = f"{message}\n{error!r}\n" + "".join(traceback.format_exception(error))
    shown.encode()
    assert message.isprintable()
    for one in banned:
        assert one not in shown
    return message
