"""What landing conversations in a lake costs: conversations a second, and memory.

Prints the export beside a loop that writes the JSON as it comes, against the simulator without limits, on this machine.
All take turns: a rate is the median of the rounds, and so is its share of the loop's rate in the same round. Memory is
what the peak of a new process grows by after it has landed its first 100 conversations, so that imports do not count;
that of pyarrow is shown apart. The pyarrow table is what one would write to Parquet from by hand.

    python benchmarks/lake.py [--conversations 2000] [--rounds 5] [--memory 1000 10000 100000]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402

from airflow_provider_dstny.api.dstny_rest import DstnyRestClient  # noqa: E402
from airflow_provider_dstny.export.files import Format  # noqa: E402
from airflow_provider_dstny.export.layout import LAYOUTS  # noqa: E402
from airflow_provider_dstny.export.redaction import Redaction  # noqa: E402
from airflow_provider_dstny.export.windows import Interval  # noqa: E402
from airflow_provider_dstny.landing.export import Export, Options  # noqa: E402
from demo.local_airflow import free_port, running_simulator  # noqa: E402

TOKEN = "mt_simulator"  # noqa: S105 - the simulator's
#: Conversations that a process lands before its memory is looked at, or its time.
WARM_UP = 100


def answers(url: str) -> Iterator[dict[str, Any]]:
    """Yield every conversation with its transcript and insights, as a plain loop gets them."""
    params: dict[str, Any] = {"limit": 25}
    with httpx.Client(base_url=f"{url}/api/v1/rest", headers={"Authorization": f"Bearer {TOKEN}"}) as http:
        while True:
            page = http.get("/conversations", params=params).raise_for_status().json()
            for row in page["conversations"]:
                wanted = {"include_transcript": "true", "include_insights": "true"}
                yield http.get(f"/conversations/{row['id']}", params=wanted).raise_for_status().json()
            params["cursor"] = page["pagination"]["next_cursor"]
            if params["cursor"] is None:
                return


def loop(url: str, folder: str) -> int:
    """Write each answer as a line of JSON."""
    with Path(folder, "conversations.jsonl").open("w") as file:
        return sum(file.write(f"{json.dumps(answer)}\n") > 0 for answer in answers(url))


def pyarrow_table(url: str, folder: str) -> int:
    """Make a table of all answers, and write that."""
    rows = [{name: json.dumps(value) for name, value in answer.items()} for answer in answers(url)]
    table = import_module("pyarrow").Table.from_pylist(rows)
    import_module("pyarrow.parquet").write_table(table, Path(folder, "conversations.parquet"), compression="zstd")
    return len(rows)


def export(file_format: Format, concurrency: int, url: str, folder: str) -> int:
    """Land the conversations as the operator does."""

    async def run() -> int:
        end = datetime.now(UTC).replace(microsecond=0)
        options = Options(
            interval=Interval(end - timedelta(hours=1), end),
            tables=frozenset(LAYOUTS["dstny_rest"].tables),
            file_format=file_format,
            redaction=Redaction.parse(None),
            source_name="benchmark",
            lookback=timedelta(days=2),
            sweep_every=timedelta(days=7),
            give_up_after=timedelta(days=7),
            daily_quota=10**9,
            concurrency=concurrency,
        )
        async with DstnyRestClient(url, TOKEN, requests_per_minute=10**9) as rest:
            outcome = await Export(rest, f"file://{folder}", options).run()
        return outcome.counts["complete"]

    return asyncio.run(run())


WAYS: dict[str, Callable[[str, str], int]] = {
    "a loop that writes the JSON": loop,
    "a pyarrow table by hand": pyarrow_table,
    "export, JSONL, one at a time": partial(export, "jsonl", 1),
    "export, JSONL": partial(export, "jsonl", 4),
    "export, Parquet": partial(export, "parquet", 4),
}
LOOP, *OTHERS = WAYS


@contextmanager
def simulator(conversations: int, folder: str) -> Iterator[str]:
    options = {"samples": conversations, "fresh": 0, "requests_per_minute": 0, "daily_conversation_quota": 0}
    log = Path(folder) / f"simulator-{conversations}.log"
    with running_simulator(free_port(), log, **options) as url:
        yield url


def land(way: str, url: str, conversations: int) -> float:
    """Land all conversations once; return how many a second."""
    with tempfile.TemporaryDirectory(prefix="dstny-lake-") as folder:
        began = time.perf_counter()
        landed = WAYS[way](url, folder)
        seconds = time.perf_counter() - began
    # Following the cursor by hand may lose one of those that share a time.
    if landed < conversations and way.startswith("export"):
        raise SystemExit(f"{way}: {landed} of {conversations} conversations were landed")
    return landed / seconds


def compare_rates(conversations: int, rounds: int, folder: str) -> None:
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with simulator(WARM_UP, folder) as few, simulator(conversations, folder) as many:
        for way in WAYS:
            land(way, few, WARM_UP)
        for _ in range(rounds):
            for way in WAYS:
                rates[way].append(land(way, many, conversations))
    print(f"{conversations:,} conversations, {rounds} rounds\n")
    print(f"{'':<30} {'a second':>9} {'of the loop':>12} {'from':>5} {'to':>5}")
    for way, measured in rates.items():
        shares = [one / other for one, other in zip(measured, rates[LOOP], strict=True)]
        print(
            f"{way:<30} {statistics.median(measured):>9.0f} {statistics.median(shares):>12.0%} "
            f"{min(shares):>5.0%} {max(shares):>5.0%}",
            flush=True,
        )


def peak() -> float:
    """Return the most memory that this process has had, in MB; getrusage may tell that of its parent."""
    (line,) = (one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(way: str, few: str, many: str, conversations: int) -> None:
    """Print, from a process of its own, by how many MB it grew, what of them pyarrow is, and conversations a second."""
    logging.disable()
    before = peak()
    if "Parquet" in way or "pyarrow" in way:
        import_module("pyarrow.parquet")
    imported = peak() - before
    land(way, few, WARM_UP)
    before = peak()
    rate = land(way, many, conversations)
    print(json.dumps([peak() - before, imported, rate]))


def compare_memory(sizes: list[int], folder: str) -> None:
    print(f"\n{'':<30} {'conversations':>13} {'memory grows by':>16} {'pyarrow itself':>15} {'a second':>9}")
    for conversations in sizes:
        with simulator(WARM_UP, folder) as few, simulator(conversations, folder) as many:
            for way in WAYS:
                if "one at a time" in way:
                    continue
                done = subprocess.run(
                    [sys.executable, __file__, "--measure", way, few, many, str(conversations)],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise SystemExit(done.stderr)
                grown, imported, rate = json.loads(done.stdout.splitlines()[-1])
                print(f"{way:<30} {conversations:>13,} {grown:>13.1f} MB {imported:>12.1f} MB {rate:>9.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--conversations", type=int, default=2000, help="of a round of the first table; 0 for no table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", nargs="*", type=int, default=[1000, 10_000, 100_000], help="rows of the second one")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        way, few, many, conversations = options.measure
        measure(way, few, many, int(conversations))
        return
    logging.disable()
    with tempfile.TemporaryDirectory(prefix="dstny-lake-") as home:
        # Read as soon as a path is opened.
        os.environ |= {"AIRFLOW_HOME": home, "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
        print(f"{os.cpu_count()} cores, Python {platform.python_version()}")
        if options.conversations:
            compare_rates(options.conversations, options.rounds, home)
        compare_memory(options.memory, home)


if __name__ == "__main__":
    main()
