"""The ASGI application: token, contract, faults, state, in that order; and a page of books for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from airflow_provider_dstny.simulator.books import Books, Entry, Fault
from airflow_provider_dstny.simulator.contract import Contract, ContractError
from airflow_provider_dstny.simulator.dstny import DstnyState
from airflow_provider_dstny.simulator.recordings import wav

_PHRASES = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 429: "Too Many Requests"}


class SimulatorApp:
    """Serves one account.

    :param tokens: the bearer tokens that are accepted.
    :param break_connection: resets the connection of a client address.
    """

    def __init__(
        self,
        state: DstnyState,
        books: Books,
        *,
        tokens: set[str],
        clock: Callable[[], float],
        break_connection: Callable[[Any], None],
    ) -> None:
        self.contract = Contract("dstny")
        self.tokens = tokens
        self._state = state
        self._books = books
        self._clock = clock
        self._break_connection = break_connection
        api = f"{self.contract.base_path}/{{path:path}}"
        self.asgi = Starlette(
            routes=[
                Route("/", self._index),
                Route("/recordings/{name}", self._recording),
                Route("/_simulator/books", self._show_books),
                Route("/_simulator/faults", self._inject, methods=["POST"]),
                Route(api, self._serve, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
            ]
        )

    async def _serve(self, request: Request) -> Response:
        entry = Entry(self._clock(), request.method, _raw_path(request))
        self._books.entries.append(entry)
        response = await self._answer(request, entry)
        entry.status = response.status_code
        return response

    async def _answer(self, request: Request, entry: Entry) -> Response:
        below = entry.path.removeprefix(self.contract.base_path)
        refused: Response | None = None
        try:
            call = self.contract.check(request.method, below, request.query_params.multi_items(), await request.body())
            entry.operation = call.operation
        except ContractError as error:
            entry.violation = error.message
            refused = _error(error.status, error.message)
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in self.tokens:
            return _error(401, "Invalid or expired token")
        if refused is not None:
            return refused
        fault = self._books.take_fault(call.operation)
        if fault is not None and (fault.before or fault.kind in {"status", "html", "slow"}):
            early = await self._commit(fault, request, b"")
            if early is not None:
                return early
        if call.operation == "run_agent":
            await asyncio.sleep(self._state.agent_seconds)
        try:
            response: Response = JSONResponse(self._state.answer(call))
        except ContractError as error:
            response = _error(error.status, error.message)
        if fault is not None and not fault.before and fault.kind in {"reset", "truncated", "empty"}:
            return await self._commit(fault, request, bytes(response.body)) or response
        return response

    async def _commit(self, fault: Fault, request: Request, true_answer: bytes) -> Response | None:
        match fault.kind:
            case "status":
                return _error(fault.status, fault.message, fault.retry_after)
            case "html":
                page = f"<html><head><title>{fault.message}</title></head><body><h1>{fault.message}</h1></body></html>"
                return HTMLResponse(page, fault.status)
            case "reset":
                self._break_connection(request.scope["client"])
                return Response(status_code=503)
            case "truncated":
                return Response(true_answer[: len(true_answer) // 2] or b"{", media_type="application/json")
            case "empty":
                return Response(b"", media_type="application/json")
            case "slow":
                await asyncio.sleep(fault.seconds)
        return None

    async def _recording(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not name.endswith(".wav"):
            return _error(404, "Recording not found")
        return Response(wav(name), media_type="audio/wav")

    async def _show_books(self, request: Request) -> Response:
        return JSONResponse({**self._books.to_json(), "calls": self._state.to_json()})

    async def _inject(self, request: Request) -> Response:
        try:
            self._books.inject(Fault(**await request.json()))
        except (TypeError, json.JSONDecodeError) as error:
            return _error(400, str(error))
        return JSONResponse({"faults": len(self._books.faults)})

    async def _index(self, request: Request) -> Response:
        operations = "".join(f"<li>{operation}</li>" for operation in self.contract.operations)
        return HTMLResponse(
            f"<h1>Dstny simulator</h1><p>Base path {self.contract.base_path}, "
            f"<a href='/_simulator/books'>books</a>.</p><ul>{operations}</ul>"
        )


def _raw_path(request: Request) -> str:
    # As it was sent: an encoded slash within an id must not become a path segment.
    return bytes(request.scope["raw_path"]).decode("ascii").partition("?")[0]


def _error(status: int, message: str, retry_after: float | None = None) -> Response:
    body: dict[str, Any] = {"statusCode": status, "message": message, "error": _PHRASES.get(status, "Error")}
    if retry_after is not None:
        body["retryAfter"] = retry_after
    return JSONResponse(body, status)
