"""An Airflow of many processes on PostgreSQL, Redis and Celery on this machine, and who kills them."""

from __future__ import annotations

import json
import os
import random
import secrets
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg
import redis

from airflow_provider_dstny.simulator import Fault
from airflow_provider_dstny.simulator.books import Books
from demo.local_airflow import COMPONENTS, LocalAirflow, Process, free_port

SERVER = os.environ.get("DSTNY_TEST_POSTGRES", "postgresql://root@127.0.0.1:5432/test")
WORKERS = ("worker-1", "worker-2")
TRIGGERERS = ("triggerer-1", "triggerer-2")
#: Seconds until a request has failed.
TIMEOUT = 5
#: What a Celery worker imports once instead of in each task.
PRELOADED = (
    "airflow.sdk.execution_time.task_runner",
    "airflow_provider_dstny.operators.conversations",
    "airflow_provider_dstny.sensors.transcripts",
    "airflow_provider_dstny.transfers.object_storage",
)
FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "status": 429, "retry_after": 1},
    {"kind": "status", "status": 429, "retry_after": 3},
    {"kind": "status", "status": 500},
    {"kind": "status", "status": 503},
    {"kind": "html", "status": 502},
    {"kind": "html", "status": 504},
    {"kind": "html", "status": 200},
    {"kind": "reset"},
    {"kind": "reset", "before": True},
    {"kind": "truncated"},
    {"kind": "empty"},
    {"kind": "slow", "seconds": TIMEOUT + 1},
)


@contextmanager
def database() -> Iterator[str]:
    """Create a database of PostgreSQL and drop it in the end; yield user, host and name."""
    name = f"dstny_distributed_{secrets.token_hex(4)}"
    with psycopg.connect(SERVER, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    try:
        yield f"{SERVER.removeprefix('postgresql://').rpartition('/')[0]}/{name}"
    finally:
        with psycopg.connect(SERVER, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis of its own, so that nothing of other programs is in its queues."""
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    process = Process(["redis-server", *options], log=folder / "redis.log", env=os.environ)
    try:
        with redis.Redis(port=port) as client:
            for _ in range(100):
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    time.sleep(0.1)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.stop()


def cluster(
    folder: Path, dags: Path, *, database: str, broker: str, connections: Mapping[str, Mapping[str, Any]]
) -> LocalAirflow:
    """Return the Airflow. What takes minutes by default to notice a dead process takes seconds here."""
    worker = ("celery", "worker", "--concurrency", "3", "--skip-serve-logs")
    return LocalAirflow(
        folder / "airflow",
        dags=dags,
        port=free_port(),
        connections=connections,
        components={
            **{name: COMPONENTS[name] for name in ("api-server", "scheduler", "dag-processor")},
            **dict.fromkeys(TRIGGERERS, ("triggerer", "--skip-serve-logs")),
            **{
                name: (*worker, "--celery-hostname", name, "--pid", str(folder / "airflow" / f"{name}.pid"))
                for name in WORKERS
            },
        },
        config={
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__PARALLELISM": "64",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg://{database}",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+psycopg_async://{database}",
            "AIRFLOW__CELERY__BROKER_URL": f"{broker}/0",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"{broker}/1",
            "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
            "AIRFLOW__CELERY__EXTRA_CELERY_CONFIG": json.dumps({"imports": PRELOADED}),
            "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "60",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "5",
            "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "60",
            "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "10",
            "AIRFLOW__SCHEDULER__NUM_STUCK_IN_QUEUED_RETRIES": "50",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
        },
    )


class Proxy:
    """The API as Airflow sees it; it can be killed."""

    def __init__(self, folder: Path, behind: int) -> None:
        self._port, self._behind, self._log = free_port(), behind, folder / "proxy.log"
        self.url = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(Path(__file__).parent / "proxy.py"), str(self._port), str(self._behind)]
        self.process = Process(command, log=self._log, env=os.environ)


class AtRandom(ABC):
    """Does something at random moments, in a thread; a context manager.

    :param pause: seconds between two times, from and to.
    """

    def __init__(self, seed: int, pause: tuple[float, float]) -> None:
        self.done: Counter[str] = Counter()
        self.chance = random.Random(seed)
        self.ended = threading.Event()
        self._pause = pause
        self._thread = threading.Thread(target=self._run)

    @abstractmethod
    def strike(self) -> None:
        """Do it once, and count it in ``done``."""

    def _run(self) -> None:
        while not self.ended.wait(self.chance.uniform(*self._pause)):
            self.strike()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self._thread.join()


class Weather(AtRandom):
    """Lets the API fail about every tenth request: refusals, answers that are broken, late or lost."""

    def __init__(self, books: Books, seed: int) -> None:
        super().__init__(seed, (0.1, 0.5))
        self._books, self._next = books, 0

    def strike(self) -> None:
        if len(self._books.entries) < self._next:
            return
        fault = Fault(**self.chance.choice(FAULTS))
        self._books.inject(fault)
        self._next = len(self._books.entries) + self.chance.randint(5, 15)
        self.done[f"{fault.kind} {fault.status}" if fault.kind in ("status", "html") else fault.kind] += 1


class Killer(AtRandom):
    """Kills processes with -9, and starts them again."""

    def __init__(self, airflow: LocalAirflow, proxy: Proxy, seed: int, pause: tuple[float, float]) -> None:
        super().__init__(seed, pause)
        self._airflow, self._proxy = airflow, proxy

    def strike(self) -> None:
        name = self.chance.choice((*WORKERS, *TRIGGERERS, "scheduler", "api"))
        down = self.chance.uniform(0, 3)
        if name == "api":
            self._proxy.process.kill()
            self.ended.wait(down)
            self._proxy.start()
        else:
            self._airflow.processes[name].kill()
            self.ended.wait(down)
            self._airflow.start(name)
        self.done[name] += 1
