"""Clients that share a pace through a store, against the simulator on a real port.

Each client here has a throttle of its own, as it has in a process of its own.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_dstny.api import throttle
from airflow_provider_dstny.api.dstny_rest import ROUTES, DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyQuotaError, DstnyRateLimitError
from airflow_provider_dstny.api.operation import with_patience
from airflow_provider_dstny.simulator import Fault, Simulator
from tests.contract.calling import SYNC_AND_ASYNC, call


@pytest.fixture
def account():
    with Simulator(requests_per_minute=None, daily_conversation_quota=2) as simulator:
        yield simulator


@pytest.fixture
def client(account, tmp_path, monkeypatch):
    """Return a function that makes clients as other processes would make them."""

    def client(**options):
        monkeypatch.setattr(throttle, "_throttles", {})
        monkeypatch.setattr(throttle, "_stores", {})
        url = str(tmp_path / "slots.db")
        return DstnyRestClient(
            account.url, account.rest_token, throttle_url=url, **{"requests_per_minute": 60_000, **options}
        )

    return client


@SYNC_AND_ASYNC
def test_a_429_that_one_is_told_holds_the_other(account, client, no_sleep, asynchronous):
    one, other = client(max_retries=0), client()
    account.books.inject(Fault("status", "get_account", status=429, retry_after=60))
    with pytest.raises(DstnyRateLimitError):
        call(one, "get_account", asynchronous=asynchronous)
    call(other, "list_users", asynchronous=asynchronous)
    assert no_sleep[-1] == pytest.approx(60, abs=5)


@SYNC_AND_ASYNC
def test_a_long_pause_that_one_is_told_is_raised_unsent_by_the_other(account, client, no_sleep, asynchronous):
    one, other = client(), client()
    account.books.inject(Fault("status", "get_account", status=429, retry_after=900))
    with pytest.raises(DstnyRateLimitError):
        call(one, "get_account", asynchronous=asynchronous)
    with pytest.raises(DstnyRateLimitError, match=r"list_users .* was not sent: the API told") as caught:
        call(other, "list_users", asynchronous=asynchronous)
    assert caught.value.status_code is None
    assert caught.value.retry_after == pytest.approx(900, abs=5)
    assert (account.books.count("get_account"), account.books.count("list_users")) == (1, 0)
    assert max(no_sleep) < 1


@SYNC_AND_ASYNC
def test_a_request_with_patience_is_raised_unsent_when_its_turn_comes_too_late(account, client, no_sleep, asynchronous):
    one, other = client(requests_per_minute=1), client()
    call(one, "get_account", asynchronous=asynchronous)
    steps = with_patience(other.list_users.steps(), 5)
    with pytest.raises(DstnyRateLimitError, match="others with this token are ahead"):
        other.run(steps)
    assert account.books.count("list_users") == 0


@SYNC_AND_ASYNC
def test_a_quota_that_one_is_told_of_holds_what_counts_of_the_other(account, client, asynchronous):
    one, other = client(), client()
    ids = [account.rest.add().id for _ in range(3)]
    for conversation_id in ids[:2]:
        call(one, "get_summary", conversation_id, asynchronous=asynchronous)
    with pytest.raises(DstnyQuotaError) as told:
        call(one, "get_summary", ids[2], asynchronous=asynchronous)
    sent = len(account.books.entries)
    for name in [name for name, route in ROUTES.items() if route.counted]:
        with pytest.raises(DstnyQuotaError, match=f"{name} .* was not sent") as caught:
            call(other, name, ids[2], asynchronous=asynchronous)
        assert abs(caught.value.resets_at - told.value.resets_at) < timedelta(seconds=5)
        assert caught.value.resets_at > datetime.now(UTC)
    assert len(account.books.entries) == sent
    call(other, "list_conversations", asynchronous=asynchronous)
    # What this process has read today is not counted again.
    call(one, "get_insights", ids[0], asynchronous=asynchronous)
    assert len(account.books.entries) == sent + 2


def test_the_routes_that_count_are_those_of_one_conversation():
    assert {name for name, route in ROUTES.items() if route.counted} == {
        name for name, route in ROUTES.items() if "{conversation_id}" in route.template
    }


def test_clients_take_turns_with_the_spacing_of_whoever_went_before(account, client, no_sleep):
    one, other = client(requests_per_minute=6), client(requests_per_minute=600)
    for rest in (one, other, other):
        call(rest, "get_account")
    first, second, third = no_sleep
    assert first == 0
    assert second == pytest.approx(one.spacing, abs=5)
    assert third == pytest.approx(one.spacing + other.spacing, abs=5)


def test_without_a_store_that_answers_requests_are_sent_all_the_same(account, no_sleep, caplog):
    url = "redis://:s3cret@127.0.0.1:1/0"
    with DstnyRestClient(account.url, account.rest_token, throttle_url=url) as rest:
        rest.get_account()
        rest.get_account()
        assert rest.lost_store == "Redis at 127.0.0.1:1"
    assert max(no_sleep) == pytest.approx(rest.spacing, abs=0.5)
    assert caplog.text.count("Redis at 127.0.0.1:1") == 1
    assert "s3cret" not in caplog.text
