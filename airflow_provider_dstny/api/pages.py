"""Walking cursors without losing or repeating a row.

A cursor that is a timestamp says where a page ended. It does not say whether more rows of that very moment follow,
whether the next page begins with them (inclusive) or after them (exclusive), or in which direction time runs. A walk
goes by what it gets: a page that repeats a row of the page before leaves no gap between the two. Where they do not
overlap, it asks again from a little before the cursor until they do. Where more rows share a moment than fit on one
page, no cursor passes between them: they are listed by a window of time around it, split by further filters.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, datetime, timedelta
from typing import Any, Generic, Protocol, Self, TypeAlias, TypeVar

from airflow_provider_dstny.api.errors import DstnyResponseError
from airflow_provider_dstny.api.iteration import Findings, Found
from airflow_provider_dstny.api.models.base import goes_on
from airflow_provider_dstny.api.operation import Request, Steps
from airflow_provider_dstny.api.times import iso_time

#: How far before a cursor to ask again: times are told in milliseconds, by some servers in whole seconds.
_OVERLAPS = (timedelta(milliseconds=1), timedelta(seconds=1), timedelta(minutes=1))

_log = logging.getLogger(__name__)
#: Pages in a row without a new row, after which a listing counts as endless.
_PATIENCE = 100


class Row(Protocol):
    """What a walk needs of a row."""

    id: str | int | None
    raw: Any


RowT = TypeVar("RowT", bound=Row)


@dataclass(frozen=True, slots=True)
class Page(Generic[RowT]):
    """Some rows, and the cursor of the next page; None where there is none."""

    rows: Sequence[RowT]
    next_cursor: str | None

    @classmethod
    def read(cls, body: Any, name: str, rows: Sequence[RowT], has_more: bool | None, next_cursor: str | None) -> Self:
        """Make a page of an answer.

        :param name: what the list is called in the answer's ``body``; null is an empty list.
        :raises DstnyResponseError: there is no list, or it goes on without saying where.
        """
        if not isinstance(body, dict) or not isinstance(body.get(name, ()), list | None):
            raise DstnyResponseError(
                "The API's list of conversations has another form than is documented, so that it cannot be read."
            )
        if has_more is False:
            return cls(rows, None)
        # A cursor that is no text was read as none.
        if not next_cursor and goes_on(body):
            raise DstnyResponseError(
                "The API's list of conversations says that it goes on, but not where in a form that is documented."
            )
        return cls(rows, next_cursor or None)


class Source(Generic[RowT]):
    """What is walked: one listing of an API with a user's filters."""

    #: Filters that tell rows of one moment apart, in the order in which to try them.
    splits: Sequence[str] = ()

    def page(self, cursor: str | None) -> Steps[Page[RowT]]:
        """Fetch the page of a cursor, the first one for None."""
        raise NotImplementedError

    def cursor_time(self, cursor: str) -> datetime | None:
        """Return the time that a cursor is, None for one that is known to tell rows of one time apart."""
        return None

    def moment(self, row: RowT) -> datetime | None:
        """Return the time of a row by which the listing is ordered, as far as is known."""
        return None

    def window(self, since: datetime, until: datetime, filters: Mapping[str, str]) -> Steps[Page[RowT]]:
        """Fetch the first page of all rows between two times, with further filters."""
        raise NotImplementedError

    def split_values(self, name: str, rows: Sequence[RowT]) -> Steps[Sequence[str] | None]:
        """Return all values of a filter of :attr:`splits`, None where it does not cover the rows."""
        raise NotImplementedError


_Walking: TypeAlias = Generator[Request | Found[RowT], Any, Page[RowT]]


def walk(source: Source[RowT]) -> Findings[RowT]:
    """Yield every row of a listing once, reading no page ahead.

    Rows come in the order of the API; those of a moment at which a page ended may come later than their neighbours.
    A row that arrives while the walk is under way is found if its place lies ahead.

    :raises DstnyResponseError: the listing cannot be read completely, or does not come to an end.
    """
    return _Walk(source).findings()


