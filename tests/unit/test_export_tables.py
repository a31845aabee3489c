from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.models import RestConversation
from airflow_provider_dstny.export.dstny_rest_tables import (
    CONVERSATION_TABLES,
    DIRECTORY_TABLES,
    conversation_rows,
    directory_rows,
)
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.export.tables import Stamp, Type, json_text

REST = LAYOUTS["dstny_rest"]
TABLES = REST.tables
STAMP = Stamp(datetime(2026, 11, 20, 11, tzinfo=UTC), "dstny_rest_default", "20261120T100000Z-20261120T110000Z")
LAST = ["extra", "_dstny_synced_at", "_dstny_source", "_dstny_run_id", "_dstny_hash"]
TOOK_PLACE = datetime(2026, 2, 7, 9, tzinfo=UTC)

DETAIL = {
    "id": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "title": "Discovery call — Acme",
    "company": "Acme",
    "date": "2026-02-07T09:00:00.000Z",
    "duration": 1800,
    "medium": "call",
    "sentiment": "positive",
    "conversation_type": "sales",
    "summary": "Summary text...",
    "department": {"id": "11111111-0000-0000-0000-000000000001", "name": "B2B Sales"},
    "user": {"id": "67c869eb", "name": "Erik Lindström", "email": "erik.lindstrom@telco-demo.test"},
    "participants": [{"name": "Jane Doe", "email": "jane@acme.com", "role": "customer"}],
    "transcript": {"segments": [{"speaker": "Erik", "text": "Hello!", "start": 0, "end": 1.2}]},
    "insights": [
        {
            "id": "99999999",
            "insight_type": "kpi",
            "insight_text": "Customer requested SSO.",
            "kpi_slug": "sso",
            "kpi_label": "SSO",
            "impact": "high",
            "start_time_seconds": 120,
            "end_time_seconds": 165,
            "message_index": 14,
        }
    ],
    "_meta": {"token_prefix": "mt_ab12cd34", "timestamp": "2026-02-08T00:00:00.000Z"},
}

_NAMES = st.sampled_from(
    ["id", "date", "title", "duration", "user", "name", "email", "participants", "insights", "transcript", "segments"]
) | st.sampled_from(["text", "speaker", "start", "message_index", "_meta", "members", "users", "teams", "x"])
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()), max_size=8)
    | st.sampled_from(["2026-02-07T09:00:00Z", "0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59.999999Z", "\0", "1e9"])
)
#: What json.loads may return, with names that the tables look for.
ANYTHING = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=8), max_leaves=30
)


def content(row):
    """A row without what every table has at its end."""
    return {name: value for name, value in row.items() if name not in LAST}


def test_the_documented_answer_fills_every_table():
    rows = conversation_rows(RestConversation.read(DETAIL).raw, STAMP)
    assert {name: [content(row) for row in found] for name, found in rows.items()} == {
        "conversations": [
            {
                "conversation_id": DETAIL["id"],
                "occurred_at": TOOK_PLACE,
                "title": "Discovery call — Acme",
                "company": "Acme",
                "duration_seconds": 1800.0,
                "medium": "call",
                "sentiment": "positive",
                "conversation_type": "sales",
                "summary": "Summary text...",
                "department_id": "11111111-0000-0000-0000-000000000001",
                "department_name": "B2B Sales",
                "user_id": "67c869eb",
                "user_name": "Erik Lindström",
                "user_email": "erik.lindstrom@telco-demo.test",
                "transcript_shape": "segments",
                "deleted": False,
            }
        ],
        "participants": [
            {
                "conversation_id": DETAIL["id"],
                "occurred_at": TOOK_PLACE,
                "position": 0,
                "name": "Jane Doe",
                "email": "jane@acme.com",
                "role": "customer",
            }
        ],
        "transcript_segments": [
            {
                "conversation_id": DETAIL["id"],
                "occurred_at": TOOK_PLACE,
                "position": 0,
                "speaker": "Erik",
                "text": "Hello!",
                "start_seconds": 0.0,
                "end_seconds": 1.2,
            }
        ],
        "insights": [
            {
                "conversation_id": DETAIL["id"],
                "occurred_at": TOOK_PLACE,
                "position": 0,
                "insight_id": "99999999",
                "insight_type": "kpi",
                "insight_text": "Customer requested SSO.",
                "kpi_slug": "sso",
                "kpi_label": "SSO",
                "impact": "high",
                "start_seconds": 120.0,
                "end_seconds": 165.0,
                "message_index": 14,
            }
        ],
    }
    for found in rows.values():
        assert [row["extra"] for row in found] == [None]
        assert {row["_dstny_source"] for row in found} == {"dstny_rest_default"}


