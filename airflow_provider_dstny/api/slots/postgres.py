"""Slots in a table of a PostgreSQL database."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psycopg

from airflow_provider_dstny.api.slots.base import Reservation, longest_queue

#: Seconds to wait for the server.
_TIMEOUT = 2

# The lock ends with the statement. Without it, two that create the table at once collide in the catalog.
_TABLE = """
DO $$ BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('dstny_throttle'));
    CREATE TABLE IF NOT EXISTS dstny_throttle (
        key text PRIMARY KEY,
        next_slot double precision NOT NULL DEFAULT 0,
        paused_until double precision NOT NULL DEFAULT 0
    );
END $$
"""

# The same as in base.Kept; NULL is nobody's greatest.
_SLOT = """greatest(kept.paused_until, CASE
    WHEN kept.next_slot <= greatest(kept.paused_until, extract(epoch FROM clock_timestamp())) + %(longest_queue)s
    THEN kept.next_slot
END)"""
# ON CONFLICT locks the row before it evaluates what follows, and with it the clock.
_RESERVE = f"""
INSERT INTO dstny_throttle AS kept (key, next_slot)
VALUES (%(key)s, extract(epoch FROM clock_timestamp()) + %(spacing)s)
ON CONFLICT (key) DO UPDATE
SET next_slot = greatest({_SLOT}, extract(epoch FROM clock_timestamp())) + %(spacing)s
WHERE {_SLOT} - extract(epoch FROM clock_timestamp()) <= %(patience)s
  AND kept.paused_until - extract(epoch FROM clock_timestamp()) <= %(longest_pause)s
RETURNING next_slot - %(spacing)s - extract(epoch FROM clock_timestamp()),
          paused_until - extract(epoch FROM clock_timestamp())
"""  # noqa: S608 - made of constants
_LOOK = f"""
SELECT {_SLOT} - extract(epoch FROM clock_timestamp()),
       paused_until - extract(epoch FROM clock_timestamp())
FROM dstny_throttle AS kept WHERE key = %(key)s
"""  # noqa: S608 - made of constants
_PAUSE_LEFT = """
SELECT paused_until - extract(epoch FROM clock_timestamp()) FROM dstny_throttle WHERE key = %(key)s
"""
_PAUSE = """
INSERT INTO dstny_throttle AS kept (key, paused_until)
VALUES (%(key)s, extract(epoch FROM clock_timestamp()) + %(seconds)s)
ON CONFLICT (key) DO UPDATE SET paused_until = greatest(kept.paused_until, excluded.paused_until)
"""


class PostgresSlots:
    """Slots that all processes share which use the same database. The table is created when it is missing.

    A process has one connection, which it opens anew after a fork and after a loss.

    :param url: ``postgresql://``, as libpq takes it.
    :raises ValueError: libpq cannot use the URL.
    """

    blocking = True

    def __init__(self, url: str) -> None:
        try:
            psycopg.conninfo.conninfo_to_dict(url)
        except psycopg.Error:
            usable = False
        else:
            usable = True
        if not usable:
            # The error of libpq names parts of the URL.
            raise ValueError("not a PostgreSQL URL")
        self._url = url
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._process = 0

    def reserve(self, key: str, spacing: float, patience: float, longest_pause: float = float("inf")) -> Reservation:
        values = {
            "key": key,
            "spacing": spacing,
            "patience": patience,
            "longest_pause": longest_pause,
            "longest_queue": longest_queue(spacing),
        }
        if row := self._run(_RESERVE, values):
            return Reservation(max(0.0, row[0]), max(0.0, row[1]), taken=True)
        seconds, paused = self._run(_LOOK, values) or (0.0, 0.0)
        return Reservation(max(0.0, seconds), max(0.0, paused), taken=False)

    def pause(self, key: str, seconds: float) -> None:
        self._run(_PAUSE, {"key": key, "seconds": seconds})

    def pause_left(self, key: str) -> float:
        (paused,) = self._run(_PAUSE_LEFT, {"key": key}) or (0.0,)
        return max(0.0, float(paused))

    def _run(self, statement: str, values: Mapping[str, object]) -> tuple[Any, ...] | None:
        with self._lock:
            kept = self._connection if self._process == os.getpid() else None
            if kept is not None:
                try:
                    return _execute(kept, statement, values)
                except psycopg.OperationalError:
                    # It may have broken while nobody used it; a server that is silent is not asked twice.
                    if not kept.closed:
                        raise
            self._connection, self._process = None, os.getpid()
            self._connection = _connect(self._url)
            return _execute(self._connection, statement, values)


def _connect(url: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(
        url,
        autocommit=True,
        connect_timeout=_TIMEOUT,
        fallback_application_name="airflow-provider-dstny",
        # A pooler may give each statement to another session, which has not prepared it.
        prepare_threshold=None,
    )
    try:
        # Looked for first: CREATE asks for the right to create, even where the table is there.
        if _execute(connection, "SELECT to_regclass('dstny_throttle') IS NULL", {}) == (True,):
            _execute(connection, _TABLE, {})
    except BaseException:
        connection.close()
        raise
    return connection


def _execute(
    connection: psycopg.Connection[Any], statement: str, values: Mapping[str, object]
) -> tuple[Any, ...] | None:
    """Return the first row of the answer, None where there is none.

    :raises TimeoutError: the server was silent for too long; the connection is closed.
    """
    silent = threading.Event()

    def cut() -> None:
        silent.set()
        # The only way to end a wait of libpq from outside, whatever it is that does not answer.
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)

    watch = threading.Timer(_TIMEOUT, cut)
    watch.daemon = True
    watch.start()
    try:
        cursor = connection.execute(statement, values)
        return cursor.fetchone() if cursor.description else None
    except psycopg.OperationalError as error:
        if not silent.is_set():
            raise
        raise TimeoutError(f"no answer within {_TIMEOUT} s") from error
    finally:
        watch.cancel()
