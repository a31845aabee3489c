"""The lists of the APIs, as far as they tell of conversations that somebody waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.iteration import Findings, by_page
from airflow_provider_dstny.api.tellcasey import TellcaseyClient
from airflow_provider_dstny.api.times import utc_time

if TYPE_CHECKING:
    from airflow_provider_dstny.waiting.wait import AnyClient


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a list.

    :param moment: UTC, by which the list is sorted, as far as is known.
    :param status: how far the conversation has come, empty if that is not said, None if the list shows no statuses.
    """

    id: str
    moment: datetime | None
    status: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A list of conversations, page by page.

    :param pages: walks over its rows, those from a moment on if the list is ``dated``.
    :param entry: reads one of them.
    :param shows_status: it tells of each conversation how far it has come, not only that it is there.
    """

    pages: Callable[[datetime | None], Findings[list[Any]]]
    entry: Callable[[Any], Entry]
    dated: bool
    shows_status: bool


def listing_of(client: AnyClient) -> Listing | None:
    """Return the list that tells of waiting conversations, None where there is none that helps.

    That of API v2 has no pages, does not document its rows, and filters by the day on which a call took place, which
    nobody knows who waits for it.
    """
    match client:
        case DstnyRestClient():
            rest = client.iter_conversations
            return Listing(
                lambda since: by_page(rest.findings(date_from=since)),
                lambda row: Entry(str(row.id), utc_time(row.date)),
                dated=True,
                shows_status=False,
            )
        case TellcaseyClient():
            casey = client.iter_conversations
            return Listing(
                lambda since: by_page(casey.findings()),
                lambda row: Entry(str(row.id), utc_time(row.started_at), row.status or ""),
                dated=False,
                shows_status=True,
            )
    return None
