"""The simulator itself, seen through plain HTTP on a real port, with a clock that the tests move."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from airflow_provider_dstny.simulator import Fault, Simulator
from airflow_provider_dstny.simulator.__main__ import _parser, main
from airflow_provider_dstny.simulator.contract import Contract, ContractError
from airflow_provider_dstny.simulator.moments import to_epoch, to_text
from airflow_provider_dstny.simulator.recordings import recording
from airflow_provider_dstny.simulator.rest import SCOPES
from airflow_provider_dstny.simulator.webhooks import KINDS
from airflow_provider_dstny.webhooks.verify import Refusal, WebhookRejected, verify

DAY = 86400.0
START = datetime(2026, 3, 10, 12, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class Running:
    """A simulator with a clock, and a client for each of its APIs."""

    def __init__(self, simulator: Simulator, clock: Clock) -> None:
        self.simulator, self.clock = simulator, clock
        self._clients: list[httpx.Client] = []
        self.dstny = self._client("/api/v2", simulator.token)
        self.rest = self._client("/api/v1/rest", simulator.rest_token)
        self.tellcasey = self._client("/v1/backend", simulator.tellcasey_token)
        self.plain = self._client("", None)

    def _client(self, path: str, token: str | None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        client = httpx.Client(base_url=self.simulator.url + path, headers=headers, trust_env=False)
        self._clients.append(client)
        return client

    def with_token(self, token: str) -> httpx.Client:
        return self._client("/api/v1/rest", token)

    def close(self) -> None:
        for client in self._clients:
            client.close()

    def walk(self, **params: object) -> list[list[str]]:
        """Follow the cursors of the v1 list; the ids of each page."""
        pages: list[list[str]] = []
        while len(pages) < 20:
            answer = self.rest.get("/conversations", params=params).json()
            pages.append([row["id"] for row in answer["conversations"]])
            if not answer["pagination"]["has_more"]:
                assert answer["pagination"]["next_cursor"] is None
                break
            params["cursor"] = answer["pagination"]["next_cursor"]
        return pages


@contextmanager
def running(**options: object) -> Iterator[Running]:
    clock = Clock()
    defaults = {"samples": 0, "fresh": 0, "requests_per_minute": None}
    with Simulator(clock=clock, **{**defaults, **options}) as simulator, closing(Running(simulator, clock)) as made:
        yield made


@pytest.fixture
def empty() -> Iterator[Running]:
    with running() as made:
        yield made


# All APIs


def test_the_three_apis_are_held_to_documents_of_their_own(empty):
    index = empty.plain.get("/").text
    for api in empty.simulator.app.apis:
        assert Contract(api.name).operations == api.contract.operations
        assert api.contract.base_path in index
    for client in (empty.rest, empty.tellcasey):
        assert client.get("/conversations", params={"search": "x"}).status_code == 400
        assert client.get("/conversations", params={"limit": "0"}).status_code in (400, 422)
        assert client.get("/nothing").status_code == 404
        assert client.delete("/conversations").status_code == 405
    assert len(empty.simulator.books.violations) == 8
    assert [entry.api for entry in empty.simulator.books.entries] == ["dstny_rest"] * 4 + ["tellcasey"] * 4


@pytest.mark.parametrize(
    ("api", "path", "params"),
    [
        ("dstny_rest", "/conversations", {"limit": "26"}),
        ("dstny_rest", "/conversations", {"medium": "fax"}),
        ("dstny_rest", "/conversations", {"cursor": "2026-03-10"}),
        ("dstny_rest", "/conversations", {"date_from": "2026-03-10T12:00:00"}),
        ("dstny_rest", "/conversations", {"date_to": "2026-02-30T12:00:00Z"}),
        ("dstny_rest", "/conversations/a", {"include_transcript": "yes"}),
        ("tellcasey", "/conversations", {"limit": "101"}),
        ("tellcasey", "/conversations", {"status": "lost"}),
        ("tellcasey", "/conversations", {"agent_id": "7"}),
        ("tellcasey", "/conversations/7", {}),
    ],
)
def test_a_value_that_is_not_documented_is_a_violation(api, path, params):
    contract = Contract(api)
    with pytest.raises(ContractError) as caught:
        contract.check("GET", path, list(params.items()), b"")
    assert caught.value.status == 422


@pytest.mark.parametrize("moment", ["2026-03-10T12:00:00Z", "2026-03-10T12:00:00.123456+02:00"])
def test_a_moment_with_a_timezone_passes(moment):
    assert Contract("dstny_rest").check("GET", "/conversations", [("cursor", moment)], b"").query == {"cursor": moment}


def test_faults_can_be_meant_for_one_api_and_are_written_as_it_writes_errors(empty):
    inject = {"kind": "status", "operation": "list_conversations", "api": "tellcasey", "status": 503, "retry_after": 2}
    assert empty.plain.post("/_simulator/faults", json=inject).json() == {"faults": 1}
    assert empty.rest.get("/conversations").status_code == 200
    answer = empty.tellcasey.get("/conversations")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json() == {"error": {"code": "internal_error", "message": "Simulated fault"}}
    empty.simulator.books.inject(Fault("status", api="dstny_rest", status=429, retry_after=2.5))
    answer = empty.rest.get("/account")
    assert (answer.json()["retryAfter"], answer.headers["Retry-After"]) == (2.5, "3")
    assert empty.simulator.books.count("list_conversations") == 2
    assert empty.simulator.books.count("list_conversations", "tellcasey") == 1


@pytest.mark.parametrize("fault", [{"kind": "cut"}, {"kind": "truncated", "operation": "recording"}, {"kind": "x"}])
def test_a_fault_that_does_not_exist_is_refused(empty, fault):
    assert empty.plain.post("/_simulator/faults", json=fault).status_code == 400
    assert empty.simulator.books.faults == []


def test_the_books_are_open_to_all(empty):
    assert set(empty.plain.get("/_simulator/books").json()) == {
        "entries",
        "violations",
        "recordings_fetched",
        "downloads",
        "calls",
    }


# v1: tokens, scopes, limits

NEEDS = {
    "/users": "users",
    "/teams": "teams",
    "/departments": "departments",
    "/conversations": "conversations",
    "/conversations/ID": "conversations",
    "/conversations/ID?include_transcript=true": "transcripts",
    "/conversations/ID?include_insights=true": "insights",
    "/conversations/ID/transcript": "transcripts",
    "/conversations/ID/insights": "insights",
    "/conversations/ID/recording-url": "recordings",
    "/conversations/ID/summary": "conversations",
}


@pytest.mark.parametrize(("path", "scope"), NEEDS.items())
def test_every_operation_needs_its_scope(path, scope):
    others = set(SCOPES) - {scope}
    with running(rest_tokens={"mt_all": SCOPES, "mt_others": others}) as made:
        one = made.simulator.rest.add()
        assert made.rest.get(path.replace("ID", one.id)).status_code == 200
        # The scope comes before the id.
        for conversation_id in (one.id, "unknown"):
            answer = made.with_token("mt_others").get(path.replace("ID", conversation_id))
            assert answer.status_code == 403
            assert answer.json() == {
                "statusCode": 403,
                "message": f"Token does not have the '{scope}' scope",
                "error": "Forbidden",
            }
        assert made.simulator.books.violations == []


def test_account_and_deliveries_need_no_scope_but_a_token():
    with running(rest_tokens={"mt_none": ()}) as made:
        for path in ("/account", "/webhooks/deliveries"):
            assert made.rest.get(path).status_code == 200
            assert made.with_token("mt_wrong").get(path).status_code == 401
            assert httpx.get(f"{made.simulator.url}/api/v1/rest{path}", trust_env=False).status_code == 401
        assert made.rest.post("/notetaker/request", json={"meeting_url": "https://zoom.us/j/1"}).status_code == 403


def test_every_answer_tells_token_and_time(empty):
    empty.clock.now += 0.5
    for path in ("/account", "/users", "/teams", "/departments", "/conversations", "/webhooks/deliveries"):
        meta = empty.rest.get(path).json()["_meta"]
        assert meta == {"token_prefix": "mt_simulato", "timestamp": "2026-03-10T12:00:00.500Z"}


def test_requests_of_a_minute_are_limited_per_token():
    with running(rest_tokens={"mt_a": SCOPES, "mt_b": SCOPES}, requests_per_minute=2) as made:
        statuses = []
        for _ in range(3):
            statuses.append(made.rest.get("/account").status_code)
            made.clock.now += 10
        refused = made.rest.get("/account")
        assert [*statuses, refused.status_code] == [200, 200, 429, 429]
        assert refused.json() == {
            "statusCode": 429,
            "message": "Rate limit exceeded. Please try again later.",
            "retryAfter": 30,
        }
        assert refused.headers["Retry-After"] == "30"
        assert refused.headers["X-RateLimit-Limit"] == "2"
        assert refused.headers["X-RateLimit-Remaining"] == "0"
        assert refused.headers["X-RateLimit-Reset"] == str(int(START) + 60)
        assert made.with_token("mt_b").get("/account").status_code == 200
        assert all(made.tellcasey.get("/conversations").status_code == 200 for _ in range(5))
        made.clock.now += 30
        assert made.rest.get("/account").status_code == 200
        assert made.rest.get("/account").status_code == 429
        assert made.simulator.books.count("get_account", "dstny_rest") == 7


def test_a_day_has_a_quota_of_unique_conversations():
    with running(daily_conversation_quota=2) as made:
        ids = [made.simulator.rest.add().id for _ in range(3)]
        for conversation_id in (ids[0], ids[0], ids[1]):
            for part in ("", "/transcript", "/insights", "/recording-url", "/summary"):
                assert made.rest.get(f"/conversations/{conversation_id}{part}").status_code == 200
        refused = made.rest.get(f"/conversations/{ids[2]}/transcript")
        assert refused.status_code == 429
        assert refused.json() == {
            "statusCode": 429,
            "message": "Daily conversation quota exceeded",
            "retryAfter": 12 * 3600,
        }
        assert made.rest.get(f"/conversations/{ids[1]}").status_code == 200
        assert made.rest.get("/conversations").status_code == 200
        made.clock.now += 12 * 3600
        assert made.rest.get(f"/conversations/{ids[2]}/transcript").status_code == 200


def test_a_clock_that_jumps_frees_the_minute_and_the_day():
    with running(requests_per_minute=2, daily_conversation_quota=1) as made:
        one, other = (made.simulator.rest.add().id for _ in range(2))
        for hours in (0, 5, 6):
            made.clock.now = START + hours * 3600
            statuses = [made.rest.get(f"/conversations/{name}").status_code for name in (one, other, one)]
            refused = made.rest.get("/account")
            assert [*statuses, refused.status_code] == [200, 429, 429, 429]
            assert refused.headers["Retry-After"] == "60"
        for days in (1, 3):
            made.clock.now = START + days * DAY
            assert [made.rest.get(f"/conversations/{name}").status_code for name in (other, one)] == [200, 429]


# v1: lists


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("inclusive_cursor", [True, False])
def test_pages_in_all_cursor_modes(newest_first, inclusive_cursor):
    with running(newest_first=newest_first, inclusive_cursor=inclusive_cursor) as made:
        for number in range(60):
            made.simulator.rest.add(id=f"c{number:02}", date=START - 7200 - number)
        expected = [f"c{number:02}" for number in range(60)]
        if not newest_first:
            expected.reverse()
        pages = made.walk()
        overlap = 1 if inclusive_cursor else 0
        assert [len(page) for page in pages] == [25, 25, 10 + 2 * overlap]
        assert [pages[0], pages[1], pages[2]] == [
            expected[:25],
            expected[25 - overlap : 50 - overlap],
            expected[50 - 2 * overlap :],
        ]
        assert made.simulator.books.violations == []


@pytest.mark.parametrize(
    ("inclusive_cursor", "pages"),
    [(False, [["a", "b"]]), (True, [["a", "b"], ["a", "b"]])],
)
def test_a_cursor_within_one_moment_skips_or_repeats(inclusive_cursor, pages):
    with running(inclusive_cursor=inclusive_cursor) as made:
        for name in "cab":
            made.simulator.rest.add(id=name, date=START - 7200)
        answer = made.rest.get("/conversations", params={"limit": 2}).json()
        cursor = answer["pagination"]["next_cursor"]
        assert cursor == "2026-03-10T10:00:00.000Z"
        second = made.rest.get("/conversations", params={"limit": 2, "cursor": cursor}).json()
        shown = [[row["id"] for row in page["conversations"]] for page in (answer, second)]
        assert [page for page in shown if page] == pages


def test_the_list_shows_the_last_thirty_days_and_what_has_arrived(empty):
    add = empty.simulator.rest.add
    add(id="edge", date=START - 30 * DAY)
    add(id="old", date=START - 30 * DAY - 0.001)
    add(id="late", date=START - 5 * DAY, arrives_at=START + 60)
    assert empty.walk() == [["edge"]]
    assert empty.rest.get("/conversations/old").status_code == 200
    assert empty.rest.get("/conversations/late").status_code == 404
    empty.clock.now += 60
    assert empty.walk() == [["late"]]
    assert empty.rest.get("/conversations/late").status_code == 200


def test_the_thirty_days_move_with_the_clock_and_take_in_what_arrives_late(empty):
    add = empty.simulator.rest.add
    for day in range(40):
        add(id=f"d{day:02}", date=START + day * DAY, arrives_at=START + day * DAY + 300)
    add(id="late", date=START + 2 * DAY + 1, arrives_at=START + 20 * DAY)
    for day, expected in ((0, []), (2, ["d01", "d00"]), (19, [f"d{n:02}" for n in range(18, -1, -1)])):
        empty.clock.now = START + day * DAY
        assert empty.walk() == [expected]
    empty.clock.now = START + 20 * DAY
    assert empty.walk(date_to=to_text(START + 4 * DAY)) == [["d04", "d03", "late", "d02", "d01", "d00"]]
    empty.clock.now = START + 32.5 * DAY
    listed = [name for page in empty.walk() for name in page]
    assert listed == [f"d{n:02}" for n in range(32, 2, -1)]


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("inclusive_cursor", [True, False])
def test_the_list_is_what_sorting_all_would_give(newest_first, inclusive_cursor):
    choose, direction = random.Random(1), -1 if newest_first else 1
    with running(newest_first=newest_first, inclusive_cursor=inclusive_cursor) as made:
        rest, clock = made.simulator.rest, made.clock

        def moment() -> float:
            # Few enough that many conversations share one.
            return clock.now - 3600 * choose.randrange(-24, 35 * 24, 12)

        def disturb() -> None:
            one = choose.choice(list(rest.conversations.values()))
            match choose.randrange(6):
                case 0:
                    rest.delete(one.id)
                case 1:
                    rest.change(one.id, date=moment())
                case 2:
                    one.date = moment()
                case 3:
                    one.arrives_at = moment()
                case 4:
                    rest.conversations[f"x{one.id}"] = rest.conversations.pop(one.id)
                    one.id = f"x{one.id}"
                case 5:
                    clock.now += 1800
            rest.add(date=moment(), arrives_at=moment(), medium=choose.choice(("call", "video")))

        def expected(query: dict[str, str], limit: int) -> tuple[list[str], bool]:
            first = max(clock.now - 30 * DAY, to_epoch(query.get("date_from", "1970-01-01T00:00:00Z")))
            last = to_epoch(query.get("date_to", "9999-01-01T00:00:00Z"))
            rows = [
                one
                for one in sorted(rest.conversations.values(), key=lambda one: (direction * one.date, one.id))
                if one.arrives_at <= clock.now
                and first <= one.date <= last
                and one.medium == query.get("medium", one.medium)
            ]
            if "cursor" in query:
                cursor = direction * to_epoch(query["cursor"])
                rows = [
                    one
                    for one in rows
                    if direction * one.date > cursor or (inclusive_cursor and direction * one.date == cursor)
                ]
            return [one.id for one in rows[:limit]], len(rows) > limit

        for _ in range(80):
            rest.add(date=moment())
        for _ in range(150):
            disturb()
            names = choose.sample(("cursor", "date_from", "date_to", "medium"), choose.randrange(4))
            query = {name: "call" if name == "medium" else to_text(moment()) for name in names}
            limit = choose.randint(1, 25)
            answer = made.rest.get("/conversations", params={"limit": limit, **query}).json()
            shown = [row["id"] for row in answer["conversations"]]
            assert (shown, answer["pagination"]["has_more"]) == expected(query, limit)


def test_a_conversation_with_a_known_id_takes_the_place_of_the_other(empty):
    empty.simulator.rest.add(id="other", date=START - 7200)
    for date, expected in ((START - 3600, ["one", "other"]), (START - 9000, ["other", "one"])):
        empty.simulator.rest.add(id="one", date=date)
        assert empty.walk() == [expected]


def test_a_page_of_many_conversations_costs_no_sorting(empty):
    rest = empty.simulator.rest
    for number in range(20_000):
        rest.add(id=f"c{number:05}", date=START - 3600 - number)
    call = rest.contract.check("GET", "/conversations", [("cursor", to_text(START - 10_000))], b"")
    began = time.thread_time()
    for _ in range(100):
        assert rest.answer(call, "mt_simulator")["conversations"][0]["id"] == "c06401"
    # Looking at all of them takes ten times as long.
    assert time.thread_time() - began < 0.2


def test_filters_and_the_fields_of_a_row(empty):
    add = empty.simulator.rest.add
    other = {"id": "d2", "name": "Other"}
    add(id="a", date=START - 3600, medium="video")
    add(id="b", date=START - 7200, medium="call", department=other)
    add(id="c", date=START - 9000, medium="call", user={"id": "u2", "name": "U", "email": "u@example.com"})
    assert empty.walk(medium="call") == [["b", "c"]]
    assert empty.walk(department_id="d2") == [["b"]]
    assert empty.walk(user_id="u2") == [["c"]]
    assert empty.walk(date_from="2026-03-10T10:00:00Z", date_to="2026-03-10T12:00:00+01:00") == [["a", "b"]]
    row = empty.rest.get("/conversations", params={"limit": 1}).json()["conversations"][0]
    detail = empty.rest.get("/conversations/a").json()
    assert set(detail) - set(row) == {"summary", "participants", "_meta"}
    assert {name: detail[name] for name in row} == row


def test_the_samples_are_the_same_for_the_same_seed():
    with running(samples=40, fresh=5, transcript_after=30, jitter=10) as one, running(samples=40, fresh=5) as other:
        assert list(one.simulator.rest.conversations) == list(other.simulator.rest.conversations)
        seeded = list(one.simulator.rest.conversations.values())
        samples, fresh = seeded[:40], seeded[40:]
        assert all(START - 10 * DAY <= made.date <= START - 3600 for made in samples)
        assert all(START - 3600 <= made.date <= START for made in fresh)
        assert sum(not made.has_recording for made in samples) == 5
        assert len({made.date for made in samples}) == 37
        assert {made.transcript_shape for made in samples} == {"segments", "sentences", "messages"}

        def without_transcript() -> int:
            answers = (one.rest.get(f"/conversations/{made.id}/transcript") for made in seeded)
            return sum(answer.status_code == 404 for answer in answers)

        assert without_transcript() == 5
        one.clock.now += 40
        assert without_transcript() == 0


# v1: conversations


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        ("segments", {"speaker", "text", "start", "end"}),
        ("sentences", {"speaker_name", "start", "end", "text"}),
        ("messages", {"role", "name", "content", "start_time", "end_time"}),
    ],
)
def test_a_transcript_has_one_of_three_shapes(empty, shape, fields):
    one = empty.simulator.rest.add(transcript_shape=shape)
    answer = empty.rest.get(f"/conversations/{one.id}/transcript").json()
    assert set(answer) == {"conversation_id", "transcript", "_meta"}
    assert set(answer["transcript"]) == {shape}
    assert all(set(row) == fields for row in answer["transcript"][shape])
    detail = empty.rest.get(
        f"/conversations/{one.id}", params={"include_transcript": "true", "include_insights": "true"}
    ).json()
    assert detail["transcript"] == answer["transcript"]
    assert detail["insights"] == empty.rest.get(f"/conversations/{one.id}/insights").json()["insights"] != []
    assert detail["summary"] == empty.rest.get(f"/conversations/{one.id}/summary").json()["summary"] is not None


@pytest.mark.parametrize(
    ("not_ready", "status", "transcript"),
    [("404", 404, None), ("null", 200, None), ("empty", 200, {"segments": []}), ("blank", 200, {})],
)
def test_what_is_not_ready_is_answered_as_told(not_ready, status, transcript):
    with running(not_ready=not_ready) as made:
        one = made.simulator.rest.add(transcript_at=START + 60)
        answer = made.rest.get(f"/conversations/{one.id}/transcript")
        assert answer.status_code == status
        if status == 404:
            assert answer.json() == {"statusCode": 404, "message": "Transcript not found", "error": "Not Found"}
        else:
            assert answer.json()["transcript"] == transcript
        detail = made.rest.get(f"/conversations/{one.id}?include_transcript=true&include_insights=true").json()
        assert (detail["transcript"], detail["insights"], detail["summary"]) == (transcript, [], None)
        assert made.rest.get(f"/conversations/{one.id}/insights").json()["insights"] == []
        assert made.rest.get(f"/conversations/{one.id}/summary").status_code == 404
        assert made.rest.get("/webhooks/deliveries").json()["deliveries"] == []
        made.clock.now += 60
        assert made.rest.get(f"/conversations/{one.id}/transcript").json()["transcript"]
        delivered = made.rest.get("/webhooks/deliveries", params={"token_id": "any"}).json()["deliveries"]
        assert [(row["resource_id"], row["status"]) for row in delivered] == [(one.id, "delivered")]
        assert delivered[0]["delivered_at"] == "2026-03-10T12:01:00.000Z"
        made.clock.now += 7 * DAY
        assert made.rest.get("/webhooks/deliveries").json()["deliveries"] == []


def test_what_was_deleted_is_gone(empty):
    rest = empty.simulator.rest
    one, other = rest.add(id="one"), rest.add(id="other")
    rest.delete(one.id)
    assert empty.walk() == [[other.id]]
    for part in ("", "/transcript", "/insights", "/recording-url", "/summary"):
        assert empty.rest.get(f"/conversations/{one.id}{part}").status_code == 404
    delivered = empty.rest.get("/webhooks/deliveries").json()["deliveries"]
    assert [row["resource_id"] for row in delivered] == [other.id]
    with pytest.raises(KeyError):
        rest.delete(one.id)


def test_a_change_is_seen_at_once(empty):
    rest = empty.simulator.rest
    rest.add(id="one", duration=100)
    rest.add(id="other", date=START - 7200)
    assert empty.walk() == [["one", "other"]]
    empty.clock.now += 60
    said = [("guest", "Call me on 555 0100"), ("host", "I will")]
    rest.change("one", title="New", sentiment="negative", summary="Changed", said=said, date=START - 9000)
    assert empty.walk() == [["other", "one"]]
    detail = empty.rest.get("/conversations/one", params={"include_transcript": "true"}).json()
    assert (detail["title"], detail["sentiment"], detail["summary"]) == ("New", "negative", "Changed")
    assert [row["text"] for row in detail["transcript"]["segments"]] == ["Call me on 555 0100", "I will"]
    summary = empty.rest.get("/conversations/one/summary").json()
    assert (summary["created_at"], summary["updated_at"]) == ("2026-03-10T11:01:40.000Z", "2026-03-10T12:01:00.000Z")
    for fields in ({"id": "two"}, {"nothing": 1}):
        with pytest.raises(TypeError, match=next(iter(fields))):
            rest.change("one", **fields)
    with pytest.raises(KeyError):
        rest.change("none", title="New")


def test_the_option_that_is_wrong_is_named(monkeypatch, capsys):
    def told(*options):
        monkeypatch.setattr("sys.argv", ["simulator", *options])
        assert main() == 1
        return capsys.readouterr().err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = told("--port", str(port))
    assert error.startswith(f"Port {port} cannot be used: Address already in use")
    assert error.endswith("Choose another with --port.\n")
    # An address for documents, of no machine.
    error = told("--host", "192.0.2.1", "--port", "0")
    assert error.startswith("Host 192.0.2.1 cannot be used: ")
    assert error.endswith("Choose another with --host.\n")
    for port in ("99999", "-1", "http"):
        with pytest.raises(SystemExit):
            _parser().parse_args(["--port", port])
        assert "argument --port: must be a number from 0 to 65535" in capsys.readouterr().err


def test_an_account_without_webhooks_has_no_deliveries():
    with running(webhooks=False) as made:
        one = made.simulator.rest.add()
        assert made.rest.get("/webhooks/deliveries").json()["deliveries"] == []
        assert made.walk() == [[one.id]]
        made.simulator.rest.webhooks = True
        assert len(made.rest.get("/webhooks/deliveries").json()["deliveries"]) == 1
    assert (_parser().parse_args(["--no-webhooks"]).webhooks, "webhooks" in _parser().parse_args([])) == (False, False)


class Hooked:
    """Something that webhooks are sent to; answers with the statuses it is given, then with 200."""

    def __init__(self) -> None:
        hooked = self
        self.received: list[tuple[bytes, dict[str, str]]] = []
        self.statuses: list[int] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                hooked.received.append((body, dict(self.headers)))
                self.send_response(hooked.statuses.pop(0) if hooked.statuses else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/dstny/webhooks/rest"


@pytest.fixture
def hooked() -> Iterator[Hooked]:
    made = Hooked()
    thread = Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_a_webhook_is_sent_once_when_a_conversation_becomes_complete(hooked):
    with running(samples=3, webhook_url=hooked.url, webhook_secret="s") as made:
        made.simulator.rest.send_webhooks()
        one = made.simulator.rest.add(transcript_at=START + 60)
        made.simulator.rest.send_webhooks()
        assert hooked.received == []
        made.clock.now += 61
        for _ in range(2):
            made.simulator.rest.send_webhooks()
        (body, headers), latest = hooked.received[0], made.rest.get("/webhooks/deliveries").json()["deliveries"][0]
        event = verify(body, headers, ["s"], now=datetime.fromtimestamp(made.clock.now, UTC))
        assert (event.conversation_id, event.delivery_id, event.event) == (one.id, latest["id"], latest["event_type"])
        assert (latest["status"], latest["attempts"], latest["response_status"]) == ("delivered", 1, 200)
        made.simulator.rest.webhooks = False
        made.simulator.rest.add()
        made.simulator.rest.send_webhooks()
        assert len(hooked.received) == 1


def test_a_webhook_is_sent_by_itself(hooked):
    with running(webhook_url=hooked.url) as made:
        made.simulator.rest.add()
        deadline = time.monotonic() + 10
        while not hooked.received and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(hooked.received) == 1


def test_a_webhook_that_is_not_taken_is_sent_again_ever_later_and_then_given_up(hooked):
    def shown(made):
        (row,) = made.rest.get("/webhooks/deliveries").json()["deliveries"]
        return row["status"], row["attempts"], row["response_status"], row["delivered_at"] is not None

    with running(webhook_url=hooked.url) as made:
        hooked.statuses = [503, 500]
        rest, seen = made.simulator.rest, []
        one = rest.add()
        for pause in (0, 0.5, 0.6, 4, 1.1, 100):
            made.clock.now += pause
            rest.send_webhooks()
            seen.append(shown(made))
        assert (
            seen
            == [("pending", 1, 503, False)] * 2 + [("pending", 2, 500, False)] * 2 + [("delivered", 3, 200, True)] * 2
        )
        assert len({body for body, _ in hooked.received}) == 1
        rest.delete(one.id)
        hooked.statuses = [503] * 4
        rest.add()
        for pause in (0, 1, 5, 25, 100):
            made.clock.now += pause
            rest.send_webhooks()
        assert (shown(made), len(hooked.received)) == (("failed", 4, 503, False), 7)


def test_webhooks_are_sent_wrong_on_request(hooked, empty):
    refusals = {
        "good": None,
        "other_event": None,
        "unsigned": Refusal.UNSIGNED,
        "wrong_secret": Refusal.UNSIGNED,
        "tampered": Refusal.UNSIGNED,
        "old": Refusal.STALE,
        "from_the_future": Refusal.STALE,
        "other_headers": Refusal.CONTRADICTED,
        "not_json": Refusal.MALFORMED,
    }
    assert refusals.keys() == KINDS.keys()

    def verified(made):
        return verify(*hooked.received[-1], ["s"], now=datetime.fromtimestamp(made.clock.now, UTC))

    with running(samples=1, webhook_url=hooked.url, webhook_secret="s") as made:
        (conversation_id,) = made.simulator.rest.conversations
        for kind, refusal in refusals.items():
            asked = {"kind": kind, "conversation_id": conversation_id}
            made.simulator.rest.change(conversation_id, transcript_at=made.clock.now)
            assert made.plain.post("/_simulator/webhooks", json=asked).json() == {"response_status": 200}
            if refusal is None:
                assert verified(made).is_about_completion == (kind == "good")
            else:
                with pytest.raises(WebhookRejected) as caught:
                    verified(made)
                assert caught.value.reason is refusal, kind
        hooked.statuses = [401]
        asked = {"kind": "unsigned", "conversation_id": conversation_id}
        assert made.plain.post("/_simulator/webhooks", json=asked).json() == {"response_status": 401}
        for wrong in ({"kind": "none", "conversation_id": conversation_id}, {"kind": "good"}, []):
            assert made.plain.post("/_simulator/webhooks", json=wrong).status_code == 400
    assert "no webhook_url" in empty.plain.post("/_simulator/webhooks", json=asked).json()["error"]


def test_a_recording_has_a_url_that_works(empty):
    one, silent = empty.simulator.rest.add(), empty.simulator.rest.add(has_recording=False)
    large = empty.simulator.rest.add(recording="big-100.bin")
    answer = empty.rest.get(f"/conversations/{one.id}/recording-url").json()
    assert answer["has_recording"] is True
    assert httpx.get(answer["recording_url"], trust_env=False).headers["Content-Type"] == "audio/mpeg"
    nothing = empty.rest.get(f"/conversations/{silent.id}/recording-url").json()
    assert set(nothing) == {"conversation_id", "has_recording", "_meta"}
    assert nothing["has_recording"] is False
    url = empty.rest.get(f"/conversations/{large.id}/recording-url").json()["recording_url"]
    assert len(httpx.get(url, trust_env=False).content) == 100


@pytest.mark.parametrize(
    ("url", "platform"),
    [
        ("https://acme.zoom.us/j/123", "zoom"),
        ("https://teams.microsoft.com/l/meetup-join/1", "microsoft_teams"),
        ("https://meet.google.com/abc-defg-hij", "google_meet"),
    ],
)
def test_a_notetaker_brings_a_conversation_then_its_transcript(url, platform):
    with running(visible_after=30, transcript_after=60) as made:
        answer = made.rest.post("/notetaker/request", json={"meeting_url": url, "meeting_title": "Customer sync"})
        assert answer.status_code == 200
        body = answer.json()
        assert (body["meeting_platform"], body["meeting_title"], body["status"]) == (
            platform,
            "Customer sync",
            "joining",
        )
        assert body["conversation_id"] is None
        assert made.rest.post("/notetaker/request", json={"meeting_url": url}).json()["meeting_title"] is None
        assert made.walk() == [[]]
        made.clock.now += 30
        rows = made.rest.get("/conversations").json()["conversations"]
        assert {(row["title"], row["medium"]) for row in rows} == {
            ("Customer sync", "video"),
            ("Ad-hoc meeting", "video"),
        }
        path = f"/conversations/{rows[0]['id']}/transcript"
        assert made.rest.get(path).status_code == 404
        made.clock.now += 60
        assert made.rest.get(path).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"meeting_url": "zoom"},
        {"meeting_url": "https://zoom.us/j/1", "title": "x"},
        {"meeting_url": "https://zoom.us/j/1", "meeting_start_time": "tomorrow"},
        {"meeting_url": "https://zoom.us.example.com/j/1"},
    ],
)
def test_a_wrong_notetaker_request_is_a_400(empty, body):
    assert empty.rest.post("/notetaker/request", json=body).status_code == 400
    # Another host is against no document.
    assert len(empty.simulator.books.violations) == ("example" not in str(body))


# tellcasey


def test_a_tellcasey_conversation_has_a_life(empty):
    plan = [(START, "pending"), (START + 60, "in_progress"), (START + 160, "completed"), (START + 500, "archived")]
    one = empty.simulator.tellcasey.add(plan=plan, messages=["Hello", "Hi", "How are you?", "Fine"], modality="text")
    seen = []
    for seconds in (0, 60, 110, 160, 500):
        empty.clock.now = START + seconds
        data = empty.tellcasey.get(f"/conversations/{one.id}").json()["data"]
        said = empty.tellcasey.get(f"/conversations/{one.id}/transcript").json()["data"]
        assert said["conversation_id"] == one.id
        assert data["turn_count"] == len(said["messages"])
        assert len(data["path_taken"]) <= len(plan)
        seen.append((data["status"], len(said["messages"]), data["started_at"], data["completed_at"]))
    began, ended = "2026-03-10T12:01:00.000Z", "2026-03-10T12:02:40.000Z"
    assert seen == [
        ("pending", 0, None, None),
        ("in_progress", 1, began, None),
        ("in_progress", 3, began, None),
        ("completed", 4, began, ended),
        ("archived", 4, began, ended),
    ]
    assert [message["role"] for message in said["messages"]] == ["assistant", "user", "assistant", "user"]
    assert said["messages"][1]["created_at"] == "2026-03-10T12:01:25.000Z"
    assert said["messages"][1]["modality"] == "text"


@pytest.mark.parametrize(
    ("plan", "messages"),
    [
        ([(START, "completed")], 2),
        ([(START, "pending"), (START, "in_progress"), (START, "completed")], 2),
        ([(START, "pending"), (START, "abandoned")], 0),
        ([(START - 5, "in_progress")], 1),
        ([(START - 9, "in_progress"), (START, "abandoned")], 2),
    ],
)
def test_what_was_said_follows_from_the_plan(empty, plan, messages):
    one = empty.simulator.tellcasey.add(plan=plan, messages=["Hello", "Hi"])
    answer = empty.tellcasey.get(f"/conversations/{one.id}/transcript").json()
    assert len(answer["data"]["messages"]) == messages


def test_tellcasey_seeds():
    with running(samples=40, fresh=4, transcript_after=30, jitter=10) as made:

        def statuses() -> dict[str, int]:
            rows = made.tellcasey.get("/conversations", params={"limit": 100}).json()["data"]
            return {status: [row["status"] for row in rows].count(status) for status in {r["status"] for r in rows}}

        assert statuses() == {"completed": 38, "abandoned": 1, "archived": 1, "in_progress": 2, "pending": 2}
        made.clock.now += 40
        assert statuses() == {"completed": 42, "abandoned": 1, "archived": 1}


def test_tellcasey_pages_go_forth_and_back():
    with running(samples=45) as made:
        get = made.tellcasey.get
        everything = [row["id"] for row in get("/conversations", params={"limit": 100}).json()["data"]]
        first = get("/conversations").json()
        assert (len(first["data"]), first["pagination"]["prev_cursor"]) == (20, None)
        second = get("/conversations", params={"after": first["pagination"]["next_cursor"]}).json()
        third = get("/conversations", params={"after": second["pagination"]["next_cursor"]}).json()
        assert third["pagination"]["has_more"] is False
        assert third["pagination"]["next_cursor"] is None
        assert [row["id"] for page in (first, second, third) for row in page["data"]] == everything
        back = get("/conversations", params={"before": third["pagination"]["prev_cursor"]}).json()
        assert back["data"] == second["data"]
        agent = first["data"][0]["agent_id"]
        found = get("/conversations", params={"status": "completed", "agent_id": agent, "limit": 100}).json()["data"]
        assert {(row["status"], row["agent_id"]) for row in found} == {("completed", agent)}


def test_what_was_deleted_of_tellcasey_is_gone(empty):
    one, other = (empty.simulator.tellcasey.add().id for _ in range(2))
    empty.simulator.tellcasey.delete(one)
    assert [row["id"] for row in empty.tellcasey.get("/conversations").json()["data"]] == [other]
    for part in ("", "/transcript"):
        assert empty.tellcasey.get(f"/conversations/{one}{part}").status_code == 404
    with pytest.raises(KeyError):
        empty.simulator.tellcasey.delete(one)


@pytest.mark.parametrize(
    ("path", "token", "status", "code"),
    [
        ("/conversations", "sk_test_wrong", 401, "unauthorized"),
        ("/conversations/497f6eca-6276-4993-bfeb-53cbbbba6f08", None, 404, "not_found"),
        ("/conversations/7", None, 422, "validation_error"),
        ("/conversations?after=nonsense", None, 422, "validation_error"),
        ("/conversations?after=a&before=b", None, 422, "validation_error"),
        ("/conversations?page=2", None, 400, "bad_request"),
    ],
)
def test_tellcasey_errors_have_a_code(empty, path, token, status, code):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = empty.tellcasey.get(path, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["message"]


# v2

PARTS = (
    "transcript",
    "insights",
    "ai-analytics",
    "playbooks",
    "magic-variable-requests",
    "department-insights",
)


def test_samples_of_v2_are_complete_and_the_same_for_the_same_seed():
    options = {"dstny_samples": 12, "visible_after": 5, "transcript_after": 60, "jitter": 30}
    with running(**options) as made, running(**options) as again:
        rows = made.dstny.get("/conversations").json()
        assert rows == again.dstny.get("/conversations").json()
        assert len({row["id"] for row in rows}) == 12
        assert all(START - 11 * DAY < to_epoch(row["start_time"]) < START - 3600 for row in rows)
        assert all(made.dstny.get(f"/conversations/{row['id']}/{part}").json() for row in rows for part in PARTS)
        contract = Contract("dstny")
        for one in made.simulator.state.calls.values():
            contract.check("POST", "/conversations", [], json.dumps(one.body).encode())
        assert made.simulator.books.violations == []
    with running() as made:
        assert made.dstny.get("/conversations").json() == []


def test_a_call_of_v2_is_added_listed_by_its_day_and_deleted():
    with running(visible_after=60, transcript_after=600) as made:
        state = made.simulator.state
        one = state.add(call_title="First", call_start_time="2026-03-08T23:30:00Z").conversation_id
        new = state.add(created_at=START + 3600).conversation_id

        def listed(start: str, end: str) -> list[str]:
            days = {"global_start": start, "global_end": end}
            return [row["id"] for row in made.dstny.get("/conversations", params=days).json()]

        assert listed("2026-03-08", "2026-03-08") == listed("2026-03-01", "2026-03-31") == [one]
        assert listed("2026-03-09", "2026-03-31") == []
        made.clock.now += 3660
        assert listed("2026-03-10", "2026-03-10") == [new]
        assert made.dstny.get(f"/conversations/{new}/transcript").status_code == 404
        assert all(made.dstny.get(f"/conversations/{new}/{part}").json() == [] for part in PARTS[1:])
        made.clock.now += 540
        assert all(made.dstny.get(f"/conversations/{new}/{part}").json() for part in PARTS)
        state.delete(one)
        assert listed("2026-03-01", "2026-03-31") == [new]
        assert {made.dstny.get(f"/conversations/{one}/{part}").status_code for part in PARTS} == {404}
        with pytest.raises(KeyError):
            state.delete(one)


# Recordings


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a.wav", "audio/wav"), ("a.mp3", "audio/mpeg"), ("a.mp4", "video/mp4"), ("a.bin", "application/octet-stream")],
)
def test_a_recording_is_whole_and_the_same_each_time(empty, name, media_type):
    answer = empty.plain.get(f"/recordings/{name}?signature=x")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == media_type
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert int(answer.headers["Content-Length"]) == len(answer.content) > 1000
    assert answer.content == b"".join(recording(name).chunks())
    assert answer.content == empty.plain.get(f"/recordings/{name}").content


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-", 206, 0, 2_999_999),
        ("bytes=1048570-1048580", 206, 1_048_570, 1_048_580),
        ("bytes=2999999-", 206, 2_999_999, 2_999_999),
        ("bytes=2999990-4000000", 206, 2_999_990, 2_999_999),
        ("bytes=-10", 206, 2_999_990, 2_999_999),
        ("bytes=5-3", 200, 0, 2_999_999),
        ("bytes=0-1,5-6", 200, 0, 2_999_999),
        ("lines=0-1", 200, 0, 2_999_999),
    ],
)
def test_ranges(empty, asked, status, first, last):
    name = "big-3000000.bin"
    whole = b"".join(recording(name).chunks())
    answer = empty.plain.get(f"/recordings/{name}", headers={"Range": asked})
    assert answer.status_code == status
    assert answer.content == whole[first : last + 1]
    assert answer.headers.get("Content-Range") == (f"bytes {first}-{last}/3000000" if status == 206 else None)


@pytest.mark.parametrize("asked", ["bytes=3000000-", "bytes=-0"])
def test_a_range_behind_the_end_cannot_be_served(empty, asked):
    answer = empty.plain.get("/recordings/big-3000000.bin", headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == "bytes */3000000"


def test_if_range_with_another_etag_gives_the_whole(empty):
    etag = empty.plain.get("/recordings/big-1000.bin").headers["ETag"]
    for given, status, size in ((etag, 206, 100), ('"other"', 200, 1000)):
        answer = empty.plain.get("/recordings/big-1000.bin", headers={"Range": "bytes=900-", "If-Range": given})
        assert (answer.status_code, len(answer.content)) == (status, size)


def test_a_large_recording_comes_in_pieces(empty):
    with empty.plain.stream("GET", "/recordings/big-2000000000.mp4") as answer:
        assert answer.headers["Content-Length"] == "2000000000"
        assert len(next(answer.iter_bytes(1000))) == 1000
    tail = empty.plain.get("/recordings/big-2000000000.mp4", headers={"Range": "bytes=1999999000-"})
    assert tail.content == b"".join(recording("big-2000000000.mp4").chunks(1_999_999_000))


@pytest.mark.parametrize("after_bytes", [0, 1, 100_000, 2_500_000])
def test_a_cut_recording_can_be_continued(empty, after_bytes):
    empty.simulator.books.inject(Fault("cut", "recording", after_bytes=after_bytes))
    received = bytearray()

    def fetch() -> None:
        with empty.plain.stream("GET", "/recordings/big-3000000.bin") as answer:
            for piece in answer.iter_raw():
                received.extend(piece)

    with pytest.raises(httpx.RemoteProtocolError):
        fetch()
    assert len(received) == after_bytes
    rest = empty.plain.get("/recordings/big-3000000.bin", headers={"Range": f"bytes={after_bytes}-"})
    assert received + rest.content == b"".join(recording("big-3000000.bin").chunks())


def test_other_faults_of_recordings(empty):
    books = empty.simulator.books
    # One that is meant for any operation of an API leaves recordings alone.
    books.inject(Fault("status", status=500))
    assert empty.plain.get("/recordings/a.wav").status_code == 200
    books.inject(Fault("status", "recording", status=403, message="Request has expired"))
    assert empty.plain.get("/recordings/a.wav").json()["message"] == "Request has expired"
    books.inject(Fault("slow", "recording", seconds=0))
    assert empty.plain.get("/recordings/a.wav").status_code == 200
    books.inject(Fault("reset", "recording"))
    with pytest.raises(httpx.TransportError):
        empty.plain.get("/recordings/a.wav")


def test_downloads_are_noted_with_range_and_authorization(empty):
    get = empty.plain.get
    get("/recordings/a.wav")
    get("/recordings/a.wav", headers={"Range": "bytes=5-", "Authorization": "Bearer secret"})
    get("/recordings/none")
    noted = [(d.name, d.range, d.authorized, d.status) for d in empty.simulator.books.downloads]
    assert noted == [("a.wav", None, False, 200), ("a.wav", "bytes=5-", True, 206), ("none", None, False, 404)]
    assert "secret" not in get("/_simulator/books").text
