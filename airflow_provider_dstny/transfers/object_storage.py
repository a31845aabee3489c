"""From Dstny to files in object storage."""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_dstny.tasks import ConversationLinkMixin, final_errors_fail, partial_failure

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath

    from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
    from airflow_provider_dstny.api.errors import DstnyError
    from airflow_provider_dstny.api.models.rest import Recording
    from airflow_provider_dstny.tasks import ConversationIds

_log = logging.getLogger(__name__)


class DstnyRecordingToObjectStorageOperator(ConversationLinkMixin, BaseOperator):
    """Streams the recordings of conversations to object storage, one after the other, in constant memory.

    Each becomes ``<path>/<conversation id>.<mp3, wav, mp4, …>``, by its content type. A download that is cut is
    resumed where it ended, or begun anew where the host cannot resume; a file has its name only when it is whole. A
    retry, and any later run, leaves out what is there already. The API's token is not sent to the host of the
    recordings. If some fail, the others are fetched before the task fails and names them.

    XCom: ``{"path", "files": {conversation id: path}, "downloaded", "skipped", "bytes", "without_recording":
    [conversation ids]}``.

    :param conversation_ids: one id or many (templated); none at all is no work.
    :param path: a folder in object storage (templated).
    :param overwrite: fetch again what is there already.
    :param fail_if_missing: fail when a conversation has no recording; otherwise it is only reported.
    :param dstny_conn_id: a connection of type ``dstny_rest``; its token needs the scope ``recordings`` and the
        setting ``include_recordings=true``.
    """

    conn_types = ("dstny_rest",)
    template_fields: Sequence[str] = ("conversation_ids", "path", "dstny_conn_id")
    ui_color = "#d9ebe4"

    def __init__(
        self,
        *,
        conversation_ids: ConversationIds,
        path: str,
        overwrite: bool = False,
        fail_if_missing: bool = False,
        dstny_conn_id: str = "dstny_rest_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conversation_ids = conversation_ids
        self.path = path
        self.overwrite = overwrite
        self.fail_if_missing = fail_if_missing
        self.dstny_conn_id = dstny_conn_id

    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_provider_dstny.api.errors import DstnyError
        from airflow_provider_dstny.api.ids import encode_id, unique_ids
        from airflow_provider_dstny.storage import storage_folder

        with final_errors_fail(self):
            ids = unique_ids(self.conversation_ids, "conversation_ids")
            names = {conversation_id: encode_id(conversation_id, "conversation_ids") for conversation_id in ids}
            folder = storage_folder(self.path)
            there = {} if self.overwrite else _recordings_by_stem(folder)
        landed = _Landed({one: there[name] for one, name in names.items() if name in there})
        wanted = [one for one in names if one not in landed.files]
        skipped = len(landed.files)
        with final_errors_fail(self), self.hook.get_conn() as rest:
            for done, conversation_id in enumerate(wanted, 1):
                try:
                    recording = rest.get_recording_url(conversation_id)
                except DstnyError as error:
                    landed.failed(conversation_id, error)
                    if error.affects_all:
                        landed.failures |= dict.fromkeys(wanted[done:], error)
                        break
                    continue
                try:
                    self._fetch(rest, conversation_id, recording, folder, names[conversation_id], landed)
                except DstnyError as error:
                    # The next recording may lie elsewhere.
                    landed.failed(conversation_id, error)
                else:
                    self.log.info("%d of %d recordings, %.1f MB", done, len(wanted), landed.size / 1e6)
        if landed.failures:
            raise partial_failure(
                f"{len(landed.failures)} of {len(names)} recordings failed; a retry fetches only what is not there yet",
                landed.failures,
                final=all(error.final for error in landed.failures.values()),
            )
        if landed.missing and self.fail_if_missing:
            raise AirflowFailException(
                f"{len(landed.missing)} conversations have no recording: {_some(landed.missing)}"
            )
        return {
            "path": str(self.path),
            "files": landed.files,
            "downloaded": len(landed.files) - skipped,
            "skipped": skipped,
            "bytes": landed.size,
            "without_recording": landed.missing,
        }

    def _fetch(
        self,
        rest: DstnyRestClient,
        conversation_id: str,
        recording: Recording,
        folder: ObjectStoragePath,
        name: str,
        landed: _Landed,
    ) -> None:
        from airflow_provider_dstny.api.downloads import Download
        from airflow_provider_dstny.storage import PartialFile

        if recording.has_recording is False:
            self.log.info("Conversation %s has no recording", conversation_id)
            landed.missing.append(conversation_id)
            return
        known = [recording]

        def find_url() -> str:
            return _url(conversation_id, known.pop() if known else rest.get_recording_url(conversation_id))

        with PartialFile(folder, name) as file:
            download = Download(rest, f"The recording of {conversation_id}", find_url, file)
            download.run()
            landed.files[conversation_id] = str(file.keep_as(name + download.suffix()))
            landed.size += download.size


@dataclass
class _Landed:
    """What became of the recordings."""

    files: dict[str, str]
    missing: list[str] = field(default_factory=list)
    failures: dict[str, DstnyError] = field(default_factory=dict)
    size: int = 0

    def failed(self, conversation_id: str, error: DstnyError) -> None:
        _log.error("Recording of conversation %s: %s", conversation_id, error)
        self.failures[conversation_id] = error


def _url(conversation_id: str, recording: Recording) -> str:
    from airflow_provider_dstny.api.errors import DstnyResponseError

    if not recording.url:
        raise DstnyResponseError(
            f"The API says that conversation {conversation_id} has a recording, but not where. Check that the token "
            "has the setting include_recordings=true; a retry fails the same way."
        )
    return recording.url


def _recordings_by_stem(folder: ObjectStoragePath) -> dict[str, str]:
    """Return the recordings in a folder by their names without the ending."""
    if not folder.exists():
        return {}
    return {file.stem: str(file) for file in folder.iterdir() if _is_recording(file.name)}


def _is_recording(name: str) -> bool:
    kind = mimetypes.guess_type(name)[0] or ""
    return not name.startswith(".") and (kind.startswith(("audio/", "video/")) or name.endswith(".bin"))


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:10]) + (" …" if len(ids) > 10 else "")