def test_the_directory_fills_every_table():
    erik = {"id": 7, "full_name": "Erik Lindström", "email": "erik@telco-demo.test"}
    rows = directory_rows(
        {
            "users": [{**erik, "role": "owner", "team_id": "t", "team_name": "Sales", "locale": "sv"}],
            "teams": [
                {"id": "t", "name": "Sales", "created_at": "2026-01-10T18:31:07.548+01:00", "members": [erik]},
                {"id": "u", "name": "Support", "members": []},
            ],
            "departments": [{"id": "d", "name": "B2B", "slug": "b2b", "enabled": True, "display_name": "Sales"}],
            "_meta": {"timestamp": "2026-02-08T00:00:00.000Z"},
        },
        STAMP,
    )
    assert [content(row) for row in rows["users"]] == [
        {
            "user_id": "7",
            "full_name": "Erik Lindström",
            "email": "erik@telco-demo.test",
            "role": "owner",
            "team_id": "t",
            "team_name": "Sales",
        }
    ]
    assert rows["users"][0]["extra"] == '{"locale":"sv"}'
    assert [content(row) for row in rows["teams"]] == [
        {"team_id": "t", "name": "Sales", "created_at": datetime(2026, 1, 10, 17, 31, 7, 548000, tzinfo=UTC)},
        {"team_id": "u", "name": "Support", "created_at": None},
    ]
    assert [row["extra"] for row in rows["teams"]] == [None, None]
    assert [content(row) for row in rows["team_members"]] == [
        {"team_id": "t", "user_id": "7", "full_name": "Erik Lindström", "email": "erik@telco-demo.test"}
    ]
    assert [content(row) for row in rows["departments"]] == [
        {"department_id": "d", "name": "B2B", "slug": "b2b", "enabled": True, "display_name": "Sales"}
    ]


def test_no_list_is_not_an_empty_one():
    assert directory_rows({"users": []}, STAMP) == {"users": []}
    assert directory_rows({"teams": []}, STAMP) == {"teams": [], "team_members": []}
    assert directory_rows({"users": None, "teams": {}, "departments": "x"}, STAMP) == {}
    assert directory_rows(None, STAMP) == {}


@pytest.mark.parametrize(
    ("transcript", "shape", "segment", "extra"),
    [
        ({"segments": [{"speaker": "E", "text": "Hi", "start": 0, "end": 1}]}, "segments", ("E", "Hi", 0, 1), None),
        (
            {"sentences": [{"speaker_name": "E", "start": 0.84, "end": 3.14, "text": "Hi", "sentiment": 1}]},
            "sentences",
            ("E", "Hi", 0.84, 3.14),
            {"sentiment": 1},
        ),
        (
            {"messages": [{"role": "user", "name": "E", "content": "Hi", "startTime": "1.5"}]},
            "messages",
            ("E", "Hi", 1.5, None),
            {"role": "user"},
        ),
        ({"messages": [{"role": "user", "message": "Hi"}]}, "messages", ("user", "Hi", None, None), None),
        ({"transcript": {"data": [{"sentence": "Hi", "speaker_id": 2}]}}, "list", ("2", "Hi", None, None), None),
        ([{"speaker": " E ", "text": " Hi\n"}], "list", ("E", "Hi", None, None), None),
        ("Hi", "text", (None, "Hi", None, None), None),
        ({"text": "Hi"}, "text", (None, "Hi", None, None), None),
        ({"paragraphs": ["Hi"]}, "paragraphs", (None, "Hi", None, None), None),
        ([{"text": "Hi", "start": "soon"}], "list", (None, "Hi", None, None), {"start": "soon"}),
        ([{"text": "Hi", "speaker": {"id": 1}}], "list", (None, "Hi", None, None), {"speaker": {"id": 1}}),
    ],
)
def test_every_known_transcript_becomes_segments(transcript, shape, segment, extra):
    rows = conversation_rows({"id": "c", "transcript": transcript}, STAMP)
    assert rows["conversations"][0]["transcript_shape"] == shape
    assert rows["conversations"][0]["extra"] is None
    row = rows["transcript_segments"][0]
    assert (row["speaker"], row["text"], row["start_seconds"], row["end_seconds"]) == segment
    assert (json.loads(row["extra"]) if row["extra"] else None) == extra


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ({}, None),
        ({"transcript": None}, "empty"),
        ({"transcript": [{}]}, "empty"),
        ({"transcript": {"segments": []}}, "empty"),
        ({"transcript": {"Erik": "Hello", "lines": [1]}}, "unknown"),
    ],
)
def test_the_shape_of_no_transcript_tells_why_and_names_nothing(body, shape):
    rows = conversation_rows({"id": "c", **body}, STAMP)
    assert rows["transcript_segments"] == []
    assert rows["conversations"][0]["transcript_shape"] == shape


