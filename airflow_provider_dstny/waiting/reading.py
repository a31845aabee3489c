"""Reading a list again and again, as little of it as tells something new."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any, TypeAlias

from airflow_provider_dstny.api.iteration import Findings, Found, next_item
from airflow_provider_dstny.api.operation import Request, with_patience, without_retries
from airflow_provider_dstny.waiting.listing import Entry, Listing
from airflow_provider_dstny.waiting.wait import utc_now

#: Pages that are read in one go at the most; what is left is read the next time.
_MOST = 60
#: Pages that are read without news, to reach what was read the last time.
_BARREN = 10
#: So many pages are read before what they showed is asked for: what is oldest stands on the last.
_AT_A_TIME = 10
#: As far as there was news in the last so many readings, one reads again.
_REMEMBERED = 10
#: In a list that begins with what is oldest, how far before its end to begin.
_OVERLAP = timedelta(minutes=5)
_DAY = timedelta(days=1)
#: So many more rows of a page must be in one order than in the other.
_CLEAR_STEPS = 8

#: Takes what a page shows, returns whether it is news.
TakeIn: TypeAlias = Callable[[Sequence[Entry]], bool]
_Pages: TypeAlias = Findings[list[Any]]
#: Reads some pages and hands out nothing now and then.
_Reading: TypeAlias = Generator[Request | Found[None], Any, None]


class ListReader:
    """Remembers how far a list was read.

    What is newest is read each time, as far as there was news lately. What arrives late stands somewhere behind it: the
    whole list is read beside, some pages at a time, and over and over.

    :param listing: what is read.
    """

    def __init__(self, listing: Listing) -> None:
        self.listing = listing
        self._oldest_first = False
        #: How far before the newest one there was news, in the last readings of a list that begins with what is oldest.
        self._lags: deque[timedelta] = deque([_OVERLAP], maxlen=_REMEMBERED)
        self._newest: datetime | None = None
        self._last_head: set[str] = set()
        #: The last pages with news, of the last readings.
        self._depths: deque[int] = deque([1], maxlen=_REMEMBERED)
        #: The rest of a head that was too long to be read in one go.
        self._rest: _Pages | None = None
        self._sweep: _Pages | None = None
        self._sweep_page = 0
        self._swept = False
        self._left = 0

    @property
    def was_read_through(self) -> bool:
        """Tell whether all of it was read once."""
        return self._swept

    def read(
        self,
        take_in: TakeIn,
        since: datetime,
        *,
        deepest: int,
        spare: int,
        until: datetime | None = None,
        patience: float | None = None,
    ) -> _Reading:
        """Read what may show something new.

        :param since: UTC, what took place a day before is not read again.
        :param deepest: pages to read again at the most because there was news lately.
        :param spare: pages of the whole list to read as long as not all of it was read once; then it is one.
        :param until: UTC, after which no page is asked for.
        :param patience: seconds that a page may wait for its turn, None for as long as it takes.
        """
        self._left, self._until, self._patience = _MOST, until, patience
        self._depths.append(1)
        self._lags.append(_OVERLAP)
        if (yield from self._read_head(take_in, deepest)):
            yield from self._read_on(take_in, spare, since)

    def give_up(self) -> None:
        """Begin anew the next time, after an error."""
        self._sweep = self._rest = None

    def _read_head(self, take_in: TakeIn, deepest: int) -> Generator[Request | Found[None], Any, bool]:
        """Read what is newest, as long as there is news; return whether the list goes on."""
        seen: set[str] = set()
        page = barren = 0
        # A little further than there was news: what takes ever longer stands ever further behind.
        again = min(max(self._depths) * 5 // 4, deepest)
        pages = self.listing.pages(self._head_begins() if self._oldest_first else None)
        while (entries := (yield from self._next(pages))) is not None:
            if not entries and self._left > 0 and barren < _BARREN:
                # The walk has read something twice, to leave no gap.
                barren += 1
                continue
            if page == 0 and self.listing.dated and (ascends := _ascends(entries)) is not None:
                if ascends and not self._oldest_first:
                    self._oldest_first = True
                    pages = self.listing.pages(self._head_begins())
                    continue
                self._oldest_first = ascends
            page += 1
            news = take_in(entries)
            self._remember_newest(entries)
            ids = {entry.id for entry in entries}
            met = not self._last_head or not self._last_head.isdisjoint(ids)
            seen |= ids
            barren = 0 if news else barren + 1
            if news:
                self._depths[-1] = page
                self._remember_lag(entries)
            if page % _AT_A_TIME == 0:
                yield Found(None)
            if self._left <= 0:
                self._rest = self._rest or pages
                break
            enough = page >= again and (met or barren == _BARREN)
            if not news and enough and not self._oldest_first:
                break
        else:
            self._last_head = seen
            return self._oldest_first
        self._last_head = seen
        return True

    def _read_on(self, take_in: TakeIn, spare: int, since: datetime) -> _Reading:
        """Go on where the last reading stopped; pages that show news come on top."""
        pages_left = 1 if self._swept else spare
        while self._rest is not None and self._left > 0:
            entries = yield from self._next(self._rest)
            if entries is None or (entries and not take_in(entries)):
                self._rest = None
        while pages_left > 0 and self._left > 0:
            if self._sweep is None:
                again = self._swept and self.listing.dated
                self._sweep, self._sweep_page = self.listing.pages(since - _DAY if again else None), 0
            entries = yield from self._next(self._sweep)
            if entries is None:
                self._sweep, self._swept = None, True
                return
            if entries:
                self._sweep_page += 1
                news = take_in(entries)
                pages_left -= not news
                if news and self._swept:
                    # It came after the list was read once: others may stand there, too.
                    self._remember_lag(entries)
                    self._depths[-1] = max(self._depths[-1], self._sweep_page)
                yield Found(None)

    def _next(self, pages: _Pages) -> Generator[Request, Any, list[Entry] | None]:
        if self._until is not None and utc_now() > self._until:
            self._left = 0
            return []
        self._left -= 1
        page = next_item(pages)
        # The next reading is the retry.
        steps = without_retries(page)
        rows = yield from (steps if self._patience is None else with_patience(steps, self._patience))
        return None if rows is None else [self.listing.entry(row) for row in rows]

    def _head_begins(self) -> datetime:
        return (self._newest - max(self._lags) * 5 // 4) if self._newest else utc_now() - _DAY

    def _remember_lag(self, entries: Sequence[Entry]) -> None:
        moments = [entry.moment for entry in entries if entry.moment is not None]
        # The first reading tells of everything, however old.
        if self._newest is not None and self._last_head and moments:
            self._lags[-1] = max(self._lags[-1], min(self._newest - min(moments), _DAY))

    def _remember_newest(self, entries: Sequence[Entry]) -> None:
        # One that is said to take place tomorrow must not hide what takes place today.
        moments = [min(entry.moment, utc_now()) for entry in entries if entry.moment is not None]
        self._newest = max([*moments, self._newest] if self._newest else moments, default=None)


def _ascends(entries: Sequence[Entry]) -> bool | None:
    """Tell whether most rows are newer than the one before; None where they are too few to tell."""
    moments = [entry.moment for entry in entries if entry.moment is not None]
    steps = [(a < b) - (a > b) for a, b in pairwise(moments)]
    return None if abs(sum(steps)) < _CLEAR_STEPS else sum(steps) > 0
