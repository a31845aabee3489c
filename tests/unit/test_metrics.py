"""What clients tell in numbers, and that telling it breaks nothing."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from types import SimpleNamespace

import pytest

from airflow_provider_dstny.api import DstnyClient, DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyError
from airflow_provider_dstny.api.metrics import NoMetrics, SafeMetrics
from airflow_provider_dstny.hooks.dstny import DstnyHook
from airflow_provider_dstny.simulator import Fault
from tests.contract.calling import SYNC_AND_ASYNC, call


class Told(NoMetrics):
    """Metrics that are kept as they were told."""

    def __init__(self):
        self.counts: list[tuple[str, dict[str, str]]] = []
        self.timings: list[tuple[str, float, dict[str, str]]] = []

    def count(self, name, value=1, tags=None):
        self.counts += [(name, dict(tags))] * value

    def timing(self, name, seconds, tags=None):
        self.timings.append((name, seconds, dict(tags)))

    def named(self, name):
        return [tags for told, tags in self.counts if told == name]


@pytest.fixture
def told():
    return Told()


@SYNC_AND_ASYNC
def test_requests_retries_and_waits_are_told(simulator, no_sleep, told, asynchronous):
    simulator.books.inject(Fault("status", status=429, retry_after=3))
    simulator.books.inject(Fault("reset"))
    call(DstnyClient(simulator.url, simulator.token, metrics=told), "list_users", asynchronous=asynchronous)
    asked = {"api": "dstny", "operation": "list_users"}
    statuses = ["429", "DstnyConnectionError", "200"]
    assert told.named("dstny.requests") == [{**asked, "status": status} for status in statuses]
    assert told.named("dstny.retries") == [asked] * 2
    assert told.named("dstny.rate_limited") == [{"api": "dstny"}]
    assert [(name, tags) for name, _, tags in told.timings] == [("dstny.throttled", {"api": "dstny"})] * 3
    assert all(seconds >= 0 for _, seconds, _ in told.timings)


def test_a_refusal_of_our_own_is_no_429_of_the_server(simulator, told):
    simulator.books.inject(Fault("status", status=429, retry_after=600))
    with DstnyRestClient(simulator.url, simulator.rest_token, metrics=told) as rest:
        for _ in range(3):
            with pytest.raises(DstnyError):
                rest.get_account()
    assert told.named("dstny.rate_limited") == [{"api": "dstny_rest"}]
    assert len(told.named("dstny.requests")) == 1


def test_a_backend_that_fails_breaks_nothing_and_is_logged_once(simulator, caplog):
    class Broken:
        def __getattr__(self, name):
            raise OSError("no such host")

    caplog.set_level(logging.DEBUG, logger="airflow_provider_dstny")
    with DstnyClient(simulator.url, simulator.token, metrics=Broken()) as client:
        assert len(client.list_users()) == 2
        client.metrics.gauge("dstny.waiting", 3)
    assert caplog.text.count("Metrics cannot be told") == 1


def test_without_a_backend_nothing_is_told():
    metrics = SafeMetrics(NoMetrics())
    assert metrics.count("a") is metrics.timing("a", 1) is metrics.gauge("a", 1) is None


def test_the_hook_tells_the_backend_of_airflow(simulator, monkeypatch, mocker):
    stats = SimpleNamespace(incr=mocker.Mock(), timing=mocker.Mock(), gauge=mocker.Mock())
    mocker.patch("airflow_provider_dstny.hooks.metrics.Stats", stats)
    connection = {"conn_type": "dstny", "host": simulator.url, "password": simulator.token}
    monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps(connection))
    with DstnyHook().get_conn() as dstny:
        dstny.list_users()
        dstny.metrics.gauge("dstny.waiting", 7, {"api": "dstny"})
    asked = {"api": "dstny", "operation": "list_users", "status": "200"}
    stats.incr.assert_called_once_with("dstny.requests", 1, tags=asked)
    (name, waited), tags = stats.timing.call_args
    assert (name, tags) == ("dstny.throttled", {"tags": {"api": "dstny"}})
    assert isinstance(waited, timedelta), "a number would be taken as milliseconds"
    stats.gauge.assert_called_once_with("dstny.waiting", 7, tags={"api": "dstny"})


def test_the_backend_of_airflow_takes_them(monkeypatch, simulator):
    # Airflow's own signatures, whichever version this is.
    connection = {"conn_type": "dstny", "host": simulator.url, "password": simulator.token}
    monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps(connection))
    with DstnyHook().get_conn() as dstny:
        for tell in (dstny.metrics.timing, dstny.metrics.gauge, dstny.metrics.count):
            tell("dstny.something", 1, {"api": "dstny"})
        assert not dstny.metrics._failed
