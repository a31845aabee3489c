"""Waiting for conversations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.sensors.base import DstnyWaitSensor

if TYPE_CHECKING:
    from airflow_provider_dstny.triggers.conversations import DstnyConversationTrigger
    from airflow_provider_dstny.waiting.conversations import ConversationWait


class DstnyConversationSensor(DstnyWaitSensor):
    """Succeeds when all given conversations exist; those of tellcasey, when they have reached a status.

    What delays and what ends the wait is as in ``DstnyTranscriptSensor``. XCom: per conversation id
    ``{"exists": True, "waited_seconds": float}``, of tellcasey with the ``status``. Through the REST API v1 each
    conversation that exists counts against the daily quota.

    :param conversation_ids: one id or many (templated); none at all is there at once.
    :param status: of tellcasey, how far the conversation must have come: ``pending``, ``in_progress`` or
        ``completed``. One that was abandoned or archived fails the wait at once.
    :param accept_statuses: ``abandoned`` and ``archived``, where such a tellcasey conversation will do as well.
    :param dstny_conn_id: a connection of any type of this provider.
    :param deferrable: wait in the triggerer, as in ``DstnyTranscriptSensor``.
    """

    def __init__(self, *, status: str = "completed", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.status = status

    def wait_options(self) -> dict[str, Any]:
        return {**super().wait_options(), "status": self.status}

    def wait_class(self) -> type[ConversationWait]:
        from airflow_provider_dstny.waiting.conversations import ConversationWait

        return ConversationWait

    def trigger_class(self) -> type[DstnyConversationTrigger]:
        from airflow_provider_dstny.triggers.conversations import DstnyConversationTrigger

        return DstnyConversationTrigger
