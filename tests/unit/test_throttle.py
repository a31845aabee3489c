"""Slots in every store, the turns that are taken with them, and what happens when a store is lost."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import secrets
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from airflow_provider_dstny.api import DstnyClient
from airflow_provider_dstny.api.errors import DstnyQuotaError, DstnyRateLimitError, DstnyValidationError
from airflow_provider_dstny.api.operation import Request, with_patience, without_retries
from airflow_provider_dstny.api.slots import LocalSlots
from airflow_provider_dstny.api.slots.address import Address
from airflow_provider_dstny.api.slots.postgres import PostgresSlots
from airflow_provider_dstny.api.slots.redis import RedisSlots
from airflow_provider_dstny.api.slots.shared import SharedSlots
from airflow_provider_dstny.api.slots.sqlite import SqliteSlots
from airflow_provider_dstny.api.throttle import Throttle, throttle_for

POSTGRES = os.environ.get("DSTNY_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")
REDIS = os.environ.get("DSTNY_TEST_REDIS", "redis://127.0.0.1:6379/0")
EVER = float("inf")
READ = Request("list_users", "GET", "/users", True)


def patient(seconds):
    return Request("list_users", "GET", "/users", True, patience=seconds)


class Clock:
    now = 1_800_000_000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds

    async def asleep(self, seconds):
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def clock():
    return Clock()


def open_postgres():
    with suppress(psycopg.Error), psycopg.connect(POSTGRES, connect_timeout=2):
        return PostgresSlots(POSTGRES)
    pytest.skip(f"no PostgreSQL at {POSTGRES}: DSTNY_TEST_POSTGRES may name another")


def open_redis():
    with suppress(redis.RedisError), redis.Redis.from_url(REDIS, socket_connect_timeout=2) as server:
        server.ping()
        return RedisSlots(REDIS)
    pytest.skip(f"no Redis at {REDIS}: DSTNY_TEST_REDIS may name another")


SHARED_STORES = ["sqlite", "postgres", "redis"]


@pytest.fixture
def open_store(request, tmp_path):
    """Open the store of a test's parameter, as often as it likes."""
    opened = []

    def open_one():
        match request.param:
            case "sqlite":
                opened.append(SqliteSlots(tmp_path / "slots.db"))
            case "postgres":
                opened.append(open_postgres())
            case "redis":
                opened.append(open_redis())
            case _:
                opened.append(LocalSlots())
        return opened[-1]

    yield open_one
    for store in opened:
        if isinstance(store, PostgresSlots) and store._connection is not None:
            store._connection.close()


every_store = pytest.mark.parametrize("open_store", ["local", *SHARED_STORES], indirect=True)
shared_stores = pytest.mark.parametrize("open_store", SHARED_STORES, indirect=True)


@pytest.fixture
def key():
    return f"test-{secrets.token_hex(8)}"


def about(seconds):
    # The clocks of the servers are their own.
    return pytest.approx(seconds, abs=2)


