"""The client of tellcasey against the simulator, on a real port."""

from __future__ import annotations

import time

import pytest

from airflow_provider_dstny.api.errors import (
    DstnyAuthError,
    DstnyNotFoundError,
    DstnyResponseError,
    DstnyValidationError,
)
from airflow_provider_dstny.api.tellcasey import ROUTES, TellcaseyClient
from airflow_provider_dstny.simulator import Fault, Simulator
from airflow_provider_dstny.simulator.contract import Contract
from tests.contract.calling import SYNC_AND_ASYNC, call, collect

AGENT = "2b1e3b65-2c04-4fa2-a2d7-467901e98978"
OPERATIONS = {
    "list_conversations": ((), {"status": "completed", "limit": 2}),
    "get_conversation": (("CONVERSATION",), {}),
    "get_transcript": (("CONVERSATION",), {}),
}
SHAPES = {
    "list_conversations": lambda page: len(page.conversations) == 2 and page.has_more and page.next_cursor,
    "get_conversation": lambda one: one.status == "completed" and one.session_properties is not None,
    "get_transcript": lambda transcript: transcript.is_ready and transcript.source_shape == "messages",
}


def client_of(simulator, token=None):
    return TellcaseyClient(simulator.url, token or simulator.tellcasey_token, max_retries=0)


def completed(simulator):
    return next(one for one in simulator.tellcasey.conversations.values() if one.status(time.time()) == "completed")


def test_the_client_the_path_table_and_the_document_know_the_same_operations():
    assert set(Contract("tellcasey").operations) == set(ROUTES) == set(OPERATIONS)


@SYNC_AND_ASYNC
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_sends_what_is_documented_and_reads_the_answer(simulator, name, asynchronous):
    args, kwargs = OPERATIONS[name]
    args = tuple(completed(simulator).id if value == "CONVERSATION" else value for value in args)
    assert SHAPES[name](call(client_of(simulator), name, *args, asynchronous=asynchronous, **kwargs))
    entry = simulator.books.entries[-1]
    assert (entry.api, entry.operation, entry.status) == ("tellcasey", name, 200)
    assert simulator.books.violations == []


@SYNC_AND_ASYNC
def test_a_walk_finds_every_conversation_once(asynchronous):
    with Simulator(samples=230) as simulator:
        found = [one.id for one in collect(client_of(simulator), asynchronous=asynchronous)]
        assert len(found) == len(set(found))
        assert set(found) == set(simulator.tellcasey.conversations)
        assert simulator.books.count("list_conversations", "tellcasey") == 3
        assert simulator.books.violations == []


def test_filters_and_cursors_reach_the_api(simulator):
    with client_of(simulator) as casey:
        page = casey.list_conversations(limit=5)
        later = casey.list_conversations(limit=5, after=page.next_cursor)
        back = casey.list_conversations(limit=5, before=later.prev_cursor)
        agent = page.conversations[0].agent_id
        assert {one.agent_id for one in casey.iter_conversations(agent_id=agent)} == {agent}
        assert {one.status for one in casey.iter_conversations(status="abandoned")} == {"abandoned"}
    assert [one.id for one in back.conversations] == [one.id for one in page.conversations]
    assert not {one.id for one in page.conversations} & {one.id for one in later.conversations}
    assert simulator.books.violations == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"status": "done"}, "status"),
        ({"limit": 101}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"agent_id": ""}, "agent_id"),
    ],
)
def test_a_wrong_argument_is_refused_before_sending(simulator, arguments, named):
    with pytest.raises(DstnyValidationError, match=named):
        call(client_of(simulator), "list_conversations", **arguments)
    assert simulator.books.entries == []


def test_its_error_bodies_are_read(simulator):
    with pytest.raises(DstnyNotFoundError) as caught:
        call(client_of(simulator), "get_conversation", "497f6eca-6276-4993-bfeb-53cbbbba6f08")
    assert "not found" in caught.value.message.lower()
    with pytest.raises(DstnyAuthError, match="API keys in tellcasey"):
        call(client_of(simulator, token="sk_live_revoked"), "list_conversations")


def test_the_newer_error_body_has_a_request_id(simulator, mocker):
    body = b'{"data": null, "error": {"code": "gone", "message": "No such thing"}, "meta": {"request_id": "req_7"}}'
    response = mocker.Mock(status_code=404, headers={}, content=body)
    with client_of(simulator) as casey:
        mocker.patch("httpx.Client.request", return_value=response)
        with pytest.raises(DstnyNotFoundError) as caught:
            casey.get_conversation("x")
    assert caught.value.request_id == "req_7"
    assert "No such thing" in caught.value.message


def test_an_error_that_has_only_a_code_shows_it(simulator, mocker):
    response = mocker.Mock(status_code=422, headers={}, content=b'{"error": {"code": "invalid_status"}}')
    with client_of(simulator) as casey:
        mocker.patch("httpx.Client.request", return_value=response)
        with pytest.raises(DstnyValidationError, match="invalid_status"):
            casey.list_conversations()


def test_a_cursor_that_leads_to_itself_is_an_error_and_no_loop(simulator, mocker):
    rows = [{"id": f"c{n}"} for n in range(3)]
    page = {"data": rows, "pagination": {"has_more": True, "next_cursor": "again"}}
    with client_of(simulator) as casey:
        send = mocker.patch.object(casey, "_send", return_value=page)
        with pytest.raises(DstnyResponseError, match="repeat"):
            list(casey.iter_conversations())
    assert send.call_count == 2


def test_a_cursor_that_is_ever_new_but_shows_nothing_new_ends(simulator, mocker):
    cursors = iter(range(10_000))

    def send(request):
        return {"data": [{"id": "c"}], "pagination": {"has_more": True, "next_cursor": f"n{next(cursors)}"}}

    with client_of(simulator) as casey:
        mocker.patch.object(casey, "_send", side_effect=send)
        with pytest.raises(DstnyResponseError, match="does not end"):
            list(casey.iter_conversations())


def test_a_fault_on_the_way_is_retried(simulator, no_sleep):
    simulator.books.inject(Fault("status", "get_transcript", api="tellcasey", status=503, times=2))
    with TellcaseyClient(simulator.url, simulator.tellcasey_token) as casey:
        assert casey.get_transcript(completed(simulator).id).is_ready
    assert simulator.books.count("get_transcript", "tellcasey") == 3
