"""What the answers of each API become: one layout for each. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_provider_dstny.export import dstny_rest_tables, dstny_tables, tellcasey_tables
from airflow_provider_dstny.export.tables import Column, Path, Row, Stamp, Table


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the answers of one API become.

    :param name: the API, as its client names it.
    :param conversation_tables: one file for an interval and a day on which conversations took place. The first is
        ``conversations``, with one row for each.
    :param directory_tables: one file a day; none where the API has no directory.
    :param rows: makes the rows of one conversation by table, every conversation table included. Positions count
        from 0, and nothing breaks it.
    :param directory_rows: makes the rows of lists of the directory. A table is there only if the answer has its list.
    :param without_text: what is left of a conversation when everything that people said or wrote is dropped, and
        every field that is not documented.
    :param documented: the fields that a redaction can name.
    :param id_column: where an answer may have the id of its conversation.
    :param time_column: where an answer may have the time of its conversation.
    :param same_places: under which names the API shows the same thing, so that a rule for a field of one holds in all.
    :param same_fields: fields that say the same, so that a rule for one takes all.
    :param people: the places of people, who have more than one field for a name.
    :param speaking: the places of people who may be named as a speaker of the transcript.
    """

    name: str
    conversation_tables: tuple[Table, ...]
    directory_tables: tuple[Table, ...] = ()
    rows: Callable[[Any, Stamp], dict[str, list[Row]]]
    directory_rows: Callable[[Any, Stamp], dict[str, list[Row]]]
    without_text: Callable[[dict[str, Any]], dict[str, Any]]
    documented: frozenset[Path]
    id_column: Column
    time_column: Column
    same_places: tuple[frozenset[Path], ...] = ()
    same_fields: tuple[frozenset[Path], ...] = ()
    people: frozenset[Path] = frozenset()
    speaking: frozenset[Path] = frozenset()

    @property
    def tables(self) -> Mapping[str, Table]:
        """Every table by its name."""
        return {table.name: table for table in (*self.conversation_tables, *self.directory_tables)}

    def conversation_id(self, body: Any) -> str | None:
        """Return the id of the conversation of an answer as rows hold it, None if there is none."""
        found: str | None = self.id_column.read(body)
        return found

    def occurred_at(self, body: Any) -> datetime | None:
        """Return when the conversation of an answer took place, UTC; None if it is not known."""
        found: datetime | None = self.time_column.read(body)
        return found

    def tombstone(self, body: Any, stamp: Stamp) -> Row:
        """Return the row of ``conversations`` that says of a conversation that it was deleted, and nothing else of it.

        :param body: id and time, where answers have them.
        """
        known = {"conversation_id": self.conversation_id(body), "occurred_at": self.occurred_at(body)}
        return self.conversation_tables[0].row(None, stamp, **known, deleted=True)


#: Every layout by the name of its API.
LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            name="dstny_rest",
            conversation_tables=dstny_rest_tables.CONVERSATION_TABLES,
            directory_tables=dstny_rest_tables.DIRECTORY_TABLES,
            rows=dstny_rest_tables.conversation_rows,
            directory_rows=dstny_rest_tables.directory_rows,
            without_text=dstny_rest_tables.without_text,
            documented=dstny_rest_tables.DOCUMENTED,
            id_column=dstny_rest_tables.ID,
            time_column=dstny_rest_tables.TIME,
            same_places=dstny_rest_tables.SAME_PLACES,
            people=dstny_rest_tables.PEOPLE,
            speaking=dstny_rest_tables.SPEAKING,
        ),
        Layout(
            name="dstny",
            conversation_tables=dstny_tables.CONVERSATION_TABLES,
            directory_tables=dstny_tables.DIRECTORY_TABLES,
            rows=dstny_tables.conversation_rows,
            directory_rows=dstny_tables.directory_rows,
            without_text=dstny_tables.without_text,
            documented=dstny_tables.DOCUMENTED,
            id_column=dstny_tables.ID,
            time_column=dstny_tables.TIME,
            same_places=dstny_tables.SAME_PLACES,
            same_fields=dstny_tables.SAME_FIELDS,
            people=dstny_tables.PEOPLE,
            speaking=dstny_tables.SPEAKING,
        ),
        Layout(
            name="tellcasey",
            conversation_tables=tellcasey_tables.CONVERSATION_TABLES,
            rows=tellcasey_tables.conversation_rows,
            directory_rows=tellcasey_tables.directory_rows,
            without_text=tellcasey_tables.without_text,
            documented=tellcasey_tables.DOCUMENTED,
            id_column=tellcasey_tables.ID,
            time_column=tellcasey_tables.TIME,
        ),
    )
}
