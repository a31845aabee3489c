"""The watcher of conversations: each completion once, over restarts, and one stream for all watchers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_dstny.api import DstnyClient, DstnyRestClient, TellcaseyClient
from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.times import iso_time
from airflow_provider_dstny.simulator import Fault, Simulator
from airflow_provider_dstny.triggers import events
from airflow_provider_dstny.triggers.events import DstnyConversationEventTrigger
from airflow_provider_dstny.waiting.completions import Completion, Completions, Fired

NOW = datetime(2026, 2, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


def completion(key, hours=1, conversation_id=None):
    return Completion(key, conversation_id or f"c-{key}", NOW + hours * HOUR)


class Store:
    """What Airflow 3.3 keeps for a watched asset."""

    def __init__(self):
        self.values = {}

    async def aget(self, key, default=None):
        return self.values.get(key, default)

    async def aset(self, key, value):
        self.values[key] = value


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

    @pytest.mark.parametrize("stored", [None, 5, {}, {"since": "x", "keys": {}}, {"since": NOW.isoformat(), "keys": 1}])
    def test_what_is_no_state_is_none(self, stored):
        assert Fired.from_json(stored) is None

    def test_what_is_shown_no_more_is_forgotten(self):
        fired = Fired(NOW)
        fired.news([completion("old")])
        fired.news([completion("new", 24 * 20)])
        assert set(fired.keys) == {"new"}


class TestCompletions:
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

    def told(self, snapshots, store):
        trigger = DstnyConversationEventTrigger()
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
            monkeypatch.setenv(
                "AIRFLOW_CONN_DSTNY_REST_DEFAULT",
                f'{{"conn_type": "dstny_rest", "host": "{simulator.url}", "password": "{simulator.rest_token}",'
                ' "extra": {"max_retries": 0, "requests_per_minute": 100000}}',
            )
            trigger = DstnyConversationEventTrigger(poll_interval=1)

            async def run():
                async with asyncio.timeout(20):
                    return await anext(trigger.open_shared_stream(trigger.serialize()[1]))

            assert len(asyncio.run(run())) <= 3
            assert simulator.books.count("list_webhook_deliveries") == 2
