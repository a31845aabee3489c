"""What conversations and the directory of the REST API v1 become: tables and their rows. Pure: no I/O."""

from __future__ import annotations

from typing import Any

from airflow_provider_dstny.api.models.transcripts import END_KEYS, SPEAKER_KEYS, START_KEYS, TEXT_KEYS, Transcript
from airflow_provider_dstny.export.tables import (
    CONVERSATION_ID,
    DELETED,
    OCCURRED_AT,
    Column,
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

#: Where an answer has its id and its time.
ID = column("conversation_id", Type.TEXT, "id")
TIME = column("occurred_at", Type.TIME, "date")

CONVERSATIONS = Table(
    "conversations",
    ("conversation_id",),
    (
        ID,
        TIME,
        column("title", Type.TEXT, said=True),
        column("company", Type.TEXT),
        column("duration_seconds", Type.NUMBER, "duration"),
        column("medium", Type.TEXT),
        column("sentiment", Type.TEXT),
        column("conversation_type", Type.TEXT),
        column("summary", Type.TEXT, said=True),
        column("department_id", Type.TEXT, "department.id"),
        column("department_name", Type.TEXT, "department.name"),
        column("user_id", Type.TEXT, "user.id"),
        column("user_name", Type.TEXT, "user.name", "user.full_name"),
        column("user_email", Type.TEXT, "user.email"),
        Column("transcript_shape", Type.TEXT),
        DELETED,
    ),
)
PARTICIPANTS = part_table(
    "participants",
    column("name", Type.TEXT, "name", "full_name"),
    column("email", Type.TEXT),
    column("role", Type.TEXT),
)
TRANSCRIPT_SEGMENTS = part_table(
    "transcript_segments",
    column("speaker", Type.TEXT, *SPEAKER_KEYS),
    column("text", Type.TEXT, *TEXT_KEYS, "message", said=True),
    column("start_seconds", Type.NUMBER, *START_KEYS),
    column("end_seconds", Type.NUMBER, *END_KEYS),
)
INSIGHTS = part_table(
    "insights",
    column("insight_id", Type.TEXT, "id"),
    column("insight_type", Type.TEXT),
    column("insight_text", Type.TEXT, said=True),
    column("kpi_slug", Type.TEXT),
    column("kpi_label", Type.TEXT),
    column("impact", Type.TEXT),
    column("start_seconds", Type.NUMBER, "start_time_seconds"),
    column("end_seconds", Type.NUMBER, "end_time_seconds"),
    column("message_index", Type.INTEGER),
)
USERS = Table(
    "users",
    ("user_id",),
    (
        column("user_id", Type.TEXT, "id"),
        column("full_name", Type.TEXT, "full_name", "name"),
        column("email", Type.TEXT),
        column("role", Type.TEXT),
        column("team_id", Type.TEXT),
        column("team_name", Type.TEXT),
    ),
)
TEAMS = Table(
    "teams",
    ("team_id",),
    (column("team_id", Type.TEXT, "id"), column("name", Type.TEXT), column("created_at", Type.TIME)),
)
TEAM_MEMBERS = Table(
    "team_members",
    ("team_id", "user_id"),
    (
        Column("team_id", Type.TEXT),
        column("user_id", Type.TEXT, "id"),
        column("full_name", Type.TEXT, "full_name", "name"),
        column("email", Type.TEXT),
    ),
)
DEPARTMENTS = Table(
    "departments",
    ("department_id",),
    (
        column("department_id", Type.TEXT, "id"),
        column("name", Type.TEXT),
        column("slug", Type.TEXT),
        column("enabled", Type.BOOLEAN),
        column("display_name", Type.TEXT),
    ),
)

CONVERSATION_TABLES = (CONVERSATIONS, PARTICIPANTS, TRANSCRIPT_SEGMENTS, INSIGHTS)
DIRECTORY_TABLES = (USERS, TEAMS, TEAM_MEMBERS, DEPARTMENTS)

#: Where a transcript may have its segments.
TRANSCRIPT_PLACES: tuple[tuple[Path, Table], ...] = tuple(
    (("transcript", *shape), TRANSCRIPT_SEGMENTS) for shape in ((), ("segments",), ("sentences",), ("messages",))
)
DOCUMENTED = fields_of(
    ((), CONVERSATIONS),
    (("participants",), PARTICIPANTS),
    (("insights",), INSIGHTS),
    (("users",), USERS),
    (("teams",), TEAMS),
    (("teams", "members"), TEAM_MEMBERS),
    (("departments",), DEPARTMENTS),
    *TRANSCRIPT_PLACES,
)
#: Under which names the API shows the same thing.
SAME_PLACES: tuple[frozenset[Path], ...] = (
    frozenset({("user",), ("users",), ("teams", "members")}),
    frozenset({("department",), ("departments",)}),
)
#: Who may be named as a speaker of the transcript.
SPEAKING: frozenset[Path] = frozenset({("user",), ("participants",)})
PEOPLE: frozenset[Path] = SPEAKING | SAME_PLACES[0]


def conversation_rows(body: Any, stamp: Stamp) -> dict[str, list[Row]]:
    """Return the rows of one conversation by table, every table of :data:`CONVERSATION_TABLES` included.

    :param body: the answer of *Get conversation* as it came, with the transcript and the insights it was asked for,
        or a row of the list.
    """
    told, lists = lists_apart(body, "participants", "insights")
    transcript = None
    if isinstance(told, dict):
        # In the form of *Get transcript*, in which a text alone is a transcript, too.
        transcript = read_transcript({"transcript": told["transcript"]}) if "transcript" in told else None
        # The server's clock is not content: with it, no row would ever be unchanged.
        told = {name: value for name, value in told.items() if name not in ("transcript", "_meta")}
    conversation = CONVERSATIONS.row(told, stamp, transcript_shape=shape_of(transcript), deleted=False)
    return {
        CONVERSATIONS.name: [conversation],
        PARTICIPANTS.name: part_rows(PARTICIPANTS, lists["participants"], conversation, stamp),
        TRANSCRIPT_SEGMENTS.name: segment_rows(transcript, conversation, stamp),
        INSIGHTS.name: part_rows(INSIGHTS, lists["insights"], conversation, stamp),
    }


def read_transcript(answer: Any) -> Transcript:
    """Return the transcript of an answer of *Get transcript*, whatever its form."""
    try:
        return Transcript.from_answer("", answer)
    except RecursionError:
        return Transcript(conversation_id="", source_shape="unknown")


def shape_of(transcript: Transcript | None) -> str | None:
    """Return the shape in which a transcript came, ``empty`` for one without text, ``unknown``, or None for none."""
    return transcript.source_shape.partition(":")[0] if transcript is not None else None


def segment_rows(transcript: Transcript | None, conversation: Row, stamp: Stamp) -> list[Row]:
    """Return the rows of ``transcript_segments``.

    :param conversation: its row of ``conversations``.
    """
    ids = {one.name: conversation[one.name] for one in (CONVERSATION_ID, OCCURRED_AT)}
    return [
        TRANSCRIPT_SEGMENTS.row(
            segment.raw,
            stamp,
            **ids,
            position=segment.index,
            speaker=Type.TEXT.read(segment.speaker),
            text=Type.TEXT.read(segment.text),
            start_seconds=segment.start_seconds,
            end_seconds=segment.end_seconds,
        )
        for segment in (transcript.segments if transcript is not None else [])
    ]


def directory_rows(
    body: Any, stamp: Stamp, tables: tuple[Table, Table, Table, Table] = DIRECTORY_TABLES
) -> dict[str, list[Row]]:
    """Return the rows of *List users*, *List teams* or *List departments* by table.

    A table is there only if the answer has its list, so that no list is not taken for an empty one.

    :param body: ``{"users": […]}``, ``{"teams": […]}``, ``{"departments": […]}``, or all in one.
    :param tables: of users, teams, members of teams, departments.
    """
    users, teams, members, departments = tables
    answer = body if isinstance(body, dict) else {}
    rows = {
        table.name: [table.row(item, stamp) for item in answer[table.name]]
        for table in (users, departments)
        if isinstance(answer.get(table.name), list)
    }
    if isinstance(answer.get(teams.name), list):
        rows[teams.name], rows[members.name] = [], []
        for team in answer[teams.name]:
            told, lists = lists_apart(team, "members")
            row = teams.row(told, stamp)
            rows[teams.name].append(row)
            rows[members.name] += [members.row(item, stamp, team_id=row["team_id"]) for item in lists["members"]]
    return rows


def without_text(body: dict[str, Any]) -> dict[str, Any]:
    """Return what is left of a conversation without what people said or wrote, and without undocumented fields."""
    kept = CONVERSATIONS.without_text(body)
    for table in (PARTICIPANTS, INSIGHTS):
        if isinstance(items := body.get(table.name), list):
            kept[table.name] = [table.without_text(item) for item in items]
    return kept
