"""Refusals, and the faults that come before an answer or instead of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from airflow_provider_dstny.simulator.books import Fault
from airflow_provider_dstny.simulator.connections import Connections
from airflow_provider_dstny.simulator.contract import ContractError

ErrorBody = Callable[[int, str, float | None], dict[str, Any]]


def refusal(error: ContractError, body: ErrorBody) -> Response:
    """Answer an error, its body written as the API writes it."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return JSONResponse(body(error.status, error.message, error.retry_after), error.status, headers)


async def commit(fault: Fault, request: Request, connections: Connections, body: ErrorBody) -> Response | None:
    """Commit a ``status``, ``html``, ``reset`` or ``slow``; None if the true answer is to follow."""
    match fault.kind:
        case "status":
            return refusal(ContractError(fault.status, fault.message, retry_after=fault.retry_after), body)
        case "html":
            page = f"<html><head><title>{fault.message}</title></head><body><h1>{fault.message}</h1></body></html>"
            return HTMLResponse(page, fault.status)
        case "reset":
            connections.abort(request.scope["client"])
            return Response(status_code=503)
        case "slow":
            await asyncio.sleep(fault.seconds)
    return None
