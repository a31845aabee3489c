"""Whatever an API answers becomes rows that can be written, and whatever is redacted is gone."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from importlib.util import find_spec

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.export.files import Manifest, json_lines, table_bytes
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.tables import Stamp, Type
from tests.unit.fuzzing import NASTY, any_text, anything, bodies, fuzz, mutated, told
from tests.unit.test_export_layouts import BODIES as SEEDS

STAMP = Stamp(datetime(2026, 11, 20, 11, tzinfo=UTC), "dstny_rest_default", "20261120T100000Z-20261120T110000Z")
DIRECTORY = {
    "users": [{"id": 1, "email": "ulla@example.com", "teams": [{"id": "t"}]}],
    "teams": [{"id": "t", "name": "Sales", "members": [{"id": 1, "email": "ulla@example.com"}]}],
    "departments": [{"id": "d", "slug": "b2b", "enabled": True}],
}
FORMATS = ["jsonl", *(["parquet"] if find_spec("pyarrow") else [])]
GONE = "what was dr0pped"
SALT = "sixteen characters of salt"


def read(body):
    """What a client would hand on of a body, nothing if it would not."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


@st.composite
def answers(draw):
    name = draw(st.sampled_from(sorted(SEEDS)))
    body = draw(st.builds(lambda one: one, bodies(SEEDS[name], DIRECTORY)))
    return name, read(body)


def _refuse(constant):
    raise AssertionError(constant)


def written(layout, body, formats):
    """Check that the rows of an answer can be written in every form, and return them."""
    made = {**layout.rows(body, STAMP), **layout.directory_rows(body, STAMP)}
    assert {table.name for table in layout.conversation_tables} <= set(made)
    for name, rows in made.items():
        for line in json_lines(rows):
            assert line.count(b"\n") == 1
            json.loads(line, parse_constant=_refuse)
        for file_format in formats:
            assert table_bytes(layout.tables[name], rows, file_format) or not rows
        for row in rows:
            assert len(row["_dstny_hash"]) == 32
    return made


@given(answers())
@fuzz(200)
def test_every_answer_becomes_rows(made):
    layout, body = LAYOUTS[made[0]], made[1]
    written(layout, body, ["jsonl"])
    layout.conversation_id(body)
    layout.occurred_at(body)
    written(layout, layout.tombstone(body, STAMP), ["jsonl"])


@given(answers())
@fuzz(40)
def test_every_answer_becomes_files(made):
    written(LAYOUTS[made[0]], made[1], FORMATS)


@given(st.sampled_from(list(Type)), anything | st.sampled_from(NASTY))
@fuzz(200)
def test_every_value_fits_a_column_or_does_not(kind, value):
    found = kind.read(value)
    assert found is None or kind.read(found) == found or kind is Type.TIME


_paths = st.lists(
    st.sampled_from(["**", "email", "name", "participants", "user", "teams", "members", "transcript", "a", "id", " "])
    | any_text
    | st.sampled_from(NASTY),
    max_size=6,
).map(".".join)
_rules = mutated(
    [
        {"drop": ["summary", "participants.email"], "hash": ["**.email"], "salt": SALT},
        {"drop": ["**.name"], "drop_text": True},
        {"hash": ["user.email", "**.id", "conversation.id"], "salt": SALT},
    ],
    _paths | st.lists(_paths, max_size=4) | anything,
)


@given(_rules, answers())
@fuzz(200)
def test_a_redaction_is_refused_or_holds(rules, made):
    layout, body = LAYOUTS[made[0]], made[1]
    began = time.process_time()
    try:
        redaction = Redaction.parse(rules, layout)
    except DstnyValidationError as error:
        told(error, SALT) if len(str(error)) < 3000 else None
        return
    assert len(redaction.digest) == 16
    assert SALT not in repr(redaction)
    list(redaction.undocumented)
    for kept in (redaction.redact_conversation(body), redaction.redact(body)):
        written(layout, kept, ["jsonl"])
    assert time.process_time() - began < 5


@given(st.sampled_from(["email", "name", "summary"]), answers())
@fuzz(100)
def test_what_is_dropped_at_any_depth_is_nowhere(field, made):
    layout, body = LAYOUTS[made[0]], made[1]
    marked = _with_marks(body, field) if isinstance(body, dict) else {}
    kept = Redaction.parse({"drop": [f"**.{field}"]}, layout).redact_conversation(marked)
    assert GONE not in json.dumps(kept)


def _with_marks(value, field, depth=0):
    if isinstance(value, dict) and depth < 200:
        return {name: GONE if name == field else _with_marks(one, field, depth + 1) for name, one in value.items()}
    return [_with_marks(one, field, depth + 1) for one in value] if isinstance(value, list) and depth < 200 else value


MANIFEST = {
    "version": 1,
    "interval": "20261120T100000Z-20261120T110000Z",
    "files": [{"path": "a", "table": "users", "rows": 1, "sha256": "00", "bytes": 5}],
    "counts": {"listed": 1},
    "requests": 3,
    "ledger": "a",
    "redaction": "b",
    "swept_until": None,
}


@given(bodies(MANIFEST))
@fuzz(200)
def test_a_manifest_is_read_or_refused(body):
    try:
        Manifest.from_json(body).to_json()
    except DstnyValidationError as error:
        str(error)