class TestSlots:
    @every_store
    def test_they_are_spaced_in_the_order_in_which_they_are_taken(self, open_store, key):
        store = open_store()
        found = [store.reserve(key, 100, EVER) for _ in range(4)]
        assert found[0].seconds == pytest.approx(0, abs=0.001)
        assert [one.seconds for one in found] == [about(0), about(100), about(200), about(300)]
        assert all(one.taken and one.paused == 0 for one in found)

    @every_store
    def test_the_next_one_is_as_far_as_who_took_the_last_one_said(self, open_store, key):
        store = open_store()
        store.reserve(key, 100, EVER)
        store.reserve(key, 10, EVER)
        store.reserve(key, 0, EVER)
        assert store.reserve(key, 0, EVER).seconds == about(110)

    @every_store
    def test_none_is_taken_beyond_patience(self, open_store, key):
        store = open_store()
        store.reserve(key, 100, 0)
        refused = store.reserve(key, 100, 50)
        assert not refused.taken
        assert refused.seconds == about(100)
        assert store.reserve(key, 100, 150).seconds == about(100)

    @every_store
    def test_none_is_taken_within_a_pause_that_is_too_long(self, open_store, key):
        store = open_store()
        store.pause(key, 300)
        refused = store.reserve(key, 100, EVER, 120)
        assert (refused.taken, refused.seconds, refused.paused) == (False, about(300), about(300))
        taken = store.reserve(key, 100, EVER, 400)
        assert (taken.taken, taken.seconds, taken.paused) == (True, about(300), about(300))
        assert store.reserve(key, 100, EVER, 400).seconds == about(400)

    @every_store
    def test_a_pause_is_never_shortened_and_is_kept_while_slots_are_taken(self, open_store, key):
        store = open_store()
        assert store.pause_left(key) == 0
        store.reserve(key, 1, EVER)
        store.pause(key, 300)
        store.pause(key, 100)
        assert store.pause_left(key) == about(300)
        store.reserve(key, 1, EVER)
        assert store.pause_left(key) == about(300)

    @every_store
    def test_keys_do_not_know_each_other(self, open_store, key):
        store = open_store()
        store.reserve(key, 100, EVER)
        store.pause(key, 100)
        assert store.reserve(f"{key}:other", 100, EVER).seconds == about(0)
        assert store.pause_left(f"{key}:other") == 0

    @shared_stores
    def test_another_object_sees_the_same(self, open_store, key):
        one, other = open_store(), open_store()
        one.reserve(key, 100, EVER)
        assert other.reserve(key, 100, EVER).seconds == about(100)
        one.pause(key, 1000)
        assert other.pause_left(key) == about(1000)
        assert other.reserve(key, 100, EVER).seconds == about(1000)

    @every_store
    def test_threads_do_not_take_the_same_one(self, open_store, key):
        store = open_store()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: store.reserve(key, 1000, EVER).seconds, range(80)))
        assert sorted(found) == [pytest.approx(1000 * number, abs=10) for number in range(80)]

    @every_store
    def test_one_that_no_queue_reaches_keeps_nobody_waiting(self, open_store, key):
        store = open_store()
        store.reserve(key, 400_000, EVER)
        assert [store.reserve(key, 100, 150).seconds for _ in range(2)] == [about(0), about(100)]

    @every_store
    def test_one_that_no_queue_reaches_does_not_lengthen_a_pause(self, open_store, key):
        store = open_store()
        store.reserve(key, 400_000, EVER)
        store.pause(key, 300)
        assert store.reserve(key, 100, EVER, 120).seconds == about(300)
        assert [store.reserve(key, 100, EVER).seconds for _ in range(2)] == [about(300), about(400)]

    @every_store
    @pytest.mark.parametrize(("queue", "spacing"), [(350_000, 100), (3500, 0)])
    def test_a_long_queue_is_waited_for_also_behind_a_pause(self, open_store, key, queue, spacing):
        store = open_store()
        store.pause(key, 1_000_000)
        store.reserve(key, queue, EVER)
        assert store.reserve(key, spacing, EVER).seconds == about(1_000_000 + queue)

    def test_a_clock_that_was_ahead_and_is_put_right_keeps_nobody_waiting(self, clock, tmp_path, key):
        store = SqliteSlots(tmp_path / "slots.db", clock=clock)
        store.reserve(key, 10, EVER)
        clock.now -= 24 * 3600
        assert [store.reserve(key, 10, EVER).seconds for _ in range(3)] == [0, 10, 20]

    @pytest.mark.parametrize("kind", ["local", "sqlite"])
    def test_those_that_nobody_took_are_not_saved_up(self, kind, clock, tmp_path, key):
        store = LocalSlots(clock=clock) if kind == "local" else SqliteSlots(tmp_path / "slots.db", clock=clock)
        store.reserve(key, 10, EVER)
        clock.now += 1000
        assert [store.reserve(key, 10, EVER).seconds for _ in range(3)] == [0, 10, 20]

    @pytest.mark.parametrize("open_store", ["postgres", "redis"], indirect=True)
    def test_those_of_a_server_are_not_saved_up(self, open_store, key):
        store = open_store()
        # A thousand spacings pass before the next one is asked for.
        store.reserve(key, 1e-9, EVER)
        first, second = (store.reserve(key, 10, EVER).seconds for _ in range(2))
        assert (first, second) == (pytest.approx(0, abs=0.001), about(10))

    def test_redis_forgets_a_key_when_nothing_of_it_lies_ahead(self, key):
        store = open_redis()
        with redis.Redis.from_url(REDIS) as server:
            store.reserve(key, 100, EVER)
            assert 100 < server.ttl(f"dstny:throttle:{key}") < 200
            store.pause(key, 1000)
            assert 1000 < server.ttl(f"dstny:throttle:{key}") < 1100
            store.pause_left(f"{key}:other")
            assert not server.exists(f"dstny:throttle:{key}:other")

    def test_a_table_is_created_once_however_many_come_first(self):
        open_postgres()
        schema = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(POSTGRES, autocommit=True) as database:
            database.execute(f"CREATE SCHEMA {schema}")
            stores = [PostgresSlots(f"{POSTGRES}?options=-csearch_path%3D{schema}") for _ in range(8)]
            try:
                with ThreadPoolExecutor(8) as pool:
                    found = list(pool.map(lambda store: store.reserve("k", 1000, EVER).seconds, stores))
            finally:
                for store in stores:
                    store._connection.close()
                database.execute(f"DROP SCHEMA {schema} CASCADE")
        assert sorted(found) == [pytest.approx(1000 * number, abs=10) for number in range(8)]

    def test_a_connection_that_broke_while_nobody_used_it_is_opened_anew(self, key):
        store = open_postgres()
        store.reserve(key, 100, EVER)
        with psycopg.connect(POSTGRES, autocommit=True) as database:
            database.execute("SELECT pg_terminate_backend(%s)", [store._connection.info.backend_pid])
        assert store.reserve(key, 100, EVER).seconds == about(100)
        store._connection.close()
        assert store.reserve(key, 100, EVER).seconds == about(200)
        store._connection.close()

    def test_a_forked_process_has_a_connection_of_its_own(self, key):
        store = open_postgres()
        store.reserve(key, 100, EVER)
        child = multiprocessing.get_context("fork").Process(target=store.reserve, args=(key, 100, EVER))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert store.reserve(key, 100, EVER).seconds == about(200)
        store._connection.close()


