"""Runs the receiver as a process of its own, apart from Airflow: ``python -m airflow_provider_dstny.webhooks``.

It holds neither Airflow's database nor its Fernet key. Connections come from the environment
(``AIRFLOW_CONN_<ID>``) and from the secrets backends that Airflow is configured with.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn
from sqlalchemy import create_engine
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from airflow_provider_dstny.webhooks.accounts import Accounts
from airflow_provider_dstny.webhooks.airflow_api import AirflowApi
from airflow_provider_dstny.webhooks.plugin import PREFIX
from airflow_provider_dstny.webhooks.receiver import Receiver, StoreError
from airflow_provider_dstny.webhooks.sinks import Inbox

_log = logging.getLogger(__name__)
_PASSWORD = "DSTNY_WEBHOOKS_AIRFLOW_PASSWORD"  # noqa: S105 - the name of a variable


def find_connection(dstny_conn_id: str) -> Any:
    """Return a connection of the environment or of a secrets backend, None if there is none."""
    from airflow.configuration import ensure_secrets_loaded
    from airflow.secrets.metastore import MetastoreBackend

    for backend in ensure_secrets_loaded():
        if isinstance(backend, MetastoreBackend):
            continue
        connection = backend.get_connection(conn_id=dstny_conn_id)
        if connection is not None:
            return connection
    return None


def app(airflow: AirflowApi, store_url: str, *, on_death: Callable[[], None] = lambda: None) -> Starlette:
    """Return the receiver below ``/dstny/webhooks``, and ``GET /health``.

    :param store_url: of the database of deliveries, as SQLAlchemy reads it.
    :param on_death: called if nothing will be handed on any more.
    """
    options: dict[str, Any] = {"connect_args": {"timeout": 30}} if store_url.startswith("sqlite") else {}
    inbox = Inbox(create_engine(store_url, pool_pre_ping=True, **options), airflow)
    accounts = Accounts(find_connection)
    receiver = Receiver(accounts.get, inbox, confirm=accounts.confirm)
    handing_on: list[asyncio.Task[None]] = []

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            _log.critical("Nothing is handed on any more", exc_info=task.exception())
            on_death()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with airflow:
            task = asyncio.create_task(inbox.hand_on())
            task.add_done_callback(ended)
            handing_on.append(task)
            yield
            task.cancel()
            await asyncio.wait([task])

    async def health(request: Any) -> Response:
        if any(task.done() for task in handing_on):
            return JSONResponse({"status": "nothing is handed on"}, 503)
        try:
            await inbox.check()
        except StoreError:
            return JSONResponse({"status": "the store is not reached"}, 503)
        return JSONResponse({"status": "healthy"})

    return Starlette(routes=[Route("/health", health), Mount(PREFIX, receiver.asgi)], lifespan=lifespan)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m airflow_provider_dstny.webhooks", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8766, help="default: %(default)s")
    parser.add_argument("--airflow-url", required=True, help="of the API server, such as http://airflow:8080")
    parser.add_argument("--airflow-user", help=f"a user of role Op; the password is in {_PASSWORD}")
    parser.add_argument(
        "--store",
        required=True,
        help="database of deliveries, as SQLAlchemy reads it: sqlite:////var/lib/dstny/webhooks.db, or "
        "postgresql+psycopg://…, which several receivers may share",
    )
    given = parser.parse_args(arguments)
    password = os.environ.get(_PASSWORD)
    if given.airflow_user and not password:
        parser.error(f"--airflow-user needs the password in {_PASSWORD}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    has_died = False

    def die() -> None:
        nonlocal has_died
        has_died = server.should_exit = True

    receiver = app(AirflowApi(given.airflow_url, given.airflow_user, password), given.store, on_death=die)
    config = uvicorn.Config(receiver, host=given.host, port=given.port, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run()
    if has_died or not server.started:
        sys.exit(1)


if __name__ == "__main__":
    main()
