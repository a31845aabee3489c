"""What the HTTP library may log of our requests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_our_request: ContextVar[bool] = ContextVar("airflow_provider_dstny_request", default=False)


class _WithoutQuery(logging.Filter):
    """httpx logs the whole URL of a request; the query of ours may be a signature, or a search for somebody.

    What lies below httpx logs headers, where a redirect has its URL: of our requests, that is left out.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        if not _our_request.get():
            return True
        if isinstance(record.args, tuple):
            record.args = tuple(
                argument.copy_with(query=None, userinfo=b"") if hasattr(argument, "copy_with") else argument
                for argument in record.args
            )
        return not record.name.startswith("httpcore")


for _name in ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks"))):
    logging.getLogger(_name).addFilter(_WithoutQuery())


@contextmanager
def without_query() -> Iterator[None]:
    ours = _our_request.set(True)
    try:
        yield
    finally:
        _our_request.reset(ours)
