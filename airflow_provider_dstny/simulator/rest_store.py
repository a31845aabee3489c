"""The conversations of the simulated v1 account: by id, and in the order of their list."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import UserDict
from collections.abc import Iterator

from airflow_provider_dstny.simulator.rest_conversations import RestConversation


class RestStore(UserDict[str, RestConversation]):
    """Conversations by id, kept in order of their dates; those of one moment are in order of their ids.

    A date may be changed at any time: the order is then made anew when it is next needed.
    """

    def __init__(self, *, newest_first: bool) -> None:
        super().__init__()
        self._direction = -1 if newest_first else 1
        self._order: list[RestConversation] = []
        self._is_ordered = False

    def __setitem__(self, conversation_id: str, one: RestConversation) -> None:
        if conversation_id in self.data:
            self._is_ordered = False
        elif self._is_ordered:
            insort(self._order, one, key=self._position)
        self.data[conversation_id] = one
        one.on_move = self._disorder

    def __delitem__(self, conversation_id: str) -> None:
        one = self.data.pop(conversation_id)
        place = bisect_left(self._order, self._position(one), key=self._position) if self._is_ordered else 0
        if self._is_ordered and self._order[place] is one:
            del self._order[place]
        else:
            self._disorder()

    def between(
        self, first: float, last: float, *, cursor: float | None, inclusive: bool
    ) -> Iterator[RestConversation]:
        """Return those of the dates from ``first`` to ``last``, in order.

        :param cursor: the date to begin at if ``inclusive``, or else after.
        """
        if not self._is_ordered:
            # Before the sorting, so that a move meanwhile is not forgotten.
            self._is_ordered = True
            self._order = sorted(self.data.values(), key=self._position)
        order, direction = self._order, self._direction
        low, high = (first, last) if direction > 0 else (-last, -first)
        begin, end = bisect_left(order, low, key=self._moment), bisect_right(order, high, key=self._moment)
        if cursor is not None:
            find = bisect_left if inclusive else bisect_right
            begin = max(begin, find(order, direction * cursor, key=self._moment))
        return map(order.__getitem__, range(begin, end))

    def _disorder(self) -> None:
        self._is_ordered = False

    def _moment(self, one: RestConversation) -> float:
        return self._direction * one.date

    def _position(self, one: RestConversation) -> tuple[float, str]:
        return self._moment(one), one.id
