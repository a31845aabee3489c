"""Takes a person out of a lake: conversations with all that was landed of them, and rows of the directory.

What is to be erased is committed first, as entries of the ledger. Then files are rewritten, and the manifest of each
interval after its files. A run that was killed has left the names of the files that it meant to change, so that the
next one finds whose manifests are behind.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.export.files import DataFile, Manifest, TableFile, json_lines
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.export.ledger import Entry, State
from airflow_provider_dstny.export.tables import Column, Table, Type, arrow_types, import_pyarrow, json_text, row_text
from airflow_provider_dstny.landing.curated import DIRECTORY
from airflow_provider_dstny.landing.lake import Lake, digest_of
from airflow_provider_dstny.landing.people import GONE, HASH_LENGTH, Person
from airflow_provider_dstny.landing.workspace import Workspace
from airflow_provider_dstny.storage import read_bytes, remove_folder

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

_CONVERSATION_TABLES = {table.name for layout in LAYOUTS.values() for table in layout.conversation_tables}
_DIRECTORY_TABLES = {table.name for layout in LAYOUTS.values() for table in layout.directory_tables}
#: Of these a row is a person.
_TABLES_OF_PEOPLE = frozenset({"users", "team_members"})
_NAME = r"[^/._][^/]*"
_TABLE_FILE = re.compile(rf"(?P<table>[a-z_]+)/date=[^/]+/{_NAME}\.(?:jsonl|parquet)")
_RAW_FILE = re.compile(rf"raw/(?P<kind>conversations/[^/]+|directory)/{_NAME}\.jsonl")
_NOTES = re.compile(r"_dstny/unfinished/[^/]+/\d+-[a-z]+\.jsonl")
_INTENDED = re.compile(r"_dstny/unfinished/erased-[^/]+/files\.json")
_HASH = re.compile(rf"[0-9a-f]{{{HASH_LENGTH}}}")
_BATCH = 1_000
_COUNTS = ("conversations", "files_rewritten", "files_removed", "rows_removed", "directory_rows_removed")

_TABLES = """
CREATE TABLE files (path TEXT PRIMARY KEY, named_by TEXT, todo INT NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE seen (shown_id TEXT, path TEXT, PRIMARY KEY (shown_id, path)) WITHOUT ROWID;
CREATE TABLE found (shown_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE aliases (shown_id TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX aliases_by_id ON aliases (id);
CREATE TABLE erased (shown_id TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID;
"""

_log = logging.getLogger(__name__)


def erase(
    path: str | ObjectStoragePath,
    *,
    email: str | None = None,
    participant: str | None = None,
    salt: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Erase a person from a lake of ``DstnyToObjectStorageOperator``. Blocking; reads the whole lake.

    Every conversation that shows the person, in any version that was landed, is erased with all its answers and rows,
    and is never landed again. From the directory, the person's rows and objects go. Case, and white space around or
    between words, do not matter; parts of a value are not compared, so that ``ann@example.com`` is not found in
    ``joann@example.com``, nor anybody in what others say about them. Namesakes are taken for the same person.

    No export or other erasure may run on the lake meanwhile: files that they are writing would be removed. If it was
    killed, run it again with the same argument; doing so twice does no harm. Run it again, too, when the person may
    have been landed anew, in a conversation that came later. Copies are not reached: versions that a bucket keeps,
    backups, tables that others have filled from the lake, and the conversation at Dstny itself.

    :param path: the folder of the lake.
    :param email: an address. It is found as a value of any field, and a user whom it leads to in the directory also by
        the id, as owner of a conversation.
    :param participant: a whole name, of a participant, a user, an owner, an organizer or a speaker.
    :param salt: of the redaction by which the lake was written, if it has hashed names, addresses or ids. A hash is
        found if what the API said was written as it is given here, or in lower case; not that of a whole object.
    :param dry_run: only count; nothing is changed.
    :return: how many ``conversations`` were erased, ``files_rewritten`` and ``files_removed``, ``rows_removed`` (raw
        answers included), and ``directory_rows_removed`` (objects of raw answers included).
    :raises DstnyValidationError: an argument is wrong, the folder is no lake, a file of it cannot be read, pyarrow is
        needed and not installed, or ids are hashed and there is no salt. Nothing was changed.
    :raises OSError: the storage failed; run it again.
    """
    person = Person(email, participant, salt)
    now = datetime.now(UTC)
    lake = _Lake(path, f"erased-{now:%Y%m%dT%H%M%S.%f}Z")
    with Workspace() as ledger, _Index() as index:
        return _Erasure(lake, person, ledger, index, now, dry_run=dry_run).run()


class _Lake(Lake):
    """The folder, all intervals of it."""

    def paths(self) -> Iterator[str]:
        """Yield every file, hidden ones too, of the folders that this package writes to."""
        # As the storage names its files: on this machine, from the root.
        prefix = self.root.fs._strip_protocol(self.root.path).rstrip("/") + "/"
        for folder in ("_dstny", "raw", *sorted(_CONVERSATION_TABLES | _DIRECTORY_TABLES)):
            for path in self.root.fs.find(prefix + folder):
                yield path.removeprefix(prefix)

    def manifest_of(self, interval: str) -> Manifest:
        return self._read_manifest(_manifest_path(interval))

    def replace(self, manifest: Manifest) -> None:
        self._write(_manifest_path(manifest.interval), [manifest.to_json().encode()])

    def load_all(self, ledger: Workspace) -> Iterator[Manifest]:
        """Take in every ledger, those that a snapshot covers too, and yield the manifests."""
        for name in self._names("_dstny/manifests"):
            manifest = self._read_manifest(f"_dstny/manifests/{name}")
            self._take_ledger(manifest.ledger, self._lines(manifest.ledger), ledger)
            yield manifest

    def load_notes(self, path: str, ledger: Workspace) -> Iterator[tuple[str, str]]:
        """Take in what was noted and not committed; yield shown ids, each with the id it stands for."""
        notes = [note if isinstance(note, dict) else {} for note in self._lines(path)]
        self._take_ledger(path, notes, ledger)
        for note in notes:
            if isinstance(note.get("shown"), str):
                yield note["shown"], note["id"]

    def intended(self, path: str) -> list[str]:
        """Return the files that a run which was killed meant to change."""
        try:
            return [str(one) for one in json.loads(read_bytes(self.root / path))]
        except (ValueError, TypeError):
            problem = f"{self.root / path} is not JSON: it was changed, or cut off."
        raise DstnyValidationError(None, problem)

    def remove(self, path: str) -> None:
        self._remove(path)

    def rows(self, path: str) -> Iterator[tuple[Any, bytes]]:
        """Yield each row of a file, of JSON Lines with its line."""
        try:
            with self._open(path) as file:
                if path.endswith(".parquet"):
                    for batch in _parquet_file(file).iter_batches(batch_size=_BATCH):
                        for row in batch.to_pylist():
                            yield row, b""
                else:
                    for line in file:
                        yield json.loads(line), line
        except (ValueError, RecursionError):
            problem = f"{self.root / path} cannot be read: it was changed, or cut off."
        else:
            return
        # Raised here, because those errors carry the text of the file.
        raise DstnyValidationError(None, problem)

    def table(self, path: str) -> Table:
        """Return the table that a Parquet file is of, whichever release has written it."""
        with self._open(path) as file:
            schema = _parquet_file(file).schema_arrow
        table = Table(path.partition("/")[0], (), ())
        last = {column.name for column in table.columns}
        known = {kind: type_ for type_, kind in arrow_types().items()}
        types = {name: known.get(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
        fields = tuple(Column(name, kind) for name, kind in types.items() if kind is not None and name not in last)
        table = replace(table, fields=fields)
        if table.arrow_schema() != schema:
            raise DstnyValidationError(None, f"{self.root / path} has columns that this package does not write.")
        return table

    def described(self, path: str, table: str, rows: int) -> DataFile:
        """Describe a file as it stands."""
        with self._open(path) as file:
            # In this order: the file is read to its end.
            return DataFile(path, table, rows, sha256=digest_of(file), bytes=file.tell())


class _Index:
    """Which file has which conversation, on the local disk. A context manager."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = OFF")
        self._db.execute("PRAGMA synchronous = OFF")
        self._db.executescript(_TABLES)

    def __enter__(self) -> _Index:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def put(self, statement: str, *values: Any) -> None:
        self._db.execute(statement, values)

    def get(self, query: str, *values: Any) -> Iterator[Any]:
        with closing(self._db.execute(query, values)) as rows:
            yield from rows

    def column(self, query: str, *values: Any) -> list[str]:
        return [value for (value,) in self.get(query, *values)]


class _Erasure:
    """One run."""

    def __init__(
        self, lake: _Lake, person: Person, ledger: Workspace, index: _Index, now: datetime, *, dry_run: bool
    ) -> None:
        self._lake, self._person, self._ledger, self._index = lake, person, ledger, index
        self._now, self._dry_run = now, dry_run
        self._counts: Counter[str] = Counter(dict.fromkeys(_COUNTS, 0))
        #: The last id, and whether its conversation is to be erased.
        self._asked: tuple[str | None, bool] = (None, False)
        self._leftovers: list[str] = []
        #: What runs before that were killed have left.
        self._unfinished: list[str] = []

    def run(self) -> dict[str, Any]:
        notes = self._list_files()
        self._load(notes)
        paths = self._index.column("SELECT path FROM files ORDER BY path")
        for path in filter(_is_directory, paths):
            for parts, is_likely in self._parts(path):
                for part in parts if is_likely else ():
                    self._person.learn_ids(part, _table_of(path))
        for path in paths:
            self._look_into(path)
        self._decide()
        todo = self._index.column("SELECT path FROM files WHERE todo ORDER BY path")
        for path in todo:
            if path.endswith(".parquet") and self._lake.has(path):
                self._lake.table(path)
        # Until here, nothing was changed.
        self._mark()
        if todo and not self._dry_run:
            self._lake.announce(todo)
        self._rewrite_all()
        if not self._dry_run:
            for path in self._leftovers:
                self._lake.remove(path)
            self._lake.tidy_up()
            for path in self._unfinished:
                remove_folder(self._lake.root / path.rpartition("/")[0])
        counts = {name: self._counts[name] for name in _COUNTS}
        _log.info("%s: %s", "Would be erased" if self._dry_run else "Erased", counts)
        return counts

    # Looking.

    def _list_files(self) -> list[str]:
        notes, is_lake = [], False
        for path in self._lake.paths():
            name = path.rpartition("/")[2]
            is_lake = is_lake or path.startswith(("_dstny/manifests/", "_dstny/unfinished/"))
            if name.startswith(".") and name.endswith(".partial"):
                self._leftovers.append(path)
            elif _NOTES.fullmatch(path):
                notes.append(path)
            elif _INTENDED.fullmatch(path):
                self._unfinished.append(path)
            elif _is_conversations(path) or _is_directory(path):
                self._index.put("INSERT INTO files (path) VALUES (?)", path)
        if not is_lake:
            raise DstnyValidationError(None, f"{self._lake.root} is no lake: no export has written to it.")
        return notes

    def _load(self, notes: Iterable[str]) -> None:
        for path in (one for run in self._unfinished for one in self._lake.intended(run)):
            # One that is not there any more is still to be taken out of its manifest.
            self._index.put("INSERT OR REPLACE INTO files (path, todo) VALUES (?, 1)", path)
        for manifest in self._lake.load_all(self._ledger):
            for file in manifest.files:
                self._index.put("UPDATE files SET named_by = ? WHERE path = ?", manifest.interval, file.path)
        for path in notes:
            for shown_id, conversation_id in self._lake.load_notes(path, self._ledger):
                self._index.put("INSERT OR IGNORE INTO aliases VALUES (?, ?)", shown_id, conversation_id)
        for conversation_id, _, _ in self._ledger.entries():
            self._index.put("INSERT OR REPLACE INTO aliases VALUES (?, ?)", conversation_id, conversation_id)
            if self._person.has_salt:
                hashed = self._person.hashed(conversation_id)
                self._index.put("INSERT OR IGNORE INTO aliases VALUES (?, ?)", hashed, conversation_id)

    def _parts(self, path: str) -> Iterator[tuple[list[Any], bool]]:
        """Yield the rows or answers of a file, with whether they are worth a closer look."""
        for row, line in self._lake.rows(path) if self._lake.has(path) else ():
            yield _parts(row, _table_of(path)), not line or self._person.may_be_in(line)

    def _look_into(self, path: str) -> None:
        """Note which conversations a file has, and whether it shows the person."""
        table, is_directory, last = _table_of(path), _is_directory(path), None
        for parts, is_likely in self._parts(path):
            shown_id = None if is_directory else _shown_id(parts[0], table)
            if is_likely and self._person.is_shown(parts, table):
                if shown_id is not None:
                    self._index.put("INSERT OR IGNORE INTO found VALUES (?)", shown_id)
                else:
                    self._index.put("UPDATE files SET todo = 1 WHERE path = ?", path)
            if shown_id is not None and shown_id != last:
                self._index.put("INSERT OR IGNORE INTO seen VALUES (?, ?)", shown_id, path)
                last = shown_id

    # Deciding.

    def _decide(self) -> None:
        """Say what is to be erased: what was found, and what an earlier run has marked."""
        unknown = self._index.column("SELECT shown_id FROM found WHERE shown_id NOT IN (SELECT shown_id FROM aliases)")
        if any(_HASH.fullmatch(shown_id) for shown_id in unknown):
            if not self._person.has_salt:
                raise DstnyValidationError(
                    None,
                    "The ids of conversations are hashed: without the salt of the redaction, nothing would keep the "
                    "next export from landing them again. Nothing was changed.",
                )
            _log.warning("Conversations have hashed ids that the salt does not lead to: they may be landed again")
        for shown_id in unknown:
            self._index.put("INSERT INTO aliases VALUES (?, ?)", shown_id, shown_id)
        found = "SELECT DISTINCT id FROM found JOIN aliases USING (shown_id)"
        marked = [one for one, entry, _ in self._ledger.entries() if entry.state is State.ERASED]
        for conversation_id in {*self._index.column(found), *marked}:
            self._index.put("INSERT INTO erased SELECT shown_id, id FROM aliases WHERE id = ?", conversation_id)
        self._index.put("UPDATE files SET todo = 1 WHERE path IN (SELECT path FROM seen JOIN erased USING (shown_id))")
        (conversations,) = self._index.column("SELECT count(DISTINCT id) FROM seen JOIN erased USING (shown_id)")
        self._counts["conversations"] = int(conversations)

    def _mark(self) -> None:
        """Commit that the conversations are erased, so that no run lands them again."""
        marked = 0
        for conversation_id in self._index.column("SELECT DISTINCT id FROM erased"):
            entry = self._ledger.entry(conversation_id)
            if entry is None:
                entry = Entry(State.NEW, self._now, "", first_seen=self._now, changed_at=self._now)
            if entry.state is not State.ERASED:
                self._ledger.set_entry(conversation_id, entry.is_erased(self._now))
                marked += 1
        if marked and not self._dry_run:

            def manifest(ledger: str) -> Manifest:
                return Manifest(
                    interval=self._lake.interval,
                    files=(),
                    counts={"erased": marked},
                    requests=0,
                    ledger=ledger,
                    redaction="",
                )

            self._lake.commit(manifest, self._ledger, None)

    # Rewriting.

    def _rewrite_all(self) -> None:
        for path in self._index.column("SELECT path FROM files WHERE todo AND named_by IS NULL ORDER BY path"):
            if self._rewrite(path) is None:
                self._remove([path])
        intervals = "SELECT DISTINCT named_by FROM files WHERE todo AND named_by IS NOT NULL ORDER BY named_by"
        for interval in self._index.column(intervals):
            self._rewrite_interval(interval)

    def _rewrite_interval(self, interval: str) -> None:
        before = self._lake.manifest_of(interval)
        todo = {*self._index.column("SELECT path FROM files WHERE todo AND named_by = ?", interval)}
        files: dict[str, DataFile | None] = {file.path: file for file in before.files}
        # What the directory said tells the person's ids, which its tables may have nothing else of.
        for file in sorted(before.files, key=lambda file: file.table == DIRECTORY):
            if file.path in todo:
                files[file.path] = self._rewrite(file.path, file.table)
        after = replace(before, files=tuple(file for file in files.values() if file is not None))
        if after != before and not self._dry_run:
            self._lake.replace(after)
        # A manifest never names what is not there.
        self._remove([path for path, file in files.items() if file is None])

    def _remove(self, paths: Iterable[str]) -> None:
        if not self._dry_run:
            for path in paths:
                self._lake.remove(path)

    def _rewrite(self, path: str, name: str = "") -> DataFile | None:
        """Rewrite a file and describe it; None if nothing is left of it, or it is not there.

        :param name: of its table, as the manifest has it.
        """
        table, is_directory = _table_of(path), _is_directory(path)
        if not self._lake.has(path):
            return None
        changed = False
        left_of = self._left_of_directory if is_directory else self._left_of_conversations
        with TemporaryFile() as local:
            kept = _Copy(self._lake, path, local)
            for row, line in self._lake.rows(path):
                left = left_of(row, table)
                changed = changed or left is not row
                if left is not GONE:
                    kept.add(left, line if left is row else b"")
                else:
                    self._counts["directory_rows_removed" if is_directory else "rows_removed"] += 1
            kept.finish()
            if not changed:
                # A run that was killed has come so far, but perhaps not to the manifest.
                return self._lake.described(path, name, kept.rows)
            if not kept.rows:
                self._counts["files_removed"] += 1
                return None
            self._counts["files_rewritten"] += 1
            if self._dry_run:
                return DataFile(path, name, kept.rows, sha256="", bytes=0)
            return self._lake.put(path, name, kept.rows, local)

    def _left_of_conversations(self, row: Any, table: str) -> Any:
        """Return a row, or ``GONE``."""
        shown_id = _shown_id(row, table)
        if shown_id is None:
            return GONE if self._person.is_shown(_parts(row, table), table) else row
        if shown_id != self._asked[0]:
            # The rows of a conversation follow each other.
            self._asked = shown_id, bool(self._index.column("SELECT 1 FROM erased WHERE shown_id = ?", shown_id))
        return GONE if self._asked[1] else row

    def _left_of_directory(self, row: Any, table: str) -> Any:
        """Return a row or an answer, another one if the person was in it, or ``GONE``."""
        parts = _parts(row, table)
        if not self._person.is_shown(parts, table):
            return row
        if table in _TABLES_OF_PEOPLE and any(self._person.is_shown(part, table, own=True) for part in parts):
            return GONE
        left = [self._person.left_of(part, table, self._counts) for part in parts]
        return _row_of(row, left) if table else left[0]


class _Copy:
    """What is kept of a file, on its way to a local one. Lines are kept byte by byte."""

    def __init__(self, lake: _Lake, path: str, local: BinaryIO) -> None:
        self.rows = 0
        self._local = local
        self._parquet = TableFile(lake.table(path), "parquet", local) if path.endswith(".parquet") else None

    def add(self, row: Any, line: bytes) -> None:
        self.rows += 1
        if self._parquet is not None:
            self._parquet.add([row])
        else:
            self._local.writelines([line] if line else json_lines([row]))

    def finish(self) -> None:
        if self._parquet is not None:
            self._parquet.finish()


def _table_of(path: str) -> str:
    """Return the table of a curated file, a blank of a raw one."""
    return "" if (match := _TABLE_FILE.fullmatch(path)) is None else match["table"]


def _is_directory(path: str) -> bool:
    if (raw := _RAW_FILE.fullmatch(path)) is not None:
        return raw["kind"] == DIRECTORY
    return _table_of(path) in _DIRECTORY_TABLES


def _is_conversations(path: str) -> bool:
    if (raw := _RAW_FILE.fullmatch(path)) is not None:
        return raw["kind"] != DIRECTORY
    return _table_of(path) in _CONVERSATION_TABLES


def _shown_id(row: Any, table: str) -> str | None:
    """Return the id by which a row or an answer shows its conversation."""
    if table:
        found = Type.TEXT.read(row.get("conversation_id")) if isinstance(row, dict) else None
        return None if found is None else str(found)
    return LAYOUTS["dstny_rest"].conversation_id(row) or LAYOUTS["dstny"].conversation_id(row)


def _parts(row: Any, table: str) -> list[Any]:
    """Return a row without its ``extra``, and what is in that; an answer as it is."""
    if not table or not isinstance(row, dict) or not isinstance(row.get("extra"), str):
        return [row]
    try:
        extra = json.loads(row["extra"])
    except (ValueError, RecursionError):
        return [row]
    return [{name: value for name, value in row.items() if name != "extra"}, extra]


def _row_of(row: Mapping[str, Any], left: list[Any]) -> dict[str, Any]:
    """Return a row with what is left of its parts, in the form that tables have."""
    made = {name: left[0].get(name) for name in row}
    if len(left) > 1:
        made["extra"] = None if left[1] in (GONE, None, {}) else json_text(left[1], sort_keys=True)
    content = {name: value for name, value in made.items() if not name.startswith("_dstny_")}
    if isinstance(before := made.get("_dstny_hash"), str):
        made["_dstny_hash"] = hashlib.sha256(row_text(content).encode()).hexdigest()[: len(before)]
    return made


def _manifest_path(interval: str) -> str:
    return f"_dstny/manifests/{interval}.json"


def _parquet_file(file: BinaryIO) -> Any:
    import_pyarrow()
    return import_module("pyarrow.parquet").ParquetFile(file)
