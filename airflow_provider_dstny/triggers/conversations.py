"""Waiting for conversations in the triggerer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.triggers.base import DstnyWaitTrigger

if TYPE_CHECKING:
    from airflow_provider_dstny.waiting.conversations import ConversationWait


class DstnyConversationTrigger(DstnyWaitTrigger):
    """Fires when all conversations are there: per id ``{"exists": True, …}``, of tellcasey with its ``status``.

    :param status: of tellcasey, how far they must have come: ``pending``, ``in_progress`` or ``completed``.
    """

    def __init__(self, *, status: str = "completed", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.wait["status"] = status

    def wait_class(self) -> type[ConversationWait]:
        from airflow_provider_dstny.waiting.conversations import ConversationWait

        return ConversationWait
