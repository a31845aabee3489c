"""What conversations of tellcasey become: tables and their rows. Pure: no I/O.

A body is what *Get a single conversation* answers below ``data``, with the ``messages`` of its transcript, or a row of
the list.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_dstny.export.tables import (
    DELETED,
    Path,
    Row,
    Stamp,
    Table,
    Type,
    column,
    fields_of,
    lists_apart,
    part_rows,
    part_table,
)

#: Where a body has its id and its time.
ID = column("conversation_id", Type.TEXT, "id")
TIME = column("occurred_at", Type.TIME, "started_at")

CONVERSATIONS = Table(
    "conversations",
    ("conversation_id",),
    (
        ID,
        TIME,
        column("completed_at", Type.TIME),
        column("status", Type.TEXT),
        column("agent_id", Type.TEXT),
        column("connection_code", Type.TEXT),
        column("turn_count", Type.INTEGER),
        column("participant_id", Type.TEXT, "participant_profile.id"),
        column("participant_email", Type.TEXT, "participant_profile.email"),
        column("participant_first_name", Type.TEXT, "participant_profile.first_name"),
        column("participant_last_name", Type.TEXT, "participant_profile.last_name"),
        column("participant_organization_name", Type.TEXT, "participant_profile.organization_name"),
        column("participant_organization_domain", Type.TEXT, "participant_profile.organization_domain"),
        DELETED,
    ),
)
MESSAGES = part_table(
    "messages",
    column("message_id", Type.TEXT, "id"),
    column("role", Type.TEXT),
    column("content", Type.TEXT, said=True),
    column("created_at", Type.TIME),
    column("modality", Type.TEXT),
)

CONVERSATION_TABLES = (CONVERSATIONS, MESSAGES)

#: The last ones have no column.
DOCUMENTED: frozenset[Path] = fields_of(((), CONVERSATIONS), (("messages",), MESSAGES)) | {
    ("participant_profile", "avatar_image_url"),
    ("session_properties",),
    ("path_taken",),
}


def conversation_rows(body: Any, stamp: Stamp) -> dict[str, list[Row]]:
    """Return the rows of one conversation by table, every table of :data:`CONVERSATION_TABLES` included."""
    told, lists = lists_apart(body, "messages")
    conversation = CONVERSATIONS.row(told, stamp, deleted=False)
    return {
        CONVERSATIONS.name: [conversation],
        MESSAGES.name: part_rows(MESSAGES, lists["messages"], conversation, stamp),
    }


def directory_rows(body: Any, stamp: Stamp) -> dict[str, list[Row]]:
    """Return no rows: the API has no directory."""
    return {}


def without_text(body: dict[str, Any]) -> dict[str, Any]:
    """Return what is left of a conversation without what people said or wrote, and without undocumented fields.

    Properties and path go, too: they hold whatever the agent collected.
    """
    kept = CONVERSATIONS.without_text(body)
    if isinstance(messages := body.get("messages"), list):
        kept["messages"] = [MESSAGES.without_text(message) for message in messages]
    return kept
