"""Each delivery counts once, over restarts and several processes, and reaches Airflow once."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import create_engine, inspect
from sqlalchemy import event as sqlalchemy_event

from airflow_provider_dstny.assets import partition_keys
from airflow_provider_dstny.webhooks import __main__ as alone
from airflow_provider_dstny.webhooks import inbox, sinks
from airflow_provider_dstny.webhooks.airflow_api import AirflowApi, AirflowError, AirflowRefusedError
from airflow_provider_dstny.webhooks.receiver import StoreError
from airflow_provider_dstny.webhooks.sinks import Inbox, NotCreatedError
from airflow_provider_dstny.webhooks.verify import WebhookEvent

NOW = datetime(2026, 2, 8, tzinfo=UTC)
URI = "dstny://rest/conversations"


def webhook(number=1):
    return WebhookEvent(f"d-{number}", "conversation.completed", f"c-{number}", NOW)


@pytest.fixture
def engine(tmp_path):
    made = create_engine(f"sqlite:///{tmp_path}/deliveries.db", connect_args={"timeout": 30})
    yield made
    made.dispose()


class FakeAirflow:
    def __init__(self, keys=(None,)):
        self.events, self.keys, self.fails, self.dies_after = [], keys, 0, None
        self.looked_at, self.takes_looks = [], 1

    async def partition_keys(self, uri, event):
        return self.keys

    async def create_event(self, uri, event, partition_key):
        if self.fails:
            self.fails -= 1
            raise AirflowRefusedError("Airflow answered 429")
        self.events.append((uri, event.delivery_id, partition_key))
        if self.dies_after is not None and len(self.events) >= self.dies_after:
            raise KeyboardInterrupt

    async def leave_none_behind(self, uri):
        self.looked_at.append(uri)
        return len(self.looked_at) >= self.takes_looks

    async def has_event(self, uri, event, partition_key, since):
        return (uri, event.delivery_id, partition_key) in self.events


async def drain(sink, airflow, count, quiet=0.05):
    task = asyncio.create_task(sink.hand_on())
    try:
        async with asyncio.timeout(20):
            while len(airflow.events) < count and not task.done():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            await asyncio.sleep(quiet)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_delivery_is_new_once_over_restarts(engine):
    assert asyncio.run(Inbox(engine, FakeAirflow()).store("rest", webhook()))
    assert not asyncio.run(Inbox(engine, FakeAirflow()).store("rest", webhook()))
    assert asyncio.run(Inbox(engine, FakeAirflow()).store("other", webhook())), "ids are of one connection"


def test_of_many_at_a_time_one_is_new(engine):
    sinks, found = [Inbox(engine, FakeAirflow()) for _ in range(8)], []
    threads = [
        threading.Thread(target=lambda sink=sink: found.append(asyncio.run(sink.store("rest", webhook()))))
        for sink in sinks
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False] * 7 + [True]


def test_what_is_stored_is_handed_on_once(engine):
    async def run():
        airflow = FakeAirflow()
        sink = Inbox(engine, airflow)
        for number in range(250):
            await sink.store("rest", webhook(number))
        await drain(sink, airflow, 250)
        return airflow.events

    events = asyncio.run(run())
    assert len(events) == len(set(events)) == 250


def test_several_receivers_of_one_store_hand_each_on_once(engine):
    async def run():
        airflow = FakeAirflow()
        sinks = [Inbox(engine, airflow) for _ in range(4)]
        for number in range(60):
            await sinks[number % 4].store("rest", webhook(number))
        await asyncio.gather(*(drain(sink, airflow, 60) for sink in sinks))
        return airflow.events

    events = asyncio.run(run())
    assert len(events) == len(set(events)) == 60


def test_what_airflow_refuses_is_tried_again(engine, monkeypatch):
    monkeypatch.setattr("airflow_provider_dstny.webhooks.sinks._PAUSE", 0.01)

    async def run():
        airflow = FakeAirflow()
        airflow.fails = 3
        sink = Inbox(engine, airflow)
        await sink.store("rest", webhook())
        await drain(sink, airflow, 1)
        return airflow.events

    assert asyncio.run(run()) == [(URI, "d-1", None)]


@pytest.mark.parametrize("looks", [1, 3])
def test_after_some_quiet_the_dags_are_looked_at_until_they_have_taken_all(engine, monkeypatch, looks):
    monkeypatch.setattr("airflow_provider_dstny.webhooks.sinks._PAUSE", 0.02)

    async def run():
        airflow = FakeAirflow()
        airflow.takes_looks = looks
        sink = Inbox(engine, airflow)
        await sink.store("rest", webhook())
        await drain(sink, airflow, 1, quiet=0.6)
        return airflow.looked_at

    assert asyncio.run(run()) == [URI] * looks


def test_after_a_restart_the_dags_are_looked_at_still(engine, monkeypatch):
    airflow = FakeAirflow()

    async def run(number):
        sink = Inbox(engine, airflow)
        await sink.store("rest", webhook(number))
        await drain(sink, airflow, 1, quiet=0.3)

    monkeypatch.setattr("airflow_provider_dstny.webhooks.sinks._PAUSE", 1.0)
    asyncio.run(run(1))
    assert airflow.looked_at == []
    with engine.begin() as connection:
        (look,) = inbox.looks(connection, datetime.now(UTC) + timedelta(seconds=1))
        assert inbox.begin_look(connection, look, datetime.now(UTC))
    monkeypatch.setattr("airflow_provider_dstny.webhooks.sinks._PAUSE", 0.02)
    asyncio.run(run(1))
    assert airflow.looked_at == [URI]


def test_a_look_that_fails_is_taken_again(engine, monkeypatch):
    monkeypatch.setattr("airflow_provider_dstny.webhooks.sinks._PAUSE", 0.02)

    class Airflow(FakeAirflow):
        async def leave_none_behind(self, uri):
            if not await super().leave_none_behind(uri):
                raise AirflowError("Airflow answered 500")
            return True

    async def run():
        airflow = Airflow()
        airflow.takes_looks = 2
        sink = Inbox(engine, airflow)
        await sink.store("rest", webhook())
        await drain(sink, airflow, 1, quiet=0.4)
        return airflow.looked_at

    assert asyncio.run(run()) == [URI] * 2


def test_what_is_handed_on_during_a_look_is_looked_at_later(engine):
    inbox.create_tables(engine)
    with engine.begin() as connection:
        for number, seconds in ((1, 0), (2, 5)):
            inbox.add(connection, "rest", webhook(number), NOW, handed=False)
            one = next(one for one in inbox.pending(connection, NOW, 9) if one.event.delivery_id == f"d-{number}")
            assert inbox.begin(connection, one, NOW)
            inbox.handed(connection, one, NOW, NOW + timedelta(seconds=seconds))
            if number == 1:
                (look,) = inbox.looks(connection, NOW)
                mine = inbox.begin_look(connection, look, NOW + timedelta(seconds=30))
                assert inbox.begin_look(connection, look, NOW) is None, "another looks"
        inbox.end_looks(connection, mine)
        assert inbox.looks(connection, NOW) == []
        (look,) = inbox.looks(connection, NOW + timedelta(seconds=5))
        inbox.end_looks(connection, look)
        assert inbox.looks(connection, NOW + timedelta(days=1)) == []


def test_a_store_without_the_table_of_looks_gets_one(engine, monkeypatch):
    monkeypatch.setattr("airflow_provider_dstny.webhooks.sinks._PAUSE", 0.02)
    inbox.create_table(engine)
    assert inspect(engine).get_table_names() == ["dstny_webhook_deliveries"], "Airflow's database needs no other"

    async def run():
        airflow = FakeAirflow()
        sink = Inbox(engine, airflow)
        await sink.store("rest", webhook())
        await drain(sink, airflow, 1, quiet=0.3)
        return airflow.looked_at

    assert asyncio.run(run()) == [URI]


@pytest.mark.parametrize("error", [AirflowError("Airflow was not reached: ReadTimeout"), RuntimeError()])
def test_what_airflow_creates_after_its_answer_was_lost_is_not_doubled(engine, monkeypatch, error):
    monkeypatch.setattr("airflow_provider_dstny.webhooks.sinks._PAUSE", 0.02)
    monkeypatch.setattr(inbox, "_CLAIMED", timedelta(seconds=0.5))
    asked = []

    class Late(FakeAirflow):
        async def create_event(self, uri, event, partition_key):
            asked.append(event.delivery_id)
            asyncio.get_running_loop().call_later(0.2, self.events.append, (uri, event.delivery_id, partition_key))
            if event.delivery_id == "d-1":
                raise error

    async def run():
        airflow = Late()
        sink = Inbox(engine, airflow)
        await sink.store("rest", webhook(1))
        await sink.store("rest", webhook(2))
        await drain(sink, airflow, 2, quiet=1.0)
        return airflow

    airflow = asyncio.run(run())
    assert asked == ["d-1", "d-2"], "the second need not wait"
    assert [one[1] for one in airflow.events] == ["d-1", "d-2"]
    with engine.begin() as connection:
        assert not inbox.pending(connection, datetime.now(UTC) + timedelta(days=1), 9)


def test_what_airflow_did_not_create_after_all_is_created_when_the_claim_has_run_out(engine, monkeypatch):
    monkeypatch.setattr("airflow_provider_dstny.webhooks.sinks._PAUSE", 0.02)
    monkeypatch.setattr(inbox, "_CLAIMED", timedelta(seconds=0.3))
    asked = []

    class Lost(FakeAirflow):
        async def create_event(self, uri, event, partition_key):
            asked.append(event.delivery_id)
            if len(asked) == 1:
                raise AirflowError("Airflow answered 502")
            await super().create_event(uri, event, partition_key)

    async def run():
        airflow = Lost()
        sink = Inbox(engine, airflow)
        await sink.store("rest", webhook())
        await drain(sink, airflow, 1)
        return airflow.events

    assert asyncio.run(run()) == [(URI, "d-1", None)]
    assert asked == ["d-1", "d-1"]


def test_who_cannot_even_look_for_it_need_not_wait(engine, monkeypatch):
    monkeypatch.setattr("airflow_provider_dstny.webhooks.sinks._PAUSE", 0.02)

    class Away(FakeAirflow):
        lookups = 0

        async def has_event(self, uri, event, partition_key, since):
            self.lookups += 1
            if self.lookups == 1:
                raise AirflowRefusedError("Airflow was not reached: ConnectError")
            return await super().has_event(uri, event, partition_key, since)

    async def run():
        airflow = Away()
        airflow.fails = 1
        sink = Inbox(engine, airflow)
        await sink.store("rest", webhook())
        await drain(sink, airflow, 1)
        return airflow

    airflow = asyncio.run(run())
    assert airflow.events == [(URI, "d-1", None)]
    assert airflow.lookups == 2


def test_who_is_slow_to_begin_doubles_nothing(engine, monkeypatch):
    monkeypatch.setattr("airflow_provider_dstny.webhooks.sinks._PAUSE", 0.05)
    monkeypatch.setattr(inbox, "_CLAIMED", timedelta(seconds=0.2))

    class Slow(FakeAirflow):
        seconds = 0.6

        async def partition_keys(self, uri, event):
            seconds, self.seconds = self.seconds, 0
            await asyncio.sleep(seconds)
            return [None]

    async def run():
        airflow = Slow()
        sinks = [Inbox(engine, airflow) for _ in range(2)]
        await sinks[0].store("rest", webhook())
        await asyncio.gather(*(drain(sink, airflow, 1, quiet=1.2) for sink in sinks))
        return airflow.events

    assert asyncio.run(run()) == [(URI, "d-1", None)]


def test_who_is_slow_to_create_gives_up_long_before_another_may_begin(engine, monkeypatch):
    assert timedelta(seconds=sinks._PATIENCE) <= inbox._CLAIMED / 2
    monkeypatch.setattr(sinks, "_PAUSE", 0.02)
    monkeypatch.setattr(sinks, "_PATIENCE", 0.1)
    cancelled = []

    class Slow(FakeAirflow):
        async def create_event(self, uri, event, partition_key):
            try:
                await asyncio.sleep(5)
            except asyncio.CancelledError:
                cancelled.append(event.delivery_id)
                raise

    async def run():
        airflow = Slow()
        sink = Inbox(engine, airflow)
        await sink.store("rest", webhook())
        task = asyncio.create_task(sink.hand_on())
        await asyncio.sleep(0.5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert cancelled == ["d-1"]
    with engine.begin() as connection:
        assert not inbox.pending(connection, datetime.now(UTC), 9), "it may have been created"
        assert inbox.pending(connection, datetime.now(UTC) + timedelta(minutes=2), 9)


@pytest.mark.parametrize("late", ["release", "handed"])
def test_who_comes_too_late_changes_nothing(engine, late):
    inbox.create_tables(engine)
    with engine.begin() as connection:
        inbox.add(connection, "rest", webhook(), NOW, handed=False)
        (first,) = inbox.pending(connection, NOW, 9)
        assert inbox.begin(connection, first, NOW)
        now = NOW + timedelta(minutes=2)
        (second,) = inbox.pending(connection, now, 9)
        assert inbox.begin(connection, second, now)
        if late == "release":
            inbox.release(connection, first)
        else:
            inbox.handed(connection, first, now, now)
        assert not inbox.pending(connection, now, 9)
        assert [one.tries for one in inbox.pending(connection, now + timedelta(minutes=2), 9)] == [2]
        assert not inbox.looks(connection, now)
        inbox.release(connection, second)
        assert len(inbox.pending(connection, now, 9)) == 1


def test_a_death_between_handing_on_and_noting_it_doubles_nothing(engine, monkeypatch):
    async def first(airflow):
        sink = Inbox(engine, airflow)
        await sink.store("rest", webhook())
        await sink.store("rest", webhook(2))
        await sink.hand_on()

    airflow = FakeAirflow()
    airflow.dies_after = 1
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(first(airflow))
    airflow.dies_after = None
    asyncio.run(drain(Inbox(engine, airflow), airflow, 2))
    assert [one[1] for one in airflow.events] == ["d-1", "d-2"], "another may be handing the first one on"
    monkeypatch.setattr(inbox, "_CLAIMED", timedelta(0))
    asyncio.run(drain(Inbox(engine, airflow), airflow, 2))
    assert airflow.events == [(URI, "d-1", None), (URI, "d-2", None)]


def test_a_store_that_is_down_is_told(engine):
    sink = Inbox(engine, FakeAirflow())

    @sqlalchemy_event.listens_for(engine, "begin")
    def fail(connection):
        from sqlalchemy.exc import OperationalError

        raise OperationalError("INSERT private", {}, Exception("disk full"))

    with pytest.raises(StoreError) as caught:
        asyncio.run(sink.store("rest", webhook()))
    assert "private" not in str(caught.value)


def test_old_deliveries_are_forgotten_and_waiting_ones_are_not(engine):
    inbox.create_table(engine)
    with engine.begin() as connection:
        inbox.add(connection, "rest", webhook(1), NOW - timedelta(days=15), handed=True)
        inbox.add(connection, "rest", webhook(2), NOW - timedelta(days=15), handed=False)
        inbox.add(connection, "rest", webhook(3), NOW - timedelta(days=8), handed=True)
        inbox.forget(connection, NOW)
        assert inbox.add(connection, "rest", webhook(1), NOW, handed=True)
        assert not inbox.add(connection, "rest", webhook(2), NOW, handed=True)
        assert not inbox.add(connection, "rest", webhook(3), NOW, handed=True)


def test_old_deliveries_are_looked_for_once_an_hour(engine):
    inbox.create_table(engine)
    asked = []
    sqlalchemy_event.listen(engine, "before_cursor_execute", lambda *given: asked.append(given[2].split()[0]))
    for minutes in (0, 1, 59, 61, 62):
        with engine.begin() as connection:
            inbox.forget(connection, NOW + timedelta(minutes=minutes))
    assert asked.count("DELETE") == 2


@pytest.mark.parametrize(
    ("partitioned", "keys"),
    [([], [None]), ([False], [None]), ([True], ["c-1"]), ([True, False], [None, "c-1"])],
)
def test_dags_of_partitions_get_a_key_and_others_none(partitioned, keys):
    assert partition_keys(partitioned, "c-1") == keys


class TestAirflowApi:
    """Against the forms of Airflow's public REST API."""

    def api(self, asked, *, events=(), assets=True, dags=None, tokens=("t1", "t2")):
        handed_out = iter(tokens)

        def answer(request):
            asked.append((request.method, request.url.path, request.headers.get("authorization")))
            match request.method, request.url.path:
                case "POST", "/auth/token":
                    if json.loads(request.content) != {"username": "hooks", "password": "secret"}:
                        return httpx.Response(401)
                    return httpx.Response(201, json={"access_token": next(handed_out)})
                case _ if request.headers["authorization"] == "Bearer expired":
                    return httpx.Response(401)
                case "GET", "/api/v2/assets":
                    found = [{"id": 6, "uri": URI + "/x"}]
                    dag = {"id": 7, "uri": URI, "scheduled_dags": [{"dag_id": one} for one in dags or {}]}
                    return httpx.Response(200, json={"assets": [*found, *([dag] if assets else [])]})
                case "GET", "/api/v2/assets/events":
                    offset = int(request.url.params.get("offset", 0))
                    return httpx.Response(200, json={"asset_events": list(events)[offset : offset + 100]})
                case "GET", path if path.startswith("/api/v2/dags/"):
                    return httpx.Response(200, json={"timetable_partitioned": dags[path.rpartition("/")[2]]})
                case "POST", "/api/v2/assets/events":
                    asked.append(json.loads(request.content))
                    return httpx.Response(200, json={})
            return httpx.Response(404)

        return AirflowApi("http://airflow/", "hooks", "secret", transport=httpx.MockTransport(answer))

    def test_an_event_is_created_with_a_key_where_one_is_wanted(self):
        asked = []
        api = self.api(asked, dags={"each": True, "all": False})

        async def run():
            for key in await api.partition_keys(URI, webhook()):
                await api.create_event(URI, webhook(), key)

        asyncio.run(run())
        bodies = [one for one in asked if isinstance(one, dict)]
        extra = webhook().to_json()
        assert bodies == [{"asset_id": 7, "extra": extra}, {"asset_id": 7, "extra": extra, "partition_key": "c-1"}]
        assert [one[1] for one in asked if not isinstance(one, dict)].count("/api/v2/assets") == 1

    def test_a_token_that_has_ended_is_renewed(self):
        asked = []
        asyncio.run(self.api(asked, tokens=["expired", "t2"]).create_event(URI, webhook(), None))
        assert [one[2] for one in asked if not isinstance(one, dict)][-1] == "Bearer t2"

    def test_an_event_is_found_on_a_later_page(self):
        others = [{"extra": {"delivery_id": f"x{n}"}} for n in range(150)]
        wanted = {"extra": {"delivery_id": "d-1"}, "partition_key": "c-1"}

        def found(key, events):
            return asyncio.run(self.api([], events=events).has_event(URI, webhook(), key, NOW))

        assert found("c-1", [*others, wanted])
        assert not found(None, [*others, wanted])
        assert not found("c-1", others)

    def test_what_cannot_be_told_says_why_and_no_secret(self):
        with pytest.raises(AirflowError, match="no DAG uses the asset"):
            asyncio.run(self.api([], assets=False).create_event(URI, webhook(), None))
        wrong = AirflowApi("http://airflow", "hooks", "wrong", transport=self.api([])._http._transport)
        with pytest.raises(AirflowError, match=r"no token: 401") as caught:
            asyncio.run(wrong.create_event(URI, webhook(), None))
        assert "wrong" not in str(caught.value)

        def refuse(request):
            raise httpx.ConnectError("no route")

        down = AirflowApi("http://airflow", None, None, transport=httpx.MockTransport(refuse))
        with pytest.raises(AirflowError, match="was not reached"):
            asyncio.run(down.create_event(URI, webhook(), None))

    @pytest.mark.parametrize(
        ("answer", "is_sure"),
        [
            (httpx.ConnectError("no route"), True),
            (httpx.ConnectTimeout("slow"), True),
            (httpx.Response(403), True),
            (httpx.Response(429), True),
            (httpx.ReadTimeout("slow"), False),
            (httpx.ReadError("reset"), False),
            (httpx.RemoteProtocolError("cut off"), False),
            (httpx.Response(500), False),
            (httpx.Response(503), False),
            (httpx.Response(200, text="<html>"), False),
        ],
    )
    def test_only_what_was_not_reached_or_refused_is_surely_not_created(self, answer, is_sure):
        def give(request):
            if request.method == "GET":
                return self.api([])._http._transport.handler(request)
            if request.url.path == "/auth/token":
                return httpx.Response(201, json={"access_token": "t"})
            if isinstance(answer, Exception):
                raise answer
            return answer

        api = AirflowApi("http://airflow", "hooks", "secret", transport=httpx.MockTransport(give))
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any but one may mean that it was created
            asyncio.run(api.create_event(URI, webhook(), None))
        assert isinstance(caught.value, NotCreatedError) == is_sure


