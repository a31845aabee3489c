"""What an upload remembers of each call, in storage, so that it survives whatever ends the task.

Storage has no append, and a file of results that is written anew for each call costs too much. So there is a folder
beside the file, ``<name>.journal``, while an upload runs. A few calls at a time get a *record* there before the first
of them is sent; it says which calls come next, and what became of those before. Now and then the file of results is
written whole, and the records that it makes superfluous go.

What is found after a kill is read so: a result counts, a call that was to be sent and has none is in doubt, and a
record that is not whole JSON was not whole when the task died, so that nothing of it was sent.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from secrets import token_hex
from typing import Any, Literal, TypeAlias

from airflow_provider_dstny.api.errors import DstnyError, DstnyValidationError
from airflow_provider_dstny.storage import files_in, is_local, read_jsonl, remove_file, storage_path, write_jsonl

#: ``failed`` is tried again, ``ambiguous`` may have arrived, and ``invalid`` is a row that is no call.
State: TypeAlias = Literal["sent", "failed", "invalid", "ambiguous"]

_OWNER = "owner"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one row of the calls; no phone number is in it.

    :param row: its number, from 1.
    :param call_external_id: None of a row that is no call.
    """

    row: int
    call_external_id: str | None
    state: State
    conversation_id: str | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "call_external_id": self.call_external_id,
            "conversation_id": self.conversation_id,
            "state": self.state,
            "error": self.error,
            "row": self.row,
        }

    @classmethod
    def read(cls, row: Any) -> Result | None:
        """Read a row of the file back; None for one that is not of a call."""
        if not isinstance(row, dict) or "call_external_id" not in row or "state" not in row:
            return None
        external_id, conversation_id, error = (
            None if row.get(name) is None else str(row[name])
            for name in ("call_external_id", "conversation_id", "error")
        )
        number = row["row"] if isinstance(row.get("row"), int) else 0
        if external_id is None:
            return cls(number, None, "invalid", None, error) if row["state"] == "invalid" else None
        if conversation_id:
            return cls(number, external_id, "sent", conversation_id)
        # What is not understood may have been sent.
        return cls(number, external_id, "failed" if row["state"] == "failed" else "ambiguous", None, error)


@dataclass(frozen=True, slots=True)
class Intent:
    """A call that is about to be sent; ``day`` is the UTC day on which it began, where it is to be looked for."""

    row: int
    call_external_id: str
    day: date


