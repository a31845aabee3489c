from __future__ import annotations

import pytest

from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyResponseError
from airflow_provider_dstny.api.models import Agent, Conversation, GlobalFilters, Transcript, User, WebhookDelivery

SEGMENTS = {
    "conversation_id": "c",
    "transcript": {"segments": [{"speaker": "E", "text": "Hi", "start": 0, "end": 1.2}]},
}
SENTENCES = {"transcript": {"sentences": [{"speaker_name": "E", "start": 0.84, "end": 3.14, "text": "Thanks"}]}}
MESSAGES = {
    "data": {"messages": [{"id": "m", "role": "user", "content": "Hello", "created_at": "2019-08-24T14:15:22Z"}]}
}


@pytest.mark.parametrize(
    ("body", "shape", "segment"),
    [
        (SEGMENTS, "segments", ("E", "Hi", 0, 1.2)),
        (SENTENCES, "sentences", ("E", "Thanks", 0.84, 3.14)),
        (MESSAGES, "messages", ("user", "Hello", None, None)),
        ([{"speaker": "E", "text": "Hi", "start": "1.5", "end": None}], "list", ("E", "Hi", 1.5, None)),
        ([{"segments": [{"text": "Hi"}]}], "segments", (None, "Hi", None, None)),
        ({"data": [{"text": "Hi", "speaker": 2}]}, "list", ("2", "Hi", None, None)),
        ({"text": "Hello there"}, "text", (None, "Hello there", None, None)),
        ({"transcript": "Hello there"}, "text", (None, "Hello there", None, None)),
        ({"messages": [{"role": "user", "message": "Hi"}]}, "messages", ("user", "Hi", None, None)),
    ],
)
def test_every_known_shape_becomes_the_same_transcript(body, shape, segment):
    transcript = Transcript.from_answer("c", body)
    assert transcript.is_ready
    assert transcript.source_shape == shape
    first = transcript.segments[0]
    assert (first.speaker, first.text, first.start_seconds, first.end_seconds) == segment
    assert first.index == 0
    assert transcript.raw == body


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        [{}],
        {},
        {"transcript": None},
        {"transcript": {"segments": []}},
        {"transcript": {}},
        {"data": None},
        {"data": {"messages": []}},
        [{"text": ""}],
        [{"text": None, "speaker": "E"}],
        {"status": "processing", "message": "Transcript is not ready"},
        [{"status": "processing", "message": "Transcript is not ready"}],
        "",
        7,
    ],
)
def test_every_known_not_yet_is_not_ready(body):
    transcript = Transcript.from_answer("c", body)
    assert not transcript.is_ready
    assert transcript.source_shape in ("empty", "unknown: status=processing")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ([{"phrase": "Hello", "who": 1}], "phrase, who"),
        ({"data": {"phrases": ["Hello"]}}, "phrases"),
        ({"transcript": {"lines": [{"text": "a"}]}}, "lines"),
        ({"segments": [{"phrase": "a"}]}, "phrase"),
        ({"status": "failed"}, "status=failed"),
        ("Transcript is being processed", "a bare text"),
    ],
)
def test_an_unknown_shape_is_not_ready_and_names_its_fields(body, fields):
    transcript = Transcript.from_answer("c", body)
    assert not transcript.is_ready
    assert transcript.source_shape == f"unknown: {fields}"


@pytest.mark.parametrize("number", [10**400, float("nan"), float("inf"), "1e999", "soon", [], True])
def test_times_that_are_none_read_as_none(number):
    segment = Transcript.from_answer("c", [{"text": "Hi", "start": number}]).segments[0]
    assert segment.start_seconds is None


def test_a_name_of_a_field_that_is_no_text_is_read_over():
    body = {"id": 1, "\ud800": "x"}
    assert User.read(body).raw == body


def test_neither_text_nor_raw_shows_when_printed():
    transcript = Transcript.from_answer("c", [{"text": "a secret", "extra_text": "another secret"}])
    assert "secret" not in f"{transcript!r} {transcript} {transcript.segments!r}"
    assert transcript.to_row()["segments"][0]["text"] == "a secret"