@pytest.mark.parametrize(
    ("told", "extra"),
    [
        ({"title": ["a"]}, {"title": ["a"]}),
        ({"title": 5, "company": "", "summary": None, "department": None}, None),
        ({"duration": "long"}, {"duration": "long"}),
        ({"duration": float("nan"), "x": float("inf")}, {"duration": None, "x": None}),
        ({"date": "yesterday"}, {"date": "yesterday"}),
        ({"date": 1770454800}, {"date": 1770454800}),
        ({"id": {"a": 1}}, {"id": {"a": 1}}),
        ({"user": "Erik"}, {"user": "Erik"}),
        ({"user": {"id": 1, "role": "owner", "name": "E"}}, {"user": {"role": "owner"}}),
        ({"user": {"name": "E", "full_name": "Erik"}}, {"user": {"full_name": "Erik"}}),
        ({"user": {"name": "E", "full_name": "E"}}, None),
        ({"department": [{"id": 1}]}, {"department": [{"id": 1}]}),
        ({"participants": {"name": "Jane"}}, {"participants": {"name": "Jane"}}),
        ({"insights": "none"}, {"insights": "none"}),
        ({"z": {"b": 1, "a": [None, ""]}, "a": "å"}, {"a": "å", "z": {"a": [None, ""], "b": 1}}),
        ({"x": "cut \ud83d"}, {"x": "cut \ud83d"}),
    ],
)
def test_what_no_column_shows_is_kept(told, extra):
    row = conversation_rows(told, STAMP)["conversations"][0]
    assert (json.loads(row["extra"]) if row["extra"] else None) == extra


def test_extra_has_one_form():
    told = {"z": {"b": 1, "a": "å"}, "c": 1.0}
    assert conversation_rows(told, STAMP)["conversations"][0]["extra"] == '{"c":1.0,"z":{"a":"å","b":1}}'


def test_items_that_are_no_objects_keep_their_place():
    told = {"participants": [{"name": "Jane"}, "Tom", None, 3], "insights": ["SSO", ["x"]]}
    rows = conversation_rows(told, STAMP)
    assert [(row["position"], row["name"], row["extra"]) for row in rows["participants"]] == [
        (0, "Jane", None),
        (1, None, '"Tom"'),
        (2, None, None),
        (3, None, "3"),
    ]
    assert [row["extra"] for row in rows["insights"]] == ['"SSO"', '["x"]']
    team = directory_rows({"teams": [{"id": "t", "members": ["u", {"id": 2}]}, "odd", {"members": "many"}]}, STAMP)
    assert [(row["team_id"], row["user_id"], row["extra"]) for row in team["team_members"]] == [
        ("t", None, '"u"'),
        ("t", "2", None),
    ]
    assert [row["extra"] for row in team["teams"]] == [None, '"odd"', '{"members":"many"}']


@pytest.mark.parametrize("body", [None, [], [{"id": "c"}], "text", 7, {}])
def test_an_answer_that_is_no_conversation_is_a_row_all_the_same(body):
    rows = conversation_rows(body, STAMP)
    assert [row["conversation_id"] for row in rows["conversations"]] == [None]
    assert REST.tombstone(body, STAMP)["deleted"] is True


def test_what_is_nested_too_deep_breaks_nothing():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    rows = conversation_rows(
        {"id": "c", "x": deep, "transcript": deep, "insights": deep, "participants": [{"x": deep}]}, STAMP
    )
    assert (rows["conversations"][0]["conversation_id"], rows["conversations"][0]["extra"]) == ("c", None)
    assert rows["conversations"][0]["transcript_shape"] == "unknown"


