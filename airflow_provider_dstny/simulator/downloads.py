"""Serves recordings: whole or by ranges, in constant memory, and with the faults of a real storage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from airflow_provider_dstny.simulator.api import dstny_error
from airflow_provider_dstny.simulator.books import Books, Download, Fault
from airflow_provider_dstny.simulator.connections import Connections
from airflow_provider_dstny.simulator.faults import commit
from airflow_provider_dstny.simulator.recordings import Recording, recording


class Downloads:
    """The endpoint of recordings. It needs no token: the URL of a recording is signed."""

    def __init__(self, books: Books, connections: Connections) -> None:
        self._books = books
        self._connections = connections

    async def serve(self, request: Request) -> Response:
        download = Download(
            request.path_params["name"], request.headers.get("range"), "authorization" in request.headers
        )
        self._books.downloads.append(download)
        response = await self._answer(request, download)
        download.status = response.status_code
        return response

    async def _answer(self, request: Request, download: Download) -> Response:
        fault = self._books.take_recording_fault()
        if fault is not None:
            early = await commit(fault, request, self._connections, dstny_error)
            if early is not None:
                return early
        found = recording(download.name)
        if found is None:
            return JSONResponse(dstny_error(404, "Recording not found"), 404)
        headers = {"Accept-Ranges": "bytes", "ETag": found.etag}
        first, last, status = 0, found.size - 1, 200
        # A range of another version of the recording would not fit what the client has.
        if request.headers.get("if-range", found.etag) == found.etag and (span := found.range(download.range)):
            first, last = span
            if first >= found.size:
                return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{found.size}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
            status = 206
        headers["Content-Length"] = str(last + 1 - first)
        body = self._body(found, first, last, fault, request.scope["client"])
        return StreamingResponse(body, status, headers, found.media_type)

    async def _body(
        self, found: Recording, first: int, last: int, fault: Fault | None, client: Any
    ) -> AsyncIterator[bytes]:
        if fault is not None and fault.kind == "cut":
            for chunk in found.chunks(first, min(last, first + fault.after_bytes - 1)):
                yield chunk
            await self._connections.close(client)
            return
        for chunk in found.chunks(first, last):
            yield chunk
