"""The folder in object storage into which conversations are landed, and how a run commits what it wrote.

::

    <table>/date=<day>/<interval>.<format>         curated rows
    raw/conversations/<interval>/00001-read.jsonl  what the API said, redacted
    _dstny/manifests/<interval>.json               written last: it commits the interval
    _dstny/ledger/<interval>-<hash>.jsonl          what the interval found out about conversations
    _dstny/snapshots/<hash>.jsonl                  all ledgers in one file, so that a run need not read each
    _dstny/unfinished/<interval>/…                 how far a run has come that has not committed
    _dstny/partial/…                               files that are being written

A run saves its answers in *parts*, a file of answers and then one of entries, which a later try finds again. Nothing
that another interval has written is ever changed. Of two runs of one interval at a time the later goes on; the earlier
notices before it writes anything else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from secrets import token_hex
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_provider_dstny.api.errors import DstnyError, DstnyValidationError
from airflow_provider_dstny.api.reading import read_json
from airflow_provider_dstny.api.times import utc_time
from airflow_provider_dstny.export.files import DataFile, Manifest, json_lines
from airflow_provider_dstny.export.ledger import State
from airflow_provider_dstny.landing.workspace import Workspace
from airflow_provider_dstny.storage import (
    PartialFile,
    exists,
    files_in,
    read_bytes,
    remove_file,
    remove_folder,
    remove_leftovers,
    storage_folder,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

_HOME = "_dstny"
_LISTING = "listing.jsonl"
_OWNER = "owner"
_PART = re.compile(r"(\d{5,})-(read|listed|gone)\.jsonl")
#: So many ledgers are read one by one before they are put together.
_LEDGERS = 24
#: What storages tell of a file that changes with it.
_TELLING = ("ETag", "etag", "generation", "md5Hash", "mtime", "ino", "created")
#: Bytes that are copied at a time.
_PIECE = 1 << 20
#: A parallel run may put together the ledgers that this one is reading.
_ATTEMPTS = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """Answers that were saved together; ``kind`` says what of."""

    number: int
    kind: str

    @property
    def name(self) -> str:
        return f"{self.number:05d}-{self.kind}.jsonl"


@dataclass
class Past:
    """What all runs before have committed.

    :param manifest: of this interval, if it was committed before.
    :param swept_until: UTC, until when the whole list was read the last time.
    :param snapshots_of: the days of which the directory was landed.
    :param formats: of the tables that other intervals have landed.
    """

    manifest: Manifest | None = None
    swept_until: datetime | None = None
    listed_until: datetime | None = None
    snapshots_of: set[str] = field(default_factory=set)
    formats: set[str] = field(default_factory=set)
    #: Manifests that were read, by name, with what tells one version of a file from another.
    covered: dict[str, str] = field(default_factory=dict)
    snapshots: list[str] = field(default_factory=list)
    ledgers_read: int = 0

    def take_in(self, swept_until: str | None, listed_until: str | None, snapshots_of: Iterable[str]) -> None:
        if (moment := utc_time(swept_until)) is not None:
            self.swept_until = max(moment, self.swept_until or moment)
        if (moment := utc_time(listed_until)) is not None:
            self.listed_until = max(moment, self.listed_until or moment)
        self.snapshots_of.update(snapshots_of)


class Lake:
    """One interval's view of the folder. Blocking.

    :param path: the folder; it need not exist.
    :param interval: the name of the interval.
    :raises DstnyValidationError: the path is a file, or nothing is installed for its scheme.
    """

    def __init__(self, path: str | ObjectStoragePath, interval: str) -> None:
        self.root = storage_folder(path)
        self._partial = self.root / _HOME / "partial"
        remove_leftovers(self._partial)
        self.interval = interval
        self._raw = f"raw/conversations/{interval}"
        self._unfinished = f"{_HOME}/unfinished/{interval}"
        self._manifest = f"{_HOME}/manifests/{interval}.json"
        self._token: bytes | None = None

    def take_over(self) -> None:
        """Make the interval this run's own; what writes raises :class:`DstnyError` once another has taken it over."""
        self._token = token_hex(6).encode()
        self._write(f"{self._unfinished}/{_OWNER}", [self._token])

    @property
    def manifest_path(self) -> str:
        return str(self.root / self._manifest)

    # What was committed.

    def load(self, workspace: Workspace) -> Past:
        """Put all ledgers into the workspace.

        :raises DstnyValidationError: something in the folder is not what this package has written.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._load(workspace)
            except FileNotFoundError:
                if attempt == _ATTEMPTS:
                    raise
                _log.info("Another run has just put ledgers together: reading them again")
        raise AssertionError

    def _load(self, workspace: Workspace) -> Past:
        past = Past()
        for name in self._names(f"{_HOME}/snapshots"):
            path = f"{_HOME}/snapshots/{name}"
            past.snapshots.append(path)
            if not self._is_whole(path):
                _log.warning("%s was changed or cut off: the manifests are read instead", self.root / path)
                continue
            lines = self._lines(path)
            head: dict[str, Any] = next(lines, {})
            past.covered |= head.get("covers", {})
            past.take_in(head.get("swept_until"), head.get("listed_until"), head.get("snapshots_of", ()))
            past.formats.update(head.get("formats", ()))
            self._take_ledger(path, lines, workspace)
        stamps = self._stamps(f"{_HOME}/manifests")
        for name, stamp in stamps.items():
            if past.covered.get(name) == stamp and f"{_HOME}/manifests/{name}" != self._manifest:
                continue
            manifest = self._read_manifest(f"{_HOME}/manifests/{name}")
            past.take_in(
                manifest.swept_until, manifest.listed_until, [manifest.snapshot_of] if manifest.snapshot_of else ()
            )
            self._take_ledger(manifest.ledger, self._lines(manifest.ledger), workspace)
            past.ledgers_read += 1
            if f"{_HOME}/manifests/{name}" == self._manifest:
                past.manifest = manifest
            elif manifest.file_format is not None:
                past.formats.add(manifest.file_format)
        past.covered = stamps
        return past

    def _take_ledger(self, path: str, rows: Iterable[Any], workspace: Workspace) -> None:
        try:
            workspace.load(rows)
        except ValueError:
            problem = f"{self.root / path} is no ledger of this package: it was changed, or cut off."
        else:
            return
        raise DstnyValidationError(None, problem)

    def _read_manifest(self, path: str) -> Manifest:
        try:
            return Manifest.from_json(read_bytes(self.root / path))
        except DstnyValidationError as error:
            raise DstnyValidationError(None, f"{self.root / path}: {error.message}") from None

    # How far an earlier try has come.

    def parts(self) -> list[Part]:
        """Return the parts of the interval, committed or not, in the order in which they were saved."""
        names = [*self._names(self._raw), *self._names(self._unfinished)]
        found = {Part(int(match[1]), match[2]) for name in names if (match := _PART.fullmatch(name))}
        return sorted(found, key=lambda part: part.number)

    def answers(self, part: Part) -> Iterator[Any]:
        """Yield the answers of a part."""
        path = self.raw_path(part)
        return self._lines(path) if exists(self.root / path) else iter(())

    def listing(self) -> Iterator[Any]:
        """Yield what :meth:`save_listing` saved, nothing if nothing was."""
        path = f"{self._unfinished}/{_LISTING}"
        return self._lines(path) if exists(self.root / path) else iter(())

    def save_listing(self, lines: Iterable[Any]) -> None:
        """Save what a try has read of the list."""
        self._check_owner()
        self._write(f"{self._unfinished}/{_LISTING}", json_lines(lines))

    def has(self, path: str) -> bool:
        return exists(self.root / path)

    def notes(self, part: Part) -> list[Any] | None:
        """Return what was noted with a part that is not committed; None if it was cut off before."""
        path = f"{self._unfinished}/{part.name}"
        return list(self._lines(path)) if exists(self.root / path) else None

    def raw_path(self, part: Part) -> str:
        return f"{self._raw}/{part.name}"

    def save(self, part: Part, answers: Sequence[Any], notes: Sequence[Mapping[str, Any]]) -> DataFile | None:
        """Save answers, and then the notes that make them count; describe the file of answers if there is one."""
        self._check_owner()
        file = self.rewrite(part, answers)
        self._write(f"{self._unfinished}/{part.name}", json_lines(notes))
        return file

    def rewrite(self, part: Part, answers: Sequence[Any]) -> DataFile | None:
        """Replace the answers of a part; describe the file if there is one."""
        if not answers:
            self._remove(self.raw_path(part))
            return None
        content = b"".join(json_lines(answers))
        self._write(self.raw_path(part), [content])
        return _described(self.raw_path(part), content)

    def drop(self, part: Part) -> None:
        """Remove what was cut off."""
        self._remove(self.raw_path(part))
        self._remove(f"{self._unfinished}/{part.name}")

    def raw_file(self, part: Part) -> DataFile | None:
        """Describe the answers of a part, None if it has none."""
        path = self.raw_path(part)
        if not exists(self.root / path):
            return None
        with self._open(path) as file:
            content = file.read()
        return _described(path, content)

    # Writing and committing.

    def announce(self, paths: Sequence[str]) -> None:
        """Say which curated files are about to be written, so that a later try can remove what it does not want."""
        self._check_owner()
        # What an earlier try announced may be there, whatever this one is going to write.
        self._write(f"{self._unfinished}/files.json", [json.dumps(sorted({*self.announced(), *paths})).encode()])

    def announced(self) -> list[str]:
        """Return what a try announced that has not committed."""
        try:
            return [str(path) for path in json.loads(read_bytes(self.root / self._unfinished / "files.json"))]
        except (FileNotFoundError, ValueError, TypeError):
            return []

    def put(self, path: str, table: str, rows: int, local: BinaryIO) -> DataFile:
        """Write what stands in a local file, and describe it."""
        self._check_owner()
        size = local.seek(0, 2)
        digest = self._copy(path, local)
        return DataFile(path, table, rows, digest, size)

    def commit(self, manifest: Callable[[str], Manifest], workspace: Workspace, before: Manifest | None) -> Manifest:
        """Write the ledger of the interval, then its manifest, and tidy up.

        :param manifest: makes the manifest once the path of the ledger is known.
        :param before: the manifest that it replaces.
        """
        with TemporaryFile() as local:
            local.writelines(json_lines(self._all_changes(workspace, before)))
            ledger = f"{_HOME}/ledger/{self.interval}-{digest_of(local)[:16]}.jsonl"
            self._copy(ledger, local)
        self._check_owner()
        made = manifest(ledger)
        kept = {file.path for file in made.files}
        # Nothing refers to what was announced and not committed.
        announced = {*self.announced()} - {file.path for file in (before.files if before else ())}
        for path in sorted(announced - kept):
            self._remove(path)
        self._write(self._manifest, [made.to_json().encode()])
        for path in sorted({*self.announced()} - kept):
            self._remove(path)
        for name in self._names(f"{_HOME}/ledger"):
            if name.startswith(f"{self.interval}-") and f"{_HOME}/ledger/{name}" != ledger:
                self._remove(f"{_HOME}/ledger/{name}")
        self.tidy_up()
        return made

    def tidy_up(self) -> None:
        """Remove what only served until the commit."""
        remove_folder(self.root / self._unfinished)

    def put_together(self, past: Past, workspace: Workspace, *, since: datetime | None) -> None:
        """Put all ledgers into one file if they have become many.

        :param since: UTC, what took place before is left out, because no list will show it again; what was erased
            stays, because repeating an old interval would read it again.
        """
        if past.ledgers_read < _LEDGERS:
            return
        head = {
            "covers": past.covered,
            "swept_until": past.swept_until.isoformat() if past.swept_until else None,
            "listed_until": past.listed_until.isoformat() if past.listed_until else None,
            "snapshots_of": sorted(past.snapshots_of)[-7:],
            "formats": sorted(past.formats),
        }
        rows = (
            {"id": conversation_id, **entry.to_json()}
            for conversation_id, entry, _ in workspace.entries()
            if since is None or entry.date >= since or entry.state is State.ERASED
        )
        with TemporaryFile() as local:
            local.writelines(json_lines([head]))
            local.writelines(json_lines(rows))
            path = f"{_HOME}/snapshots/{digest_of(local)[:16]}.jsonl"
            self._copy(path, local)
        for old in past.snapshots:
            if old != path:
                self._remove(old)

    def _all_changes(self, workspace: Workspace, before: Manifest | None) -> Iterator[Mapping[str, Any]]:
        """Yield what the interval has found out, in this run and in earlier ones."""
        yield from workspace.changes()
        if before is not None:
            yield from (row for row in self._lines(before.ledger) if not workspace.has_changed(row["id"]))

    def _check_owner(self) -> None:
        if self._token is None:
            return
        try:
            owner = read_bytes(self.root / self._unfinished / _OWNER)
        except FileNotFoundError:
            owner = b""
        if owner != self._token:
            raise DstnyError(
                f"Another task lands the interval {self.interval} in {self.root} too, so this one ends. Let them "
                "follow each other: max_active_runs=1 for runs, max_active_tis_per_dag=1 in .partial() for mapped "
                "tasks. A retry goes on where the interval then is."
            )

    # Files.

    def _open(self, path: str) -> Any:
        target = self.root / path
        return target.fs.open(target.path, "rb")

    def _write(self, path: str, pieces: Iterable[bytes]) -> None:
        target = self.root / path
        # In one folder, so that what a killed task has left is found.
        with PartialFile(target.parent, target.name, self._partial) as file:
            for piece in pieces:
                file.write(piece)
            file.keep_as(target.name)

    def _copy(self, path: str, local: BinaryIO) -> str:
        """Write what stands in a local file; return its SHA-256, hex."""
        digest = digest_of(local)
        local.seek(0)
        self._write(path, iter(lambda: local.read(_PIECE), b""))
        return digest

    def _is_whole(self, path: str) -> bool:
        """Tell whether a file has the content that its name stands for."""
        with self._open(path) as file:
            return digest_of(file)[:16] == path.rpartition("/")[2].partition(".")[0]

    def _remove(self, path: str) -> None:
        remove_file(self.root / path)

    def _lines(self, path: str) -> Iterator[Any]:
        try:
            with self._open(path) as file:
                for line in file:
                    yield read_json(line)
        except (ValueError, RecursionError):
            problem = f"{self.root / path} is not JSON Lines: it was changed, or cut off."
        else:
            return
        # Raised here, because those errors carry the text of the file.
        raise DstnyValidationError(None, problem)

    def _names(self, folder: str) -> list[str]:
        return sorted(self._stamps(folder))

    def _stamps(self, folder: str) -> dict[str, str]:
        """Return the files in a folder, each with what tells one version of it from another."""
        return {name: _stamp(info) for name, info in files_in(self.root / folder).items() if not name.startswith(".")}


def _stamp(info: Mapping[str, Any]) -> str:
    told = {name: str(info[name]) for name in _TELLING if info.get(name) is not None}
    # Where nothing but the size is told, each looks new.
    return json.dumps({"size": info.get("size"), **told} if told else token_hex(8), sort_keys=True)


def _described(path: str, content: bytes) -> DataFile:
    return DataFile(path, "raw", content.count(b"\n"), hashlib.sha256(content).hexdigest(), len(content))


def digest_of(local: BinaryIO) -> str:
    """Return the SHA-256 of a file, hex."""
    local.seek(0)
    digest = hashlib.sha256()
    while piece := local.read(_PIECE):
        digest.update(piece)
    return digest.hexdigest()
