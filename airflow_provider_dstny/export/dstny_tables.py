"""What conversations and the directory of API v2 become: tables and their rows. Pure: no I/O.

A body is what was asked for about a conversation: ``conversation_id``, ``conversation`` (its row of the list), and
``transcript``, ``insights``, ``ai_analytics``, ``playbooks``, ``magic_variables``, ``department_insights``. What is
inside is not documented: columns know names that are likely, and what has another name is in ``extra``.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_dstny.api.models.base import rows as rows_of
from airflow_provider_dstny.export import dstny_rest_tables as rest
from airflow_provider_dstny.export.dstny_rest_tables import INSIGHTS, TRANSCRIPT_SEGMENTS
from airflow_provider_dstny.export.tables import (
    DELETED,
    Column,
    Path,
    Row,
    Stamp,
    Table,
    Type,
    column,
    fields_of,
    part_rows,
    part_table,
)

_IDS = ("id", "conversation_id", "session_id", "uuid")
_TIMES = ("start_time", "started_at", "call_start_time", "start_date", "date", "created_at")
_ROW = "conversation"

#: Where a body has its id and its time.
ID = column("conversation_id", Type.TEXT, "conversation_id", *(f"{_ROW}.{name}" for name in _IDS))
TIME = column("occurred_at", Type.TIME, *(f"{_ROW}.{name}" for name in _TIMES))

CONVERSATIONS = Table(
    "conversations",
    ("conversation_id",),
    (
        column("conversation_id", Type.TEXT, *_IDS),
        column("occurred_at", Type.TIME, *_TIMES),
        column("title", Type.TEXT, "title", "call_title", "name", said=True),
        column("call_external_id", Type.TEXT, "call_external_id", "external_id"),
        column("recording_type", Type.TEXT, "recording_type", "type", "medium"),
        column("direction", Type.TEXT, "call_direction", "direction"),
        column("outcome", Type.TEXT, "call_outcome", "outcome"),
        column("duration_seconds", Type.NUMBER, "duration_seconds", "call_duration", "duration"),
        column("company", Type.TEXT, "company", "company_name", "participant_company_name"),
        column("summary", Type.TEXT, said=True),
        column("owner_id", Type.TEXT, "owner_id", "owner.id", "user_id", "user.id", "organizer_id", "organizer.id"),
        column("owner_name", Type.TEXT, "owner_name", "owner.name", "user.name", "organizer.name"),
        column("owner_email", Type.TEXT, "owner_email", "owner.email", "user.email", "organizer.email"),
        Column("transcript_shape", Type.TEXT),
        DELETED,
    ),
)
AI_ANALYTICS = part_table(
    "ai_analytics",
    column("analytics_id", Type.TEXT, "id"),
    column("name", Type.TEXT, "name", "metric", "key"),
    column("value", Type.NUMBER, "value", "score"),
    column("talk_ratio", Type.NUMBER),
    column("longest_monologue", Type.NUMBER),
)
PLAYBOOKS = part_table(
    "playbooks",
    column("playbook_id", Type.TEXT, "id", "playbook_id"),
    column("name", Type.TEXT, "name", "playbook_name"),
    column("adherence", Type.NUMBER, "adherence", "score"),
    column("summary", Type.TEXT, "summary", "text", said=True),
)
MAGIC_VARIABLES = part_table(
    "magic_variables",
    column("request_id", Type.TEXT, "id", "request_id"),
    column("agent_id", Type.TEXT, "agent_id", "ai_agent_id"),
    column("variable", Type.TEXT, "variable", "name", "key"),
    column("value", Type.TEXT, "value", "answer", "result", "response", said=True),
    column("status", Type.TEXT),
)
DEPARTMENT_INSIGHTS = part_table(
    "department_insights",
    column("insight_id", Type.TEXT, "id"),
    column("department", Type.TEXT, "department", "department_slug", "department.slug"),
    column("insight_type", Type.TEXT, "insight_type", "type"),
    column("insight_text", Type.TEXT, "insight_text", "text", said=True),
)
USERS = Table(
    "users",
    ("user_id",),
    (
        column("user_id", Type.TEXT, "id"),
        column("username", Type.TEXT),
        column("email", Type.TEXT),
        column("first_name", Type.TEXT),
        column("last_name", Type.TEXT),
        column("mobile_number", Type.TEXT),
        column("last_login", Type.TIME),
    ),
)
TEAMS = Table(
    "teams",
    ("team_id",),
    (
        column("team_id", Type.TEXT, "id"),
        column("name", Type.TEXT),
        column("description", Type.TEXT),
        column("type", Type.TEXT),
        column("created_at", Type.TIME),
    ),
)
TEAM_MEMBERS = Table(
    "team_members",
    ("team_id", "user_id"),
    (
        Column("team_id", Type.TEXT),
        column("user_id", Type.TEXT, "id"),
        column("email", Type.TEXT),
        column("first_name", Type.TEXT),
        column("last_name", Type.TEXT),
    ),
)
DEPARTMENTS = Table(
    "departments",
    ("department_id",),
    (
        # A department follows from teams and users, and may have no more than its slug.
        column("department_id", Type.TEXT, "id", "slug"),
        column("name", Type.TEXT),
        column("slug", Type.TEXT),
    ),
)

_PARTS = (INSIGHTS, AI_ANALYTICS, PLAYBOOKS, MAGIC_VARIABLES, DEPARTMENT_INSIGHTS)
CONVERSATION_TABLES = (CONVERSATIONS, TRANSCRIPT_SEGMENTS, *_PARTS)
DIRECTORY_TABLES = (USERS, TEAMS, TEAM_MEMBERS, DEPARTMENTS)

_PLACES: tuple[tuple[Path, Table], ...] = (((_ROW,), CONVERSATIONS), *(((table.name,), table) for table in _PARTS))

_FIELDS = ("id", "name", "email", "first_name", "last_name", "phone_number", "external_id", "company_name")
_IN_ROW = ("owner", "user", "organizer", "participant")
#: Who may be named as a speaker of the transcript.
SPEAKING: frozenset[Path] = frozenset((_ROW, name) for name in (*_IN_ROW, "participants"))
_USERS: frozenset[Path] = frozenset(
    {("users",), ("teams", "members"), ("teams", "managers"), *((_ROW, name) for name in _IN_ROW[:-1])}
)
PEOPLE: frozenset[Path] = SPEAKING | _USERS
#: Under which names the API shows the same thing, or may show it.
SAME_PLACES: tuple[frozenset[Path], ...] = (
    _USERS,
    frozenset({(_ROW, "participant"), (_ROW, "participants")}),
    frozenset({("teams",), ("users", "teams"), (_ROW, "team")}),
    frozenset({("departments",), (_ROW, "department")}),
)
#: Fields that say the same: any part of a body may repeat the id of its conversation, people of a conversation may be
#: objects or not, and nobody knows under which of its names a column is sent.
SAME_FIELDS: tuple[frozenset[Path], ...] = (
    frozenset({*ID.sources, ("**", "conversation_id"), ("**", "session_id")}),
    *(
        frozenset({(_ROW, f"{person}_{name}"), (_ROW, person, name)})
        for person in (*_IN_ROW, "team", "department")
        for name in _FIELDS
    ),
    *(
        frozenset((*place, *path) for path in one.sources)
        for place, table in _PLACES
        for one in table.fields
        if one.type is Type.TEXT
    ),
)
#: What redactions can name: fields with a column, and others that are documented or likely.
DOCUMENTED: frozenset[Path] = fields_of(
    *_PLACES,
    (("users",), USERS),
    (("teams",), TEAMS),
    (("teams", "members"), TEAM_MEMBERS),
    (("departments",), DEPARTMENTS),
    *rest.TRANSCRIPT_PLACES,
) | {
    (ID.name,),
    *(("users", name) for name in ("profile_picture_url", "teams", "accounts")),
    ("teams", "managers"),
    *((*place, name) for place in PEOPLE for name in (*_FIELDS, "full_name")),
    *(path for group in SAME_FIELDS for path in group),
}


def conversation_rows(body: Any, stamp: Stamp) -> dict[str, list[Row]]:
    """Return the rows of one conversation by table, every table of :data:`CONVERSATION_TABLES` included."""
    answer = body if isinstance(body, dict) else {}
    transcript = rest.read_transcript(answer["transcript"]) if "transcript" in answer else None
    conversation = CONVERSATIONS.row(
        answer.get(_ROW),
        stamp,
        conversation_id=ID.read(answer),
        transcript_shape=rest.shape_of(transcript),
        deleted=False,
    )
    return {
        CONVERSATIONS.name: [conversation],
        TRANSCRIPT_SEGMENTS.name: rest.segment_rows(transcript, conversation, stamp),
        **{table.name: part_rows(table, rows_of(answer.get(table.name)), conversation, stamp) for table in _PARTS},
    }


def directory_rows(body: Any, stamp: Stamp) -> dict[str, list[Row]]:
    """Return the rows of users, teams and departments by table; a table is there only if the answer has its list.

    :param body: the lists by name, of which teams may have their ``members``.
    """
    rows = rest.directory_rows(body, stamp, DIRECTORY_TABLES)
    teams = body["teams"] if TEAMS.name in rows else []
    if teams and not any(isinstance(team, dict) and isinstance(team.get("members"), list) for team in teams):
        del rows[TEAM_MEMBERS.name]
    return rows


def without_text(body: dict[str, Any]) -> dict[str, Any]:
    """Return what is left of a conversation without what people said or wrote, and without undocumented fields."""
    kept: dict[str, Any] = {_ROW: CONVERSATIONS.without_text(body.get(_ROW))}
    if Type.TEXT.read(body.get(ID.name)) is not None:
        kept[ID.name] = body[ID.name]
    for table in _PARTS:
        if table.name in body:
            kept[table.name] = [table.without_text(item) for item in rows_of(body[table.name])]
    return kept
