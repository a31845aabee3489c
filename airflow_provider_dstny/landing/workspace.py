"""What a run works on, on the local disk: its memory does not grow with the number of conversations."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import date
from types import TracebackType
from typing import Any, NamedTuple, Self

from airflow_provider_dstny.api.reading import read_json
from airflow_provider_dstny.export.ledger import Entry, State
from airflow_provider_dstny.export.tables import json_text

_TABLES = """
CREATE TABLE entries (
    id TEXT PRIMARY KEY,
    entry TEXT NOT NULL,
    changed_at REAL NOT NULL,
    state TEXT NOT NULL,
    listed INT NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE changes (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE list_rows (id TEXT PRIMARY KEY, body TEXT NOT NULL);
CREATE TABLE answers (shown_id TEXT PRIMARY KEY, day TEXT, kind TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX answers_in_order ON answers (day, shown_id);
"""


#: What a note has that an entry has not.
_OF_NOTES = ("id", "shown", "redaction")


class Answer(NamedTuple):
    """One conversation as it is to be landed.

    :param shown_id: its id as it is shown: a redaction may have hashed it.
    :param day: UTC, on which it took place, as far as that is shown.
    :param kind: ``read``, ``listed`` (a row of the list) or ``gone`` (its id and time).
    :param body: redacted.
    """

    shown_id: str
    day: date | None
    kind: str
    body: Any


class Workspace:
    """The ledger as it is known to a run, the answers that it lands, and rows of the list that may be landed.

    A context manager. Nothing of it outlives the process, however that ends.
    """

    def __init__(self) -> None:
        # The file of an unnamed database has no name in the file system.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    # The ledger.

    def load(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in what a run has committed; of two runs that knew a conversation, the later one counts.

        :raises ValueError: a row is no entry.
        """
        for row in rows:
            self._put(*split_entry(row))

    def entry(self, conversation_id: str) -> Entry | None:
        found = self._db.execute("SELECT entry FROM entries WHERE id = ?", (conversation_id,)).fetchone()
        return None if found is None else Entry.from_text(found[0])

    def entries(self, *states: State) -> Iterator[tuple[str, Entry, bool]]:
        """Yield each entry with the id of its conversation, and whether that was listed by this run.

        :param states: only those in one of these, all if none is given.
        """
        of_states = "SELECT id, entry, listed FROM entries WHERE instr(?, ' ' || state || ' ') > 0 ORDER BY id"
        wanted = f" {' '.join(states or State)} "
        with closing(self._db.execute(of_states, (wanted,))) as rows:
            for conversation_id, entry, listed in rows:
                yield conversation_id, Entry.from_text(entry), bool(listed)

    def set_entry(self, conversation_id: str, entry: Entry) -> None:
        """Take in what this run has found out."""
        self._put(conversation_id, entry)
        self._db.execute("INSERT OR IGNORE INTO changes VALUES (?)", (conversation_id,))

    def changes(self) -> Iterator[dict[str, Any]]:
        """Yield what this run has changed, by id, in the form that :meth:`load` reads."""
        with closing(self._db.execute("SELECT id, entry FROM changes JOIN entries USING (id) ORDER BY id")) as rows:
            for conversation_id, entry in rows:
                yield {"id": conversation_id, **read_json(entry)}

    def has_changed(self, conversation_id: str) -> bool:
        """Tell whether this run has found out something new of a conversation."""
        return self._db.execute("SELECT 1 FROM changes WHERE id = ?", (conversation_id,)).fetchone() is not None

    def mark_listed(self, conversation_id: str) -> None:
        self._db.execute("UPDATE entries SET listed = 1 WHERE id = ?", (conversation_id,))

    def was_listed(self, conversation_id: str) -> bool:
        found = self._db.execute("SELECT listed FROM entries WHERE id = ?", (conversation_id,)).fetchone()
        return bool(found and found[0])

    def _put(self, conversation_id: str, entry: Entry) -> None:
        self._db.execute(
            "INSERT INTO entries (id, entry, changed_at, state) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET "
            "entry = excluded.entry, changed_at = excluded.changed_at, state = excluded.state "
            "WHERE excluded.changed_at >= changed_at",
            (conversation_id, entry.to_text(), entry.changed_at.timestamp(), entry.state),
        )

    # Rows of the list.

    def keep_list_row(self, conversation_id: str, body: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO list_rows VALUES (?, ?)", (conversation_id, json_text(body)))

    def list_row(self, conversation_id: str) -> Any:
        """Return the row that was kept of a conversation, None if none was."""
        found = self._db.execute("SELECT body FROM list_rows WHERE id = ?", (conversation_id,)).fetchone()
        return None if found is None else read_json(found[0])

    # Answers.

    def add_answer(self, answer: Answer) -> None:
        """Take in what is to be landed; of two answers on one conversation the later one counts."""
        self._db.execute(
            "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)",
            (answer.shown_id, _day_text(answer.day), answer.kind, json_text(answer.body)),
        )

    def days(self) -> list[date | None]:
        found = self._db.execute("SELECT DISTINCT day FROM answers ORDER BY day").fetchall()
        return [date.fromisoformat(day) if day else None for (day,) in found]

    def answers_of(self, day: date | None) -> Iterator[Answer]:
        """Yield the answers of a day in the order of their shown ids."""
        of_day = "SELECT shown_id, kind, body FROM answers WHERE day IS ? ORDER BY shown_id"
        with closing(self._db.execute(of_day, (_day_text(day),))) as rows:
            for shown_id, kind, body in rows:
                yield Answer(shown_id, day, kind, read_json(body))


def _day_text(day: date | None) -> str | None:
    return None if day is None else day.isoformat()


def split_entry(row: Mapping[str, Any]) -> tuple[str, Entry]:
    """Read a row of a ledger, or a note on an answer: the id of a conversation, and what is known of it.

    :raises ValueError: it is something else.
    """
    if not isinstance(row, Mapping) or not isinstance(row.get("id"), str):
        raise ValueError("no entry of a ledger")
    return row["id"], Entry.from_json({name: value for name, value in row.items() if name not in _OF_NOTES})
