"""Webhooks on a real Airflow: how fast, how many, and what a kill -9 does to them.

Three parts, each with Airflow's own processes on this machine and a sender that tries again until it is told 2xx:

- seconds: from one POST to the answer, the asset event, the begin of the DAG run, and its rows in the lake
- load: 1,000 deliveries a minute, paced; 100 of them are sent twice, half of those at the same time, and 50 more are
  forged. The answer's time is from the moment when a POST was due.
- kills: 5 deliveries a second for a minute, while what receives them (and, for the receiver apart, the API server
  behind it) is killed at random moments and started again

Lost are deliveries without an asset event, doubled are those with two; "in runs" are those that DAG runs took.

    python benchmarks/webhooks.py [--only seconds load kills] [--postgres root@127.0.0.1] [--deliveries 1000]

PostgreSQL is left out where it cannot be reached; databases that are made there are dropped again.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import secrets
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
from sqlalchemy import create_engine, text

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from airflow_provider_dstny.api import DstnyRestClient  # noqa: E402
from airflow_provider_dstny.simulator import webhooks  # noqa: E402
from demo.local_airflow import LocalAirflow, Process, StartError, free_port, running_simulator  # noqa: E402

SECRET, TOKEN = "benchmark-webhook-secret", "mt_benchmark_token"
SENDERS = 16
#: One DAG for each connection, so that each part has an asset of its own.
DAGS = """
from airflow.sdk import dag, get_current_context, task
from airflow_provider_dstny.assets import conversation_ids, conversations

def taker(conn_id):
    @dag(dag_id=f"take_{conn_id}", schedule=[conversations(conn_id)], catchup=False, max_active_runs=1)
    def take():
        @task
        def count():
            return len(conversation_ids(get_current_context()["triggering_asset_events"]))
        count()
    return take()

for conn_id in CONNECTIONS:
    globals()[conn_id] = taker(conn_id)
