"""The curated files of an interval: rows of the answers that it lands, and of the directory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from datetime import date
from io import BytesIO
from tempfile import TemporaryFile
from typing import Any

from airflow_provider_dstny.export.files import (
    DataFile,
    Format,
    Manifest,
    TableFile,
    json_lines,
    table_bytes,
    table_path,
)
from airflow_provider_dstny.export.layout import Layout
from airflow_provider_dstny.export.tables import Row, Stamp, Table
from airflow_provider_dstny.landing.lake import Lake
from airflow_provider_dstny.landing.workspace import Answer, Workspace

#: What the raw file of the directory is called in a manifest.
DIRECTORY = "directory"


class Curated:
    """Writes them.

    :param tables: the names of those to fill.
    """

    def __init__(
        self,
        lake: Lake,
        workspace: Workspace,
        layout: Layout,
        tables: Collection[str],
        file_format: Format,
        stamp: Stamp,
    ) -> None:
        self._lake = lake
        self._work = workspace
        self._layout = layout
        self._names = tables
        self._format: Format = file_format
        self._stamp = stamp

    def write_directory(self, directory: dict[str, Any] | None, before: Manifest | None) -> list[DataFile]:
        if directory is None:
            # What this interval has landed of that day stays: it cannot be had again.
            tables = {table.name for table in self._layout.directory_tables} | {DIRECTORY}
            return [file for file in before.files if file.table in tables] if before else []
        day = self._stamp.synced_at.date()
        raw = BytesIO(b"".join(json_lines([directory])))
        files = [self._lake.put(f"raw/directory/{self._lake.interval}.jsonl", DIRECTORY, 1, raw)]
        for name, rows in self._layout.directory_rows(directory, self._stamp).items():
            if name in self._names:
                table = self._layout.tables[name]
                content = BytesIO(table_bytes(table, rows, self._format))
                path = table_path(table, day, self._lake.interval, self._format)
                files.append(self._lake.put(path, name, len(rows), content))
        return files

    def write_tables(self) -> list[DataFile]:
        return [file for day in self._work.days() for file in self._write_day(day, self._tables)]

    def announce(self, directory: dict[str, Any] | None, before: Manifest | None) -> None:
        """Announce all that may have to be removed: what is about to be written, and what is about to be replaced."""
        paths = [self._path(table, day) for table in self._tables for day in self._work.days()]
        if directory is not None:
            day = self._stamp.synced_at.date()
            paths.append(f"raw/directory/{self._lake.interval}.jsonl")
            paths += [self._path(table, day) for table in self._layout.directory_tables]
        if before is not None:
            paths += [file.path for file in before.files]
        self._lake.announce(paths)

    @property
    def _tables(self) -> list[Table]:
        return [table for table in self._layout.conversation_tables if table.name in self._names]

    def _write_day(self, day: date | None, tables: Sequence[Table]) -> list[DataFile]:
        with ExitStack() as stack:
            local = {table.name: stack.enter_context(TemporaryFile()) for table in tables}
            files = {table.name: TableFile(table, self._format, local[table.name]) for table in tables}
            for answer in self._work.answers_of(day):
                for name, rows in self._rows(answer).items():
                    if name in files:
                        files[name].add(rows)
            for file in files.values():
                file.finish()
            return [
                self._lake.put(self._path(table, day), table.name, files[table.name].rows, local[table.name])
                for table in tables
                if files[table.name].rows
            ]

    def _rows(self, answer: Answer) -> dict[str, list[Row]]:
        if answer.kind == "gone":
            return {self._layout.conversation_tables[0].name: [self._layout.tombstone(answer.body, self._stamp)]}
        return self._layout.rows(answer.body, self._stamp)

    def _path(self, table: Table, day: date | None) -> str:
        return table_path(table, day, self._lake.interval, self._format)
