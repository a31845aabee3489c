"""What is redacted must be nowhere: neither in the raw answers nor in any table made of them."""

from __future__ import annotations

import copy
import hashlib
import hmac
import json
import re
from datetime import UTC, datetime
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.export.dstny_rest_tables import conversation_rows, directory_rows
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.tables import Stamp, json_text

REST = LAYOUTS["dstny_rest"]
STAMP = Stamp(datetime(2026, 11, 20, 11, tzinfo=UTC), "dstny_rest_default", "20261120T100000Z-20261120T110000Z")
SALT = "pepper-and-salt-0123456789"

ERIK, JANE = "Erik Lindström", "Jane Doe"
SAID = "We will say KARTOFFEL"
DETAIL = {
    "id": "c-1",
    "title": f"Title: {SAID}",
    "company": "Acme",
    "date": "2026-02-07T09:00:00.000Z",
    "duration": 1800,
    "summary": f"Summary: {SAID}",
    "department": {"id": "d-1", "name": "B2B Sales"},
    "user": {"id": "u-1", "name": ERIK, "email": "erik@telco-demo.test"},
    "participants": [
        {"name": JANE, "email": "jane@acme.test", "role": "customer"},
        {"name": "Tom", "email": ["tom@acme.test", "tom@home.test"]},
    ],
    "transcript": {"segments": [{"speaker": ERIK, "text": SAID, "start": 0, "end": 1.2}]},
    "insights": [{"id": "i-1", "insight_text": SAID, "kpi_slug": "sso", "start_time_seconds": 120}],
    "_meta": {"token_prefix": "mt_ab12cd34", "timestamp": "2026-02-08T00:00:00.000Z"},
}
DIRECTORY = {
    "users": [{"id": "u-1", "full_name": ERIK, "email": "erik@telco-demo.test", "role": "owner"}],
    "teams": [
        {
            "id": "t-1",
            "name": "Sales",
            "members": [{"id": "u-1", "full_name": ERIK, "email": "erik@telco-demo.test"}],
        }
    ],
    "departments": [{"id": "d-1", "name": "B2B Sales"}],
}
#: Every form in which a transcript is known to come, and some that nobody knows.
TRANSCRIPTS = {
    "segments": {"segments": [{"speaker": JANE, "text": SAID, "start": 0}]},
    "sentences": {"sentences": [{"speaker_name": JANE, "text": SAID}]},
    "messages": {"messages": [{"role": "customer", "name": JANE, "content": SAID}]},
    "message": {"messages": [{"role": "customer", "name": JANE, "message": SAID}]},
    "utterances": {"utterances": [{"speaker": JANE, "sentence": SAID, "words": [{"word": SAID, "speaker": JANE}]}]},
    "paragraphs": {"paragraphs": [{"speaker_id": JANE, "text": SAID}]},
    "list": [{"speaker": JANE, "text": SAID}],
    "nested": {"data": {"transcript": {"segments": [{"segments": [{"name": JANE, "text": SAID}]}]}}},
    "speakers": {"segments": [{"speaker_id": 1, "text": SAID}], "speakers": [{"id": 1, "name": JANE}]},
    "texts": {"segments": [SAID]},
    "text": {"text": SAID},
    "bare": SAID,
    "unknown": {"lines": [{"phrase": SAID}], SAID: {"x": [SAID]}},
}


def written(body=None, directory=None):
    """All that is written of redacted answers."""
    pieces = []
    for answer, rows_of in ((body, conversation_rows), (directory, directory_rows)):
        if answer is not None:
            pieces += [json_text(answer), json_text(rows_of(answer, STAMP))]
    return "".join(pieces)


def exported(redaction):
    return written(redaction.redact_conversation(DETAIL), redaction.redact(DIRECTORY))


def hashed(text):
    return hmac.new(SALT.encode(), text.encode(), hashlib.sha256).hexdigest()


def test_without_rules_nothing_is_taken_and_nothing_is_shared():
    for none in (None, {}, Redaction()):
        kept = Redaction.parse(none).redact_conversation(DETAIL)
        assert kept == DETAIL
        kept["participants"][0]["name"] = "x"
        assert DETAIL["participants"][0]["name"] == JANE


