"""What a run saves on its way, and what an earlier try of the interval has saved.

A *part* has answers and notes. Once the notes are there, the answers need not be asked for again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import msgspec

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.times import iso_time
from airflow_provider_dstny.export.files import DataFile, Manifest
from airflow_provider_dstny.export.layout import Layout
from airflow_provider_dstny.export.ledger import Entry, Listed, Moment
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.windows import Window
from airflow_provider_dstny.landing.lake import Lake, Part
from airflow_provider_dstny.landing.workspace import Answer, Workspace, split_entry

#: A list that was read earlier is read again.
_LISTING_AGE = timedelta(hours=1)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found out about a conversation.

    :param answer: what is to be landed of it, None if nothing is new.
    :param failed: it could not be read.
    """

    conversation_id: str
    entry: Entry
    answer: Answer | None
    failed: bool = False


class _Listing(msgspec.Struct, frozen=True):
    """The first line of what was listed: the window, and when it was read; UTC."""

    window: Window
    read_at: Moment


class Parts:
    """The parts of one interval.

    :param landed_as: UTC, the end of the interval.
    """

    def __init__(
        self, lake: Lake, workspace: Workspace, layout: Layout, redaction: Redaction, landed_as: datetime
    ) -> None:
        self._lake = lake
        self._work = workspace
        self._layout = layout
        self._redaction = redaction
        self._rules = redaction.digest
        self._landed_as = landed_as
        self._files: dict[Part, DataFile | None] = {}
        self._last_part = 0

    @property
    def files(self) -> list[DataFile]:
        """The files of answers."""
        return [file for file in self._files.values() if file is not None]

    def resume(self, manifest: Manifest | None) -> None:
        """Take in what this interval has committed, and what an earlier try has saved."""
        committed = {file.path: file for file in manifest.files} if manifest else {}
        for path in sorted(path for path, file in committed.items() if file.table == "raw"):
            if not self._lake.has(path):
                raise DstnyValidationError(
                    None,
                    f"{path} is gone, of which the interval's tables are made: they stay as they are. To land it anew, "
                    "remove its manifest.",
                )
        found = 0
        for part in self._lake.parts():
            self._last_part = max(self._last_part, part.number)
            if (known := committed.get(self._lake.raw_path(part))) is not None:
                self._files[part] = known
                bodies = list(self._lake.answers(part))
                if manifest is not None and manifest.redaction != self._rules and part.kind != "gone":
                    bodies = self._redacted_again(bodies)
                    self._files[part] = self._lake.rewrite(part, bodies)
                for body in bodies:
                    self._work.add_answer(self.answer(part.kind, body))
            else:
                found += self._take_over(part)
        if found:
            _log.info("An earlier try has saved %d conversations: they are not read again", found)

    def _redacted_again(self, bodies: Sequence[Any]) -> list[Any]:
        """Return what was landed under other rules as it may be kept now."""
        if not self._redaction.can_be_repeated:
            raise DstnyValidationError(
                None,
                f"{self._lake.interval} was landed under another redaction, and hash and apply cannot be repeated on "
                "that: it stays as it is. To land it anew, remove its manifest.",
            )
        return [kept for body in bodies if (kept := self._redaction.redact_conversation(body)) is not None]

    def _take_over(self, part: Part) -> int:
        """Take in a part that was not committed, but for what other runs have found out since; return how much."""
        notes = self._notes(part)
        if notes is None:
            self._lake.drop(part)
            return 0
        answers = {
            answer.shown_id: answer for answer in (self.answer(part.kind, body) for body in self._lake.answers(part))
        }
        kept: list[dict[str, Any]] = []
        for note in notes:
            shown_id = note.get("shown")
            conversation_id, entry = split_entry(note)
            known = self._work.entry(conversation_id)
            if (known is None or known.changed_at < entry.changed_at) and (shown_id is None or shown_id in answers):
                self._work.set_entry(conversation_id, entry)
                kept.append(note)
        wanted = {note.get("shown") for note in kept}
        taken = [answer for shown_id, answer in answers.items() if shown_id in wanted]
        for answer in taken:
            self._work.add_answer(answer)
        if len(kept) < len(notes):
            self._files[part] = self._lake.save(part, [answer.body for answer in taken], kept)
        else:
            self._files[part] = self._lake.raw_file(part)
        return len(kept)

    def _notes(self, part: Part) -> list[Any] | None:
        """Return the notes of a part that may be taken over; None if it was cut off, or redacted by other rules."""
        try:
            notes = self._lake.notes(part)
            for note in notes or ():
                split_entry(note)
        except (DstnyValidationError, ValueError):
            return None
        if notes is None or any(note.get("redaction", self._rules) != self._rules for note in notes):
            return None
        return notes

    def save_listing(self, window: Window, now: datetime) -> None:
        """Save which conversations this try has listed.

        :param now: UTC, when it was.
        """
        listed = (Listed(one, entry.date, entry.version) for one, entry, is_listed in self._work.entries() if is_listed)
        self._lake.save_listing(msgspec.to_builtins(line) for line in chain([_Listing(window, now)], listed))

    def listing(self, window: Window, now: datetime) -> tuple[Window, list[Listed]] | None:
        """Return what an earlier try has listed, and of which window; None if that is too old or too little."""
        lines = self._lake.listing()
        try:
            told = msgspec.convert(next(lines, None), _Listing)
            listed = [msgspec.convert(line, Listed) for line in lines]
        except (DstnyValidationError, msgspec.ValidationError):
            return None
        is_new = timedelta(0) <= now - told.read_at < _LISTING_AGE
        is_enough = told.window.since <= window.since and told.window.is_sweep >= window.is_sweep
        return (told.window, listed) if is_new and is_enough else None

    def save(self, kind: str, found: Sequence[Found]) -> None:
        if not found:
            return
        as_of = self._landed_as
        found = [one if one.answer is None else replace(one, entry=one.entry.was_landed(as_of)) for one in found]
        self._last_part += 1
        part = Part(self._last_part, kind)
        notes = [
            {
                "id": one.conversation_id,
                **one.entry.to_json(),
                **({"shown": one.answer.shown_id, "redaction": self._rules} if one.answer is not None else {}),
            }
            for one in found
        ]
        answers = [one.answer for one in found if one.answer is not None]
        self._files[part] = self._lake.save(part, [answer.body for answer in answers], notes)
        for one in found:
            self._work.set_entry(one.conversation_id, one.entry)
        for answer in answers:
            self._work.add_answer(answer)

    def redacted(self, kind: str, body: dict[str, Any]) -> Answer | None:
        """Return what may be landed of an answer, None if nothing may."""
        kept = self._redaction.redact_conversation(body)
        return None if kept is None else self.answer(kind, kept)

    def answer(self, kind: str, body: Any) -> Answer:
        shown_id, moment = self._layout.conversation_id(body), self._layout.occurred_at(body)
        if shown_id is None:
            raise DstnyValidationError(None, "redaction: apply must leave the id of a conversation where it is.")
        return Answer(shown_id, moment.date() if moment else None, kind, body)

    def tombstone(self, conversation_id: str, date: datetime) -> Answer:
        """Return what is landed of a conversation that was deleted: its id and time."""
        body: dict[str, Any] = {}
        for column, value in ((self._layout.id_column, conversation_id), (self._layout.time_column, iso_time(date))):
            place = body
            for name in column.sources[0][:-1]:
                place = place.setdefault(name, {})
            place[column.sources[0][-1]] = value
        return self.answer("gone", self._redaction.redact(body))
