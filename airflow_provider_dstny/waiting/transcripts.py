"""When is a transcript ready, whichever API has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_dstny.api.operation import Steps, without_retries
from airflow_provider_dstny.api.tellcasey import TellcaseyClient
from airflow_provider_dstny.waiting.conversations import status_reached
from airflow_provider_dstny.waiting.wait import ENDED, Sighting, Wait

if TYPE_CHECKING:
    from airflow_provider_dstny.waiting.wait import AnyClient


class TranscriptWait(Wait):
    """Waits for transcripts that are whole: one of tellcasey grows until its conversation is completed."""

    noun = "transcripts"

    def ask(self, client: AnyClient, conversation_id: str) -> Steps[Sighting]:
        ended = False
        if isinstance(client, TellcaseyClient):
            reached = yield from status_reached(client, conversation_id, self)
            if reached.found is None:
                return reached
            ended = reached.found["status"] in ENDED
        transcript = yield from without_retries(client.get_transcript.steps(conversation_id))
        # One that has ended early and was accepted may be empty for good.
        if transcript.is_ready or ended:
            return Sighting({"ready": True, "segments": len(transcript.segments)})
        cause = f"conversation {conversation_id} has no transcript yet"
        if transcript.source_shape != "empty":
            cause += f"; its answer is not known as a transcript ({transcript.source_shape})"
        return Sighting(cause=cause)