@pytest.mark.parametrize("strange", [None, [], {}, "x", 1.5, True, {"a": []}])
@pytest.mark.parametrize("model", [User, Agent, Conversation])
def test_a_field_of_another_type_never_breaks_a_read(model, strange):
    body = dict.fromkeys(model.model_fields, strange) | {"new_field": strange}
    read = model.read(body)
    assert read.raw == body
    assert read.new_field == strange
    for name in model.model_fields:
        assert name == "raw" or getattr(read, name) is None or isinstance(getattr(read, name), (str, int, list))
    assert isinstance(model.read(strange), model)


def test_lists_come_bare_or_below_data():
    assert [user.id for user in User.read_rows([{"id": 1}, {"id": "2"}])] == [1, "2"]
    assert [user.id for user in User.read_rows({"data": [{"id": 1}]})] == [1]
    assert User.read_rows([]) == User.read_rows({"data": None}) == User.read_rows({"data": []}) == []
    assert User.read_rows([None, "x"])[0].id is None


@pytest.mark.parametrize("body", [None, "", 7, {}, {"users": [{"id": 1}]}, {"data": {"items": []}}, {"data": "x"}])
def test_what_is_no_list_is_not_taken_for_an_empty_one(body):
    with pytest.raises(DstnyResponseError, match="cannot be told from an empty one"):
        User.read_rows(body)


@pytest.mark.parametrize(
    "more",
    [
        {"links": {"next": "https://x/2"}},
        {"next_page_url": "https://x/2"},
        {"pagination": {"has_more": True}},
        {"meta": {"next_page": 2}},
    ],
)
def test_a_list_with_further_pages_is_not_taken_for_a_whole_one(more):
    with pytest.raises(DstnyResponseError, match="further pages"):
        User.read_rows({"data": [{"id": 1}], **more})
    ended = {name: (dict.fromkeys(value) if isinstance(value, dict) else None) for name, value in more.items()}
    assert len(User.read_rows({"data": [{"id": 1}], **ended})) == 1


LISTS_OF_V1 = {
    "list_users": "users",
    "list_teams": "teams",
    "list_departments": "departments",
    "list_webhook_deliveries": "deliveries",
}


def list_of_v1(operation, body):
    """Return what an operation of the REST API v1 makes of an answer."""
    steps = getattr(DstnyRestClient("https://api.example.com", "mt_x"), operation).steps()
    next(steps)
    with pytest.raises(StopIteration) as ended:
        steps.send(body)
    return ended.value.value


@pytest.mark.parametrize(("operation", "name"), LISTS_OF_V1.items())
def test_a_list_of_v1_is_whole_or_an_error(operation, name):
    assert [one.id for one in list_of_v1(operation, {name: [{"id": 1}, {"id": "2"}], "_meta": {}})] == [1, "2"]
    assert list_of_v1(operation, {name: []}) == list_of_v1(operation, {name: None}) == []
    for body in (None, {}, {"error": "later"}, {"data": [{"id": 1}]}, {name: {"1": {"id": 1}}}):
        with pytest.raises(DstnyResponseError, match="cannot be told from an empty one"):
            list_of_v1(operation, body)
    for more in ({"hasMore": True}, {"nextCursor": "x"}):
        with pytest.raises(DstnyResponseError, match="further pages"):
            list_of_v1(operation, {name: [{"id": 1}], "pagination": more})


def test_ids_of_a_webhook_delivery_may_be_numbers():
    delivery = WebhookDelivery.read({"id": 17, "resource_id": 4})
    assert (delivery.id, delivery.resource_id) == (17, 4)


def test_unknown_fields_are_kept_but_not_printed():
    user = User.read({"id": 1, "mobile_number": 46701740605, "right_level": 3, "note": "+46701740605"})
    assert user.right_level == 3
    assert "46701740605" not in repr(user)


def test_global_filters_come_as_an_object_or_a_list():
    assert GlobalFilters.read_merged({"teams": [{"id": 1}]}).teams == [{"id": 1}]
    merged = GlobalFilters.read_merged([{"teams": [{"id": 1}]}, {"users": []}, None])
    assert (merged.teams, merged.users) == ([{"id": 1}], [])