@pytest.mark.parametrize(
    ("text", "read"),
    [("\ud83d", "�"), ("a\udc00b", "a�b"), ("\ud83d\ude00", "😀"), ("\ufeffa", "\ufeffa"), ("\0", "\0"), (" \n", None)],
)
def test_text_can_be_written(text, read):
    assert Type.TEXT.read(text) == read


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        (Type.TEXT, True, None),
        (Type.TEXT, 1.5, None),
        (Type.NUMBER, True, None),
        (Type.NUMBER, "1e999", None),
        (Type.NUMBER, 10**400, None),
        (Type.NUMBER, "12.5", 12.5),
        (Type.INTEGER, 14.0, 14),
        (Type.INTEGER, 14.5, None),
        (Type.INTEGER, 2**60, None),
        (Type.BOOLEAN, 1, None),
        (Type.TIME, "2026-02-07T09:00:00", TOOK_PLACE),
        (Type.TIME, "2026-02-07T10:00:00+01:00", TOOK_PLACE),
        (Type.TIME, "9999-12-31T23:59:59-12:00", None),
    ],
)
def test_values_are_read_as_their_column_holds_them(kind, value, read):
    assert kind.read(value) == read


def test_a_tombstone_says_id_and_date_only():
    row = REST.tombstone(DETAIL, STAMP)
    said = {name: value for name, value in content(row).items() if value is not None}
    assert said == {"conversation_id": DETAIL["id"], "occurred_at": TOOK_PLACE, "deleted": True}
    assert row["extra"] is None
    assert list(row) == [column.name for column in TABLES["conversations"].columns]


def test_the_hash_follows_the_content_alone():
    def hash_of(**changes):
        stamp = changes.pop("stamp", STAMP)
        return conversation_rows({**DETAIL, **changes}, stamp)["conversations"][0]["_dstny_hash"]

    assert len(hash_of()) == 32
    assert hash_of(stamp=Stamp(datetime(2027, 1, 1, tzinfo=UTC), "other", "later")) == hash_of()
    assert hash_of(_meta={"timestamp": "2027-01-01T00:00:00.000Z"}) == hash_of()
    assert hash_of(date="2026-02-07T10:00:00+01:00") == hash_of()
    assert len({hash_of(), hash_of(title="Other"), hash_of(title=None), hash_of(new=1), hash_of(new=2)}) == 5


def test_times_of_a_stamp_are_utc():
    there = datetime(2026, 11, 20, 12, tzinfo=timezone(timedelta(hours=1)))
    assert Stamp(there, "s", "r").synced_at.isoformat() == "2026-11-20T11:00:00+00:00"
    with pytest.raises(DstnyValidationError, match="synced_at must be a timezone-aware"):
        Stamp(datetime(2026, 11, 20), "s", "r")  # noqa: DTZ001 - what is refused


def test_tables_have_their_keys_and_no_column_like_a_partition():
    assert list(TABLES) == [table.name for table in (*CONVERSATION_TABLES, *DIRECTORY_TABLES)]
    for table in TABLES.values():
        names = [column.name for column in table.columns]
        assert names[-5:] == LAST
        assert len(names) == len(set(names))
        assert set(table.keys) <= set(names)
        assert "date" not in names


def test_json_is_valid_whatever_it_is_made_of():
    assert json_text({"b": [float("nan"), 1.5], "a": "cut \ud83d"}) == '{"b":[null,1.5],"a":"cut \\ud83d"}'


@given(ANYTHING)
def test_no_answer_breaks_a_row(body):
    for rows in (conversation_rows(body, STAMP), directory_rows(body, STAMP)):
        for name, found in rows.items():
            for row in found:
                assert list(row) == [column.name for column in TABLES[name].columns]
                json_text(row).encode()
                assert row["extra"] is None or json.loads(row["extra"]) != {}


@given(st.dictionaries(_NAMES, ANYTHING))
def test_the_order_of_fields_changes_nothing(body):
    turned = dict(reversed(body.items()))
    assert json_text(conversation_rows(body, STAMP)) == json_text(conversation_rows(turned, STAMP))


@given(st.dictionaries(st.text(max_size=5).map(lambda name: f"new_{name}"), ANYTHING.filter(lambda x: x is not None)))
def test_unknown_fields_are_never_lost(fields):
    extra = conversation_rows({**DETAIL, **fields}, STAMP)["conversations"][0]["extra"]
    assert (json.loads(extra) if extra else {}) == json.loads(json_text(fields))
