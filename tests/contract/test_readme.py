"""Every Python example of the README runs as it stands, against the simulator."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
from pathlib import Path

import pytest

from airflow_provider_dstny.api import DstnyClient
from airflow_provider_dstny.simulator import Simulator

README = Path(__file__).parents[2] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def account(monkeypatch, no_sleep, call):
    with Simulator() as simulator:
        for name, token in (("dstny", simulator.token), ("dstny_rest", simulator.rest_token)):
            connection = {"conn_type": name, "host": simulator.url, "password": token}
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}_DEFAULT", json.dumps(connection))
        yield simulator


@pytest.fixture
def names(account, call):
    """What the examples take as given."""
    with DstnyClient(account.url, account.token) as dstny:
        call["call_recording_url"] = f"{account.url}/recordings/a.wav"
        conversation_id = dstny.create_call_conversation(call)
    account.state.settle()
    return {"token": account.token, "conversation_id": conversation_id, "user_id": "67c869eb", "print": lambda *_: None}


def test_there_are_examples():
    assert len(BLOCKS) >= 6


@pytest.mark.parametrize("block", BLOCKS, ids=[str(number) for number in range(len(BLOCKS))])
def test_an_example_runs_within_the_contract(account, names, block):
    source = block.replace("https://api.example.com", account.url)
    code = compile(source, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(code, names)
    if inspect.iscoroutine(outcome):
        asyncio.run(outcome)
    assert account.books.violations == []