def hammer(address, key, spacing, times, found):
    store = address.open()
    found.put([time.time() + store.reserve(key, spacing, EVER).seconds for _ in range(times)])


@pytest.mark.parametrize("kind", SHARED_STORES)
def test_processes_never_take_the_same_slot(kind, key, tmp_path):
    open_shared = {"postgres": open_postgres, "redis": open_redis}.get(kind)
    if open_shared is not None:
        open_shared()
    url = {"sqlite": str(tmp_path / "slots.db"), "postgres": POSTGRES, "redis": REDIS}[kind]
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    spacing, processes, times = 100.0, 8, 25
    workers = [
        context.Process(target=hammer, args=(Address.parse(url), key, spacing, times, found)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    by_process = [found.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    slots = sorted(slot for one in by_process for slot in one)
    assert len(slots) == processes * times
    # What the clock of this machine adds between two looks at it is far less than a spacing.
    assert all(later - earlier > spacing - 5 for earlier, later in pairwise(slots))
    assert slots[-1] - slots[0] == pytest.approx(spacing * (processes * times - 1), abs=5)
    assert all(one == sorted(one) for one in by_process)


class TestTurns:
    @pytest.fixture
    def throttle(self, clock):
        return Throttle(clock=clock)

    @pytest.fixture(params=["blocking", "awaiting"])
    def take(self, request, clock):
        """Take a turn either way, with a clock that sleeping moves."""

        def take(throttle, spacing=10.0, what=READ):
            if request.param == "blocking":
                return throttle.take(what, spacing, sleep=clock.sleep)
            return asyncio.run(throttle.atake(what, spacing, sleep=clock.asleep))

        return take

    def test_each_waits_for_its_own(self, throttle, take):
        assert [take(throttle) for _ in range(3)] == [0, 10, 10]

    def test_one_that_comes_too_late_is_refused_at_once_and_takes_nothing(self, throttle, take, clock):
        take(throttle)
        began = clock.now
        with pytest.raises(DstnyRateLimitError, match=r"list_users .* was not sent: others .* in 10 s") as caught:
            take(throttle, what=patient(9))
        assert (caught.value.status_code, caught.value.retry_after) == (None, 10)
        assert clock.now == began
        assert take(throttle, what=patient(10)) == 10

    def test_a_pause_that_fits_is_waited_for(self, throttle, take):
        throttle.heed(DstnyRateLimitError(429, "", retry_after=120))
        assert take(throttle) == 120

    @pytest.mark.parametrize(("seconds", "request_"), [(121, READ), (60, patient(30))])
    def test_a_pause_that_is_too_long_is_refused_at_once_and_takes_nothing(
        self, throttle, take, clock, seconds, request_
    ):
        throttle.heed(DstnyRateLimitError(429, "", retry_after=seconds))
        began = clock.now
        for _ in range(5):
            with pytest.raises(DstnyRateLimitError, match="told this token to pause") as caught:
                take(throttle, what=request_)
            assert caught.value.retry_after == seconds
        assert clock.now == began
        clock.now += seconds
        assert take(throttle) == 0

    def test_a_pause_that_another_is_told_meanwhile_is_kept(self, clock, take):
        slots = LocalSlots(clock=clock)
        mine, other = Throttle(slots, clock=clock), Throttle(slots, clock=clock)
        take(mine)
        told = iter([30, 0])

        def sleep(seconds):
            clock.now += seconds
            if pause := next(told, 0):
                other.heed(DstnyRateLimitError(429, "", retry_after=pause))

        assert mine.take(READ, 10, sleep=sleep) == 10 + 30

    def test_a_pause_that_grows_beyond_patience_meanwhile_is_refused(self, clock):
        throttle = Throttle(clock=clock)
        throttle.take(READ, 10, sleep=clock.sleep)

        def sleep(seconds):
            clock.now += seconds
            throttle.heed(DstnyRateLimitError(429, "", retry_after=60))

        with pytest.raises(DstnyRateLimitError, match="pause"):
            throttle.take(patient(30), 10, sleep=sleep)

    def test_an_unknown_pause_is_none(self, throttle, take):
        throttle.heed(DstnyRateLimitError(429, ""))
        assert take(throttle, 0.0) == 0

    def test_a_client_without_a_rate_does_not_lift_the_limit_of_another(self, throttle, take):
        take(throttle, 0.0)
        take(throttle, 10.0)
        assert take(throttle, 0.0) == 10


class TestTheGate:
    """However many calls a process makes, it stands in the queue of the store once."""

    class Watched:
        """Slots that tell how many are taken and not yet used."""

        blocking = False

        def __init__(self, clock):
            self._slots = LocalSlots(clock=clock)
            self.reserve_calls = 0
            self.pause_left = self._slots.pause_left

        def reserve(self, *args):
            self.reserve_calls += 1
            return self._slots.reserve(*args)

    def test_two_processes_take_turns_although_one_makes_many_calls(self, clock):
        slots = LocalSlots(clock=clock)
        busy, quiet = Throttle(slots, clock=clock), Throttle(slots, clock=clock)
        order: list[str] = []

        async def call(throttle, name):
            await throttle.atake(READ, 10, sleep=until_due)
            order.append(name)

        async def until_due(seconds):
            due = clock.now + seconds
            while clock.now < due:  # noqa: ASYNC110 - time is moved by hand
                await asyncio.sleep(0)

        async def tick(tasks):
            while not all(task.done() for task in tasks):
                for _ in range(20):
                    await asyncio.sleep(0)
                clock.now += 1

        async def run():
            tasks = [asyncio.create_task(call(busy, "busy")) for _ in range(20)]
            tasks += [asyncio.create_task(call(quiet, "quiet")) for _ in range(5)]
            await tick(tasks)

        asyncio.run(run())
        assert order[:11].count("quiet") == 5

    def test_a_cancelled_call_costs_one_slot_at_most_and_leaves_the_gate_open(self, clock):
        slots = self.Watched(clock)
        throttle = Throttle(slots, clock=clock)

        async def run():
            await throttle.atake(READ, 10, sleep=clock.asleep)
            tasks = [
                asyncio.create_task(throttle.atake(READ, 10, sleep=lambda seconds: asyncio.Event().wait()))
                for _ in range(50)
            ]
            for _ in range(5):
                await asyncio.sleep(0)
            for task in reversed(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return await throttle.atake(READ, 10, sleep=clock.asleep)

        assert asyncio.run(run()) == 20
        assert slots.reserve_calls == 3

    def test_a_call_that_is_cancelled_while_the_store_is_asked_leaves_the_gate_open(self, clock):
        class Slow(TestTheGate.Watched):
            blocking = True

            def reserve(self, *args):
                asked.set()
                go_on.wait(10)
                return super().reserve(*args)

        asked, go_on = threading.Event(), threading.Event()
        throttle = Throttle(Slow(clock), clock=clock)

        async def run():
            task = asyncio.create_task(throttle.atake(READ, 10, sleep=clock.asleep))
            await asyncio.to_thread(asked.wait, 10)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            go_on.set()
            return await throttle.atake(READ, 10, sleep=clock.asleep)

        assert asyncio.run(run()) in (0, 10)

    def test_waiting_at_the_gate_counts_against_patience(self):
        throttle = Throttle()
        inside, leave = threading.Event(), threading.Event()

        def hold(seconds):
            inside.set()
            leave.wait(10)

        with ThreadPoolExecutor(1) as pool:
            holder = pool.submit(throttle.take, READ, 10, sleep=hold)
            inside.wait(10)
            with pytest.raises(DstnyRateLimitError, match=r"waited 0\.01 s .* behind others of this process") as caught:
                throttle.take(patient(0.01), 10)
            assert caught.value.retry_after == 10
            leave.set()
            assert holder.result() >= 0
        throttle.take(patient(60), 10, sleep=lambda seconds: None)

    def test_waiting_at_the_gate_of_an_event_loop_does_so_too(self, clock):
        throttle = Throttle(clock=clock)

        async def run():
            leave = asyncio.Event()
            holder = asyncio.create_task(throttle.atake(READ, 10, sleep=lambda seconds: leave.wait()))
            await asyncio.sleep(0)
            for seconds in (0, 0.01):
                with pytest.raises(DstnyRateLimitError, match="behind others of this process"):
                    await throttle.atake(patient(seconds), 10)
            leave.set()
            await holder
            await throttle.atake(patient(10), 10, sleep=clock.asleep)

        asyncio.run(run())

    def test_an_error_in_a_blocking_call_leaves_the_gate_open(self, clock):
        throttle = Throttle(clock=clock)

        def interrupted(seconds):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            throttle.take(READ, 10, sleep=interrupted)
        assert throttle.take(READ, 10, sleep=clock.sleep) == 10

    def test_several_event_loops_have_gates_of_their_own(self, clock):
        throttle = Throttle(clock=clock)
        assert [asyncio.run(throttle.atake(READ, 10, sleep=clock.asleep)) for _ in range(3)] == [0, 10, 10]

    def test_the_event_loop_goes_on_while_a_store_is_asked(self, clock):
        class Slow(TestTheGate.Watched):
            blocking = True

            def reserve(self, *args):
                assert go_on.wait(10)
                return super().reserve(*args)

        go_on = threading.Event()

        async def run():
            task = asyncio.create_task(Throttle(Slow(clock), clock=clock).atake(READ, 10, sleep=clock.asleep))
            await asyncio.sleep(0.01)
            go_on.set()
            await task

        asyncio.run(run())


class TestTheQuota:
    RESETS_IN = 5 * 3600

    @pytest.fixture
    def throttles(self, clock):
        slots = LocalSlots(clock=clock)
        return Throttle(slots, "k", clock=clock), Throttle(slots, "k", clock=clock)

    def used_up(self, seconds=RESETS_IN):
        return DstnyQuotaError(429, "", resets_at=datetime.now(UTC) + timedelta(seconds=seconds))

    def counted(self, conversation_id):
        return Request("get_summary", "GET", f"/{conversation_id}", True, counted=conversation_id)

    def test_what_counts_is_held_for_everybody_and_knows_the_reset(self, throttles, clock):
        one, other = throttles
        one.heed(self.used_up())
        with pytest.raises(DstnyQuotaError, match=r"get_summary .* was not sent") as caught:
            other.take(self.counted("a"), 0, sleep=clock.sleep)
        assert caught.value.status_code is None
        reset = caught.value.resets_at - datetime.now(UTC)
        assert reset.total_seconds() == pytest.approx(self.RESETS_IN, abs=5)
        assert other.take(READ, 0, sleep=clock.sleep) == 0

    def test_after_a_quarter_of_an_hour_somebody_asks_again(self, throttles, clock):
        throttles[0].heed(self.used_up())
        clock.now += 899
        with pytest.raises(DstnyQuotaError):
            throttles[1].take(self.counted("a"), 0, sleep=clock.sleep)
        clock.now += 1
        assert throttles[1].take(self.counted("a"), 0, sleep=clock.sleep) == 0

    def test_a_reset_that_is_near_is_not_outlasted(self, throttles, clock):
        throttles[0].heed(self.used_up(60))
        clock.now += 61
        assert throttles[1].take(self.counted("a"), 0, sleep=clock.sleep) == 0

    def test_what_was_counted_today_may_be_read_again(self, throttles, clock):
        one, _ = throttles
        one.count(self.counted("a"))
        one.count(READ)
        one.heed(self.used_up())
        assert one.take(self.counted("a"), 0, sleep=clock.sleep) == 0
        with pytest.raises(DstnyQuotaError):
            one.take(self.counted("b"), 0, sleep=clock.sleep)
        one._counted_on -= timedelta(days=1)
        with pytest.raises(DstnyQuotaError):
            one.take(self.counted("a"), 0, sleep=clock.sleep)


class TestALostStore:
    class Store:
        """Slots that can be lost."""

        blocking = True

        def __init__(self, clock):
            self.slots = LocalSlots(clock=clock)
            self.lost = False
            self.asked = 0

        def __getattr__(self, name):
            def ask(*args):
                self.asked += 1
                if self.lost:
                    raise OSError("no route to host")
                return getattr(self.slots, name)(*args)

            return ask

    @pytest.fixture
    def store(self, clock):
        return self.Store(clock)

    @pytest.fixture
    def shared(self, store, clock):
        own = LocalSlots(clock=clock)
        return SharedSlots(store, own, place="Redis at db.example.com:6379", show=str, clock=clock)

    def test_slots_go_on_in_this_process_with_one_warning_and_the_store_is_tried_again(
        self, shared, store, clock, caplog
    ):
        caplog.set_level(logging.INFO)
        shared.reserve("k", 10, EVER)
        assert not shared.lost
        store.lost = True
        assert [shared.reserve("k", 10, EVER).seconds for _ in range(3)] == [0, 10, 20]
        assert shared.lost
        assert store.asked == 2
        clock.now += 30
        shared.reserve("k", 10, EVER)
        assert store.asked == 3
        warning = "Redis at db.example.com:6379, which throttle_url names, is lost (no route to host)"
        assert caplog.text.count(warning) == caplog.text.count("is lost") == 1
        store.lost = False
        clock.now += 29
        shared.reserve("k", 10, EVER)
        assert store.asked == 3
        clock.now += 1
        assert shared.reserve("k", 10, EVER).seconds == 0
        assert not shared.lost
        assert caplog.text.count("is back: ") == 1
        store.lost = True
        shared.reserve("k", 10, EVER)
        assert caplog.text.count("is lost") == 2

    def test_a_pause_outlives_the_loss_of_the_store(self, shared, store):
        shared.pause("k", 60)
        store.lost = True
        assert shared.pause_left("k") == 60
        assert shared.reserve("k", 10, EVER).seconds == 60

    @pytest.mark.parametrize("kind", ["redis", "postgresql"])
    @pytest.mark.parametrize("fault", ["refuses", "hangs"])
    def test_a_server_that_refuses_or_hangs_is_lost_and_no_password_is_told(self, kind, fault, caplog, key):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            if fault == "refuses":
                server.close()
            throttle = throttle_for("https://a", key, Address.parse(f"{kind}://me:s3cret@127.0.0.1:{port}/0"))
            throttle.take(READ, 0)
            throttle.take(READ, 0)
        assert caplog.text.count("is lost") == 1
        assert f"at 127.0.0.1:{port}" in caplog.text
        assert "s3cret" not in caplog.text

    def test_a_database_that_falls_silent_later_does_not_hold_its_users(self, key):
        open_postgres()
        with relay(POSTGRES) as (url, silence):
            store = PostgresSlots(url)
            store.reserve(key, 1, EVER)
            silence()
            with pytest.raises(TimeoutError):
                store.reserve(key, 1, EVER)

    def test_a_server_that_comes_back_is_used_again(self, key, clock, caplog):
        caplog.set_level(logging.INFO)
        target = Address.parse(REDIS)
        open_redis()
        with relay(REDIS) as (url, silence):
            address = Address.parse(url)
            shared = SharedSlots(address.open(), LocalSlots(), place=address.place, show=address.show, clock=clock)
            shared.reserve(key, 1000, EVER)
            silence()
            assert shared.reserve(key, 1000, EVER).seconds == about(0)
            assert shared.lost
        shared._shared = target.open()
        clock.now += 30
        assert shared.reserve(key, 1000, EVER).seconds == pytest.approx(1000, abs=60)
        assert "is back: " in caplog.text


@contextmanager
def relay(url):
    """Stand between a client and a server; told to be silent, keep all connections open and pass nothing on."""
    parts = urlsplit(url)
    silent = threading.Event()
    lines: list[socket.socket] = []

    def pass_on(source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                if not silent.is_set():
                    target.sendall(data)

    def serve():
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                upstream = socket.create_connection((parts.hostname, parts.port))
                lines.extend((client, upstream))
                for pair in ((client, upstream), (upstream, client)):
                    threading.Thread(target=pass_on, args=pair, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        port = server.getsockname()[1]
        yield url.replace(f"{parts.hostname}:{parts.port}", f"127.0.0.1:{port}"), silent.set
    for line in lines:
        line.close()


class TestAddresses:
    @pytest.mark.parametrize(
        ("url", "kind", "place"),
        [
            ("redis://db.example.com:6379/0", "Redis", "Redis at db.example.com:6379"),
            ("rediss://:pa%40ss@db.example.com", "Redis", "Redis at db.example.com"),
            ("postgresql://me:pa%40ss@db.example.com/test", "PostgreSQL", "PostgreSQL at db.example.com"),
            ("postgres://db.example.com:6432/test", "PostgreSQL", "PostgreSQL at db.example.com:6432"),
            ("postgresql+psycopg2://db.example.com/test", "PostgreSQL", "PostgreSQL at db.example.com"),
            ("postgresql:///test?host=/run/postgresql", "PostgreSQL", "PostgreSQL"),
            ("sqlite:////tmp/slots.db", "SQLite", "The SQLite file /tmp/slots.db"),
            ("sqlite:///tmp/slots.db", "SQLite", "The SQLite file /tmp/slots.db"),
            (" /tmp/slots.db ", "SQLite", "The SQLite file /tmp/slots.db"),
        ],
    )
    def test_what_names_a_store(self, url, kind, place):
        address = Address.parse(url)
        assert (address.kind, address.place) == (kind, place)
        assert "pa%40ss" not in f"{address!r} {address}"
        assert address.open() is not None

    @pytest.mark.parametrize(
        "url",
        [
            "localhost:6379",
            "slots.db",
            "http://db.example.com",
            "redis://",
            "redis:///0",
            "postgresql://",
            "redis://host:port",
            "redis://[bad",
            "redis://user:s3cret@host:6379/0?socket_timeout=soon",
            "postgresql://user:s3cret@host:1:2/x",
            "postgresql://user:s3cret@host/x?nonsense=1",
            "/does/not/exist/slots.db",
            "/tmp",
            "${DSTNY_NOWHERE}",
            "redis://:${DSTNY_NOWHERE}@host",
        ],
    )
    def test_what_names_none_is_refused_without_a_password(self, url):
        with pytest.raises(DstnyValidationError, match="throttle_url: ") as caught:
            DstnyClient("https://api.example.com", "token", throttle_url=url)
        error = caught.value
        while error is not None:
            assert "s3cret" not in f"{error} {error!r}"
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

    def test_passwords_come_from_the_environment_and_are_told_as_secrets(self, monkeypatch):
        monkeypatch.setenv("DSTNY_TEST_PASSWORD", "pa%40ss-word")
        told: list[str] = []
        client = DstnyClient(
            "https://api.example.com",
            "token",
            throttle_url="redis://me:${DSTNY_TEST_PASSWORD}@db.example.com",
            on_secret=told.append,
        )
        assert told == ["pa%40ss-word", "pa@ss-word"]
        assert "pa%40ss" not in f"{client!r} {client._throttle.slots!r}"
        told.clear()
        DstnyClient(
            "https://b", "t", throttle_url="postgresql://h/d?sslmode=prefer&password=hidden", on_secret=told.append
        )
        assert told == ["hidden"]

    def test_an_error_is_shown_without_the_password(self):
        address = Address.parse("redis://me:pa%40ss@db.example.com")
        shown = address.show(ValueError(f"{address.url} pa@ss pa%40ss refused"))
        assert "pa" not in shown.replace("***", "")
        assert "refused" in shown

    @pytest.mark.parametrize(
        ("url", "driver", "extra"),
        [("redis://db.example.com", "redis", "redis"), ("postgresql://db.example.com/x", "psycopg", "postgres")],
    )
    def test_a_missing_driver_is_named_with_what_installs_it(self, monkeypatch, url, driver, extra):
        name = {"redis": "redis", "psycopg": "postgres"}[driver]
        monkeypatch.delitem(sys.modules, f"airflow_provider_dstny.api.slots.{name}", raising=False)
        monkeypatch.setitem(sys.modules, driver, None)
        with pytest.raises(DstnyValidationError, match=rf"pip install 'airflow-provider-dstny\[{extra}\]'"):
            DstnyClient("https://api.example.com", "token", throttle_url=url)


class TestWhoSharesWhat:
    def test_clients_of_one_token_share_a_throttle_and_those_of_one_store_its_connection(self, tmp_path):
        address = Address.parse(str(tmp_path / "slots.db"))
        assert throttle_for("https://a", "t") is throttle_for("https://a", "t")
        assert throttle_for("https://a", "t", address) is throttle_for("https://a", "t", address)
        assert throttle_for("https://a", "t") is not throttle_for("https://a", "other")
        assert throttle_for("https://a", "t", address) is not throttle_for("https://a", "t")
        assert throttle_for("https://a", "t", address).slots is throttle_for("https://a", "u", address).slots

    def test_a_store_never_sees_the_token(self, tmp_path):
        path = tmp_path / "slots.db"
        client = DstnyClient("https://api.example.com", "very-secret-token", throttle_url=str(path))
        client._throttle.take(READ, 1)
        client._throttle.heed(DstnyQuotaError(429, "", resets_at=datetime.now(UTC) + timedelta(hours=1)))
        content = Path(path).read_bytes()
        assert client.identity.encode() in content
        assert b"very-secret-token" not in content

    def test_a_client_tells_its_spacing_and_an_identity_that_is_no_secret(self):
        client = DstnyClient("https://api.example.com", "t0ken", requests_per_minute=60)
        assert client.spacing == pytest.approx(60 / (60 * 0.97))
        assert DstnyClient("https://api.example.com", "t0ken").spacing == 0
        assert client.identity == DstnyClient("https://api.example.com/", "t0ken").identity
        assert client.identity != DstnyClient("https://api.example.com", "other").identity
        assert "t0ken" not in client.identity

    @pytest.mark.parametrize(
        "options",
        [
            {"timeout": 5},
            {"max_retries": 0},
            {"requests_per_minute": 60},
            {"verify": False},
            {"paths": {"get_transcript": "/sessions/{conversation_id}/transcript"}},
            {"throttle_url": "redis://:s3cret@127.0.0.1:6379/0"},
        ],
        ids=lambda options: next(iter(options)),
    )
    def test_settings_are_equal_where_clients_do_the_same_and_are_no_secret(self, options):
        usual, one, same = (DstnyClient("https://a.example", "t0ken", **given) for given in ({}, options, options))
        assert one.settings == same.settings != usual.settings
        assert hash(one.settings) == hash(same.settings)
        assert DstnyClient("https://a.example", "other", **options).settings != one.settings
        assert "t0ken" not in repr(one.settings)
        assert "s3cret" not in repr(one.settings)

    def test_clients_of_one_token_share_its_pace_whatever_else_they_are_set_to(self):
        usual = DstnyClient("https://a.example", "t0ken")
        options = {"paths": {"get_transcript": "/sessions/{conversation_id}/transcript"}, "requests_per_minute": 30}
        assert (
            DstnyClient("https://a.example", "t0ken", timeout=5, verify=False, **options)._throttle is usual._throttle
        )


def test_patience_and_single_tries_are_given_to_each_request():
    def steps():
        first = yield READ
        try:
            yield READ
        except DstnyRateLimitError:
            return first

    changed = with_patience(without_retries(steps()), 7)
    assert (request := next(changed)).patience == 7
    assert request.max_retries == 0
    assert changed.send("answer").patience == 7
    with pytest.raises(StopIteration) as done:
        changed.throw(DstnyRateLimitError(429, ""))
    assert done.value.value == "answer"
