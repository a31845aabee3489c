"""What a receiver reads of connections: nothing tells outsiders which there are, and no flood of names does harm."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace

import httpx
import pytest

from airflow_provider_dstny.webhooks import accounts as accounts_module
from airflow_provider_dstny.webhooks.accounts import Accounts
from airflow_provider_dstny.webhooks.receiver import Receiver


def connection(conn_type="dstny", **extra):
    return SimpleNamespace(conn_type=conn_type, extra_dejson=extra)


class Connections:
    """Finds connections, remembers which were looked for, and tells the time."""

    def __init__(self, **known):
        self.known, self.asked, self.now = known, [], 0.0

    def find(self, dstny_conn_id):
        self.asked.append(dstny_conn_id)
        return self.known.get(dstny_conn_id)

    def clock(self):
        return self.now


@pytest.fixture
def connections():
    return Connections(
        known=connection(webhook_secrets=["s"]),
        other_type=connection("aws", verify={}, webhook_secrets=["s"]),
        odd=connection("dstny_rest", timeout="private-value", webhook_secrets=["private-secret"]),
        bare=connection("tellcasey"),
    )


@pytest.fixture
def accounts(connections):
    return Accounts(connections.find, connections.clock)


def test_connections_with_secrets_are_accounts(accounts):
    account = asyncio.run(accounts.get("known"))
    assert (account.api, account.secrets) == ("dstny", ["s"])


@pytest.mark.parametrize("name", ["nobody", "other_type", "odd", "bare"])
def test_all_others_are_like_one_that_does_not_exist(accounts, connections, name):
    async def answers():
        app = Receiver(accounts.get, None, confirm=None).asgi
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://receiver") as client:
            return [(await client.post(path, content=b"{}")).status_code for path in (f"/{name}", f"/{name}/x")]

    assert asyncio.run(answers()) == [401, 401]
    assert connections.asked == [name]


def test_extras_that_are_not_usable_are_told_in_the_log_by_name(accounts, caplog):
    assert asyncio.run(accounts.get("odd")) is None
    (told,) = (record.getMessage() for record in caplog.records)
    assert "odd" in told
    assert "timeout" in told
    assert "private" not in told


def test_extras_of_other_types_are_not_looked_at(accounts, caplog):
    assert asyncio.run(accounts.get("other_type")) is None
    assert not caplog.records


def test_what_was_read_is_remembered_for_a_while(accounts, connections):
    async def get_all():
        await accounts.get("known")
        await accounts.get("nobody")
        connections.now = 29.0
        await accounts.get("known")
        await accounts.get("nobody")
        connections.now = 31.0
        connections.known = {"nobody": connections.known["known"]}
        return await accounts.get("known"), await accounts.get("nobody")

    gone, new = asyncio.run(get_all())
    assert gone is None
    assert new is not None
    assert connections.asked == ["known", "nobody", "known", "nobody"]


def test_made_up_names_do_not_push_out_those_that_are_known(accounts, connections, monkeypatch):
    monkeypatch.setattr(accounts_module, "_MOST", 10)

    async def flood():
        for name in ("known", *(f"made-up-{n}" for n in range(25)), "known", "made-up-24", "made-up-0"):
            await accounts.get(name)

    asyncio.run(flood())
    assert connections.asked.count("known") == 1
    assert connections.asked.count("made-up-24") == 1
    assert connections.asked.count("made-up-0") == 2


def test_known_ones_are_not_remembered_without_end(monkeypatch):
    # Backends that do not tell upper from lower case know one connection by many names.
    monkeypatch.setattr(accounts_module, "_MOST", 10)
    asked = []

    def find(dstny_conn_id):
        asked.append(dstny_conn_id)
        return connection(webhook_secrets=["s"])

    async def get_all():
        accounts = Accounts(find)
        for name in (*map(str, range(11)), "0"):
            await accounts.get(name)

    asyncio.run(get_all())
    assert asked.count("0") == 2


def test_made_up_names_take_few_threads_and_keep_no_known_one_waiting(connections):
    go_on = threading.Event()
    in_progress = []

    def find(dstny_conn_id):
        if dstny_conn_id != "known":
            in_progress.append(dstny_conn_id)
            go_on.wait(10)
        return connections.find(dstny_conn_id)

    async def flood():
        accounts = Accounts(find, connections.clock)
        await accounts.get("known")
        connections.now = 31.0
        made_up = [asyncio.create_task(accounts.get(f"made-up-{n}")) for n in range(100)]
        try:
            await asyncio.sleep(0.2)
            assert len(in_progress) <= 4
            assert await asyncio.wait_for(accounts.get("known"), 5) is not None
        finally:
            go_on.set()
        assert await asyncio.gather(*made_up) == [None] * 100

    asyncio.run(flood())


def test_requests_for_one_connection_share_what_is_read(connections):
    def find(dstny_conn_id):
        time.sleep(0.05)
        return connections.find(dstny_conn_id)

    async def flood():
        accounts = Accounts(find, connections.clock)
        return await asyncio.gather(*(accounts.get("known") for _ in range(100)))

    assert all(asyncio.run(flood()))
    assert len(connections.asked) <= 4


def test_a_backend_that_is_down_is_not_remembered(connections):
    def find(dstny_conn_id):
        if not connections.asked:
            connections.find(dstny_conn_id)
            raise OSError("down")
        return connections.find(dstny_conn_id)

    async def get_twice():
        accounts = Accounts(find, connections.clock)
        with pytest.raises(OSError, match="down"):
            await accounts.get("known")
        return await accounts.get("known")

    assert asyncio.run(get_twice()) is not None
