"""What waiting for many conversations costs in a triggerer, and how soon it notices them, at 60 requests a minute.

Prints this provider beside the deferrable sensor of the http provider, a trigger as one would write it, and one that
only sleeps, whose costs are Airflow's own, for 100 to 5,000 conversations. Each run is an ``airflow triggerer`` of its
own, with one deferred task per conversation, against the simulator on this machine, whose limit is one token's. At
first nothing becomes ready for three poll intervals; "idle" is the last of them. Then up to 100 conversations become
ready, at random moments within 1.5 intervals, and are watched for 4 more. Printed are

- start s: from the launch of the process until the last trigger has begun
- blocked s: how long the event loop, and with it everybody's triggers, stood still in all, as far as the triggerer
  complains of it (more than 0.2 s at a time)
- noticed: of those that became ready, how many tasks were resumed; p50, p95 and max are seconds from ready to resumed
- late: the latest of them, in poll intervals, after the moment at which a client that guesses right would have
  been allowed to ask
- CPU: of the process that runs the triggers; % of one core while idle, and seconds in all
- sup.: the same of its supervisor, which talks to the database
- RSS and PSS: the largest of the process that runs the triggers

    python benchmarks/waiting.py [--only ours http naive] [--n 100 1000 5000] [--interval 60]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import platform
import random
import re
import resource
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import psutil

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from airflow_provider_dstny.simulator import Simulator  # noqa: E402
from airflow_provider_dstny.simulator.books import Entry  # noqa: E402
from airflow_provider_dstny.simulator.rest_conversations import RestConversation  # noqa: E402
from demo.local_airflow import Process  # noqa: E402

CONTENDERS = {
    "asleep": "a trigger that sleeps",
    "ours": "DstnyTranscriptTrigger",
    "http": "HttpSensor, deferrable",
    "naive": "a client per trigger",
}
PER_MINUTE = 60
MOST_READY = 100
#: In poll intervals: until conversations become ready, until the last has, and how long they are watched after that.
IDLE, READY, PATIENCE = 3, 1.5, 4
LONGEST_START = 900.0
FORMAT = (
    "{:<23} {:>5} {:>7} {:>7} | {:>8} {:>8} {:>9} {:>9} | {:>8} {:>7} {:>7} {:>7} {:>6} | {:>7} {:>7} {:>7} {:>7} |"
    " {:>6} {:>6}"
)
TITLES = (
    ("", "", "", "blocked", "idle", "idle", "all", "all", *[""] * 5, "CPU", "CPU", "sup.", "sup.", "RSS", "PSS"),
    (
        *("waiting by", "N", "start s", "s", "req/min", "429/min", "requests", "429s"),
        *("noticed", "p50 s", "p95 s", "max s", "late", "% idle", "s all", "% idle", "s all", "MB", "MB"),
    ),
)


class Triggerer:
    """``airflow triggerer`` in a home of its own, with a deferred task for each conversation.

    :param contender: what the tasks are deferred to, by its name in ``contenders.py``.
    """

    def __init__(self, home: Path, simulator: Simulator, contender: str, ids: list[str], interval: float) -> None:
        self._home = home
        self._ids = ids
        self._make = [str(Path(__file__).with_name("contenders.py")), contender, str(interval)]
        token = {"Authorization": f"Bearer {simulator.rest_token}"}
        connections = {
            "DSTNY_REST_DEFAULT": {
                "conn_type": "dstny_rest",
                "host": simulator.url,
                "password": simulator.rest_token,
            },
            "HTTP_DEFAULT": {"conn_type": "http", "host": simulator.url, "extra": token},
        }
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__TRIGGERER__CAPACITY": "6000",
            # One folder, whose number of files tells how many triggers have begun.
            "AIRFLOW__LOGGING__LOG_FILENAME_TEMPLATE": "waiting/{{ ti.map_index }}.log",
            "NO_PROXY": "127.0.0.1,localhost",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).parent)]),
            **{f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in connections.items()},
        }

    def __enter__(self) -> Self:
        self._run("-m", "airflow", "db", "migrate")
        self._run(*self._make, words="\n".join(self._ids))
        self._process = Process(
            # Logs are read from the folder; nothing needs to listen on a port.
            [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"],
            log=self._home / "triggerer.log",
            env=self._environment,
        )
        # This program has no other child.
        (self.supervisor,) = psutil.Process().children()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()

    def runner(self) -> psutil.Process | None:
        """Return the process that runs the triggers, as soon as there is one."""
        return next(iter(self.supervisor.children()), None)

    def started(self) -> int:
        folder = self._home / "logs" / "waiting"
        return len(os.listdir(folder)) if folder.exists() else 0

    def resumed(self) -> dict[int, tuple[float, bool]]:
        """Return when tasks were told to go on, by their number, and whether with good news."""
        with closing(sqlite3.connect(f"file:{self._home / 'airflow.db'}?mode=ro", uri=True)) as database:
            rows = database.execute(
                "SELECT map_index, scheduled_dttm, next_method, next_kwargs FROM task_instance"
                " WHERE state = 'scheduled'"
            ).fetchall()
        return {
            number: (
                datetime.fromisoformat(told).replace(tzinfo=UTC).timestamp(),
                method == "execute_complete" and _good(json.loads(kwargs)["event"]),
            )
            for number, told, method, kwargs in rows
        }

    def blocked(self) -> float:
        """Return for how many seconds the event loop stood still."""
        log = (self._home / "triggerer.log").read_text("utf-8", "replace")
        return sum(float(seconds) for seconds in re.findall(r"blocked for ([\d.]+) seconds", log))

    def tail(self) -> str:
        return self._process.tail()

    def _run(self, *arguments: str, words: str = "") -> None:
        done = subprocess.run(
            [sys.executable, *arguments],
            input=words,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _good(event: Any) -> bool:
    return event is True or event["state"] == "ready"


class Reading(NamedTuple):
    """What the two processes have used up to a moment, in seconds of CPU."""

    at: float
    runner: float
    supervisor: float


class Watch:
    """Looks at a triggerer once a second."""

    def __init__(self, triggerer: Triggerer) -> None:
        self._triggerer = triggerer
        self._runner: psutil.Process | None = None
        self.began = time.time()
        self.rss = self.pss = 0

    def until(self, moment: float, over: Callable[[], bool] = lambda: False) -> Reading:
        """Look until it is over, at the latest at a moment."""
        while True:
            now = self._look()
            if over() or now.at >= moment:
                return now
            time.sleep(min(1.0, max(0.0, moment - time.time())))

    def _look(self) -> Reading:
        self._runner = self._runner or self._triggerer.runner()
        if self._runner is None:
            return Reading(time.time(), 0, _cpu_seconds(self._triggerer.supervisor))
        memory = self._runner.memory_full_info()
        self.rss, self.pss = max(self.rss, memory.rss), max(self.pss, memory.pss)
        return Reading(time.time(), _cpu_seconds(self._runner), _cpu_seconds(self._triggerer.supervisor))


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def become_ready(conversations: list[RestConversation], numbers: list[int], interval: float) -> dict[int, float]:
    """Let conversations become whole from now on, and return when each does."""
    now = time.time()
    choose = random.Random(len(conversations))  # noqa: S311
    moments = {number: now + choose.uniform(0, READY * interval) for number in numbers}
    for number, moment in moments.items():
        one = conversations[number]
        one.date = round(moment - one.duration, 3)
        one.arrives_at = one.transcript_at = moment
    return moments


def earliest(moments: dict[int, float]) -> dict[int, float]:
    """Return when the limit lets each be asked for by somebody who knows when that is worth it: first come, first."""
    allowed: list[float] = []
    for moment in sorted(moments.values()):
        full = len(allowed) >= PER_MINUTE
        allowed.append(max(moment, allowed[-PER_MINUTE] + 60) if full else moment)
    return dict(zip(sorted(moments, key=moments.__getitem__), allowed, strict=True))


def measure(contender: str, count: int, interval: float) -> None:
    """Run one triggerer and print its row."""
    choose = random.Random(count)  # noqa: S311
    with (
        tempfile.TemporaryDirectory() as folder,
        Simulator(requests_per_minute=PER_MINUTE, samples=0, fresh=0) as simulator,
    ):
        never = time.time() + 86400
        conversations = [
            simulator.rest.add(date=never, duration=choose.randint(60, 600), arrives_at=never) for _ in range(count)
        ]
        ids = [one.id for one in conversations]
        with Triggerer(Path(folder), simulator, contender, ids, interval) as triggerer:
            try:
                watch = Watch(triggerer)
                start = watch.until(watch.began + LONGEST_START, lambda: triggerer.started() >= count)
                began = triggerer.started()
                before = watch.until(start.at + (IDLE - 1) * interval)
                after = watch.until(start.at + IDLE * interval)
                ready = min(count, MOST_READY) if contender != "asleep" else 0
                moments = become_ready(conversations, choose.sample(range(count), ready), interval)
                end = watch.until(
                    max(moments.values(), default=0) + PATIENCE * interval,
                    lambda: moments.keys() <= triggerer.resumed().keys(),
                )
                resumed, blocked = triggerer.resumed(), triggerer.blocked()
            except psutil.NoSuchProcess:
                print(f"{CONTENDERS[contender]:<23} {count:>5} the triggerer ended:\n{triggerer.tail()}", flush=True)
                return
        entries = list(simulator.books.entries)
    idle = [entry for entry in entries if before.at <= entry.at < after.at]
    minutes = (after.at - before.at) / 60
    noticed = {
        number: resumed[number][0]
        for number, moment in moments.items()
        if number in resumed and resumed[number][1] and resumed[number][0] >= moment
    }
    print(
        FORMAT.format(
            CONTENDERS[contender],
            count,
            f"{'' if began == count else '>'}{start.at - watch.began:.0f}",
            f"{blocked:.1f}",
            f"{len(idle) / minutes:.0f}",
            f"{refused(idle) / minutes:.0f}",
            len(entries),
            refused(entries),
            *delays(moments, noticed, end.at, interval),
            f"{100 * (after.runner - before.runner) / (after.at - before.at):.1f}",
            f"{end.runner:.1f}",
            f"{100 * (after.supervisor - before.supervisor) / (after.at - before.at):.1f}",
            f"{end.supervisor:.1f}",
            f"{watch.rss / 2**20:.0f}",
            f"{watch.pss / 2**20:.0f}",
        ),
        flush=True,
    )
    if wrong := len(resumed) - len(noticed):
        print(f"{'':<23} {wrong} more tasks were failed, or resumed while nothing was ready", flush=True)


def delays(moments: dict[int, float], noticed: dict[int, float], end: float, interval: float) -> list[str]:
    """Return what is printed of those that became ready at some moments."""
    if not moments:
        return ["-"] * 5
    # Who was not noticed has waited until the end, and longer than anybody who was.
    waited = sorted(noticed.get(number, math.inf) - moment for number, moment in moments.items())
    shortest_unnoticed = min((end - moments[number] for number in moments if number not in noticed), default=0.0)
    late = max(noticed.get(number, end) - moment for number, moment in earliest(moments).items()) / interval
    return [
        f"{len(noticed)}/{len(moments)}",
        *(
            f"{seconds:.1f}" if math.isfinite(seconds) else f">{shortest_unnoticed:.0f}"
            for seconds in (quantile(waited, 0.5), quantile(waited, 0.95), waited[-1])
        ),
        f"{'>' if len(noticed) < len(moments) else ''}{max(late, 0):.1f}",
    ]


def refused(entries: list[Entry]) -> int:
    return sum(entry.status == 429 for entry in entries)


def quantile(ordered: list[float], share: float) -> float:
    return ordered[math.ceil(share * len(ordered)) - 1]


def allow_open_files() -> None:
    """Raise the limit as far as it goes: a triggerer keeps a log file per trigger open, and clients their sockets."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def installed(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--n", nargs="+", type=int, default=[100, 1000, 5000], help="conversations to wait for")
    parser.add_argument("--interval", type=float, default=60, help="seconds between two looks of a trigger")
    options = parser.parse_args()
    allow_open_files()
    http = installed("apache-airflow-providers-http")
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"Airflow {installed('apache-airflow')}, http provider {http or 'not installed'}, SQLite; "
        f"{PER_MINUTE} requests a minute, a look every {options.interval:g} s\n"
    )
    for titles in TITLES:
        print(FORMAT.format(*titles))
    for count in options.n:
        for contender in options.only:
            if contender != "http" or http:
                measure(contender, count, options.interval)


if __name__ == "__main__":
    main()
