"""The assets that conversations arrive on: schedule a DAG on one, and it runs when a conversation is complete."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.providers.common.compat.sdk import Asset

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from urllib.parse import SplitResult

_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,250}")


def conversations_uri(dstny_conn_id: str) -> str:
    """Return the URI of the asset on which the conversations of a connection arrive."""
    return f"dstny://{quote(dstny_conn_id, safe='')}/conversations"


def conversations(dstny_conn_id: str = "dstny_rest_default") -> Asset:
    """Return the asset on which the conversations of a connection arrive.

    Its events have ``extra`` with ``conversation_id``, ``delivery_id``, ``event`` and ``timestamp`` (UTC).

    :param dstny_conn_id: the connection.
    """
    uri = conversations_uri(dstny_conn_id)
    return Asset(name=uri, uri=uri)


def conversation_ids(triggering_asset_events: Mapping[Asset, Collection[Any]]) -> list[str]:
    """Return the conversations that the events of a run are about, each once.

    :param triggering_asset_events: as the context of a task has it.
    """
    events = [event for of_asset in triggering_asset_events.values() for event in of_asset]
    ids = [(event.extra.get("payload") or event.extra).get("conversation_id") for event in events]
    return list(dict.fromkeys(str(one) for one in ids if one))


def partition_keys(partitioned: Iterable[bool], conversation_id: str | None) -> list[str | None]:
    """Return the partition keys with which the DAGs on an asset want the event of a conversation; None is for no key.

    Airflow starts DAGs of partitions by events with a key only, and the others by those without only.

    :param partitioned: of each DAG on the asset, whether it has partitions.
    """
    partitioned = list(partitioned)
    keys: list[str | None] = [None] if not all(partitioned) or not partitioned else []
    return [*keys, conversation_id] if any(partitioned) else keys


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Check the URI of such an asset; Airflow calls it for the scheme ``dstny``.

    :raises ValueError: it is not ``dstny://<connection id>/conversations``.
    """
    if not _NAME.fullmatch(uri.netloc) or uri.path != "/conversations" or uri.query or uri.fragment:
        raise ValueError("URI format dstny:// must be dstny://<connection id>/conversations")
    return uri
