"""Connections to Dstny API v2."""

from __future__ import annotations

from airflow_provider_dstny.api.dstny import DstnyClient
from airflow_provider_dstny.hooks.base import DstnyBaseHook


class DstnyHook(DstnyBaseHook[DstnyClient]):
    """Connection and token of Dstny API v2.

    .. code-block:: python

        with DstnyHook("dstny_default").get_conn() as dstny:
            transcript = dstny.get_transcript(conversation_id)

    :param dstny_conn_id: a connection of type ``dstny``: host = base URL, password = JWT.
    """

    conn_type = "dstny"
    hook_name = "Dstny API v2"
    default_conn_name = "dstny_default"
    client_class = DstnyClient

    def __init__(self, dstny_conn_id: str = default_conn_name, **kwargs: object) -> None:
        super().__init__(dstny_conn_id, **kwargs)

    def _greet(self, client: DstnyClient) -> str:
        # One of the two paths that the API's documents spell out.
        teams = client.get_global_filters().teams or []
        return f"The token is accepted and sees {len(teams)} teams."
