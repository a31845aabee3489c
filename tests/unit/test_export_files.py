from __future__ import annotations

import dataclasses
import io
import json
import random
import sys
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.export.dstny_rest_tables import (
    CONVERSATIONS,
    TRANSCRIPT_SEGMENTS,
    USERS,
    conversation_rows,
    directory_rows,
)
from airflow_provider_dstny.export.files import (
    DataFile,
    Manifest,
    TableFile,
    interval_name,
    json_lines,
    table_bytes,
    table_path,
)
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.export.tables import Stamp

TABLES = LAYOUTS["dstny_rest"].tables

STAMP = Stamp(datetime(2026, 11, 20, 11, tzinfo=UTC), "dstny_rest_default", "i")
INTERVAL = "20261120T100000Z-20261120T110000Z"
START, END = datetime(2026, 11, 20, 10, tzinfo=UTC), datetime(2026, 11, 20, 11, tzinfo=UTC)

#: Rows with all that is hard to write: no key at all, the same key twice, times at both ends, odd text.
BODIES = [
    {"id": "b", "date": "2026-02-07T09:00:00.123456Z", "title": "å \u2028 \0 \n", "x": {"y": [1]}},
    {"id": "a", "date": "0001-01-01T00:00:00Z", "duration": 0.1},
    {"id": "a", "date": "9999-12-31T23:59:59.999999Z", "title": "other"},
    {"title": "cut \ud83d"},
    {"participants": ["x", {"name": "😀"}], "transcript": ["one", {"text": "two", "speaker": "E", "start": 1}]},
]


def rows_of(name):
    return [row for body in BODIES for row in conversation_rows(body, STAMP)[name]]


def test_an_interval_is_named_by_its_times():
    assert interval_name(START, END) == INTERVAL
    there = timezone(timedelta(hours=2))
    assert interval_name(START.astimezone(there), END.astimezone(there)) == INTERVAL
    assert interval_name(START, START + timedelta(microseconds=50)) == "20261120T100000Z-20261120T100000.000050Z"
    assert interval_name(START, START) == "20261120T100000Z-20261120T100000Z"


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (END, START, "must not end before"),
        (None, END, "must have a start"),
        (START.replace(tzinfo=None), END, "start must be a timezone-aware"),
        (START, END.replace(tzinfo=None), "end must be a timezone-aware"),
    ],
)
def test_an_interval_has_two_times_in_order(start, end, reason):
    with pytest.raises(DstnyValidationError, match=reason):
        interval_name(start, end)


def test_files_lie_where_hive_looks_for_them():
    day = date(2026, 2, 7)
    assert table_path(CONVERSATIONS, day, INTERVAL, "jsonl") == f"conversations/date=2026-02-07/{INTERVAL}.jsonl"
    assert table_path(USERS, day, INTERVAL, "parquet") == f"users/date=2026-02-07/{INTERVAL}.parquet"
    nowhere = table_path(CONVERSATIONS, None, INTERVAL, "parquet")
    assert nowhere == f"conversations/date=__HIVE_DEFAULT_PARTITION__/{INTERVAL}.parquet"


def test_raw_lines_are_what_the_api_said():
    answers = [{"b": 1, "a": "å\u2028"}, {"text": "cut \ud83d", "n": float("nan")}, None]
    lines = b"".join(json_lines(answers)).split(b"\n")
    assert lines == ['{"b":1,"a":"å\u2028"}'.encode(), b'{"text":"cut \\ud83d","n":null}', b"null", b""]


def test_lines_have_every_column_in_order():
    content = table_bytes(CONVERSATIONS, rows_of("conversations"), "jsonl")
    assert content.endswith(b"}\n")
    rows = [json.loads(line) for line in content.decode().split("\n")[:-1]]
    assert all(list(row) == [column.name for column in CONVERSATIONS.columns] for row in rows)
    assert [row["conversation_id"] for row in rows] == [None, None, "a", "a", "b"]
    assert rows[-1]["occurred_at"] == "2026-02-07T09:00:00.123456Z"
    assert rows[-1]["_dstny_synced_at"] == "2026-11-20T11:00:00.000Z"
    assert "å" in content.decode()
    assert table_bytes(CONVERSATIONS, [], "jsonl") == b""


def test_segments_are_sorted_by_number():
    body = {"id": "c", "transcript": ["x"] * 12}
    rows = conversation_rows(body, STAMP)["transcript_segments"]
    content = table_bytes(TRANSCRIPT_SEGMENTS, reversed(rows), "jsonl").decode()
    assert [json.loads(line)["position"] for line in content.splitlines()] == list(range(12))


@given(st.permutations(BODIES))
def test_the_order_of_rows_changes_no_byte(bodies):
    def written(bodies):
        rows = [conversation_rows(body, STAMP) for body in bodies]
        return [
            table_bytes(TABLES[name], [row for one in rows for row in one[name]], "jsonl")
            for name in ("conversations", "participants", "transcript_segments")
        ]

    assert written(bodies) == written(BODIES)


