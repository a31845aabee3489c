"""What following ``next_cursor`` loses where conversations share a time, and what it costs not to.

Prints the walk of this provider beside the loop that one would write instead, over 30 days of conversations whose
times are whole seconds within working hours, through the simulator on a real port.
"""

from __future__ import annotations

import random
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from airflow_provider_dstny.api import DstnyRestClient
from airflow_provider_dstny.simulator import Simulator

DAYS = 29


def by_hand(rest: DstnyRestClient) -> list[str]:
    """Follow ``next_cursor`` and drop what comes twice."""
    found: dict[str, None] = {}
    page = rest.list_conversations()
    while True:
        known = len(found)
        found |= dict.fromkeys(str(one.id) for one in page.conversations)
        if page.next_cursor is None or len(found) == known:
            return list(found)
        page = rest.list_conversations(cursor=page.next_cursor)


def walk(rest: DstnyRestClient) -> list[str]:
    return [str(one.id) for one in rest.iter_conversations()]


def main() -> None:
    print(f"{'a day':>6} {'cursor':>10} {'':<22} {'conversations':>14} {'lost':>7} {'requests':>9} {'seconds':>8}")
    for per_day in (100, 1000):
        for inclusive in (False, True):
            with Simulator(requests_per_minute=None, samples=0, fresh=0, inclusive_cursor=inclusive) as simulator:
                choose = random.Random(per_day)  # noqa: S311
                midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
                for number in range(DAYS * per_day):
                    day = midnight - timedelta(days=1 + number % (DAYS - 1))
                    moment = day + timedelta(hours=8, seconds=choose.randrange(9 * 3600))
                    simulator.rest.add(date=moment.timestamp())
                for name, find in (("next_cursor by hand", by_hand), ("iter_conversations", walk)):
                    before, began = len(simulator.books.entries), time.perf_counter()
                    options = {"requests_per_minute": 10**6}
                    with DstnyRestClient(simulator.url, simulator.rest_token, **options) as rest:
                        found = find(rest)
                    total = DAYS * per_day
                    print(
                        f"{per_day:>6} {'inclusive' if inclusive else 'exclusive':>10} {name:<22} {total:>14} "
                        f"{total - len(set(found)):>7} {len(simulator.books.entries) - before:>9} "
                        f"{time.perf_counter() - began:>8.1f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
