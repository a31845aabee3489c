"""Connections to Dstny API v2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.hooks.base import DstnyBaseHook

if TYPE_CHECKING:
    from airflow_provider_dstny.api.dstny import DstnyClient


class DstnyHook(DstnyBaseHook["DstnyClient"]):
    """Connection and token of Dstny API v2.

    .. code-block:: python

        with DstnyHook("dstny_default").get_conn() as dstny:
            transcript = dstny.get_transcript(conversation_id)

    :param dstny_conn_id: a connection of type ``dstny``: host = base URL, password = JWT.
    """

    conn_type = "dstny"
    hook_name = "Dstny API v2"
    default_conn_name = "dstny_default"

    def __init__(self, dstny_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(dstny_conn_id, **kwargs)

    @classmethod
    def client_class(cls) -> type[DstnyClient]:
        from airflow_provider_dstny.api.dstny import DstnyClient

        return DstnyClient

    def _greet(self, client: DstnyClient) -> str:
        # One of the two paths that the documents of the API spell out.
        teams = client.get_global_filters().teams or []
        return f"The token is accepted; teams it sees: {len(teams)}."
