"""How processes share the pace of one token, beside what one would use instead.

Prints, for 1 to 8 processes that ask as fast as they may with one token of 60 requests a minute, what each place to
keep the pace makes of it, against the simulator on a real port. Its limit is a sliding window of a minute. All rows are
measured at the same time, each with a token of its own; a process sleeps nearly always.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, TypeAlias

sys.path.insert(0, str(Path(__file__).parent.parent))

import httpx
import psycopg
import redis
from pyrate_limiter import Duration, Limiter, Rate, RedisBucket

from airflow_provider_dstny.api import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyError
from airflow_provider_dstny.api.metrics import NoMetrics
from airflow_provider_dstny.simulator import Simulator

PROCESSES = (1, 2, 4, 8)
#: What the simulator allows a token.
REQUESTS_PER_MINUTE = 60
#: Seconds until the window of the limit is full, and seconds that are measured: whole minutes, as some send in bursts.
WARM_UP, MEASURED = 70.0, 180.0
POSTGRES = os.environ.get("DSTNY_TEST_POSTGRES", "postgresql://postgres@127.0.0.1:5432/test")
REDIS = os.environ.get("DSTNY_TEST_REDIS", "redis://127.0.0.1:6379/0")


@dataclass
class Seen(NoMetrics):
    """The answers that one process got while it was measured."""

    begins_at: float = 0.0
    ends_at: float = 0.0
    statuses: list[str] = field(default_factory=list)

    def answered(self, status: str) -> None:
        if self.begins_at <= time.time() < self.ends_at:
            self.statuses.append(status)

    def count(self, name: str, value: int = 1, tags: Any = None) -> None:
        if name == "dstny.requests":
            self.answered(tags["status"])

    def forever(self) -> Iterator[None]:
        while time.time() < self.ends_at:
            yield


#: Asks with a token until it has seen enough.
Ask: TypeAlias = Callable[[str, str, Seen], None]


def provider(throttle_url: str | None) -> Ask:
    """Use this provider's client, whose pace is kept there."""

    def ask(url: str, token: str, seen: Seen) -> None:
        with DstnyRestClient(url, token, throttle_url=throttle_url, metrics=seen) as rest:
            for _ in seen.forever():
                with suppress(DstnyError):
                    rest.get_account()

    return ask


def by_hand(url: str, token: str, seen: Seen) -> None:
    """Sleep a second between two requests."""
    with plain_http(url, token) as http:
        for _ in seen.forever():
            seen.answered(str(http.get("/account").status_code))
            time.sleep(60 / REQUESTS_PER_MINUTE)


def pyrate_limiter(url: str, token: str, seen: Seen) -> None:
    """Ask pyrate-limiter, whose bucket is in Redis, before each request."""
    rates = [Rate(REQUESTS_PER_MINUTE, Duration.MINUTE)]
    with plain_http(url, token) as http, redis.Redis.from_url(REDIS) as server:
        limiter = Limiter(RedisBucket.init(rates, server, f"dstny:benchmark:{token}"))
        for _ in seen.forever():
            limiter.try_acquire("account")
            seen.answered(str(http.get("/account").status_code))


def plain_http(url: str, token: str) -> httpx.Client:
    return httpx.Client(base_url=f"{url}/api/v1/rest", headers={"Authorization": f"Bearer {token}"})


@dataclass
class Row:
    """One line of the table: some processes, each asking with the same token in the same way."""

    name: str
    ask: Ask
    processes: int
    token: str = field(default_factory=lambda: f"mt_{secrets.token_hex(8)}")
    seen: list[Seen] = field(default_factory=list)

    def __str__(self) -> str:
        through = [one.statuses.count("200") for one in self.seen]
        refused = sum(one.statuses.count("429") for one in self.seen)
        used = sum(through) / (REQUESTS_PER_MINUTE / 60 * MEASURED)
        slowest = min(through) * self.processes / max(1, sum(through))
        return f"| {self.name:<28} | {self.processes:>9} | {used:>9.1%} | {refused:>5} | {slowest:>18.0%} |"


def work(row: Row, url: str, started: Barrier, results: Any, number: int) -> None:
    """Ask in a process of its own, from the moment on at which all are there."""
    # What is refused is counted; the warnings about it would be thousands.
    logging.disable()
    started.wait()
    now = time.time()
    seen = Seen(now + WARM_UP, now + WARM_UP + MEASURED)
    row.ask(url, row.token, seen)
    results.put((number, seen))


def ways(folder: Path) -> tuple[dict[str, Ask], list[str]]:
    """Return what can be measured here, and what is left out."""
    found: dict[str, Ask] = {
        "time.sleep(1) by hand": by_hand,
        "in process (no throttle_url)": provider(None),
        "SQLite": provider(str(folder / "slots.db")),
    }
    left_out = []
    try:
        psycopg.connect(POSTGRES, connect_timeout=2).close()
        found["PostgreSQL"] = provider(POSTGRES)
    except psycopg.Error:
        left_out.append("PostgreSQL (not reachable; DSTNY_TEST_POSTGRES names another)")
    try:
        with redis.Redis.from_url(REDIS, socket_connect_timeout=2) as server:
            server.ping()
        found["Redis"] = provider(REDIS)
        found["pyrate-limiter on Redis"] = pyrate_limiter
    except redis.RedisError:
        left_out.append("Redis and pyrate-limiter (not reachable; DSTNY_TEST_REDIS names another)")
    return found, left_out


@contextmanager
def running(rows: list[Row], simulator: Simulator) -> Iterator[Iterator[tuple[int, Seen]]]:
    """Run the processes of all rows, and hand out what each saw as it ends."""
    # Forked before the simulator has threads.
    context = multiprocessing.get_context("fork")
    places = [number for number, row in enumerate(rows) for _ in range(row.processes)]
    results, started = context.Queue(), context.Barrier(len(places) + 1)
    workers = [
        context.Process(target=work, args=(rows[number], simulator.url, started, results, number), daemon=True)
        for number in places
    ]
    for worker in workers:
        worker.start()
    with simulator:
        started.wait()
        yield (results.get(timeout=WARM_UP + MEASURED + 120) for _ in workers)
        for worker in workers:
            worker.join()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dstny-pace-") as folder:
        measurable, left_out = ways(Path(folder))
        rows = [Row(name, ask, processes) for name, ask in measurable.items() for processes in PROCESSES]
        print(
            f"One token, {REQUESTS_PER_MINUTE} requests a minute, measured over {MEASURED:.0f} s after {WARM_UP:.0f} s"
        )
        sys.stdout.flush()
        simulator = Simulator(
            rest_tokens={row.token: () for row in rows}, requests_per_minute=REQUESTS_PER_MINUTE, samples=0, fresh=0
        )
        with running(rows, simulator) as results:
            for number, seen in results:
                rows[number].seen.append(seen)
    print("| pace kept                    | processes | rate used |  429s | slowest/fair share |")
    print("|------------------------------|----------:|----------:|------:|-------------------:|")
    for row in rows:
        print(row)
    for name in left_out:
        print(f"Left out: {name}")


if __name__ == "__main__":
    main()