@pytest.mark.parametrize(
    ("path", "gone", "there"),
    [
        ("summary", ["Summary:"], ["Title:"]),
        ("participants.email", ["jane@", "tom@acme", "tom@home"], ["erik@", JANE]),
        ("participants", [JANE, "jane@", "Tom", '"customer"'], ["erik@", SAID]),
        ("user.email", ["erik@"], ["jane@", ERIK]),
        ("users.email", ["erik@"], ["jane@", ERIK]),
        ("teams.members.email", ["erik@"], ["jane@", ERIK]),
        ("user.name", [ERIK], ["erik@", JANE, SAID, "B2B Sales"]),
        ("users.full_name", [ERIK], ["erik@", JANE, SAID]),
        ("department.name", ["B2B Sales"], ["d-1"]),
        ("**.email", ["jane@", "tom@acme", "tom@home", "erik@"], [ERIK, JANE]),
        ("**.name", [ERIK, JANE, "Tom", "B2B Sales"], ["jane@", SAID]),
        ("_meta", ["mt_ab12cd34"], [SAID]),
    ],
)
def test_what_is_dropped_or_hashed_is_nowhere(path, gone, there):
    everything = exported(Redaction())
    assert [one for one in [*gone, *there] if one not in everything] == []
    for rules in ({"drop": [path]}, {"hash": [path], "salt": SALT}):
        text = exported(Redaction.parse(rules))
        assert [one for one in gone if one in text] == []
        assert [one for one in there if one not in text] == []


def test_whole_objects_are_dropped():
    kept = Redaction(drop=["user", "transcript", "participants", "insights.insight_text"]).redact_conversation(DETAIL)
    assert not {"user", "transcript", "participants"} & set(kept)
    assert kept["insights"] == [{"id": "i-1", "kpi_slug": "sso", "start_time_seconds": 120}]
    assert kept["title"] == DETAIL["title"]


@pytest.mark.parametrize("path", ["Participants.email", "participants.Email", "email", "participant.email"])
def test_paths_are_exact_and_those_that_lead_nowhere_are_told(path):
    redaction = Redaction(drop=[path, "user.email", "**.email", "transcript", "transcript.speaker", "teams.created_at"])
    assert redaction.undocumented == (path,)
    assert Redaction(drop=[path]).redact_conversation(DETAIL) == DETAIL


@pytest.mark.parametrize("transcript", TRANSCRIPTS.values(), ids=TRANSCRIPTS)
@pytest.mark.parametrize(
    "path", ["participants.name", "participants", "user.full_name", "transcript.speaker", "transcript.segments.name"]
)
def test_who_has_no_name_has_none_as_a_speaker(transcript, path):
    body = {**DETAIL, "participants": [], "transcript": transcript}
    for redaction in (Redaction(drop=[path]), Redaction(hash=[path], salt=SALT)):
        assert JANE not in written(redaction.redact_conversation(body))


def test_a_role_is_no_name():
    kept = Redaction(drop=["participants.name"]).redact_conversation({"transcript": TRANSCRIPTS["messages"]})
    rows = conversation_rows(kept, STAMP)["transcript_segments"]
    assert [(row["speaker"], row["text"]) for row in rows] == [("customer", SAID)]


@pytest.mark.parametrize("transcript", TRANSCRIPTS.values(), ids=TRANSCRIPTS)
@pytest.mark.parametrize("place", ["transcript", "transcription", "notes", "title", "user", "duration", "date"])
def test_without_text_nothing_that_was_said_is_anywhere(transcript, place):
    body = {**DETAIL, "company": {"about": transcript}, place: transcript}
    body["participants"] = [{"name": JANE, "said": SAID, "role": {"x": SAID}}, SAID]
    body["insights"] = [{**DETAIL["insights"][0], "quotes": [transcript], "impact": [SAID]}, SAID, {SAID: 1}]
    kept = Redaction(drop_text=True).redact_conversation(body)
    assert "KARTOFFEL" not in written(kept)
    rows = conversation_rows(kept, STAMP)
    assert rows["conversations"][0]["conversation_id"] == "c-1"
    assert [(row["name"], row["extra"]) for row in rows["participants"]] == [(JANE, None), (None, None)]
    assert [row["kpi_slug"] for row in rows["insights"]] == ["sso", None, None]


def test_without_text_all_else_that_is_documented_stays():
    kept = Redaction(drop_text=True).redact_conversation(DETAIL)
    said = ("title", "summary", "transcript", "_meta")
    expected = {name: value for name, value in DETAIL.items() if name not in said}
    expected["insights"] = [{"id": "i-1", "kpi_slug": "sso", "start_time_seconds": 120}]
    # The second participant has a list for an address, which is not what is documented.
    expected["participants"] = [DETAIL["participants"][0], {"name": "Tom"}]
    assert kept == expected


