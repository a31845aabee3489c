"""Many calls of a file or a list: all checked before any is used, and never all in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any, TypeAlias

from airflow_provider_dstny.api.errors import DstnyError, DstnyValidationError
from airflow_provider_dstny.api.models.calls import CallConversation
from airflow_provider_dstny.api.privacy import shown
from airflow_provider_dstny.storage import check_row

#: Gives the rows from the first one, each time that it is called.
Source: TypeAlias = Callable[[], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class KnownCall:
    """What is kept of a call that is valid.

    :param row: the number of its first row, from 1.
    :param day: the UTC day on which it began.
    :param digest: of all its fields, to tell it from another and from its changed self.
    """

    row: int
    day: date
    digest: bytes


@dataclass(frozen=True, slots=True)
class CheckedCalls:
    """The calls of a source, of which some 300 bytes each are kept.

    :param known: by ``call_external_id``, each once.
    :param bad: what is wrong, by the number of the row; no value is in it.
    """

    source: Source
    known: dict[str, KnownCall]
    bad: dict[int, str]

    def __len__(self) -> int:
        return len(self.known) + len(self.bad)

    def read(self, external_ids: Iterable[str]) -> Iterator[CallConversation]:
        """Read some of the calls again, in the order of their rows.

        :raises DstnyError: a row is another one than when it was checked.
        """
        wanted = {self.known[external_id].row: self.known[external_id] for external_id in external_ids}
        for number, row in enumerate(self.source(), 1):
            known = wanted.pop(number, None)
            if known is not None:
                yield _unchanged(known, row)
        if wanted:
            raise _changed(min(wanted))


def check_calls(source: Source) -> CheckedCalls:
    """Read and check all rows; rows that are the same count once.

    :raises DstnyValidationError: the rows cannot be read at all.
    """
    known: dict[str, KnownCall] = {}
    bad: dict[int, str] = {}
    twice: dict[str, list[int]] = {}
    for number, row in enumerate(source(), 1):
        try:
            call = _call(row)
        except DstnyValidationError as error:
            bad[number] = _reason(error)
            continue
        one = KnownCall(number, call.call_start_time.date(), _digest(call))
        first = known.setdefault(call.call_external_id, one)
        if first.digest != one.digest:
            twice.setdefault(call.call_external_id, [first.row]).append(number)
    for external_id, numbers in twice.items():
        del known[external_id]
        told = ", ".join(map(str, numbers[:10]))
        bad |= dict.fromkeys(numbers, f"call_external_id: rows {told} have the same one, and are not the same call.")
    return CheckedCalls(source, known, dict(sorted(bad.items())))


def _call(row: Any) -> CallConversation:
    if isinstance(row, CallConversation):
        return row
    return CallConversation.parse(check_row(row, "The row"))


def _digest(call: CallConversation) -> bytes:
    return hashlib.sha256(json.dumps(call.to_json(), sort_keys=True).encode()).digest()


def _reason(error: DstnyValidationError) -> str:
    # Of a row whose cells are shifted, a number may be anybody's.
    return str(shown("error", error.message.removeprefix("CallConversation: ")))


def _unchanged(known: KnownCall, row: Any) -> CallConversation:
    try:
        call = _call(row)
    except DstnyValidationError:
        raise _changed(known.row) from None
    if _digest(call) != known.digest:
        raise _changed(known.row)
    return call


def _changed(row: int) -> DstnyError:
    return DstnyError(
        f"The calls have changed since they were checked, at row {row}, so the upload ended there. What was sent is in "
        "the file of results; a retry reads the calls anew and sends only what is missing."
    )