class SchedulingAirflow:
    """An Airflow with a queue and a scheduler, as 3.3.2 has them.

    :param dags: the ids of DAGs without partitions on the asset.
    """

    def __init__(self, *dags, busy_at=16):
        self.moment, self.events, self.queue, self.busy_at = 0, [], {}, busy_at
        self.runs = {dag: [] for dag in dags}
        self.active = dict.fromkeys(dags, 0)
        self.paused, self.partitioned, self.filtered, self.is_old = set(), set(), set(), False
        transport = httpx.MockTransport(self._answer)
        self.api = AirflowApi("http://airflow", None, None, transport=transport)

    def look(self):
        return asyncio.run(self.api.leave_none_behind(URI))

    def deliver(self, *names, key=None):
        for name in names:
            self._create({"event": "conversation.completed", "delivery_id": name}, key)

    def _create(self, extra, key=None):
        self.moment += 1
        self.events.append({"at": self.moment, "extra": extra, "partition_key": key, "created_dagruns": []})
        self.moment += 1
        for dag in self.runs.keys() - self.paused - self.partitioned - self.filtered:
            if key is None:
                self.queue.setdefault(dag, self.moment)

    def schedule(self):
        for dag, at in list(self.queue.items()):
            if self.active[dag] < self.busy_at and dag not in self.paused:
                since = max((run["at"] for run in self.runs[dag]), default=0)
                taken = [event for event in self.events if since < event["at"] <= at]
                self.runs[dag].append({"at": at, "events": [event["extra"].get("delivery_id") for event in taken]})
                self.active[dag] += 1
                for event in taken:
                    event["created_dagruns"].append({"dag_id": dag, "run_id": f"{dag}-{at}"})
                del self.queue[dag]

    def finish(self, *dags):
        self.active |= dict.fromkeys(dags or self.active, 0)

    def taken(self, dag):
        return [run["events"] for run in self.runs[dag]]

    @property
    def reminders(self):
        return sum(event["extra"].get("event") == "reminder" for event in self.events)

    def _answer(self, request):
        match request.method, request.url.path:
            case "GET", "/auth/token":
                return httpx.Response(201, json={"access_token": "t"})
            case "GET", "/api/v2/assets":
                asset = {"id": 7, "uri": URI, "scheduled_dags": [{"dag_id": dag} for dag in self.runs]}
                return httpx.Response(200, json={"assets": [asset]})
            case "GET", "/api/v2/assets/events":
                assert request.url.params["order_by"] == "-timestamp"
                return httpx.Response(200, json={"asset_events": self.events[::-1][:100]})
            case "GET", "/api/v2/assets/7/queuedEvents":
                if self.is_old and not self.queue:
                    return httpx.Response(404)
                return httpx.Response(200, json={"queued_events": [{"dag_id": dag} for dag in self.queue]})
            case "GET", path if path.startswith("/api/v2/dags/"):
                dag = path.rpartition("/")[2]
                told = {"is_paused": dag in self.paused, "timetable_partitioned": dag in self.partitioned}
                return httpx.Response(200, json=told)
            case "POST", "/api/v2/assets/events":
                self._create(json.loads(request.content)["extra"])
                return httpx.Response(200, json={})
        return httpx.Response(500)


