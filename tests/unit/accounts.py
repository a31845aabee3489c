"""Simulated accounts whose time is moved by the requests that they get: no port, no sleeping."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from urllib.parse import urlsplit

from airflow_provider_dstny.api.answers import read_answer
from airflow_provider_dstny.api.client import _Outcome
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyError
from airflow_provider_dstny.api.tellcasey import TellcaseyClient
from airflow_provider_dstny.simulator.contract import ContractError
from airflow_provider_dstny.simulator.rest import SCOPES, RestState

START = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class Clock:
    now = START.timestamp()

    def __call__(self):
        return self.now


class Alarms:
    """Alarms and idling of a poller, on a clock that idling moves."""

    def __init__(self, clock):
        self.clock = clock
        self.calls = {}

    def set(self, moment, call):
        alarm = SimpleNamespace(cancel=lambda: self.calls.pop(id(call), None))
        self.calls[id(call)] = moment.timestamp(), call
        return alarm

    async def idle_until(self, joined, seconds):
        # Those who are about to join or leave do so before the time moves on.
        for _ in range(20):
            await asyncio.sleep(0)
        until = self.clock.now + (1 if joined.is_set() else min(seconds, DAY))
        self.clock.now = max(self.clock.now, min([until, *(moment for moment, _ in self.calls.values())]))
        for key, (moment, call) in list(self.calls.items()):
            if moment <= self.clock.now:
                del self.calls[key]
                call()


class Paced:
    """Sends no request but asks the state, each in a slot of its own, and keeps books."""

    def connect(self, state, clock, spacing=60 / (60 * 0.97), *, share=1.0):
        """Ask a state by a clock; ``share`` of the slots fall to this client."""
        self.state, self.clock, self.spacing, self.share = state, clock, spacing, share
        self.books = []
        self.troubles = {}
        self.slot = clock.now
        self.closed = False
        return self

    def _perform(self, request):
        self.clock.now = max(self.clock.now, self.slot)
        self.slot = self.clock.now + self.spacing / self.share
        parts = urlsplit(request.path)
        self.books.append((self.clock.now, request.operation, parts.path))
        about = {request.operation, *parts.path.split("/")}
        trouble = next((trouble for name, trouble in self.troubles.items() if name in about), None)
        if isinstance(trouble, DstnyError):
            return _Outcome(error=trouble)
        if isinstance(trouble, Exception):
            raise trouble
        if trouble is not None:
            return _Outcome(answer=trouble)
        try:
            call = self.state.contract.check(request.method, parts.path, list(request.params), b"")
            if refused := self.state.authorize(self._token):
                raise refused
            return _Outcome(answer=json.loads(json.dumps(self.state.answer(call, self._token))))
        except ContractError as error:
            status = error.status
            body = json.dumps(self.state.error_body(status, error.message, error.retry_after)).encode()
        now = datetime.fromtimestamp(self.clock.now, UTC)
        try:
            return read_answer(request, status, {}, body, token="t", settings_page="", now=now)
        except DstnyError as error:
            return _Outcome(error=error)

    async def _aperform(self, request):
        await asyncio.sleep(0)
        return self._perform(request)

    async def aclose(self):
        self.closed = True

    def count(self, operation=None, *, since=0.0):
        return sum(at >= since and operation in (None, name) for at, name, _ in self.books)


class Rest(Paced, DstnyRestClient):
    pass


class Casey(Paced, TellcaseyClient):
    pass


def rest_state(clock, **options):
    return RestState(
        **{
            "tokens": {"mt_simulator": SCOPES},
            "recordings_url": "",
            "requests_per_minute": 60,
            "daily_conversation_quota": None,
            "newest_first": True,
            "inclusive_cursor": False,
            "visible_after": 0,
            "transcript_after": 0,
            "jitter": 0,
            "not_ready": "404",
            "samples": 40,
            "fresh": 0,
            "seed": 1,
            "clock": clock,
            **options,
        }
    )


def upcoming(client, at, *, listed_at=None, date=None):
    """Add a conversation that becomes whole at a moment, and is not in the list before unless ``listed_at`` is."""
    took = 300
    return client.state.add(
        date=at - took if date is None else date,
        duration=took,
        arrives_at=at if listed_at is None else listed_at,
        transcript_at=at,
    ).id
