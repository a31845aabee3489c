"""When is a conversation there, or far enough."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.operation import Steps, without_retries
from airflow_provider_dstny.api.tellcasey import TellcaseyClient
from airflow_provider_dstny.waiting.wait import ENDED, LIFE, Sighting, Wait

if TYPE_CHECKING:
    from airflow_provider_dstny.waiting.wait import AnyClient


class ConversationWait(Wait):
    """Waits until conversations exist; of tellcasey, until they have reached a status.

    :param status: ``pending``, ``in_progress`` or ``completed``.
    """

    noun = "conversations"

    def __init__(self, conversation_ids: object, *, status: str = "completed", **kwargs: Any) -> None:
        super().__init__(conversation_ids, **kwargs)
        if status not in LIFE:
            raise DstnyValidationError(None, f"status must be one of {', '.join(LIFE)}, not {status!r}.")
        self.status = status

    @property
    def kind(self) -> Hashable:
        return super().kind, self.status

    def shown(self, status: str | None) -> Sighting | None:
        if status is None:
            return Sighting({"exists": True})
        return Sighting({"exists": True, "status": status}) if self.has_reached(status) else super().shown(status)

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "status": self.status}

    def ask(self, client: AnyClient, conversation_id: str) -> Steps[Sighting]:
        match client:
            case TellcaseyClient():
                return (yield from status_reached(client, conversation_id, self))
            case DstnyRestClient():
                yield from without_retries(client.get_conversation.steps(conversation_id))
            case _:
                # API v2 shows no single conversation; what belongs to an unknown one is not found.
                yield from without_retries(client.get_insights.steps(conversation_id))
        return Sighting({"exists": True})


def status_reached(client: TellcaseyClient, conversation_id: str, wait: Wait) -> Steps[Sighting]:
    """Tell whether a tellcasey conversation has come as far as a wait wants, or has ended before."""
    conversation = yield from without_retries(client.get_conversation.steps(conversation_id))
    now = conversation.status
    if wait.has_reached(now):
        return Sighting({"exists": True, "status": now})
    if now in ENDED:
        return Sighting(
            cause=f"Conversation {conversation_id} is {now}: it will not become {wait.status}. "
            f"To take it as it is, add {now!r} to accept_statuses.",
            never=True,
        )
    return Sighting(cause=f"conversation {conversation_id} is {now or 'without a status'}, not yet {wait.status}")
