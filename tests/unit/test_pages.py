"""Walking cursors over a server that is invented anew for each case."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyError, DstnyResponseError, DstnyScopeError
from airflow_provider_dstny.api.iteration import Found
from airflow_provider_dstny.api.times import iso_time, utc_time

EPOCH = datetime(2026, 3, 2, 8, tzinfo=UTC)
MEDIA = ("call", "video", "email", "chat", "live")
#: Reproducible: every run tries the same cases, and prints the failing one as @example.
THOROUGH = settings(max_examples=1500, derandomize=True, deadline=None, database=None)


class Server:
    """The conversation list of API v1, as odd as its documents allow.

    :param rows: (milliseconds after EPOCH, medium, user, department) of each conversation.
    :param arrivals: number of a request → rows that exist from then on.
    :param repeats: numbers of requests that are answered with the page before.
    """

    page_size = 25

    def __init__(
        self,
        rows,
        *,
        newest_first=True,
        inclusive_cursor=False,
        inclusive_filters=True,
        whole_seconds=False,
        arrivals=None,
        repeats=(),
        ignores_cursor=False,
        by_arrival=False,
        cursor_of_next=False,
        limits_first=False,
        microseconds=0,
        deletions=None,
        scopes=("users", "departments"),
    ):
        self.rows = []
        self.microseconds = microseconds
        for row in rows:
            self.add(row)
        #: The list is sorted, and its cursor cut, by a time that is not shown; here the order in which rows came.
        self.by_arrival = by_arrival
        #: A cursor is the time of the first row of the next page.
        self.cursor_of_next = cursor_of_next
        #: A page is cut before the filters are applied.
        self.limits_first = limits_first
        #: Number of a request → how many rows of the page before are deleted from its end.
        self.deletions = deletions or {}
        self.deleted = set()
        self.newest_first = newest_first
        self.inclusive_cursor = inclusive_cursor
        self.inclusive_filters = inclusive_filters
        self.whole_seconds = whole_seconds
        self.arrivals = arrivals or {}
        self.repeats = repeats
        self.ignores_cursor = ignores_cursor
        self.scopes = scopes
        self.requests = 0
        self.last_page = None

    def add(self, row):
        milliseconds, medium, user, department = row
        # Ids are in no order of time.
        number = random.Random(len(self.rows)).getrandbits(64)
        self.rows.append(
            {
                "id": f"c{number:x}",
                "date": iso_time(EPOCH + timedelta(milliseconds=milliseconds)),
                "at": EPOCH + timedelta(milliseconds=milliseconds, microseconds=number % (self.microseconds or 1)),
                "came": EPOCH + timedelta(hours=5, seconds=len(self.rows) // 40),
                "medium": medium,
                "user": user and {"id": user},
                "department": department and {"id": department},
            }
        )

    @property
    def ids(self):
        return {row["id"] for row in self.rows}

    def answer(self, request):
        self.requests += 1
        assert self.requests < 20_000, "an endless loop"
        for row in self.arrivals.pop(self.requests, ()):
            self.add(row)
        if request.operation != "list_conversations":
            return self.directory(request.operation)
        query = dict(request.params)
        walking = "date_from" not in query
        if walking and self.requests in self.repeats and self.last_page:
            return self.last_page
        if self.last_page and (gone := self.deletions.pop(self.requests, 0)):
            self.deleted |= {row["id"] for row in self.last_page["conversations"][-gone:]}
        rows = [row for row in self.rows if row["id"] not in self.deleted]
        if not self.limits_first:
            rows = [row for row in rows if self.fits(row, query)]
        rows.sort(key=lambda row: (self.place(row), row["id"]), reverse=self.newest_first)
        if not self.ignores_cursor:
            rows = [row for row in rows if self.lies_beyond(row, query.get("cursor"))]
        page, rest = rows[: self.page_size], rows[self.page_size :]
        answer = {
            "conversations": [self.shown(row) for row in page if self.fits(row, query)],
            "pagination": {
                "has_more": bool(rest),
                "next_cursor": self.cursor(rest[0] if self.cursor_of_next else page[-1]) if rest else None,
            },
        }
        self.last_page = answer if walking else self.last_page
        return answer

    def place(self, row):
        return row["came"] if self.by_arrival else row["at"]

    @staticmethod
    def shown(row):
        return {name: value for name, value in row.items() if name not in {"at", "came"}}

    def directory(self, operation):
        name = operation.removeprefix("list_")
        if name not in self.scopes:
            raise DstnyScopeError(403, "missing", scope=name)
        key = {"users": "user", "departments": "department"}[name]
        return {name: list({row[key]["id"]: row[key] for row in self.rows if row[key]}.values())}

    def fits(self, row, query):
        moment = row["at"]
        slack = timedelta(0) if self.inclusive_filters else timedelta(microseconds=1)
        return (
            ("date_from" not in query or moment >= utc_time(query["date_from"]) + slack)
            and ("date_to" not in query or moment <= utc_time(query["date_to"]) - slack)
            and ("medium" not in query or row["medium"] == query["medium"])
            and ("user_id" not in query or (row["user"] or {}).get("id") == query["user_id"])
            and ("department_id" not in query or (row["department"] or {}).get("id") == query["department_id"])
        )

    def cursor(self, row):
        moment = self.place(row)
        precision = moment.microsecond // 1000 * 1000
        return iso_time(moment.replace(microsecond=0 if self.whole_seconds else precision))

    def lies_beyond(self, row, cursor):
        if cursor is None:
            return True
        moment, end = self.place(row), utc_time(cursor)
        if moment == end:
            return self.inclusive_cursor
        return moment < end if self.newest_first else moment > end


class Client(DstnyRestClient):
    """Asks an invented server instead of the network."""

    def __init__(self, server):
        super().__init__("http://invented", "mt_invented")
        self._server = server

    def iterate(self, findings):
        def drive():
            try:
                step = next(findings)
                while True:
                    if isinstance(step, Found):
                        yield step.item
                        step = next(findings)
                        continue
                    try:
                        answer = self._server.answer(step)
                    except DstnyError as error:
                        step = findings.throw(error)
                    else:
                        step = findings.send(answer)
            except StopIteration:
                return

        return drive()


def walk(server, **filters):
    return [conversation.id for conversation in Client(server).iter_conversations(**filters)]


def walk_or_refuse(server, **filters):
    """Return the ids in order and nothing, or what was found before the walk said that it cannot go on."""
    found = []
    try:
        found.extend(conversation.id for conversation in Client(server).iter_conversations(**filters))
    except DstnyResponseError as error:
        event("refused")
        return found, str(error)
    event("complete")
    return found, ""


#: Moments within a few milliseconds and many seconds, so that ties and near ties are common.
moments = st.one_of(st.integers(0, 4), st.integers(0, 3).map(lambda n: n * 700), st.integers(0, 10**7))
rows = st.tuples(moments, st.sampled_from(MEDIA), st.sampled_from(["u1", "u2", "u3"]), st.sampled_from(["d1", "d2"]))
few_rows = st.lists(rows, max_size=90)
#: A crowd at one moment: more than a page, in one medium or in several.
crowds = st.builds(
    lambda moment, size, media: [(moment, media[n % len(media)], f"u{n % 7}", f"d{n % 3}") for n in range(size)],
    moments,
    st.integers(20, 160),
    st.sampled_from([MEDIA, ("call",), ("call", "video")]),
)
modes = st.fixed_dictionaries(
    {
        "newest_first": st.booleans(),
        "inclusive_cursor": st.booleans(),
        "inclusive_filters": st.booleans(),
    }
)


@THOROUGH
@given(few_rows, st.lists(crowds, max_size=2), modes)
@example([], [], {})
def test_every_row_comes_once_whatever_the_cursor_means(some, crowded, mode):
    server = Server([*some, *(row for crowd in crowded for row in crowd)], **mode)
    found, refusal = walk_or_refuse(server)
    if refusal:
        assert "no filter tells them apart" in refusal
        assert most_alike_around_one_moment(server) > server.page_size
    else:
        assert len(found) == len(set(found))
        assert set(found) == server.ids


def most_alike_around_one_moment(server):
    """The largest number of rows that no filter tells apart within the few milliseconds that a window covers."""
    alike = {}
    for row in server.rows:
        key = (row["medium"], row["user"]["id"], row["department"]["id"])
        alike.setdefault(key, []).append(utc_time(row["date"]))
    around = timedelta(milliseconds=4)
    return max(sum(abs(one - other) <= around for other in times) for times in alike.values() for one in times)


@THOROUGH
@given(few_rows, st.lists(crowds, max_size=1), modes, st.sets(st.integers(2, 12), max_size=4))
def test_pages_that_repeat_lose_nothing(some, crowded, mode, repeats):
    server = Server([*some, *(row for crowd in crowded for row in crowd)], repeats=repeats, **mode)
    found, refusal = walk_or_refuse(server)
    assert len(found) == len(set(found))
    assert not refusal or len(server.rows) > server.page_size
    assert refusal or set(found) == server.ids


@THOROUGH
@given(few_rows, modes, st.dictionaries(st.integers(1, 8), st.lists(rows, max_size=4), max_size=5))
def test_rows_that_arrive_while_paging_disturb_nothing(some, mode, arrivals):
    server = Server(some, arrivals=arrivals, **mode)
    before = set(server.ids)
    found = walk(server)
    assert len(found) == len(set(found))
    assert before <= set(found) <= server.ids


@THOROUGH
@given(st.lists(rows, max_size=120), st.booleans(), st.booleans())
def test_a_cursor_in_whole_seconds_loses_nothing(some, newest_first, inclusive):
    server = Server(some, newest_first=newest_first, inclusive_cursor=inclusive, whole_seconds=True)
    found, refusal = walk_or_refuse(server)
    assert len(found) == len(set(found))
    assert not refusal or len(server.rows) > server.page_size
    assert refusal or set(found) == server.ids


@THOROUGH
@given(few_rows, st.lists(crowds, max_size=1), modes, st.sampled_from(["by_arrival", "cursor_of_next", "microseconds"]))
def test_a_server_of_another_kind_loses_nothing_in_silence(some, crowded, mode, kind):
    odd = {kind: 1000 if kind == "microseconds" else True}
    server = Server([*some, *(row for crowd in crowded for row in crowd)], **mode, **odd)
    found, refusal = walk_or_refuse(server)
    assert len(found) == len(set(found))
    assert not refusal or len(server.rows) > server.page_size
    assert refusal or set(found) == server.ids


@THOROUGH
@given(few_rows, modes, st.sampled_from(MEDIA))
def test_a_page_that_is_cut_before_it_is_filtered_loses_nothing_in_silence(some, mode, medium):
    server = Server(some, limits_first=True, **mode)
    found, refusal = walk_or_refuse(server, medium=medium)
    wanted = {row["id"] for row in server.rows if row["medium"] == medium}
    assert len(found) == len(set(found))
    assert not refusal or len(server.rows) > server.page_size
    assert refusal or set(found) == wanted


@THOROUGH
@given(few_rows, modes, st.dictionaries(st.integers(2, 8), st.integers(1, 6), max_size=3))
def test_rows_that_are_deleted_while_paging_take_no_others_with_them(some, mode, deletions):
    server = Server(some, deletions=deletions, **mode)
    found, refusal = walk_or_refuse(server)
    assert len(found) == len(set(found))
    assert not refusal
    assert set(found) >= server.ids - server.deleted


@pytest.mark.parametrize("count", [26, 60])
@pytest.mark.parametrize("spread", [0, 1000], ids=["ties", "no ties"])
def test_a_server_that_ignores_cursors_is_an_error_and_no_loop(count, spread):
    server = Server([(n * spread, "call", "u1", "d1") for n in range(count)], ignores_cursor=True)
    with pytest.raises(DstnyResponseError):
        walk(server)
    assert server.requests < 20