def test_the_same_value_has_the_same_hash_everywhere():
    redaction = Redaction(hash=["user.name", "user.email", "user.id"], salt=SALT)
    kept, directory = redaction.redact_conversation(DETAIL), redaction.redact(DIRECTORY)
    assert kept["user"] == {"id": hashed("u-1"), "name": hashed(ERIK), "email": hashed("erik@telco-demo.test")}
    assert kept["transcript"]["segments"][0]["speaker"] == hashed(ERIK)
    assert directory["users"][0]["email"] == directory["teams"][0]["members"][0]["email"] == kept["user"]["email"]
    assert directory["users"][0]["full_name"] == kept["user"]["name"]
    assert conversation_rows(kept, STAMP)["conversations"][0]["user_id"] == hashed("u-1")
    assert Redaction(hash=["user.name"], salt=SALT + "x").redact_conversation(DETAIL)["user"]["name"] != hashed(ERIK)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        ("", hashed("")),
        (7, hashed("7")),
        (True, hashed("true")),
        (["a", None, ["b"]], [hashed("a"), None, [hashed("b")]]),
        ({"b": 1, "a": "å"}, hashed('{"a":"å","b":1}')),
    ],
)
def test_values_of_every_kind_are_hashed(value, kept):
    assert Redaction(hash=["x"], salt=SALT).redact({"x": value}) == {"x": kept}


def test_half_a_surrogate_pair_is_hashed():
    assert len(Redaction(hash=["x"], salt=SALT + "\ud83d").redact({"x": "cut \ud83d"})["x"]) == 64


@pytest.mark.parametrize("bare", ["jane@acme.test", ["jane@acme.test"], [["jane@acme.test"]]])
def test_a_bare_value_where_an_object_is_expected_is_taken(bare):
    for rules in ({"drop": ["participants.email"]}, {"hash": ["participants.email"], "salt": SALT}):
        redaction = Redaction.parse(rules)
        assert "jane@" not in written(redaction.redact_conversation({"id": "c", "participants": bare}))
    text = Redaction(drop=["**.email"]).redact({"x": bare})
    assert text == {"x": bare}, "a rule of any depth means fields of that name only"


def test_dropping_wins_over_hashing():
    redaction = Redaction(drop=["participants.email"], hash=["**.email"], salt=SALT)
    kept = redaction.redact_conversation(DETAIL)
    assert "email" not in kept["participants"][0]
    assert kept["user"]["email"] == hashed("erik@telco-demo.test")


def test_a_tombstone_has_the_id_of_its_conversation():
    redaction = Redaction(hash=["id"], salt=SALT)
    alive = conversation_rows(redaction.redact_conversation(DETAIL), STAMP)["conversations"][0]
    gone = REST.tombstone(redaction.redact({"id": DETAIL["id"], "date": DETAIL["date"]}), STAMP)
    assert gone["conversation_id"] == alive["conversation_id"] == hashed("c-1")


def test_apply_comes_first_and_the_rules_hold_for_what_it_returns():
    def apply(body):
        body["user"]["email"] = "new@telco-demo.test"
        return {**body, "participants": ({"email": "added@acme.test", "name": JANE},)}

    before = copy.deepcopy(DETAIL)
    redaction = Redaction(apply=apply, drop=["user.email", "participants.email"])
    kept = redaction.redact_conversation(DETAIL)
    assert kept["participants"] == [{"name": JANE}]
    assert "email" not in kept["user"]
    assert before == DETAIL
    assert redaction.redact(DIRECTORY)["teams"] == Redaction(drop=["user.email"]).redact(DIRECTORY)["teams"]


def test_apply_may_leave_a_conversation_out():
    redaction = Redaction(apply=lambda body: None if body["company"] == "Acme" else body)
    assert redaction.redact_conversation(DETAIL) is None
    assert redaction.redact_conversation({"company": "Other"}) == {"company": "Other"}


@pytest.mark.parametrize("answer", [[], "secret", {"a": {1, 2}}, {"a": datetime(2026, 1, 1, tzinfo=UTC)}])
def test_what_apply_returns_must_be_json(answer):
    with pytest.raises(DstnyValidationError, match="apply") as caught:
        Redaction(apply=lambda body: answer).redact_conversation(DETAIL)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


