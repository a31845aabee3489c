"""The watcher of conversations: each completion once, over restarts, and one stream for all watchers."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from airflow_provider_dstny.api import DstnyClient, DstnyRestClient, TellcaseyClient
from airflow_provider_dstny.api.errors import DstnyQuotaError, DstnyValidationError
from airflow_provider_dstny.api.times import iso_time
from airflow_provider_dstny.simulator import Fault, Simulator
from airflow_provider_dstny.triggers import events
from airflow_provider_dstny.triggers.events import DstnyConversationEventTrigger
from airflow_provider_dstny.waiting.completions import Completion, Completions, Fired

NOW = datetime(2026, 2, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


def completion(key, hours=1, conversation_id=None):
    return Completion(key, conversation_id or f"c-{key}", NOW + hours * HOUR)


class AssetStore:
    """What Airflow 3.3 keeps for one asset, as JSON."""

    def __init__(self):
        self.values = {}

    async def aget(self, key, default=None):
        return json.loads(self.values[key]) if key in self.values else default

    async def aset(self, key, value):
        self.values[key] = json.dumps(value)


class Store:
    """What it hands to a watcher: one store for each asset, and that of the only one if there is but one."""

    def __init__(self, **assets):
        self._by_name = assets or {"asset": AssetStore()}
        self._by_uri = {}

    @property
    def _only(self):
        (only,) = self._by_name.values()
        return only

    async def aget(self, key, default=None):
        return await self._only.aget(key, default)

    async def aset(self, key, value):
        await self._only.aset(key, value)


def rest_connection(simulator, token):
    extra = {"max_retries": 0, "requests_per_minute": 100_000}
    return json.dumps({"conn_type": "dstny_rest", "host": simulator.url, "password": token, "extra": extra})


class TestFired:
    def test_each_completion_is_news_once(self):
        fired = Fired(NOW)
        assert [one.key for one in fired.news([completion("a"), completion("b", -1)])] == ["a"]
        assert fired.news([completion("a")]) == []
        assert [one.key for one in fired.news([completion("a"), completion("again", 2, "c-a")])] == ["again"]

    def test_it_survives_being_stored(self):
        fired = Fired(NOW)
        fired.news([completion("a")])
        again = Fired.from_json(fired.to_json())
        assert again == fired
        assert again.news([completion("a")]) == []

    def test_a_transcript_and_the_first_delivery_tell_the_same(self):
        fired, transcript = Fired(NOW), completion("c", 1, "c")
        first, again = completion("d1", 2, "c"), completion("d2", 3, "c")
        assert fired.news([transcript]) == [transcript]
        assert fired.news([first]) == []
        assert fired.news([first]) == []
        fired = Fired.from_json(fired.to_json())
        assert fired.news([first, again]) == [again]
        assert fired.news([transcript]) == []

    def test_a_delivery_and_the_transcript_tell_the_same(self):
        fired, transcript = Fired(NOW), completion("c", 1, "c")
        first, again = completion("d1", 2, "c"), completion("d2", 3, "c")
        assert fired.news([first]) == [first]
        assert fired.news([transcript]) == []
        assert fired.news([first, again]) == [again]

    def test_deliveries_of_several_tokens_tell_the_same(self):
        fired, second = Fired(NOW), timedelta(seconds=1)
        ours, theirs = (Completion(key, "c", NOW + HOUR + at) for key, at in (("ours", 0 * second), ("theirs", second)))
        assert fired.news([ours, theirs]) == [ours]
        again = Completion("again", "c", NOW + 2 * HOUR)
        assert fired.news([ours, theirs, again]) == [again]

    def test_two_know_what_either_knows(self):
        one, other = Fired(NOW), Fired(NOW + HOUR)
        one.news([completion("a", 1, "c"), completion("b", 2)])
        other.news([completion("again", 3, "c")])
        both = one | other
        assert both.since == NOW
        assert both.news([completion("a", 1, "c"), completion("b", 2), completion("again", 3, "c")]) == []

    @pytest.mark.parametrize(
        "stored",
        [None, 5, {}, {"since": "x", "told": {}}, *({"since": NOW.isoformat(), "told": no} for no in (1, {"c": "x"}))],
    )
    def test_what_is_no_state_is_none(self, stored):
        assert Fired.from_json(stored) is None

    def test_what_is_shown_no_more_is_forgotten(self):
        fired = Fired(NOW)
        fired.news([completion("old")])
        fired.news([completion("new", 24 * 20)])
        assert set(fired.told) == {"c-new"}


class TestCompletions:
    def test_each_is_told_once_when_deliveries_begin_to_be_listed(self, monkeypatch):
        with Simulator(samples=0, fresh=0, webhooks=False) as simulator:
            now = datetime.now(UTC)
            conversation_id = simulator.rest.add(date=now.timestamp() - 60).id
            fired = Fired(now - HOUR)
            delivered = []

            async def deliveries(*_):
                return list(delivered)

            async def run():
                async with DstnyRestClient(simulator.url, simulator.rest_token, requests_per_minute=100_000) as client:
                    completions = Completions(client)
                    by_transcript = fired.news(await completions.look(datetime.now(UTC)))
                    monkeypatch.setattr(completions, "_delivered", deliveries)
                    delivered.append(Completion("delivery", conversation_id, datetime.now(UTC)))
                    by_delivery = fired.news(await completions.look(datetime.now(UTC)))
                    delivered.clear()
                    return by_transcript, by_delivery, fired.news(await completions.look(datetime.now(UTC)))

            by_transcript, *later = asyncio.run(run())
            assert [one.conversation_id for one in by_transcript] == [conversation_id]
            assert later == [[], []]

    def look(self, simulator, client_class, token, count=1, **options):
        async def run():
            async with client_class(simulator.url, token, requests_per_minute=100_000, **options) as client:
                completions = Completions(client)
                return [await completions.look(datetime.now(UTC)) for _ in range(count)]

        return asyncio.run(run())

    def test_deliveries_tell_of_all_with_one_request(self):
        with Simulator(samples=12, fresh=3, transcript_after=3600) as simulator:
            found = self.look(simulator, DstnyRestClient, simulator.rest_token)[0]
            assert len(simulator.books.entries) == 1
            assert {one.conversation_id for one in found} <= set(simulator.rest.conversations)
            assert 0 < len(found) <= 12
            assert found == sorted(found, key=lambda one: one.at)

    def test_without_deliveries_transcripts_tell_each_once(self):
        with Simulator(samples=0, fresh=0, webhooks=False) as simulator:
            now = datetime.now(UTC).timestamp()
            done = [simulator.rest.add(date=now - 600 * n - 600).id for n in range(3)]
            late = simulator.rest.add(date=now - 300, transcript_at=now + 3600).id
            first, second = self.look(simulator, DstnyRestClient, simulator.rest_token, count=2)
            assert {one.conversation_id for one in first} == set(done)
            assert second == first
            assert simulator.books.count("get_transcript") == 3 + 2
            assert late not in {one.conversation_id for one in second}

    def test_without_deliveries_none_waits_for_those_that_stay_without_a_transcript(self):
        with Simulator(samples=0, fresh=0, webhooks=False, requests_per_minute=None) as simulator:
            now = datetime.now(UTC).timestamp()
            for n in range(60):
                simulator.rest.add(date=now - 600 * n - 600, transcript_at=now + 3600)
            self.look(simulator, DstnyRestClient, simulator.rest_token, count=3)
            asked = [entry.path for entry in simulator.books.entries if entry.operation == "get_transcript"]
            assert len(asked) == 75
            assert len(set(asked)) == 60

    @pytest.fixture
    def without(self):
        """An account without deliveries, with two conversations that are complete."""
        with Simulator(samples=0, fresh=0, webhooks=False, requests_per_minute=None) as simulator:
            for minutes in (10, 20):
                simulator.rest.add(date=time.time() - 60 * minutes)
            yield simulator

    def test_one_that_cannot_be_read_keeps_no_other(self, without):
        without.books.inject(Fault("html", "get_transcript", status=200))
        first, second = self.look(without, DstnyRestClient, without.rest_token, count=2, max_retries=0)
        assert (len(first), len(second)) == (1, 2)

    def test_a_used_up_quota_keeps_nothing_back_that_is_known(self, without):
        spent = Fault("status", "get_transcript", 9, status=429, message="Daily quota exceeded", retry_after=7200)

        async def run():
            async with DstnyRestClient(without.url, without.rest_token, requests_per_minute=100_000) as client:
                completions = Completions(client)
                known = await completions.look(datetime.now(UTC))
                without.rest.add(date=time.time() - 60)
                without.books.inject(spent)
                later = await completions.look(datetime.now(UTC))
                with pytest.raises(DstnyQuotaError):
                    await Completions(client).look(datetime.now(UTC))
                return known, later

        known, later = asyncio.run(run())
        assert len(known) == 2
        assert later == known

    @pytest.mark.parametrize(("hours", "also_asks"), [(23, False), (25, True)])
    def test_where_no_delivery_came_for_a_day_what_has_none_is_asked_for(self, without, monkeypatch, hours, also_asks):
        one, other = without.rest.conversations
        delivered = Completion("delivery", one, datetime.now(UTC) - hours * HOUR)

        async def deliveries(*_):
            return [delivered]

        monkeypatch.setattr(Completions, "_delivered", deliveries)
        found = self.look(without, DstnyRestClient, without.rest_token)[0]
        assert [one.key for one in found] == (["delivery", other] if also_asks else ["delivery"])
        assert without.books.count("get_transcript") == also_asks

    def test_an_account_without_a_list_of_deliveries_is_one_without_deliveries(self, without):
        without.books.inject(Fault("status", "list_webhook_deliveries", status=404))
        assert len(self.look(without, DstnyRestClient, without.rest_token)[0]) == 2

    def test_tellcasey_tells_by_its_list(self):
        with Simulator(samples=12, fresh=3, transcript_after=3600) as simulator:
            found = self.look(simulator, TellcaseyClient, simulator.tellcasey_token)[0]
            assert found
            assert {entry.operation for entry in simulator.books.entries} == {"list_conversations"}

    def test_api_v2_cannot_tell(self):
        with pytest.raises(DstnyValidationError, match="no list that tells"):
            Completions(DstnyClient("http://127.0.0.1:9", "token"))


class TestTrigger:
    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch):
        monkeypatch.setattr(events, "_EVENT_IS_STORED_AFTER", 0)

    def told(self, snapshots, store, **arguments):
        trigger = DstnyConversationEventTrigger(**arguments)
        trigger.asset_state_store = store

        async def stream():
            for snapshot in snapshots:
                yield snapshot

        async def run():
            return [event.payload async for event in trigger.filter_shared_stream(stream())]

        return asyncio.run(run())

    def test_nothing_is_missed_and_nothing_told_twice_over_a_restart(self):
        store, start = Store(), datetime.now(UTC)
        before, first, second = (
            Completion(key, f"c-{key}", start + hours * HOUR) for key, hours in (("0", -1), ("1", 1), ("2", 2))
        )
        (event,) = self.told([[before], [before, first]], store)
        assert event == {"conversation_id": "c-1", "completion": "1", "timestamp": iso_time(first.at)}
        again = self.told([[before, first, second]], store)
        assert [event["conversation_id"] for event in again] == ["c-2"]

    def test_one_watcher_of_two_assets_knows_what_either_knows(self):
        start = datetime.now(UTC)
        first, second, third = (Completion(str(n), f"c-{n}", start + n * HOUR) for n in (1, 2, 3))
        one, other = AssetStore(), AssetStore()
        assert len(self.told([[], [first]], Store(one=one))) == 1
        assert [event["completion"] for event in self.told([[first, second]], Store(one=one, other=other))] == ["2"]
        assert [event["completion"] for event in self.told([[first, second, third]], Store(other=other))] == ["3"]
        assert self.told([[first, second, third]], Store(one=one, other=other)) == []

    def test_watchers_of_two_connections_on_one_asset_remember_apart(self):
        start, asset = datetime.now(UTC), AssetStore()
        ours, theirs = (Completion(key, f"c-{key}", start + HOUR) for key in ("ours", "theirs"))

        async def watch(conn_id, found):
            trigger = DstnyConversationEventTrigger(dstny_conn_id=conn_id)
            trigger.asset_state_store = Store(asset=asset)

            async def stream():
                yield []
                # Both have read what is remembered by now.
                await asyncio.sleep(0.01)
                yield [found]

            return [event.payload["completion"] async for event in trigger.filter_shared_stream(stream())]

        async def both():
            return await asyncio.gather(watch("ours", ours), watch("theirs", theirs))

        assert asyncio.run(both()) == [["ours"], ["theirs"]]
        assert asyncio.run(both()) == [[], []]

    def test_an_asset_that_refuses_keeps_no_other_from_remembering(self, capsys):
        class Refusing(AssetStore):
            async def aset(self, key, value):
                raise RuntimeError("Asset not found")

        kept, later = AssetStore(), Completion("1", "c-1", datetime.now(UTC) + HOUR)
        assert len(self.told([[later]], Store(gone=Refusing(), kept=kept))) == 1
        assert "not remembered: Asset not found" in capsys.readouterr().out
        assert self.told([[later]], Store(kept=kept)) == []

    def test_airflow_itself_keeps_it_for_each_asset(self, monkeypatch):
        context = pytest.importorskip("airflow.sdk.execution_time.context")
        if not hasattr(context, "AssetStateStoreAccessors"):
            pytest.skip("Airflow before 3.3")
        from airflow.sdk import Asset
        from airflow.sdk.execution_time import task_runner
        from airflow.sdk.execution_time.comms import AssetStateStoreResult, OKResponse

        kept = {}

        async def asend(message):
            if type(message).__name__ == "SetAssetStateStoreByName":
                kept[message.name, message.key] = message.value
                return OKResponse(ok=True)
            value = kept.get((message.name, message.key))
            return value and AssetStateStoreResult(value=value)

        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", SimpleNamespace(asend=asend), raising=False)
        store = context.AssetStateStoreAccessors([Asset("one"), Asset("other")])
        later = Completion("1", "c-1", datetime.now(UTC) + HOUR)
        assert len(self.told([[later]], store, dstny_conn_id="x")) == 1
        assert set(kept) == {("one", "dstny_completions:x"), ("other", "dstny_completions:x")}
        assert self.told([[later]], store, dstny_conn_id="x") == []

    def test_airflow_without_a_store_begins_anew(self, capsys):
        later = Completion("1", "c-1", datetime.now(UTC) + HOUR)
        assert len(self.told([[later], [later]], None)) == 1
        assert "keeps no state" in capsys.readouterr().out

    def test_watchers_of_one_connection_share_a_stream(self):
        one, other = DstnyConversationEventTrigger(), DstnyConversationEventTrigger()
        assert one.shared_stream_key() == other.shared_stream_key()
        assert one.shared_stream_key() != DstnyConversationEventTrigger(dstny_conn_id="x").shared_stream_key()
        path, arguments = one.serialize()
        assert path == "airflow_provider_dstny.triggers.events.DstnyConversationEventTrigger"
        assert DstnyConversationEventTrigger(**arguments).serialize() == (path, arguments)

    def test_an_error_only_delays(self, monkeypatch):
        with Simulator(samples=3, fresh=0) as simulator:
            simulator.books.inject(Fault("status", "list_webhook_deliveries", status=500, times=1))
            monkeypatch.setenv("AIRFLOW_CONN_DSTNY_REST_DEFAULT", rest_connection(simulator, simulator.rest_token))
            trigger = DstnyConversationEventTrigger(poll_interval=1)

            async def run():
                async with asyncio.timeout(20):
                    return await anext(trigger.open_shared_stream(trigger.serialize()[1]))

            assert len(asyncio.run(run())) <= 3
            assert simulator.books.count("list_webhook_deliveries") == 2

    def first_look(self, monkeypatch, mend, after=1):
        """Return what the first look that succeeds finds, and the pauses before; after some the cause is mended."""
        pauses = []

        async def sleep(seconds):
            pauses.append(seconds)
            assert len(pauses) <= after, "It is mended, and still fails."
            if len(pauses) == after:
                mend()

        monkeypatch.setattr(events, "asyncio", SimpleNamespace(sleep=sleep))
        trigger = DstnyConversationEventTrigger()

        async def run():
            async with asyncio.timeout(20):
                return await anext(trigger.open_shared_stream(trigger.serialize()[1]))

        return asyncio.run(run()), pauses

    def test_a_refused_token_is_seldom_asked_with_until_the_connection_is_mended(self, monkeypatch, caplog):
        name = "AIRFLOW_CONN_DSTNY_REST_DEFAULT"
        with Simulator(samples=3, fresh=0) as simulator:
            monkeypatch.setenv(name, rest_connection(simulator, "revoked"))
            found, pauses = self.first_look(
                monkeypatch, lambda: monkeypatch.setenv(name, rest_connection(simulator, simulator.rest_token)), after=6
            )
            assert found
            assert pauses == [120, 240, 480, 900, 900, 900]
            assert simulator.books.count("list_webhook_deliveries") == 6 + 1
        errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(errors) == 6
        assert "connection dstny_rest_default failed" in errors[0]
        assert "401" in errors[0]

    @pytest.mark.parametrize(
        "unusable", [None, '{"conn_type": "dstny", "host": "http://127.0.0.1:9", "password": "of-api-v2"}']
    )
    def test_a_connection_that_cannot_work_is_looked_at_again(self, monkeypatch, unusable):
        name = "AIRFLOW_CONN_DSTNY_REST_DEFAULT"
        with Simulator(samples=3, fresh=0) as simulator:
            monkeypatch.delenv(name, raising=False)
            if unusable:
                monkeypatch.setenv(name, unusable)
            found, pauses = self.first_look(
                monkeypatch, lambda: monkeypatch.setenv(name, rest_connection(simulator, simulator.rest_token))
            )
            assert found
            assert pauses == [120]