"""
CONNECTIONS = ("plugin", "sqlite", "postgres", "two", "kill_plugin", "kill_apart")


@dataclass
class Sent:
    """What a sender saw."""

    answers: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    #: Those that a 2xx was the answer to.
    delivered: set[str] = field(default_factory=set)


@dataclass(order=True, frozen=True)
class Post:
    due: float
    delivery: str
    is_forged: bool = False


def post(client: httpx.Client, url: str, one: Post) -> str:
    body = webhooks.completed({"id": one.delivery.removeprefix("delivery-")}, one.delivery, time.time())
    signature = webhooks.signature(body, "guessed" if one.is_forged else SECRET)
    try:
        answer = client.post(url, content=body, headers={"X-Webhook-Signature": signature})
    except httpx.TransportError as error:
        return type(error).__name__
    if answer.status_code != 200:
        return str(answer.status_code)
    return str(answer.json()["status"])


def send(urls: list[str], posts: list[Post]) -> Sent:
    """Send each when it is due, again until it is taken or refused."""
    waiting: queue.SimpleQueue[Post | None] = queue.SimpleQueue()
    sent, lock, began = Sent(), threading.Lock(), time.monotonic()

    def work(number: int) -> None:
        with httpx.Client(timeout=30, trust_env=False) as client:
            while (one := waiting.get()) is not None:
                time.sleep(max(0.0, began + one.due - time.monotonic()))
                due = began + one.due
                for attempt in range(300):
                    told = post(client, urls[(number + attempt) % len(urls)], one)
                    with lock:
                        sent.answers[told] += 1
                        sent.seconds.append(time.monotonic() - due)
                        if told in ("stored", "known already"):
                            sent.delivered.add(one.delivery)
                    if told in ("stored", "known already", "401"):
                        break
                    time.sleep(min(3.0, 0.3 * 1.5 ** min(attempt, 10)))
                    due = time.monotonic()

    for one in sorted(posts):
        waiting.put(one)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(SENDERS)]
    for thread in threads:
        waiting.put(None)
        thread.start()
    for thread in threads:
        thread.join()
    return sent


def minute(count: int, seconds: float, *, name: str) -> list[Post]:
    """Return deliveries at an even pace, a tenth of them again, and a twentieth forged ones more."""
    chance = random.Random(1)  # noqa: S311
    posts = [Post(number * seconds / count, f"delivery-{name}-{number}") for number in range(count)]
    again = chance.sample(posts, count // 10)
    repeats = [
        Post(one.due + (0 if number % 2 else chance.uniform(0.5, 5)), one.delivery) for number, one in enumerate(again)
    ]
    forged = [
        Post(chance.uniform(0, seconds), f"delivery-forged-{number}", is_forged=True) for number in range(count // 20)
    ]
    return posts + repeats + forged


def connection(host: str = "http://127.0.0.1:9") -> dict[str, Any]:
    return {"conn_type": "dstny_rest", "host": host, "password": TOKEN, "extra": {"webhook_secrets": SECRET}}


class Lab:
    """An Airflow, and receivers apart beside it.

    :param database: of Airflow: ``SQLite``, or the URL of one of PostgreSQL without its scheme.
    """

    def __init__(self, folder: Path, *, database: str | None, workers: int, simulator: str) -> None:
        dags = folder / "dags"
        dags.mkdir(parents=True)
        (dags / "take.py").write_text(f"CONNECTIONS = {CONNECTIONS!r}\n{DAGS}")
        example = ROOT / "example_dags" / "example_webhook_to_lake.py"
        (dags / example.name).write_text(example.read_text())
        config = {
            "AIRFLOW__DSTNY__WEBHOOKS_ENABLED": "True",
            "AIRFLOW__API__WORKERS": str(workers),
            "HOME": str(folder),
        }
        url = f"sqlite:///{folder}/airflow/airflow.db" if database is None else f"postgresql+psycopg://{database}"
        self._engine = create_engine(url)
        if database is not None:
            config |= {
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
                "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": f"postgresql+psycopg_async://{database}",
            }
        self.folder = folder
        self._connections = {
            "dstny_rest_default": connection(simulator),
            **{name: connection() for name in CONNECTIONS},
        }
        self.airflow = LocalAirflow(
            folder / "airflow", dags=dags, port=free_port(), connections=self._connections, config=config
        )

    def url(self, conn_id: str, receiver: str | None = None) -> str:
        return f"{receiver or self.airflow.url}/dstny/webhooks/{conn_id}"

    def start_receiver(self, port: int, store: str) -> Process:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            "AIRFLOW_HOME": str(self.folder / "apart"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite:////nowhere/airflow.db",
            **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in self._connections.items()},
        }
        options = ["--port", str(port), "--airflow-url", self.airflow.url, "--store", store]
        command = [sys.executable, "-m", "airflow_provider_dstny.webhooks", *options]
        return Process(command, log=self.folder / f"receiver-{port}.log", env=environment)

    @contextmanager
    def receiver(self, store: str) -> Iterator[str]:
        port = free_port()
        process = self.start_receiver(port, store)
        try:
            wait(lambda: answers(f"http://127.0.0.1:{port}/health"), 60, "the receiver")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.stop()

    def events(self, conn_id: str) -> list[Event]:
        """Return the asset events of a connection that are about conversations.

        Out of the database: the REST API of Airflow 3.3.2 does not tell of events while a run with one is queued.
        """
        query = text(
            "SELECT e.id, e.extra, e.timestamp, r.start_date, r.run_id FROM asset_event e"
            " JOIN asset a ON a.id = e.asset_id"
            " LEFT JOIN dagrun_asset_event d ON d.event_id = e.id LEFT JOIN dag_run r ON r.id = d.dag_run_id"
            " WHERE a.uri = :uri ORDER BY e.id"
        )
        with self._engine.connect() as db:
            rows = db.execute(query, {"uri": f"dstny://{conn_id}/conversations"}).all()
        found = {}
        for row in rows:
            extra = json.loads(row.extra) if isinstance(row.extra, str) else row.extra
            if "delivery_id" in extra:
                found[row.id] = Event(
                    extra["delivery_id"], epoch(row.timestamp) or 0, epoch(row.start_date), row.run_id is not None
                )
        return list(found.values())

    def outcome(self, conn_id: str, delivered: set[str], patience: float = 240) -> dict[str, Any]:
        """Wait until every delivery is an event that a run took, and count."""
        began, evented = time.monotonic(), None
        while True:
            events = self.events(conn_id)
            counts = Counter(event.delivery for event in events)
            taken = {event.delivery for event in events if event.is_taken}
            if evented is None and counts.keys() >= delivered:
                evented = time.monotonic() - began
            if taken >= delivered or time.monotonic() - began > patience:
                break
            time.sleep(1)
        return {
            "events": len(events),
            "lost": len(delivered - counts.keys()),
            "doubled": sum(count - 1 for count in counts.values()),
            "others": len(counts.keys() - delivered),
            "in runs": len(taken & delivered),
            "events s": "never" if evented is None else f"{evented:.0f}",
            "runs s": f"{time.monotonic() - began:.0f}",
            "runs": self.airflow.get(f"/dags/take_{conn_id}/dagRuns", limit=1)["total_entries"],
        }


@dataclass(frozen=True)
class Event:
    """An asset event; moments are seconds since the epoch."""

    delivery: str
    at: float
    run_began: float | None
    is_taken: bool


def epoch(moment: datetime | str | None) -> float | None:
    """Read a moment of a database; SQLite keeps texts without timezones."""
    if moment is None:
        return None
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30, trust_env=False).status_code < 500
    except httpx.HTTPError:
        return False


def wait(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise StartError(f"{what}: not within {seconds:g} s")
        time.sleep(0.05)
    return value


def measure_seconds(lab: Lab, receiver: str, ids: list[str], repeats: int) -> None:
    """Deliver one after the other, on an Airflow that has nothing else to do."""
    lake = lab.folder / "dstny" / "webhooks"
    lab.airflow.unpause("example_webhook_to_lake")

    def landed(conversation_id: str) -> float | None:
        for file in lake.glob("conversations/*/*.jsonl"):
            if conversation_id in file.read_text():
                return file.stat().st_mtime
        return None

    print(f"\nSeconds after the POST, median (and most) of {repeats}, after one that is not counted")
    print(f"{'':<24}{'answer':>16}{'asset event':>16}{'run begins':>16}{'rows':>16}")
    for way, base in (("API server", lab.airflow.url), ("receiver apart", receiver)):
        steps: list[tuple[float, ...]] = []
        for _ in range(repeats + 1):
            one = ids.pop()
            began = time.time()
            with httpx.Client(timeout=30, trust_env=False) as client:
                told = post(client, lab.url("dstny_rest_default", base), Post(0, f"delivery-{one}"))
            answered = time.time()
            assert told == "stored", told
            rows = wait(lambda one=one: landed(one), 120, "the rows")
            event = next(event for event in lab.events("dstny_rest_default") if event.delivery == f"delivery-{one}")
            steps.append(tuple(at - began for at in (answered, event.at, event.run_began or 0, rows)))
            # The DAG runs one at a time.
            time.sleep(5)
        columns = [f"{statistics.median(column):.2f} ({max(column):.2f})" for column in zip(*steps[1:], strict=True)]
        print(f"{way:<24}" + "".join(f"{column:>16}" for column in columns), flush=True)


LOAD = (
    "{:<15} {:<11} {:<11} {:>7} | {:>6} {:>6} {:>5} {:>5} {:>6} | {:>7} {:>7} {:>7} |"
    " {:>6} {:>4} {:>7} {:>7} {:>8} {:>5} {:>7}"
)


def show(
    way: str, airflow: str, store: str, workers: Any, sent: Sent, outcome: dict[str, Any], *, has_times: bool = True
) -> None:
    cut = statistics.quantiles(sent.seconds, n=100)
    known = {"stored", "known already", "401"}
    row = (
        *(way, airflow, store, workers),
        *(sent.answers[told] for told in ("stored", "known already", "401", "503")),
        sum(count for told, count in sent.answers.items() if told not in known | {"503"}),
        # While it is dead there is no answer.
        *(f"{1000 * value:.0f}" if has_times else "" for value in (cut[49], cut[98], max(sent.seconds))),
        *(outcome[name] for name in ("events", "lost", "doubled", "in runs", "events s", "runs", "runs s")),
    )
    print(LOAD.format(*row), flush=True)
    if outcome["others"]:
        print(f"  {outcome['others']} events are of no delivery that was taken")
    if odd := {told: count for told, count in sent.answers.items() if told not in known}:
        print(f"  other answers: {odd}", flush=True)


def show_titles() -> None:
    titles = (
        *("through", "Airflow's", "its store", "workers", "stored", "known", "401", "503", "errors"),
        *("p50 ms", "p99 ms", "max ms", "events", "lost", "doubled", "in runs", "events s", "runs", "runs s"),
    )
    print(LOAD.format(*titles))


def warm_up(lab: Lab, urls: list[str]) -> None:
    """Have everything made that is made with a first request: imports, pools, and Airflow's Execution API.

    A worker of an API server answers nobody for seconds while it makes the latter, when a first task reports.
    """
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(answers, [f"{lab.airflow.url}/execution/health"] * 16))
    for _ in range(2):
        send(urls, [Post(0, f"delivery-forged-{number}", is_forged=True) for number in range(2 * SENDERS)])


def load(lab: Lab, way: str, conn_id: str, airflow: str, store: str, workers: int, urls: list[str], count: int) -> None:
    lab.airflow.unpause(f"take_{conn_id}")
    warm_up(lab, urls)
    sent = send(urls, minute(count, 60, name=conn_id))
    show(way, airflow, store, workers, sent, lab.outcome(conn_id, sent.delivered))


class Killer:
    """Kills a process at random moments, and starts it again when it is dead."""

    def __init__(self, process: Callable[[], Process], start: Callable[[], Any], url: str, seed: int) -> None:
        self.kills = 0
        self._process, self._start, self._url = process, start, url
        self._chance = random.Random(seed)  # noqa: S311
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(self._chance.uniform(1, 6)):
            self._process().signal(signal.SIGKILL)
            self.kills += 1
            wait(lambda: not self._process().running, 10, "the death")
            self._start()
            with suppress(StartError):
                wait(lambda: answers(self._url), 180, "the start")

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()


def kills(lab: Lab, airflow: str, store: str, workers: int, seconds: float) -> None:
    """Deliver while processes die."""
    count = int(5 * seconds)
    api_server = Killer(
        lambda: lab.airflow.processes["api-server"],
        lambda: lab.airflow.start("api-server"),
        f"{lab.airflow.url}/api/v2/version",
        1,
    )
    posts = [one for one in minute(count, seconds, name="kill") if not one.is_forged]
    lab.airflow.unpause("take_kill_plugin")
    with api_server:
        sent = send([lab.url("kill_plugin")], posts)
    show(
        f"API server, {api_server.kills}x",
        airflow,
        "",
        workers,
        sent,
        lab.outcome("kill_plugin", sent.delivered),
        has_times=False,
    )

    lab.airflow.unpause("take_kill_apart")
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    running = [lab.start_receiver(port, store)]
    try:
        wait(lambda: answers(f"{base}/health"), 60, "the receiver")
        receiver = Killer(
            lambda: running[0],
            lambda: running.__setitem__(0, lab.start_receiver(port, store)),
            f"{base}/health",
            2,
        )
        api_server = Killer(
            lambda: lab.airflow.processes["api-server"],
            lambda: lab.airflow.start("api-server"),
            f"{lab.airflow.url}/api/v2/version",
            3,
        )
        with receiver, api_server:
            sent = send([lab.url("kill_apart", base)], posts)
        outcome = lab.outcome("kill_apart", sent.delivered)
        name = store.partition(":")[0].partition("+")[0]
        show(f"apart, {receiver.kills}+{api_server.kills}x", airflow, name, workers, sent, outcome, has_times=False)
    finally:
        running[0].stop()


@contextmanager
def database(server: str) -> Iterator[str]:
    """Create a database of PostgreSQL and drop it in the end."""
    name = f"dstny_benchmark_{secrets.token_hex(4)}"
    with psycopg.connect(f"postgresql://{server}/postgres", autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
    try:
        yield f"{server}/{name}"
    finally:
        with psycopg.connect(f"postgresql://{server}/postgres", autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("seconds", "load", "kills"), default=["seconds", "load", "kills"])
    parser.add_argument("--on", nargs="+", choices=("sqlite", "postgres", "postgres2"), help="Airflow's databases")
    parser.add_argument("--postgres", default="root@127.0.0.1", help="user and host of a server")
    parser.add_argument("--deliveries", type=int, default=1000)
    parser.add_argument("--kill-seconds", type=float, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    try:
        psycopg.connect(f"postgresql://{given.postgres}/postgres", connect_timeout=3).close()
        has_postgres = True
    except psycopg.OperationalError:
        has_postgres = False
        print("PostgreSQL is not reached and left out")
    labs = {"sqlite": ("SQLite", 1)}
    if has_postgres:
        labs |= {"postgres": ("PostgreSQL", 1), "postgres2": ("PostgreSQL", 2)}
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for key, (kind, workers) in labs.items():
        if given.on and key not in given.on:
            continue
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dstny-webhooks-")))
            simulator = stack.enter_context(
                running_simulator(free_port(), folder / "simulator.log", samples=60, fresh=0, rest_token=TOKEN)
            )
            with DstnyRestClient(simulator, TOKEN) as rest:
                ids = [str(one.id) for one in rest.iter_conversations()]
            of_airflow = stack.enter_context(database(given.postgres)) if kind == "PostgreSQL" else None
            lab = Lab(folder / "lab", database=of_airflow, workers=workers, simulator=simulator)
            stack.enter_context(lab.airflow)
            print(
                f"\nAirflow on {kind}, API server with {workers} worker(s), load {os.getloadavg()[0]:.1f}", flush=True
            )
            sqlite_store = f"sqlite:///{folder}/deliveries.db"
            if "seconds" in given.only and workers == 1:
                with lab.receiver(sqlite_store) as receiver:
                    measure_seconds(lab, receiver, ids, given.repeats)
            if "load" in given.only:
                show_titles()
                load(lab, "API server", "plugin", kind, "", workers, [lab.url("plugin")], given.deliveries)
                if workers == 1:
                    with lab.receiver(sqlite_store) as receiver:
                        urls = [lab.url("sqlite", receiver)]
                        load(lab, "receiver apart", "sqlite", kind, "SQLite", workers, urls, given.deliveries)
                if kind == "PostgreSQL":
                    own = stack.enter_context(database(given.postgres))
                    store = f"postgresql+psycopg://{own}"
                    if workers == 1:
                        with lab.receiver(store) as receiver:
                            urls = [lab.url("postgres", receiver)]
                            load(lab, "receiver apart", "postgres", kind, kind, workers, urls, given.deliveries)
                    else:
                        with lab.receiver(store) as one, lab.receiver(store) as two:
                            urls = [lab.url("two", one), lab.url("two", two)]
                            load(lab, "two apart", "two", kind, kind, workers, urls, given.deliveries)
            if "kills" in given.only:
                print("\nkilled, so many times:")
                show_titles()
                own_store = sqlite_store
                if kind == "PostgreSQL":
                    own_store = f"postgresql+psycopg://{stack.enter_context(database(given.postgres))}"
                kills(lab, kind, own_store, workers, given.kill_seconds)


if __name__ == "__main__":
    main()
