"""What the answers of API v2 and of tellcasey become, and what a redaction leaves of them."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.models import User
from airflow_provider_dstny.api.tellcasey import TellcaseyClient
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.tables import Stamp, json_text

STAMP = Stamp(datetime(2026, 11, 20, 11, tzinfo=UTC), "connection", "20261120T100000Z-20261120T110000Z")
TOOK_PLACE = datetime(2026, 2, 7, 9, tzinfo=UTC)
SALT = "pepper-and-salt-0123456789"
SAID = "We will say KARTOFFEL"
ERIK, JANE = "Erik Lindström", "Jane Doe"
V1, V2, CASEY = LAYOUTS["dstny_rest"], LAYOUTS["dstny"], LAYOUTS["tellcasey"]

REST_BODY = {
    "id": "c-1",
    "date": "2026-02-07T09:00:00Z",
    "title": SAID,
    "summary": SAID,
    "participants": [{"name": JANE, "email": "jane@acme.test"}],
    "transcript": {"segments": [{"speaker": JANE, "text": SAID}]},
    "insights": [{"id": "i", "insight_text": SAID}],
}
DSTNY_BODY = {
    "conversation_id": "c-1",
    "conversation": {
        "id": "c-1",
        "title": SAID,
        "start_time": "2026-02-07T10:00:00+01:00",
        "call_external_id": 7,
        "recording_type": "call",
        "owner_email": "erik@telco-demo.test",
        "owner": {"id": 1, "name": ERIK},
        "participants": [{"name": JANE, "email": "jane@acme.test"}],
        "created_at": "2026-02-08T00:00:00Z",
    },
    "transcript": [{"speaker": ERIK, "text": SAID, "start": 0, "end": 1.5}],
    "insights": [{"insight_type": "kpi", "insight_text": SAID, "impact": "high"}],
    "ai_analytics": [{"talk_ratio": 0.52, "longest_monologue": 18}],
    "playbooks": [{"name": "Discovery", "adherence": 0.8, "summary": SAID}],
    "magic_variables": [{"id": 5, "variable": "start_date", "value": SAID}],
    "department_insights": [{"department": {"slug": "b2b"}, "topics": [SAID], "conversation_id": "c-1"}],
}
CASEY_BODY = {
    "id": "c-1",
    "connection_code": "abc",
    "agent_id": "a-1",
    "status": "completed",
    "started_at": "2026-02-07T09:00:00Z",
    "completed_at": "2026-02-07T09:10:00Z",
    "turn_count": 2,
    "participant_profile": {
        "id": "p-1",
        "email": "jane@acme.test",
        "first_name": "Jane",
        "last_name": "Doe",
        "organization_name": "Acme",
        "organization_domain": "acme.test",
        "avatar_image_url": None,
    },
    "session_properties": {"channel": "voice", "note": SAID},
    "path_taken": [SAID],
    "messages": [
        {"id": "m-1", "role": "assistant", "content": "Hi!", "created_at": "2026-02-07T09:00:00Z", "modality": "voice"},
        {"id": "m-2", "role": "user", "content": SAID, "created_at": "2026-02-07T09:00:10Z", "modality": "voice"},
    ],
}
BODIES = {"dstny_rest": REST_BODY, "dstny": DSTNY_BODY, "tellcasey": CASEY_BODY}
DIRECTORY = {
    "users": [
        {
            "id": 1,
            "username": "erik@telco-demo.test",
            "email": "erik@telco-demo.test",
            "first_name": "Erik",
            "last_name": "Lindström",
            "profile_picture_url": "https://telco-demo.test/200",
            "mobile_number": 89295205465,
            "teams": [{"id": "t-1", "name": "Sales"}],
            "accounts": [{"right_level": 1}],
            "last_login": "2020-08-13T13:16:21.000Z",
        }
    ],
    "teams": [
        {
            "id": "t-1",
            "name": "Sales",
            "description": "Foo bar",
            "type": "b2b",
            "created_at": "2020-08-13T13:16:21Z",
            "managers": [{"id": 1, "email": "erik@telco-demo.test"}],
            "members": [{"id": 1, "first_name": "Erik", "last_name": "Lindström", "email": "erik@telco-demo.test"}],
        }
    ],
    "departments": [{"slug": "b2b", "name": "B2B Sales"}, {"id": 3, "slug": "support", "x": 1}],
}

_NAMES = st.sampled_from(
    [name for body in BODIES.values() for name in body]
    + [*DSTNY_BODY["conversation"], *CASEY_BODY["messages"][0], *DIRECTORY["users"][0], *DIRECTORY["teams"][0]]
    + ["text", "value", "users", "departments", "data", "segments", "uuid", "score", "owner_id", "x"]
)
#: What json.loads may return, with names that the tables look for.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a", "\ud83d", "2026-02-07T09:00Z"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=8),
    max_leaves=30,
)
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
every_new_layout = pytest.mark.parametrize("layout", [V2, CASEY], ids=["dstny", "tellcasey"])


def content(row):
    """What a row says: no nulls, and nothing of what only says where it comes from."""
    return {name: value for name, value in row.items() if value is not None and not name.startswith("_dstny_")}


def extra(row):
    return json.loads(row["extra"]) if row["extra"] else None


def written(layout, body=None, directory=None):
    """All that is written of redacted answers."""
    pieces = [json_text(body), json_text(layout.rows(body, STAMP))] if body is not None else []
    if directory is not None:
        pieces += [json_text(directory), json_text(layout.directory_rows(directory, STAMP))]
    return "".join(pieces)


def hashed(text):
    return hmac.new(SALT.encode(), text.encode(), hashlib.sha256).hexdigest()


def test_every_api_has_a_layout():
    assert list(LAYOUTS) == [client.name for client in (DstnyRestClient, DstnyClient, TellcaseyClient)]
    assert [layout.name for layout in LAYOUTS.values()] == list(LAYOUTS)


@every_layout
def test_tables_are_whole(layout):
    first = layout.conversation_tables[0]
    assert (first.name, first.keys) == ("conversations", ("conversation_id",))
    assert list(layout.tables) == [table.name for table in (*layout.conversation_tables, *layout.directory_tables)]
    assert {"conversation_id", "occurred_at", "deleted"} <= {column.name for column in first.columns}
    for table in layout.tables.values():
        names = [column.name for column in table.columns]
        assert len(names) == len(set(names))
        assert set(table.keys) <= set(names)
        assert "date" not in names
    for table in layout.conversation_tables[1:]:
        assert table.keys == ("conversation_id", "position")
        assert [column.name for column in table.fields[:3]] == ["conversation_id", "occurred_at", "position"]


def test_importing_layouts_needs_neither_airflow_nor_pyarrow():
    code = (
        "import sys; import airflow_provider_dstny.export.redaction as _;"
        "print([name for name in ('airflow', 'pyarrow') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_part_of_v2_becomes_rows():
    rows = V2.rows(DSTNY_BODY, STAMP)
    ids = {"conversation_id": "c-1", "occurred_at": TOOK_PLACE}
    (conversation,) = rows.pop("conversations")
    assert extra(conversation) == {
        "created_at": "2026-02-08T00:00:00Z",
        "participants": [{"name": JANE, "email": "jane@acme.test"}],
    }
    assert content({**conversation, "extra": None}) == {
        **ids,
        "title": SAID,
        "call_external_id": "7",
        "recording_type": "call",
        "owner_id": "1",
        "owner_name": ERIK,
        "owner_email": "erik@telco-demo.test",
        "transcript_shape": "list",
        "deleted": False,
    }
    assert {name: [content(row) for row in found] for name, found in rows.items()} == {
        name: [{**ids, "position": 0, **shown}]
        for name, shown in {
            "transcript_segments": {"speaker": ERIK, "text": SAID, "start_seconds": 0.0, "end_seconds": 1.5},
            "insights": {"insight_type": "kpi", "insight_text": SAID, "impact": "high"},
            "ai_analytics": {"talk_ratio": 0.52, "longest_monologue": 18.0},
            "playbooks": {"name": "Discovery", "adherence": 0.8, "summary": SAID},
            "magic_variables": {"request_id": "5", "variable": "start_date", "value": SAID},
            "department_insights": {
                "department": "b2b",
                "extra": json_text({"conversation_id": "c-1", "topics": [SAID]}),
            },
        }.items()
    }


@pytest.mark.parametrize("name", ["start_time", "started_at", "call_start_time", "start_date", "date", "created_at"])
@pytest.mark.parametrize("id_name", ["id", "conversation_id", "session_id", "uuid"])
def test_v2_may_name_id_and_time_in_many_ways(name, id_name):
    body = {"conversation": {id_name: 7, name: "2026-02-07T09:00:00Z"}}
    assert (V2.conversation_id(body), V2.occurred_at(body)) == ("7", TOOK_PLACE)
    assert content(V2.rows(body, STAMP)["conversations"][0]) == {
        "conversation_id": "7",
        "occurred_at": TOOK_PLACE,
        "deleted": False,
    }


def test_the_id_that_was_asked_for_wins():
    (row,) = V2.rows({"conversation_id": "a", "conversation": {"id": "a", "uuid": "b"}}, STAMP)["conversations"]
    assert (row["conversation_id"], extra(row)) == ("a", {"uuid": "b"})


@pytest.mark.parametrize("told", [None, {}, [], "c-1", 5, [{"id": 1}]])
def test_v2_without_a_row_of_the_list_is_a_row_all_the_same(told):
    rows = V2.rows({"conversation_id": "c-1", "conversation": told, "insights": [{"id": 1}]}, STAMP)
    assert (rows["conversations"][0]["conversation_id"], rows["conversations"][0]["occurred_at"]) == ("c-1", None)
    assert extra(rows["conversations"][0]) == (told or None if told != [] else [])
    assert rows["insights"][0]["conversation_id"] == "c-1"


@pytest.mark.parametrize(
    ("transcript", "shape", "texts"),
    [
        ([{"speaker": "E", "text": "Hi"}], "list", ["Hi"]),
        ({"data": [{"speaker": "E", "text": "Hi"}]}, "list", ["Hi"]),
        ({"transcript": {"segments": [{"text": "Hi"}, {"text": "Ho"}]}}, "segments", ["Hi", "Ho"]),
        (None, "empty", []),
        ([{}], "empty", []),
        ("The transcript is not ready", "unknown", []),
    ],
)
def test_transcripts_of_v2(transcript, shape, texts):
    rows = V2.rows({"conversation_id": "c", "transcript": transcript}, STAMP)
    assert rows["conversations"][0]["transcript_shape"] == shape
    assert [(row["position"], row["text"]) for row in rows["transcript_segments"]] == list(enumerate(texts))


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (None, []),
        ([], []),
        ({"id": 1}, [("1", None)]),
        ({"data": [{"id": 1}, {"id": 2}]}, [("1", None), ("2", None)]),
        ([{"id": 1}, "x", None, {"id": [1]}], [("1", None), (None, "x"), (None, None), (None, {"id": [1]})]),
        ("x", [(None, "x")]),
    ],
)
def test_parts_of_v2_in_odd_shapes_keep_their_place(part, found):
    rows = V2.rows({"conversation_id": "c", "insights": part}, STAMP)["insights"]
    assert [(row["insight_id"], extra(row)) for row in rows] == found
    assert [row["position"] for row in rows] == list(range(len(found)))


def test_a_part_that_was_not_asked_for_is_empty():
    rows = V2.rows({"conversation_id": "c", "conversation": {}}, STAMP)
    assert {name: len(found) for name, found in rows.items()} == {
        table.name: int(table.name == "conversations") for table in V2.conversation_tables
    }
    assert rows["conversations"][0]["transcript_shape"] is None


def test_the_directory_of_v2():
    rows = V2.directory_rows({**DIRECTORY, "users": [User.read(one).raw for one in DIRECTORY["users"]]}, STAMP)
    (user,), (team,), (member,) = rows["users"], rows["teams"], rows["team_members"]
    assert content({**user, "extra": None}) == {
        "user_id": "1",
        "username": "erik@telco-demo.test",
        "email": "erik@telco-demo.test",
        "first_name": "Erik",
        "last_name": "Lindström",
        "mobile_number": "89295205465",
        "last_login": datetime(2020, 8, 13, 13, 16, 21, tzinfo=UTC),
    }
    assert set(extra(user)) == {"profile_picture_url", "teams", "accounts"}
    assert (team["team_id"], team["type"], list(extra(team))) == ("t-1", "b2b", ["managers"])
    assert content(member) == {
        "team_id": "t-1",
        "user_id": "1",
        "email": "erik@telco-demo.test",
        "first_name": "Erik",
        "last_name": "Lindström",
    }
    assert [(row["department_id"], row["slug"], extra(row)) for row in rows["departments"]] == [
        ("b2b", "b2b", None),
        ("3", "support", {"x": 1}),
    ]


@pytest.mark.parametrize(
    ("teams", "tables"),
    [
        ([], {"teams", "team_members"}),
        ([{"id": "t", "members": []}], {"teams", "team_members"}),
        ([{"id": "t"}, "odd"], {"teams"}),
        (None, set()),
        ({"id": "t"}, set()),
    ],
)
def test_members_that_nobody_asked_for_are_no_empty_teams(teams, tables):
    assert set(V2.directory_rows({"teams": teams}, STAMP)) == tables


def test_tellcasey_has_no_directory():
    assert (CASEY.directory_tables, CASEY.directory_rows(DIRECTORY, STAMP)) == ((), {})


def test_a_conversation_of_tellcasey_becomes_rows():
    rows = CASEY.rows(CASEY_BODY, STAMP)
    (conversation,) = rows["conversations"]
    assert content({**conversation, "extra": None}) == {
        "conversation_id": "c-1",
        "occurred_at": TOOK_PLACE,
        "completed_at": datetime(2026, 2, 7, 9, 10, tzinfo=UTC),
        "status": "completed",
        "agent_id": "a-1",
        "connection_code": "abc",
        "turn_count": 2,
        "participant_id": "p-1",
        "participant_email": "jane@acme.test",
        "participant_first_name": "Jane",
        "participant_last_name": "Doe",
        "participant_organization_name": "Acme",
        "participant_organization_domain": "acme.test",
        "deleted": False,
    }
    assert extra(conversation) == {"path_taken": [SAID], "session_properties": {"channel": "voice", "note": SAID}}
    assert [content(row) for row in rows["messages"]][1] == {
        "conversation_id": "c-1",
        "occurred_at": TOOK_PLACE,
        "position": 1,
        "message_id": "m-2",
        "role": "user",
        "content": SAID,
        "created_at": datetime(2026, 2, 7, 9, 0, 10, tzinfo=UTC),
        "modality": "voice",
    }


def test_a_row_of_the_list_of_tellcasey_and_odd_messages():
    row = {name: CASEY_BODY[name] for name in ("id", "status", "participant_profile")}
    assert CASEY.rows({**row, "started_at": None}, STAMP)["messages"] == []
    assert CASEY.rows({**row, "started_at": None}, STAMP)["conversations"][0]["occurred_at"] is None
    rows = CASEY.rows(
        {**row, "turn_count": "many", "messages": ["hi", None, {"content": {"x": 1}, "text": "y"}]}, STAMP
    )
    assert [extra(one) for one in rows["messages"]] == ["hi", None, {"content": {"x": 1}, "text": "y"}]
    assert extra(rows["conversations"][0]) == {"turn_count": "many"}
    assert extra(CASEY.rows({"messages": {"a": 1}}, STAMP)["conversations"][0]) == {"messages": {"a": 1}}


@every_layout
def test_a_tombstone_says_id_and_time_only(layout):
    row = layout.tombstone(BODIES[layout.name], STAMP)
    assert content(row) == {"conversation_id": "c-1", "occurred_at": TOOK_PLACE, "deleted": True}
    assert list(row) == [column.name for column in layout.tables["conversations"].columns]


@every_layout
@pytest.mark.parametrize("body", [None, [], "text", 7, {}])
def test_what_is_no_conversation_is_a_row_all_the_same(layout, body):
    assert [row["conversation_id"] for row in layout.rows(body, STAMP)["conversations"]] == [None]
    assert (layout.conversation_id(body), layout.occurred_at(body)) == (None, None)
    assert layout.tombstone(body, STAMP)["deleted"] is True


@every_layout
def test_what_is_nested_too_deep_breaks_nothing(layout):
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    body = dict.fromkeys(BODIES[layout.name], deep) | {"x": deep}
    assert len(layout.rows(body, STAMP)["conversations"]) == 1


@every_new_layout
@given(body=ANYTHING)
def test_no_answer_breaks_a_row(layout, body):
    rows = layout.rows(body, STAMP)
    assert list(rows) == [table.name for table in layout.conversation_tables]
    for name, found in {**rows, **layout.directory_rows(body, STAMP)}.items():
        for row in found:
            assert list(row) == [column.name for column in layout.tables[name].columns]
            json_text(row).encode()
    for table in layout.conversation_tables[1:]:
        assert [row["position"] for row in rows[table.name]] == list(range(len(rows[table.name])))
    assert rows["conversations"][0]["conversation_id"] == layout.conversation_id(body)
    assert rows["conversations"][0]["occurred_at"] == layout.occurred_at(body)


@every_layout
def test_the_hash_follows_the_content_alone(layout):
    def hashes(body, stamp=STAMP):
        return {name: [row["_dstny_hash"] for row in found] for name, found in layout.rows(body, stamp).items()}

    body = BODIES[layout.name]
    later = Stamp(datetime(2027, 1, 1, tzinfo=UTC), "other", "later")
    assert hashes(dict(reversed(body.items())), later) == hashes(body)
    assert hashes({**body, "conversation": {**body.get("conversation", {}), "new": 1}}) != hashes(body)


@every_layout
def test_without_rules_nothing_is_taken(layout):
    assert Redaction.parse(None, layout).redact_conversation(BODIES[layout.name]) == BODIES[layout.name]
    assert Redaction.parse({}, layout).redact(DIRECTORY) == DIRECTORY


@pytest.mark.parametrize(
    ("path", "gone", "there"),
    [
        ("users.email", ["erik@"], ["jane@", ERIK, "Lindström"]),
        ("users.username", ["erik@"], ["jane@", ERIK]),
        ("conversation.owner_email", ["erik@"], ["jane@", ERIK]),
        ("teams.managers.email", ["erik@"], ["jane@", ERIK]),
        ("**.email", ["erik@", "jane@"], [ERIK, JANE]),
        ("users.last_name", ["Lindström"], [JANE, '"Erik"']),
        ("conversation.owner.name", ["Erik", "Lindström"], [JANE, "Sales", "Discovery"]),
        ("conversation.owner_name", ["Erik", "Lindström"], [JANE, "Sales"]),
        ("conversation.participants.email", ["jane@"], ["erik@", JANE]),
        ("conversation.participants", ["jane@", JANE], ["erik@"]),
        ("users.mobile_number", ["89295205465"], ["erik@"]),
        ("teams.name", ['"Sales"'], ["B2B Sales"]),
        ("departments.name", ["B2B Sales"], ['"Sales"']),
        ("magic_variables.value", [], ["start_date"]),
        ("transcript", ['start_seconds":0'], [SAID]),
    ],
)
def test_what_is_redacted_in_v2_is_nowhere(path, gone, there):
    def exported(redaction):
        return written(V2, redaction.redact_conversation(DSTNY_BODY), redaction.redact(DIRECTORY))

    everything = exported(Redaction.parse(None, V2))
    assert [one for one in [*gone, *there] if one not in everything] == []
    for rules in ({"drop": [path]}, {"hash": [path], "salt": SALT}):
        redaction = Redaction.parse(rules, V2)
        text = exported(redaction)
        assert [one for one in gone if one in text] == []
        assert [one for one in there if one not in text] == []
        assert redaction.undocumented == ()


def test_speakers_of_v2_are_not_named_if_people_are_not():
    for path in ("users.first_name", "conversation.participants.name", "transcript.speaker", "**.name"):
        kept = Redaction.parse({"drop": [path]}, V2).redact_conversation(DSTNY_BODY)
        assert [(row["speaker"], row["text"]) for row in V2.rows(kept, STAMP)["transcript_segments"]] == [(None, SAID)]


@pytest.mark.parametrize(
    ("path", "column"), [("conversation.title", "title"), ("conversation.call_title", "title"), ("**.medium", None)]
)
def test_nobody_knows_which_name_fills_a_column_of_v2(path, column):
    column = column or "recording_type"
    for name in ("title", "call_title", "name") if column == "title" else ("recording_type", "type", "medium"):
        kept = Redaction.parse({"drop": [path]}, V2).redact_conversation({"conversation": {name: SAID, "id": "c"}})
        assert V2.rows(kept, STAMP)["conversations"][0][column] is None
        assert "KARTOFFEL" not in written(V2, kept)


@pytest.mark.parametrize(
    ("path", "gone"),
    [
        ("participant_profile.email", ["jane@"]),
        ("participant_profile", ["jane@", "Jane", "acme.test"]),
        ("messages.content", ["Hi!"]),
        ("messages", ["Hi!", "m-1"]),
        ("session_properties.note", ['"note"']),
        ("path_taken", []),
        ("connection_code", ['"abc"']),
        ("**.email", ["jane@"]),
    ],
)
def test_what_is_redacted_in_tellcasey_is_nowhere(path, gone):
    for rules in ({"drop": [path]}, {"hash": [path.replace(".note", "")], "salt": SALT}):
        redaction = Redaction.parse(rules, CASEY)
        text = written(CASEY, redaction.redact_conversation(CASEY_BODY))
        assert [one for one in gone if one in text] == []
        assert redaction.undocumented == ()
        assert '"completed"' in text


@pytest.mark.parametrize(
    ("layout", "path"),
    [
        (V1, "id"),
        (V2, "conversation_id"),
        (V2, "conversation"),
        (V2, "conversation.id"),
        (V2, "conversation.session_id"),
        (V2, "**.uuid"),
        (V2, "**.id"),
        (V2, "**.conversation_id"),
        (CASEY, "id"),
        (CASEY, "**.id"),
    ],
)
def test_the_id_of_a_conversation_can_be_hashed_only(layout, path):
    with pytest.raises(DstnyValidationError, match="drop must not take the id"):
        Redaction.parse({"drop": [path]}, layout)
    if path == "conversation":
        return
    redaction = Redaction.parse({"hash": [path], "salt": SALT}, layout)
    kept = redaction.redact_conversation(BODIES[layout.name])
    assert '"c-1"' not in written(layout, kept)
    assert {row["conversation_id"] for found in layout.rows(kept, STAMP).values() for row in found} == {hashed("c-1")}
    assert layout.tombstone(redaction.redact(BODIES[layout.name]), STAMP)["conversation_id"] == hashed("c-1")


def test_ids_of_other_things_may_be_dropped():
    for layout, path in ((V1, "insights.id"), (V2, "insights.id"), (V2, "users.id"), (CASEY, "messages.id")):
        kept = Redaction.parse({"drop": [path]}, layout).redact_conversation(BODIES[layout.name])
        assert layout.conversation_id(kept) == "c-1"


def test_documented_paths_are_those_of_the_api():
    assert Redaction.parse({"drop": ["participants.email"]}, CASEY).undocumented == ("participants.email",)
    assert Redaction.parse({"drop": ["participants.email"]}, V2).undocumented == ("participants.email",)
    assert Redaction.parse({"drop": ["participants.email"]}, V1).undocumented == ()
    assert Redaction.parse({"drop": ["conversation.owner.email", "transcript"]}, V2).undocumented == ()


def test_a_redaction_takes_the_layout_that_it_is_told():
    one = Redaction(drop=["title"])
    assert one.layout is V1
    assert Redaction.parse(one) is one
    assert Redaction.parse(one, V1) is one
    other = Redaction.parse(one, V2)
    assert (other.layout, other.drop, other.undocumented) == (V2, ("title",), ("title",))
    assert Redaction.parse(other) is other
    with pytest.raises(DstnyValidationError, match="drop must not take the id"):
        Redaction.parse(Redaction(drop=["conversation.id"]), V2)


#: Forms in which something said may turn up where nobody expects it.
ODD = {
    "list": [{"speaker": JANE, "text": SAID}],
    "object": {"text": SAID, SAID: [SAID]},
    "texts": [SAID, [SAID]],
    "bare": SAID,
}


@every_layout
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_without_text_nothing_that_was_said_is_anywhere(layout, odd):
    body = BODIES[layout.name]
    lists = {name: value for name, value in body.items() if isinstance(value, list)}
    objects = {name: value for name, value in body.items() if isinstance(value, dict)}
    bodies = [
        body,
        *({**body, name: odd} for name in ("new", "transcript", *lists, *objects)),
        {**body, **{name: [{"id": 1, "new": odd, "type": [odd]}, odd] for name in lists}},
        {**body, **{name: {"data": [{"new": odd}, odd]} for name in lists}},
        *({**body, name: {**value, "new": odd, "title": odd, "summary": odd}} for name, value in objects.items()),
    ]
    redaction = Redaction.parse({"drop_text": True}, layout)
    for one in bodies:
        kept = redaction.redact_conversation(one)
        assert "KARTOFFEL" not in written(layout, kept)
        assert layout.conversation_id(kept) == "c-1"


def test_without_text_all_that_has_a_column_stays():
    kept = Redaction.parse({"drop_text": True}, V2).redact_conversation(DSTNY_BODY)
    rows = V2.rows(kept, STAMP)
    said = {"title", "insight_text", "summary", "value", "transcript_shape", "extra", "_dstny_hash"}
    for name, before in V2.rows(DSTNY_BODY, STAMP).items():
        if name == "transcript_segments":
            assert rows[name] == []
            continue
        texts = said - {"value"} if name == "ai_analytics" else said
        assert [{key: value for key, value in row.items() if key not in texts} for row in rows[name]] == [
            {key: value for key, value in row.items() if key not in texts} for row in before
        ]
    kept = Redaction.parse({"drop_text": True}, CASEY).redact_conversation(CASEY_BODY)
    assert {"session_properties", "path_taken"}.isdisjoint(kept)
    assert kept["participant_profile"]["email"] == "jane@acme.test"
    assert kept["messages"][1] == {
        name: value for name, value in CASEY_BODY["messages"][1].items() if name != "content"
    }


HASHED = [Redaction.parse({"hash": ["**.email", "**.id", "**.x"], "salt": SALT}, layout) for layout in (V2, CASEY)]


@pytest.mark.parametrize("redaction", HASHED, ids=["dstny", "tellcasey"])
@given(body=st.dictionaries(_NAMES, ANYTHING, max_size=8))
def test_no_answer_breaks_a_redaction(redaction, body):
    for kept in (redaction.redact_conversation(body), redaction.redact(body)):
        rows = redaction.layout.rows(kept, STAMP)
        assert list(rows) == [table.name for table in redaction.layout.conversation_tables]
        assert [row["deleted"] for row in rows["conversations"]] == [False]