@pytest.mark.parametrize("name", TABLES)
def test_parquet_has_what_jsonl_has(name):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = TABLES[name]
    users = {"users": [{"id": 1}, {}], "teams": [{"id": "t", "created_at": "2026-01-01", "members": [{"id": 1}]}]}
    found = {**directory_rows({**users, "departments": [{"enabled": True}]}, STAMP)}
    rows = found.get(name) or rows_of(name)
    content = table_bytes(table, rows, "parquet")
    read = parquet.read_table(io.BytesIO(content))
    assert read.schema.equals(table.arrow_schema())
    as_lines = table_bytes(table, read.to_pylist(), "jsonl")
    assert as_lines == table_bytes(table, rows, "jsonl")
    if rows:
        columns = parquet.ParquetFile(io.BytesIO(content)).metadata.row_group(0)
        assert columns.column(0).compression == "ZSTD"


def test_parquet_is_the_same_bytes_for_the_same_rows():
    pytest.importorskip("pyarrow")
    rows = rows_of("conversations")
    content = table_bytes(CONVERSATIONS, rows, "parquet")
    assert content[:4] == b"PAR1"
    random.Random(1).shuffle(rows)
    assert table_bytes(CONVERSATIONS, rows, "parquet") == content
    assert table_bytes(CONVERSATIONS, iter(rows), "parquet") == content
    assert table_bytes(CONVERSATIONS, [], "parquet")[:4] == b"PAR1"


def test_parquet_without_pyarrow_tells_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DstnyValidationError, match=r"pip install 'airflow-provider-dstny\[parquet\]'"):
        table_bytes(CONVERSATIONS, [], "parquet")
    assert table_bytes(CONVERSATIONS, [], "jsonl") == b""


def manifest(**changes):
    file = DataFile("conversations/date=2026-02-07/i.jsonl", "conversations", 1, "00ff", 8)
    return Manifest(
        **{
            "interval": INTERVAL,
            "files": (file,),
            "counts": {"new": 1, "gone": 0},
            "requests": 7,
            "ledger": "_dstny/ledger/i-0.jsonl",
            "redaction": "0123456789abcdef",
            **changes,
        }
    )


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_rows_that_come_little_by_little_are_the_same_bytes(file_format):
    rows = [row for n in range(2_500) for row in conversation_rows({"id": f"{n:05d}"}, STAMP)["conversations"]]
    content = io.BytesIO()
    file = TableFile(CONVERSATIONS, file_format, content)
    for first in range(0, len(rows), 7):
        file.add(iter(rows[first : first + 7]))
    file.finish()
    assert content.getvalue() == table_bytes(CONVERSATIONS, rows, file_format)
    assert file.rows == 2_500


def test_a_manifest_is_read_as_it_was_written():
    text = manifest().to_json()
    assert Manifest.from_json(text) == Manifest.from_json(text.encode()) == manifest()
    assert json.loads(text)["version"] == 1
    assert json.loads(text)["files"][0]["bytes"] == 8
    assert manifest(counts={"gone": 0, "new": 1}).to_json() == text
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest().requests = 8


def test_an_unknown_version_is_refused():
    for version in (2, 0, "1", None, [1]):
        text = json.dumps({**json.loads(manifest().to_json()), "version": version})
        with pytest.raises(DstnyValidationError, match=r"has version .* reads version 1 only"):
            Manifest.from_json(text)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"files": None}, "files"),
        ({"files": [{"path": "secret"}]}, r"files\.0"),
        ({"counts": {"new": "secret"}}, r"counts\.new"),
        ({"requests": "7"}, "requests"),
        ({"ledger": 1.5}, "ledger"),
        ({"interval": 1}, "interval"),
        ({"version": True}, "version"),
    ],
)
def test_a_broken_manifest_is_refused_by_the_place(changes, place):
    text = json.dumps({**json.loads(manifest().to_json()), **changes})
    with pytest.raises(DstnyValidationError, match=f"cannot be read: {place}") as caught:
        Manifest.from_json(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", b"\xff", "[" * 100_000])
def test_what_is_no_manifest_is_refused(text):
    with pytest.raises(DstnyValidationError, match="no JSON object with a version"):
        Manifest.from_json(text)


_COUNTS = st.integers(min_value=0, max_value=2**62)


@given(
    st.text(),
    st.lists(st.builds(DataFile, st.text(), st.text(), _COUNTS, st.text(), _COUNTS)),
    st.dictionaries(st.text(), _COUNTS),
)
def test_every_manifest_survives(interval, files, counts):
    made = manifest(interval=interval, files=tuple(files), counts=counts)
    assert Manifest.from_json(made.to_json()) == made
