"""Mounts the receiver in Airflow's API server. Every component of Airflow imports this: nothing heavy above."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

PREFIX = "/dstny/webhooks"
_log = logging.getLogger(__name__)


class _Apps:
    """The app, made when the API server asks for it; none as long as webhooks are not enabled."""

    def __get__(self, plugin: object, owner: type) -> list[dict[str, Any]]:
        from airflow.configuration import conf
        from airflow.exceptions import AirflowConfigException

        try:
            enabled = conf.getboolean("dstny", "webhooks_enabled", fallback=False)
        except AirflowConfigException:
            # Raised here, it would stop the API server.
            _log.error("[dstny] webhooks_enabled is neither true nor false: no webhooks are taken.")
            enabled = False
        if not enabled:
            return []
        return [{"app": _app(), "url_prefix": PREFIX, "name": "dstny_webhooks"}]


class DstnyPlugin(AirflowPlugin):
    """Webhooks of Dstny at ``/dstny/webhooks/{dstny_conn_id}``, if ``[dstny] webhooks_enabled`` is set."""

    name = "dstny"
    fastapi_apps = _Apps()


def _app() -> Any:
    from airflow.models.connection import Connection

    from airflow_provider_dstny.webhooks.accounts import Accounts
    from airflow_provider_dstny.webhooks.metadata_database import MetadataDatabase
    from airflow_provider_dstny.webhooks.receiver import Receiver

    def find(dstny_conn_id: str) -> Any:
        from airflow.providers.common.compat.sdk import AirflowNotFoundException

        try:
            return Connection.get_connection_from_secrets(dstny_conn_id)
        except AirflowNotFoundException:
            return None

    accounts = Accounts(find)
    return _without_secret(Receiver(accounts.get, MetadataDatabase(), confirm=accounts.confirm).asgi)


def _without_secret(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Hide the secret at the end of a path from the API server, which logs the path of what was answered."""

    async def quiet(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        own = dict(scope)
        scope["path"] = re.sub(f"(?s)({PREFIX}/[^/]*/).+", r"\1***", scope["path"])
        scope["raw_path"] = scope["path"].encode()
        await app(own, receive, send)

    return quiet
