"""Waiting for transcripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_dstny.sensors.base import DstnyWaitSensor

if TYPE_CHECKING:
    from airflow_provider_dstny.triggers.transcripts import DstnyTranscriptTrigger
    from airflow_provider_dstny.waiting.transcripts import TranscriptWait


class DstnyTranscriptSensor(DstnyWaitSensor):
    """Succeeds when the transcripts of all given conversations are ready.

    A transcript that does not exist yet, a network failure, a 5xx and a 429 delay the wait and never end it;
    a refused token or a missing scope fails it at once, without retries. A tellcasey conversation must be
    completed; one that was abandoned or archived fails the wait at once. When time runs out, the last cause is
    named. XCom: per conversation id ``{"ready": True, "segments": int, "waited_seconds": float}``.

    :param conversation_ids: one id or many (templated); none at all is ready at once.
    :param dstny_conn_id: a connection of any type of this provider.
    :param accept_statuses: ``abandoned`` and ``archived``, where the transcript of such a tellcasey conversation
        will do as it is.
    :param deferrable: wait in the triggerer; it looks once before it defers. ``poke_interval``, ``timeout``
        (seconds) and ``soft_fail`` mean the same in every mode; in the triggerer, the first look comes
        after at least 10 s and ``exponential_backoff`` has no effect. In reschedule mode, Airflow before 3.3
        forgets between two looks what is ready and asks again.
    """

    def wait_class(self) -> type[TranscriptWait]:
        from airflow_provider_dstny.waiting.transcripts import TranscriptWait

        return TranscriptWait

    def trigger_class(self) -> type[DstnyTranscriptTrigger]:
        from airflow_provider_dstny.triggers.transcripts import DstnyTranscriptTrigger

        return DstnyTranscriptTrigger
