"""The ASGI application: contract, token, faults, state, in that order; recordings; and the books for tests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from airflow_provider_dstny.simulator.api import Api, dstny_error
from airflow_provider_dstny.simulator.books import Books, Entry, Fault
from airflow_provider_dstny.simulator.connections import Connections
from airflow_provider_dstny.simulator.contract import ContractError
from airflow_provider_dstny.simulator.downloads import Downloads
from airflow_provider_dstny.simulator.dstny import DstnyState
from airflow_provider_dstny.simulator.faults import commit, refusal

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_EARLY = {"status", "html", "slow"}
_LATE = {"reset", "truncated", "empty"}


class SimulatorApp:
    """Serves APIs, each below its base path.

    :param dstny: API v2, whose calls the books show.
    :param others: further APIs.
    """

    def __init__(
        self,
        dstny: DstnyState,
        *others: Api,
        books: Books,
        connections: Connections,
        clock: Callable[[], float],
    ) -> None:
        self.apis = (dstny, *others)
        self._dstny = dstny
        self._books = books
        self._connections = connections
        self._clock = clock
        self.asgi = Starlette(
            routes=[
                Route("/", self._index),
                Route("/recordings/{name}", Downloads(books, connections).serve),
                Route("/_simulator/books", self._show_books),
                Route("/_simulator/faults", self._inject, methods=["POST"]),
                *(
                    Route(f"{api.contract.base_path}/{{path:path}}", partial(self._serve, api), methods=_METHODS)
                    for api in self.apis
                ),
            ]
        )

    async def _serve(self, api: Api, request: Request) -> Response:
        entry = Entry(self._clock(), request.method, _raw_path(request), api.name)
        self._books.entries.append(entry)
        try:
            response = await self._answer(api, request, entry)
        except ContractError as error:
            response = refusal(error, api.error_body)
        entry.status = response.status_code
        return response

    async def _answer(self, api: Api, request: Request, entry: Entry) -> Response:
        token = _bearer(request)
        below = entry.path.removeprefix(api.contract.base_path)
        try:
            call = api.contract.check(request.method, below, request.query_params.multi_items(), await request.body())
        except ContractError as error:
            entry.violation = error.message
            raise (api.authorize(token) or error) from None
        entry.operation = call.operation
        if unauthorized := api.authorize(token):
            raise unauthorized
        fault = self._books.take_fault(call.operation, api.name)
        if fault is not None and (fault.before or fault.kind in _EARLY):
            early = await self._commit(fault, api, request, b"")
            if early is not None:
                return early
        await asyncio.sleep(api.seconds_to_answer(call))
        try:
            response: Response = JSONResponse(api.answer(call, token))
        except ContractError as error:
            response = refusal(error, api.error_body)
        if fault is not None and not fault.before and fault.kind in _LATE:
            return await self._commit(fault, api, request, bytes(response.body)) or response
        return response

    async def _commit(self, fault: Fault, api: Api, request: Request, true_answer: bytes) -> Response | None:
        match fault.kind:
            case "truncated":
                return Response(true_answer[: len(true_answer) // 2] or b"{", media_type="application/json")
            case "empty":
                return Response(b"", media_type="application/json")
        return await commit(fault, request, self._connections, api.error_body)

    async def _show_books(self, request: Request) -> Response:
        return JSONResponse({**self._books.to_json(), "calls": self._dstny.to_json()})

    async def _inject(self, request: Request) -> Response:
        try:
            self._books.inject(Fault(**await request.json()))
        except (TypeError, ValueError) as error:
            return JSONResponse(dstny_error(400, str(error)), 400)
        return JSONResponse({"faults": len(self._books.faults)})

    async def _index(self, request: Request) -> Response:
        lists = "".join(
            f"<h2>{api.contract.title}</h2><p>{request.base_url}{api.contract.base_path[1:]}</p><ul>"
            + "".join(f"<li>{operation}</li>" for operation in api.contract.operations)
            + "</ul>"
            for api in self.apis
        )
        return HTMLResponse(f"<h1>Dstny simulator</h1><p><a href='/_simulator/books'>Books</a></p>{lists}")


def _raw_path(request: Request) -> str:
    # As it was sent: an encoded slash within an id must not become a path segment.
    return bytes(request.scope["raw_path"]).decode("ascii").partition("?")[0]


def _bearer(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme == "Bearer" else ""