class TestLeaveNoneBehind:
    def test_a_dag_that_is_busy_keeps_its_place_and_is_reminded_when_it_has_left(self):
        airflow = SchedulingAirflow("solo", busy_at=1)
        airflow.deliver("d-1")
        airflow.schedule()
        airflow.deliver("d-2", "d-3")
        assert [airflow.look() for _ in range(3)] == [False] * 3
        assert airflow.reminders == 0, "it would be left behind, too"
        airflow.finish()
        airflow.schedule()
        assert airflow.taken("solo") == [["d-1"], ["d-2"]]
        assert [airflow.look() for _ in range(3)] == [False] * 3
        assert airflow.reminders == 1
        airflow.finish()
        airflow.schedule()
        assert airflow.taken("solo") == [["d-1"], ["d-2"], ["d-3", None]]
        assert [airflow.look() for _ in range(3)] == [True] * 3
        assert airflow.reminders == 1

    def test_a_run_of_another_dag_does_not_count(self):
        airflow = SchedulingAirflow("quick", "busy", busy_at=1)
        airflow.deliver("d-1")
        airflow.schedule()
        airflow.finish("quick")
        airflow.deliver("d-2")
        airflow.queue["quick"] = airflow.moment
        airflow.deliver("d-3")
        airflow.queue["quick"] = airflow.moment
        airflow.schedule()
        assert airflow.taken("quick")[-1] == ["d-2", "d-3"]
        assert not airflow.look()
        airflow.finish()
        airflow.schedule()
        assert airflow.taken("busy") == [["d-1"], ["d-2"]]
        assert not airflow.look()
        for _ in range(3):
            airflow.finish()
            airflow.schedule()
        assert airflow.taken("busy")[2:] == [["d-3", None]]
        assert airflow.look()
        assert airflow.reminders == 1

    def test_dags_that_are_busy_in_turn_do_not_remind_each_other_for_ever(self):
        airflow = SchedulingAirflow("one", "two", busy_at=1)
        airflow.deliver("d-1")
        airflow.schedule()
        airflow.deliver("d-2", "d-3")
        for turn in range(20):
            airflow.finish(("one", "two")[turn % 2])
            airflow.schedule()
            airflow.look()
        assert airflow.look()
        assert airflow.reminders <= 2
        for dag in ("one", "two"):
            assert [one for run in airflow.taken(dag) for one in run if one] == ["d-1", "d-2", "d-3"]

    def test_who_is_paused_or_has_partitions_or_has_taken_all_needs_none(self):
        airflow = SchedulingAirflow("paused", "partitioned", "done")
        airflow.paused, airflow.partitioned = {"paused"}, {"partitioned"}
        airflow.deliver("d-1")
        airflow.deliver("d-1", key="c-1")
        airflow.schedule()
        assert airflow.look()
        assert airflow.reminders == 0

    def test_an_asset_that_nobody_needs_is_done(self):
        assert SchedulingAirflow().look()
        airflow = SchedulingAirflow("paused")
        airflow.paused = {"paused"}
        airflow.deliver("d-1")
        assert airflow.look()

    def test_an_asset_without_events_is_done(self):
        assert SchedulingAirflow("all").look()

    def test_a_dag_that_is_unpaused_meanwhile_is_seen_at_once(self):
        airflow = SchedulingAirflow("all", "late")
        airflow.paused = {"late"}
        airflow.deliver("d-1")
        assert not airflow.look()
        airflow.schedule()
        airflow.paused = set()
        assert not airflow.look()
        assert airflow.reminders == 1

    def test_a_dag_that_airflow_hands_nothing_is_given_up(self, caplog):
        airflow = SchedulingAirflow("other-team", "mine")
        airflow.filtered = {"other-team"}
        airflow.deliver("d-1")
        looks = []
        for _ in range(20):
            airflow.schedule()
            looks.append(airflow.look())
        assert looks[-1]
        assert airflow.reminders == 6
        assert "No run takes the latest event of dstny://rest/conversations: other-team" in caplog.text

    def test_an_older_airflow_answers_404_if_nobody_waits(self):
        airflow = SchedulingAirflow("all")
        airflow.is_old = True
        airflow.deliver("d-1")
        airflow.queue.clear()
        assert not airflow.look()
        assert airflow.reminders == 1
        airflow.schedule()
        assert airflow.look()


