"""Each delivery counts once, over restarts and several processes, and reaches Airflow once."""

from __future__ import annotations

import asyncio
import json
import threading
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import create_engine
from sqlalchemy import event as sqlalchemy_event

from airflow_provider_dstny.webhooks import inbox
from airflow_provider_dstny.webhooks.airflow_api import AirflowApi, AirflowError
from airflow_provider_dstny.webhooks.receiver import StoreError
from airflow_provider_dstny.webhooks.sinks import Inbox, keys_for
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
        self.events, self.keys, self.fails, self.dies_after, self.reminded = [], keys, 0, None, []

    async def partition_keys(self, uri, event):
        return self.keys

    async def create_event(self, uri, event, partition_key):
        if self.fails:
            self.fails -= 1
            raise AirflowError("Airflow answered 503")
        self.events.append((uri, event.delivery_id, partition_key))
        if self.dies_after is not None and len(self.events) >= self.dies_after:
            raise KeyboardInterrupt

    async def leave_none_behind(self, uri):
        self.reminded.append(uri)

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


def test_after_some_quiet_the_last_event_is_looked_after_once(engine, monkeypatch):
    monkeypatch.setattr("airflow_provider_dstny.webhooks.sinks._PAUSE", 0.02)

    async def run():
        airflow = FakeAirflow()
        sink = Inbox(engine, airflow)
        await sink.store("rest", webhook())
        await drain(sink, airflow, 1, quiet=0.3)
        return airflow.reminded

    assert asyncio.run(run()) == [URI]


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


@pytest.mark.parametrize(
    ("partitioned", "keys"),
    [([], [None]), ([False], [None]), ([True], ["c-1"]), ([True, False], [None, "c-1"])],
)
def test_dags_of_partitions_get_a_key_and_others_none(partitioned, keys):
    assert list(keys_for(partitioned, webhook())) == keys


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

    @pytest.mark.parametrize(
        ("events", "dags", "reminded"),
        [
            ([{"created_dagruns": []}], {"all": False}, True),
            ([{"created_dagruns": [{"run_id": "r"}]}], {"all": False}, False),
            ([{"created_dagruns": []}], {"each": True}, False),
            ([{"created_dagruns": []}], {}, False),
            ([], {"all": False}, False),
        ],
    )
    def test_an_event_that_no_run_has_taken_gets_a_reminder(self, events, dags, reminded):
        asked = []
        asyncio.run(self.api(asked, events=events, dags=dags).leave_none_behind(URI))
        bodies = [one for one in asked if isinstance(one, dict)]
        assert bodies == ([{"asset_id": 7, "extra": {"event": "reminder"}}] if reminded else [])

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
