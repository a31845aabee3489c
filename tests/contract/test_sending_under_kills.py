"""A worker that dies between a POST and its answer: the next try finds the call, and never sends it again."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal

import pytest

from airflow_provider_dstny.simulator import Simulator
from tests.contract.sending import one_try

#: ``DSTNY_TEST_KILLS=200`` for more.
KILLS = int(os.environ.get("DSTNY_TEST_KILLS", "10"))


@pytest.fixture(scope="module")
def processes():
    """Processes that are made fast, from one that has imported all and has no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.contract.sending"])
    return context


def sent_by(processes, simulator, folder, call, try_number, *, dies=False):
    """Run a try; return how its process ended, and what the task returned or raised."""
    connection = json.dumps({"conn_type": "dstny", "host": simulator.url, "password": simulator.token})
    process = processes.Process(target=one_try, args=(folder, call, connection, try_number), kwargs={"dies": dies})
    process.start()
    process.join()
    told = folder / f"{call['call_external_id']}.told"
    return process.exitcode, told.read_text() if told.exists() else None


def calls_of(call, simulator):
    url = f"{simulator.url}/recordings/a.wav"
    return [{**call, "call_external_id": f"pbx-{number}", "call_recording_url": url} for number in range(KILLS)]


def test_the_next_try_finds_what_a_killed_one_has_sent(processes, call, tmp_path):
    with Simulator(visible_after=0, transcript_after=0, samples=0, fresh=0) as simulator:
        for one in calls_of(call, simulator):
            assert sent_by(processes, simulator, tmp_path, one, 1, dies=True) == (-signal.SIGKILL, None)
            ended, conversation_id = sent_by(processes, simulator, tmp_path, one, 2)
            assert ended == 0
            assert simulator.state.calls[conversation_id].body["call_external_id"] == one["call_external_id"]
        assert len(simulator.state.calls) == simulator.books.count("create_call_conversation") == KILLS


def test_what_cannot_be_found_yet_is_not_sent_again_and_the_user_is_told(processes, call, tmp_path):
    with Simulator(visible_after=3600, transcript_after=0, samples=0, fresh=0) as simulator:
        for one in calls_of(call, simulator)[:3]:
            assert sent_by(processes, simulator, tmp_path, one, 1, dies=True) == (-signal.SIGKILL, None)
            _, told = sent_by(processes, simulator, tmp_path, one, 2)
            assert told.startswith("DstnyAmbiguousError: An earlier try sent ")
            assert "cannot be found (yet). Check in Dstny, or clear this task in some minutes" in told
        assert len(simulator.state.calls) == simulator.books.count("create_call_conversation") == 3