class TestAlone:
    """The stand-alone app."""

    def health(self, app, *, before=lambda: None):
        async def ask():
            async with app.router.lifespan_context(app):
                await asyncio.sleep(0.05)
                before()
                transport = httpx.ASGITransport(app)
                async with httpx.AsyncClient(transport=transport, base_url="http://alone") as http:
                    return (await http.get("/health")).status_code

        return asyncio.run(ask())

    def app(self, tmp_path, **options):
        return alone.app(AirflowApi("http://airflow", None, None), f"sqlite:///{tmp_path}/deliveries.db", **options)

    def test_it_is_healthy(self, tmp_path):
        died = []
        assert self.health(self.app(tmp_path, on_death=lambda: died.append(1))) == 200
        assert not died

    def test_it_is_not_if_the_store_is_not_reached(self, tmp_path):
        def break_it():
            (tmp_path / "deliveries.db").write_bytes(b"no database any more" * 1000)

        assert self.health(self.app(tmp_path), before=break_it) == 503

    def test_it_is_not_if_the_store_does_not_answer(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sinks, "_CHECKED_WITHIN", 0.05)
        monkeypatch.setattr(inbox, "check", lambda connection: time.sleep(0.3))
        assert self.health(self.app(tmp_path)) == 503

    def test_it_is_not_if_nothing_is_handed_on_and_it_says_so(self, tmp_path, monkeypatch, caplog):
        died = []

        async def hand_on(self):
            raise RuntimeError("a bug")

        monkeypatch.setattr(Inbox, "hand_on", hand_on)
        assert self.health(self.app(tmp_path, on_death=lambda: died.append(1))) == 503
        assert died == [1]
        assert "Nothing is handed on any more" in caplog.text

    def test_a_process_that_hands_nothing_on_ends(self, tmp_path, monkeypatch):
        async def hand_on(self):
            raise RuntimeError("a bug")

        monkeypatch.setattr(Inbox, "hand_on", hand_on)
        store = f"sqlite:///{tmp_path}/deliveries.db"
        with pytest.raises(SystemExit) as caught:
            alone.main(["--port", "0", "--airflow-url", "http://127.0.0.1:1", "--store", store])
        assert caught.value.code == 1
