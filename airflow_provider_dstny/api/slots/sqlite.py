"""Slots in an SQLite file, for the processes of one machine."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from airflow_provider_dstny.api.slots.base import Kept, KeptSlots

T = TypeVar("T")

#: Seconds to wait for another process to let go of the file.
_BUSY_TIMEOUT = 2.0
_TABLE = """
CREATE TABLE IF NOT EXISTS dstny_throttle (
    key TEXT PRIMARY KEY, next_slot REAL NOT NULL, paused_until REAL NOT NULL
)
"""


class SqliteSlots(KeptSlots):
    """Slots that all processes share which open the same file. It is created when it is missing.

    The file is opened for each call, so that nothing is held across threads and forks.

    :param clock: seconds since the epoch, the same for all who open the file.
    """

    blocking = True

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock

    def _change(self, key: str, change: Callable[[Kept, float], tuple[Kept, T]]) -> T:
        with closing(sqlite3.connect(self._path, timeout=_BUSY_TIMEOUT, isolation_level=None)) as database, database:
            # A process that is killed leaves it whole; what a power cut might lose is worth no waiting for the disk.
            database.execute("PRAGMA synchronous = OFF")
            # Locked before it is read: two that read first could not both write.
            database.execute("BEGIN IMMEDIATE")
            database.execute(_TABLE)
            row = database.execute("SELECT next_slot, paused_until FROM dstny_throttle WHERE key = ?", (key,))
            before = Kept(*(row.fetchone() or ()))
            after, result = change(before, self._clock())
            if after != before:
                database.execute("INSERT OR REPLACE INTO dstny_throttle VALUES (?, ?, ?)", (key, *after))
        return result
