from __future__ import annotations

import asyncio

import pytest

from airflow_provider_dstny.api.dstny import ROUTES, DstnyClient
from airflow_provider_dstny.api.errors import DstnyNotFoundError, DstnyValidationError
from airflow_provider_dstny.api.ids import encode_id, unique_ids
from airflow_provider_dstny.api.operation import Request, Route, operation, override_routes


class Recorder:
    """A driver that answers from a list, raising what is an error."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests: list[Request] = []

    def run(self, steps):
        try:
            request = next(steps)
            while True:
                self.requests.append(request)
                answer = self.answers.pop(0)
                request = steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)
        except StopIteration as stop:
            return stop.value

    async def arun(self, steps):
        return self.run(steps)

    @operation
    def add(self, one: int, *, two: int = 0):
        """Add two answers."""
        first = yield Request("first", "GET", f"/{one}", True)
        try:
            second = yield Request("second", "GET", f"/{two}", True)
        except DstnyNotFoundError:
            second = 100
        return first + second


def test_one_definition_is_callable_sync_and_async():
    assert Recorder(1, 2).add(5, two=6) == 3
    assert asyncio.run(Recorder(1, 2).add.aio(5, two=6)) == 3
    assert str(next(Recorder().add.steps(5))) == "first (GET /5)"
    assert Recorder.add.__doc__ == "Add two answers."


def test_a_definition_may_handle_an_error():
    assert Recorder(1, DstnyNotFoundError(404, "gone")).add(5) == 101


@pytest.mark.parametrize(
    ("value", "encoded"),
    [("a-1", "a-1"), (7, "7"), ("../users", "..%2Fusers"), ("a b", "a%20b"), ("ü?#&", "%C3%BC%3F%23%26"), (" x ", "x")],
)
def test_ids_are_percent_encoded_as_one_segment(value, encoded):
    assert encode_id(value, "id") == encoded


@pytest.mark.parametrize("value", ["", "  ", ".", "..", None, True, 1.5, ["a"]])
def test_what_is_no_id_is_refused(value):
    with pytest.raises(DstnyValidationError, match="conversation_id"):
        encode_id(value, "get_transcript: conversation_id")


def test_ids_are_checked_all_at_once_and_each_is_taken_once():
    assert unique_ids(["b", "a", " b "], "ids") == ["b", "a"]
    assert unique_ids("a", "ids") == ["a"]
    assert unique_ids([], "ids") == []
    assert unique_ids([7, "7", 8], "ids") == unique_ids(["7", 8], "ids") == ["7", "8"]
    assert unique_ids(7, "ids") == ["7"]
    for wrong in (None, 1.5, True, [True], ["a", None], ["a", ""], ["a", "."], ["a", "\ud800"], [["a"]]):
        with pytest.raises(DstnyValidationError, match="ids"):
            unique_ids(wrong, "ids")


def test_bodies_and_parameters_do_not_show_in_the_text_of_a_request():
    request = Request("search", "POST", "/x", False, (("search", "+46701740605"),), {"phone": "+46701740605"})
    assert "46701740605" not in f"{request} {request!r}"


@pytest.mark.parametrize(
    ("override", "route"),
    [
        ("/sessions/{conversation_id}/t", Route("GET", "/sessions/{conversation_id}/t")),
        ("post /sessions/{conversation_id}", Route("POST", "/sessions/{conversation_id}")),
        (["GET", "/s/{conversation_id}"], Route("GET", "/s/{conversation_id}")),
    ],
)
def test_a_path_can_be_overridden(override, route):
    assert override_routes(ROUTES, {"get_transcript": override})["get_transcript"] == route


@pytest.mark.parametrize(
    "override",
    [
        "/no-placeholder",
        "/x/{conversation_id}/{other}",
        "relative/{conversation_id}",
        "/x/{conversation_id}?a=b",
        "FETCH /x/{conversation_id}",
        "/x/{conversation_id",
        "/x/{conversation_id:d}",
        "/x/{conversation_id!r}",
        "/x/{conversation_id}/{}",
        "",
        7,
        ["GET"],
    ],
)
def test_a_path_that_cannot_work_is_refused(override):
    with pytest.raises(DstnyValidationError, match="get_transcript"):
        override_routes(ROUTES, {"get_transcript": override})


def test_an_unknown_operation_is_refused_and_the_known_ones_are_named():
    with pytest.raises(DstnyValidationError, match=r"get_transcrip\b.*Known operations:.*get_transcript"):
        DstnyClient("https://api.example.com", "t", paths={"get_transcrip": "/x"})