def test_what_hides_in_the_depth_is_cut():
    deep = {"email": "deep@acme.test"}
    for _ in range(3000):
        deep = {"x": [deep]}
    for redaction in (Redaction(drop=["**.email"]), Redaction(hash=["x"], salt=SALT), Redaction(drop_text=True)):
        assert "deep@" not in written(redaction.redact_conversation({**DETAIL, "x": deep}))


@pytest.mark.parametrize("body", [None, [], [{"user": {"email": "erik@telco-demo.test"}}], "erik@telco-demo.test"])
def test_what_is_no_object_is_empty(body):
    assert Redaction(drop=["user.email"], drop_text=True).redact_conversation(body) == {}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("drop", "must be a mapping"),
        ({"dropp": []}, "no 'dropp', only drop, hash, salt, drop_text, apply"),
        ({"layout": REST}, "no 'layout', only drop, hash, salt, drop_text, apply"),
        ({"drop": "summary"}, "drop must be a list"),
        ({"drop": None}, "drop must be a list"),
        ({"drop": [5]}, "drop has 5"),
        ({"drop": (one for one in ["summary"])}, "drop must be a list"),
        *(
            ({"drop": ["summary", path]}, f"drop has {re.escape(repr(path))}: a field is like")
            for path in ("", ".", "a..b", " a", "a. b", "a.", "**", "a.**", "**.**.a", "participants.*.email", "mail*")
        ),
        ({"drop": ["id"]}, "drop must not take the id"),
        ({"drop": ["**.id"]}, "drop must not take the id"),
        ({"drop": ["transcript.segments.text"]}, "drop_text"),
        ({"hash": ["transcript.sentences.content"], "salt": SALT}, "hash has .*drop_text"),
        ({"hash": {"a": 1}}, "hash must be a list"),
        ({"hash": ["a"]}, "salt is missing"),
        ({"hash": ["a"], "salt": ""}, "salt must be a text of at least 16"),
        ({"hash": ["a"], "salt": 1234567890123456}, "salt must be a text"),
        ({"drop_text": "yes"}, "drop_text must be True or False"),
        ({"apply": "module.function"}, "apply must be callable"),
    ],
)
def test_a_wrong_argument_is_named(arguments, named):
    with pytest.raises(DstnyValidationError, match=named):
        Redaction.parse(arguments)


def test_nobody_sees_the_salt():
    redaction = Redaction.parse({"hash": ["user.email"], "salt": SALT, "apply": partial(dict, key=SALT)})
    assert SALT not in f"{redaction!r} {redaction}"
    assert "user.email" in repr(redaction)
    assert Redaction.parse(redaction) is redaction
    with pytest.raises(DstnyValidationError) as caught:
        Redaction.parse({"hash": ["a"], "salt": "too-short-salt"})
    assert "too-short-salt" not in f"{caught.value!r}"


MARK = "KARTOFFEL"
_TREES = st.recursive(
    st.sampled_from([None, True, 1.5, "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)


@st.composite
def marked(draw):
    """A tree, the path to a field in it, and what stands there, which has the mark in every text and name."""
    path = draw(st.lists(st.sampled_from(["a", "b", "participants", "email"]), min_size=1, max_size=4))
    secret = draw(st.sampled_from([MARK, [MARK, [MARK]], {MARK: MARK}, [{"x": MARK}, 1]]))
    tree = secret
    for name in reversed(path):
        others = draw(st.dictionaries(st.sampled_from(["p", "q"]), _TREES, max_size=2))
        tree = {**others, name: tree}
        tree = draw(st.sampled_from([tree, [tree], [[tree], others]])) if name != path[0] else tree
    return (tree if isinstance(tree, dict) else {"top": tree}), path, isinstance(tree, dict)


@given(marked())
def test_whatever_stands_at_a_path_leaves_no_trace(made):
    tree, path, on_top = made
    for text in {".".join(path) if on_top else f"top.{'.'.join(path)}", f"**.{path[-1]}"}:
        for rules in ({"drop": [text]}, {"hash": [text], "salt": SALT}):
            kept = Redaction.parse(rules).redact_conversation(tree)
            assert MARK not in written(kept)
            assert json.dumps(Redaction.parse(rules).redact(tree)) == json.dumps(kept)