class UploadJournal:
    """The file of results and the records beside it. Its methods block, to be used in a thread, but for :meth:`add`.

    Of two uploads that write to one file the later goes on; the earlier notices before it sends anything else.

    :param path: a ``.jsonl`` file in object storage.
    :raises DstnyValidationError: it has another ending, or nothing is installed for its scheme.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._target = storage_path(path)
        if self._target.suffix.lower() != ".jsonl":
            raise DstnyValidationError(None, f"results_path must end in .jsonl, and {path} does not.")
        self._folder = self._target.parent / f"{self._target.name}.journal"
        self._fs = self._target.fs
        self._token = token_hex(6)
        self._number = 0
        #: Per record the calls that it says come next.
        self._records: dict[str, frozenset[str]] = {}
        self._others: list[Any] = []
        self._unrecorded: list[Result] = []
        self._untried: dict[str, Result] = {}
        self._lock = threading.Lock()
        self._finished = False
        #: By ``call_external_id``, the latest of each call; of rows that are no calls, :attr:`invalid`.
        self.results: dict[str, Result] = {}
        self.invalid: list[Result] = []

    def recover(self) -> dict[str, Intent]:
        """Read what earlier uploads left; return the calls in doubt, which may have been sent.

        :raises DstnyValidationError: the path is a folder, or the file is not JSON Lines.
        """
        with self._lock:
            if is_local(self._folder):
                self._fs.makedirs(self._folder.path, exist_ok=True)
            # First of all: from here on an earlier upload that still runs finds that it is not its journal any more.
            self._write(_OWNER, self._token.encode())
            doubt, told = self._replay()
            # After the records, because an earlier upload removes these once the file has what they say.
            for row in read_jsonl(self.path):
                result = Result.read(row)
                if result is None:
                    self._others.append(row)
                elif result.call_external_id is not None:
                    self.results[result.call_external_id] = result
        for external_id, result in told.items():
            if self.results.get(external_id) is None or self.results[external_id].state != "sent":
                self.results[external_id] = result
        for external_id, intent in list(doubt.items()):
            known = self.results.get(external_id)
            if known is not None and known.state != "ambiguous":
                # The file is newer: before a failed call is tried again, its row is taken out.
                del doubt[external_id]
            else:
                self.results[external_id] = Result(intent.row, external_id, "ambiguous")
        return doubt

    def begin(self, again: Iterable[str]) -> None:
        """Write the file, without the failed calls that are tried again, and remove the records of earlier uploads.

        :raises OSError: the file cannot be written; nothing is to be sent.
        """
        failed = [one for one in again if one in self.results and self.results[one].state == "failed"]
        self._untried = {external_id: self.results.pop(external_id) for external_id in failed}
        with self._lock:
            self._write_all()

    def add(self, result: Result) -> None:
        """Take a result; it is written with the next record."""
        if result.call_external_id is not None:
            self.results[result.call_external_id] = result
            self._unrecorded.append(result)

    def take_unrecorded(self) -> list[Result]:
        """Return the results that no record has yet, to be given to :meth:`record`."""
        taken, self._unrecorded = self._unrecorded, []
        return taken

    def record(self, results: Iterable[Result], intents: Collection[Intent]) -> None:
        """Write what became of some calls, and which are sent next. Only then they may be.

        :raises DstnyError: another upload writes to this file.
        """
        content = {
            "results": [result.to_json() for result in results],
            "next": [[one.row, one.call_external_id, one.day.isoformat()] for one in intents],
        }
        with self._lock:
            if self._finished:
                # A thread goes on when what awaits it is cancelled.
                return
            self._number += 1
            name = f"{self._number:08}-{self._token}.json"
            self._records[name] = frozenset(one.call_external_id for one in intents)
            self._write(name, json.dumps(content).encode())
            # After the record, so that of two uploads at least one knows of the other.
            self._check_owner()

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the file as things stand, those of the calls in their order."""
        ours = sorted([*self.results.values(), *self.invalid], key=lambda result: result.row)
        return [*self._others, *(result.to_json() for result in ours)]

    def checkpoint(self, rows: list[dict[str, Any]]) -> None:
        """Write the file and remove the records that it makes superfluous.

        :raises DstnyError: another upload writes to this file.
        """
        with self._lock:
            self._replace_file(rows)
            there = {row["call_external_id"] for row in rows if isinstance(row, dict) and "call_external_id" in row}
            self._remove([name for name, ids in self._records.items() if ids <= there])

    def finish(self) -> None:
        """Write the file, to which all that was sent must have been added, and remove the journal.

        :raises DstnyError: another upload writes to this file.
        """
        with self._lock:
            self._finished = True
            # What an upload that ended early did not get to is as it was.
            self.results = {**self._untried, **self.results}
            self._write_all()
            with suppress(OSError):
                remove_file(self._folder / _OWNER)
                if is_local(self._folder):
                    # Only if it is empty. In an object store folders are not things.
                    self._fs.rmdir(self._folder.path)

    def _write_all(self) -> None:
        """Write the file with all that is known, and remove all records: what they say is known too."""
        self._replace_file(self.rows())
        self._remove(list(self._records))

    def _replace_file(self, rows: list[dict[str, Any]]) -> None:
        self._check_owner()
        write_jsonl(self.path, rows)
        # Again: the other may have read the file before, and needs the records.
        self._check_owner()

    def _replay(self) -> tuple[dict[str, Intent], dict[str, Result]]:
        """Read the records: which calls are in doubt, and what became of the others."""
        doubt: dict[str, Intent] = {}
        told: dict[str, Result] = {}
        for name in sorted(name for name in files_in(self._folder) if name.endswith(".json")):
            number = name.partition("-")[0]
            self._number = max(self._number, int(number) if number.isdecimal() else 0)
            try:
                content = json.loads(self._fs.cat_file((self._folder / name).path))
            except FileNotFoundError:
                # An earlier upload that still runs has just removed it.
                continue
            except ValueError:
                _log.info("The record %s is not whole: its calls were not sent", name)
                content = {"results": [], "next": []}
            for row in content["results"]:
                result = Result.read(row)
                if result is not None and result.call_external_id is not None:
                    doubt.pop(result.call_external_id, None)
                    told[result.call_external_id] = result
            intents = [
                Intent(row, str(external_id), date.fromisoformat(day)) for row, external_id, day in content["next"]
            ]
            self._records[name] = frozenset(one.call_external_id for one in intents)
            for intent in intents:
                told.pop(intent.call_external_id, None)
                doubt[intent.call_external_id] = intent
        return doubt, told

    def _check_owner(self) -> None:
        try:
            owner = self._fs.cat_file((self._folder / _OWNER).path)
        except FileNotFoundError:
            owner = b""
        if owner != self._token.encode():
            raise DstnyError(
                f"Another task writes to {self.path} too, so this one ends. Give each task a results_path of its own. "
                "A retry sends only what is missing, and looks for the calls that were on their way."
            )

    def _write(self, name: str, content: bytes) -> None:
        # Not moved into place like other files, which would cost three requests: a record that is cut is recognised.
        self._fs.pipe_file((self._folder / name).path, content)

    def _remove(self, names: list[str]) -> None:
        # One by one: what removes many takes names for patterns, and a folder may have any name.
        for name in names:
            remove_file(self._folder / name)
            del self._records[name]
