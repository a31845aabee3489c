"""Connections become clients. The type of a connection says which API it is for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.providers.common.compat.sdk import Connection

    from airflow_provider_dstny.hooks.base import DstnyBaseHook


def get_client_hook(conn_id: str, allowed: Sequence[str] = ()) -> DstnyBaseHook[Any]:
    """Return the hook that fits the type of a connection, which is resolved here and not again.

    :param allowed: connection types that will do; all three unless given.
    :raises DstnyValidationError: the connection is of another type, or a field of it cannot work.
    """
    from airflow_provider_dstny.hooks.base import DstnyBaseHook

    return hook_of(conn_id, DstnyBaseHook.get_connection(conn_id), allowed)


async def aget_client_hook(conn_id: str) -> DstnyBaseHook[Any]:
    """Do what :func:`get_client_hook` does without blocking the event loop."""
    from airflow_provider_dstny.hooks.base import aget_connection

    return hook_of(conn_id, await aget_connection(conn_id))


def hook_of(conn_id: str, connection: Connection, allowed: Sequence[str] = ()) -> DstnyBaseHook[Any]:
    """Return the hook of a connection that is resolved already.

    :raises DstnyValidationError: its type is not one of those allowed; none means all.
    """
    from airflow_provider_dstny.api.errors import DstnyValidationError
    from airflow_provider_dstny.provider_info import PROVIDER_INFO

    forms = {form["connection-type"]: form for form in PROVIDER_INFO["connection-types"]}
    usable = {name: form for name, form in forms.items() if not allowed or name in allowed}
    if connection.conn_type not in usable:
        wanted = " or ".join(f"{name!r} ({form['hook-name']})" for name, form in usable.items())
        raise DstnyValidationError(
            None,
            f"Connection {conn_id} is of type {connection.conn_type!r}; it must be {wanted}.",
            hint="Change its type, or name another connection in dstny_conn_id.",
        )
    module, _, name = usable[connection.conn_type]["hook-class-name"].rpartition(".")
    hook: DstnyBaseHook[Any] = getattr(import_module(module), name)(conn_id)
    return hook.use(connection)
