from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from pytest_mock import MockerFixture

    from airflow_provider_dstny.simulator import Simulator

# How fast a machine makes examples says nothing about what they show.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

# Before Airflow is imported anywhere: tests must not touch a user's own installation.
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp(prefix="dstny-tests-")
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
for name in [name for name in os.environ if name.startswith("AIRFLOW_CONN_")]:
    del os.environ[name]


@pytest.fixture(autouse=True)
def _paces_of_their_own(mocker: MockerFixture) -> None:
    """A pause that one test was told must not hold another whose simulator has the same port."""
    mocker.patch.dict("airflow_provider_dstny.api.throttle._throttles", clear=True)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    from airflow_provider_dstny.simulator import Simulator

    with Simulator() as running:
        yield running


@pytest.fixture
def no_sleep(mocker: MockerFixture) -> list[float]:
    """Record the seconds that a client would have slept, sync and async, instead of sleeping."""
    slept: list[float] = []

    async def asleep(seconds: float) -> None:
        slept.append(seconds)

    mocker.patch("airflow_provider_dstny.api.client.time", SimpleNamespace(sleep=slept.append))
    awaited = SimpleNamespace(sleep=asleep, get_running_loop=asyncio.get_running_loop, timeout=asyncio.timeout)
    mocker.patch("airflow_provider_dstny.api.client.asyncio", awaited)
    return slept


@pytest.fixture
def moved_clock(mocker: MockerFixture) -> Callable[[Callable[[], float]], None]:
    """Let everything that waits go by a clock of seconds since the epoch."""

    def follow(clock: Callable[[], float]) -> None:
        for module in ("wait", "lookout", "reading", "poller"):
            mocker.patch(
                f"airflow_provider_dstny.waiting.{module}.utc_now",
                side_effect=lambda: datetime.fromtimestamp(clock(), UTC),
            )

    return follow


@pytest.fixture
def account(simulator: Simulator, monkeypatch: pytest.MonkeyPatch, no_sleep: list[float]) -> Simulator:
    """A simulator behind the connection ``dstny_default``, with clients that do not sleep."""
    connection = {"conn_type": "dstny", "host": simulator.url, "password": simulator.token}
    monkeypatch.setenv("AIRFLOW_CONN_DSTNY_DEFAULT", json.dumps(connection))
    return simulator


@pytest.fixture
def call() -> dict[str, object]:
    return {
        "call_external_id": "pbx-1",
        "call_start_time": "2026-03-02T08:00:00Z",
        "call_duration": 90,
        "call_recording_url": "https://recordings.example.com/pbx-1.wav",
        "call_direction": "incoming",
        "owner_email": "erik@example.com",
    }
