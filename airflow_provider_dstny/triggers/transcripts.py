"""Waiting for transcripts in the triggerer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_dstny.triggers.base import DstnyWaitTrigger

if TYPE_CHECKING:
    from airflow_provider_dstny.waiting.transcripts import TranscriptWait


class DstnyTranscriptTrigger(DstnyWaitTrigger):
    """Fires when all transcripts are ready: per conversation id ``{"ready": True, "segments": int, …}``."""

    def wait_class(self) -> type[TranscriptWait]:
        from airflow_provider_dstny.waiting.transcripts import TranscriptWait

        return TranscriptWait