class _Walk(Generic[RowT]):
    """Remembers what was handed out, and what was learnt about the cursor."""

    def __init__(self, source: Source[RowT]) -> None:
        self._source = source
        self._seen: set[str] = set()
        self._cursors: set[str] = set()
        self._untied: set[datetime] = set()
        self._overlap = _OVERLAPS[0]
        #: Which way lies before a cursor: later for newest first, earlier for oldest first.
        self._before: int | None = None

    def findings(self) -> Findings[RowT]:
        page = yield from self._read(self._source.page(None))
        barren = 0
        while (cursor := page.next_cursor) is not None:
            known = len(self._seen)
            if cursor in self._cursors:
                page = yield from self._untie(page, cursor)
            else:
                self._cursors.add(cursor)
                page = yield from self._follow(page, cursor)
            barren = barren + 1 if len(self._seen) == known else 0
            if barren == _PATIENCE:
                raise DstnyResponseError(f"The listing does not end: its last {_PATIENCE} pages had no new row.")

    def _read(self, steps: Steps[Page[RowT]]) -> _Walking[RowT]:
        """Fetch a page and hand out its new rows."""
        page = yield from steps
        for row in page.rows:
            if (key := _key(row)) not in self._seen:
                self._seen.add(key)
                yield Found(row)
        return page

    def _follow(self, last: Page[RowT], cursor: str) -> _Walking[RowT]:
        """Return the next page that leaves no gap after the ``last`` one."""
        moment = self._source.cursor_time(cursor)
        if moment is None:
            return (yield from self._read(self._source.page(cursor)))
        if not last.rows:
            # There is no row to join: a tie that begins here is caught by the overlap alone.
            begin = moment + (self._before or 0) * self._overlap
            return (yield from self._read(self._source.page(iso_time(begin))))
        for overlap in _OVERLAPS[_OVERLAPS.index(self._overlap) :]:
            for before in self._directions(last):
                page = yield from self._read(self._source.page(iso_time(moment + before * overlap)))
                if _joins(last, page):
                    self._before, self._overlap = before, overlap
                    return page
        page = yield from self._read(self._source.page(cursor))
        if _joins(last, page):
            return page
        # The row at the cursor may have gone, or the cursor may mean something else: begin at a row that was seen.
        for row in (last.rows[-1], last.rows[len(last.rows) // 2]):
            seen_at = self._source.moment(row)
            if seen_at is None or not MINYEAR < seen_at.year < MAXYEAR:
                continue
            for before in self._directions(last):
                page = yield from self._read(self._source.page(iso_time(seen_at + before * self._overlap)))
                if _joins(last, page):
                    return page
        raise DstnyResponseError(
            f"The listing has a gap at {iso_time(moment)}: what follows does not join what came before, so that rows "
            "may be missing. They may have been deleted just now; a retry tells."
        )

    def _untie(self, page: Page[RowT], cursor: str) -> _Walking[RowT]:
        """Get past a cursor that leads to itself, because the rows of its moment fill a page."""
        moment = self._source.cursor_time(cursor)
        if moment is None or moment in self._untied:
            raise DstnyResponseError("The listing makes no progress: its pages repeat.")
        self._untied.add(moment)
        # Twice, so that it covers the neighbours whether the filters are inclusive or exclusive.
        around = 2 * self._overlap
        if not all(_near(self._source.moment(row), moment, around) for row in page.rows):
            # No tie that can be seen: the page may have come twice by mistake.
            return (yield from self._follow(page, cursor))
        listed: set[str] = set()
        yield from self._list_window(moment - around, moment + around, {}, self._source.splits, listed)
        if not listed.issuperset(map(_key, page.rows)):
            raise DstnyResponseError(
                f"The listing makes no progress at {iso_time(moment)}, and its filters do not show why."
            )
        for before in self._directions(page):
            beyond = yield from self._read(self._source.page(iso_time(moment - before * self._overlap)))
            if beyond.next_cursor not in self._cursors:
                return beyond
        return beyond

    def _list_window(
        self, since: datetime, until: datetime, filters: Mapping[str, str], splits: Sequence[str], listed: set[str]
    ) -> Findings[RowT]:
        """Hand out all rows between two times, split by further filters as far as they do not fit on one page."""
        page = yield from self._read(self._source.window(since, until, filters))
        listed.update(map(_key, page.rows))
        if page.next_cursor is None:
            return
        for position, name in enumerate(splits, 1):
            values = yield from self._source.split_values(name, page.rows)
            if values is not None:
                _log.warning(
                    "More conversations than fit on a page share the time %s: they are listed by %s, so that one "
                    "whose %s is none of the known would be missing",
                    iso_time(since + (until - since) / 2),
                    name,
                    name,
                )
                for value in values:
                    yield from self._list_window(since, until, {**filters, name: value}, splits[position:], listed)
                return
        raise DstnyResponseError(
            f"More conversations than fit on one page share the time {iso_time(since + (until - since) / 2)}, and no "
            "filter tells them apart, so that some cannot be listed. A retry fails the same way."
        )

    def _directions(self, page: Page[RowT]) -> Sequence[int]:
        """Return which way may lie before a cursor, the likelier first."""
        if self._before is not None:
            return (self._before,)
        moments = [moment for moment in map(self._source.moment, page.rows) if moment is not None]
        return (-1, 1) if moments and moments[0] < moments[-1] else (1, -1)


def _joins(last: Page[RowT], page: Page[RowT]) -> bool:
    """Tell whether two pages share a row, so that nothing can lie between them."""
    return not {_key(row) for row in last.rows}.isdisjoint(map(_key, page.rows))


def _near(moment: datetime | None, other: datetime, distance: timedelta) -> bool:
    return moment is not None and abs(moment - other) <= distance


def _key(row: Row) -> str:
    return str(row.id) if row.id not in (None, "") else json.dumps(row.raw, sort_keys=True, default=str)
