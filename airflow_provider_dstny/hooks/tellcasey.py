"""Connections to the tellcasey backend API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.hooks.base import DstnyBaseHook

if TYPE_CHECKING:
    from airflow_provider_dstny.api.tellcasey import TellcaseyClient


class TellcaseyHook(DstnyBaseHook["TellcaseyClient"]):
    """Connection and key of the tellcasey backend API.

    .. code-block:: python

        with TellcaseyHook("tellcasey_default").get_conn() as casey:
            conversation = casey.get_conversation(conversation_id)

    :param dstny_conn_id: a connection of type ``tellcasey``: password = ``sk_live_`` or ``sk_test_`` key; host =
        base URL, the public one unless given.
    """

    conn_type = "tellcasey"
    hook_name = "tellcasey"
    default_conn_name = "tellcasey_default"
    default_base_url = "https://api.tellcasey.com"
    default_app_url = ""

    def __init__(self, dstny_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(dstny_conn_id, **kwargs)

    @classmethod
    def client_class(cls) -> type[TellcaseyClient]:
        from airflow_provider_dstny.api.tellcasey import TellcaseyClient

        return TellcaseyClient

    def _greet(self, client: TellcaseyClient) -> str:
        page = client.list_conversations(limit=1)
        return f"The key is accepted; it sees {'conversations' if page.conversations else 'no conversation yet'}."
