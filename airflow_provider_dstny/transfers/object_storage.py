"""From Dstny to files in object storage."""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator, conf

from airflow_provider_dstny.tasks import (
    ConversationLinkMixin,
    DstnyHookMixin,
    defer_until,
    final_errors_fail,
    partial_failure,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath

    from airflow_provider_dstny.api.client import ApiClient
    from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
    from airflow_provider_dstny.api.errors import DstnyError
    from airflow_provider_dstny.api.models.rest import Recording
    from airflow_provider_dstny.export.files import Format
    from airflow_provider_dstny.export.layout import Layout
    from airflow_provider_dstny.export.redaction import Redaction
    from airflow_provider_dstny.landing.export import Options, Outcome
    from airflow_provider_dstny.tasks import ConversationIds

_log = logging.getLogger(__name__)


class DstnyToObjectStorageOperator(DstnyHookMixin, BaseOperator):
    """Lands conversations, transcripts and insights in object storage: complete, incremental, within the quota.

    A run lists what took place in its data interval and ``lookback`` before (once in ``sweep_every`` all that the API
    lists), and reads what is new, pending, changed or no longer listed, each conversation with one request. What does
    not fit into the daily quota is left to later runs. Below ``path`` there are::

        <table>/date=<UTC day>/<interval>.<jsonl or parquet>   rows of the conversations of that day
        raw/…                                                  what the API said
        _dstny/manifests/<interval>.json                       written last: what it names is committed

    Names follow from the data interval, so that a retry overwrites its own files and nothing else, and goes on where a
    killed try has ended. Repeating an interval that is committed reads only what is due. A conversation that changes,
    or gets its transcript later, is landed again by that later run: of its rows those with the latest
    ``_dstny_synced_at`` count, and ``deleted`` ones are gone. Let runs on one ``path`` follow each other: what two
    intervals read at the same time is landed twice, and of two tasks on one interval the earlier ends with an error.

    XCom: ``{"manifest": path, "interval", "requests", "rows": {table: rows of the interval}, "listed", "read",
    "complete", "pending", "no_transcript", "gone", "left", "failed", "about_to_be_lost"}``; of a dry run
    ``{"dry_run": True, "days": [{"conversations", "requests", "minutes"}], "listed", "left"}``. Outlets get the first
    as the extra of their asset events.

    :param path: a folder in object storage (templated), one for each connection.
    :param conversation_ids: read these and list nothing (templated), where something else tells what is complete, such
        as webhooks. Not with API v2, which shows no single conversation.
    :param tables: which tables to fill; as default all that the API has.
    :param format: ``jsonl``, or ``parquet`` with the extra of that name. A lake has one; a run of another is refused.
    :param lookback: how far before its interval a run looks for what arrived late, was changed or deleted.
    :param sweep_every: after how long a run looks at the 30 days that the API lists.
    :param give_up_after: since a conversation was first listed; then it counts as having no transcript.
    :param quota_reserve: how many conversations of the daily quota are left to others.
    :param on_quota: ``carry_over`` ends the task well with what is left named; ``defer`` goes on when the quota starts
        anew.
    :param wait_for_delivery: read a conversation once the account's webhook deliveries tell that it is complete, or
        after three days; until then its row of the list is landed. Saves requests where webhooks are switched on.
    :param redaction: what to take out before anything is written: ``{"drop": [paths], "hash": [paths], "salt": …,
        "drop_text": bool, "apply": callable}``, see :class:`~airflow_provider_dstny.export.redaction.Redaction`. The
        salt is templated. What stands in ``.partial`` Airflow stores as it is.
    :param dry_run: list, and log what a run would cost, per day; nothing is written (templated).
    :param max_failures: how many conversations may fail for reasons of their own. The others are landed before the task
        fails, and the next run tries again.
    :param concurrency: how many conversations are read at a time.
    :param dstny_conn_id: a connection of type ``dstny_rest``, ``dstny`` or ``tellcasey``.
    :param deferrable: spend a long pause that the API demands in the triggerer.
    :param max_active_tis_per_dag: as in Airflow; 1. Mapped tasks need it in ``.partial()``.
    """

    template_fields: Sequence[str] = ("path", "conversation_ids", "dry_run", "dstny_conn_id")
    ui_color = "#d9ebe4"
    goes_on = "What was read is saved; a retry of the same interval goes on from there."
    #: What OpenLineage is told of.
    _landed: Outcome | None = None
    _api = ("", "")

    def __init__(
        self,
        *,
        path: str | ObjectStoragePath,
        conversation_ids: ConversationIds | None = None,
        tables: Sequence[str] | None = None,
        format: Format = "jsonl",  # noqa: A002 - what users call it
        lookback: timedelta = timedelta(days=2),
        sweep_every: timedelta = timedelta(days=7),
        give_up_after: timedelta = timedelta(days=7),
        quota_reserve: int = 0,
        on_quota: Literal["carry_over", "defer"] = "carry_over",
        wait_for_delivery: bool = False,
        redaction: Mapping[str, Any] | Redaction | None = None,
        dry_run: bool | str = False,
        max_failures: int = 0,
        concurrency: int = 4,
        dstny_conn_id: str = "dstny_rest_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        max_active_tis_per_dag: int | None = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(max_active_tis_per_dag=max_active_tis_per_dag, **kwargs)
        if format not in ("jsonl", "parquet"):
            raise ValueError(f"format must be 'jsonl' or 'parquet', not {format!r}.")
        if on_quota not in ("carry_over", "defer"):
            raise ValueError(f"on_quota must be 'carry_over' or 'defer', not {on_quota!r}.")
        for name, period in (("lookback", lookback), ("sweep_every", sweep_every), ("give_up_after", give_up_after)):
            if not isinstance(period, timedelta) or period < timedelta(0):
                raise ValueError(f"{name} must be a timedelta that is not negative.")
        self.path = path
        self.conversation_ids = conversation_ids
        # A task that gives nothing must not become a run that lists everything.
        self._lists = conversation_ids is None
        self.tables = tables
        self.format = format
        self.lookback = lookback
        self.sweep_every = sweep_every
        self.give_up_after = give_up_after
        self.quota_reserve = quota_reserve
        self.on_quota = on_quota
        self.wait_for_delivery = wait_for_delivery
        self.redaction = redaction
        # BaseOperator has a method of the name dry_run, for debugging.
        self.dry_run = dry_run  # type: ignore[assignment,method-assign]
        self.max_failures = max_failures
        self.concurrency = concurrency
        self.dstny_conn_id = dstny_conn_id
        self.deferrable = deferrable

    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_provider_dstny.landing.reporting import landed, plan_table, planned, tell_outlets

        with final_errors_fail(self):
            outcome = self.run_async(self._export(context))
        if outcome.manifest is None:
            self.log.info("What a run would read, lists not counted:\n%s", plan_table(outcome))
            return planned(outcome)
        if self.on_quota == "defer" and outcome.resets_at is not None:
            defer_until(self, outcome.resets_at, f"{outcome.counts['left']} conversations are left to read.")
        if len(outcome.failures) > self.max_failures:
            raise partial_failure(
                f"{len(outcome.failures)} conversations could not be read; max_failures is {self.max_failures}. What "
                "was read is landed, and a retry reads only what is missing",
                outcome.failures,
                final=False,
            )
        self._landed = outcome
        result = landed(outcome)
        tell_outlets(self.outlets, context, result)
        return result

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return what was landed, for OpenLineage; None of a run that landed nothing."""
        from airflow_provider_dstny.export.layout import LAYOUTS
        from airflow_provider_dstny.landing.lineage import lineage_of

        if self._landed is None:
            return None
        api, url = self._api
        return lineage_of(self._landed, path=self.path, api_url=url, layout=LAYOUTS[api])

    async def _export(self, context: Context) -> Outcome:
        from airflow_provider_dstny.api.arguments import rendered_flag
        from airflow_provider_dstny.landing.export import Export

        plan_only = rendered_flag("dry_run", self.dry_run)
        async with self.hook.get_async_conn() as client:
            self._api = client.name, client.base_url
            export = Export(client, self.path, self._options(context, client))
            return await export.run(plan_only=plan_only)

    def _options(self, context: Context, client: ApiClient) -> Options:
        from airflow_provider_dstny.api.arguments import check_boolean, check_integer, check_positive
        from airflow_provider_dstny.api.errors import DstnyValidationError
        from airflow_provider_dstny.api.ids import unique_ids
        from airflow_provider_dstny.export.layout import LAYOUTS
        from airflow_provider_dstny.landing.export import Options
        from airflow_provider_dstny.landing.reporting import interval_of

        check_positive("concurrency", self.concurrency, up_to=100)
        for name in ("concurrency", "quota_reserve", "max_failures"):
            check_integer(name, getattr(self, name))
            if getattr(self, name) < 0:
                raise DstnyValidationError(None, f"{name} must not be negative.")
        check_boolean("wait_for_delivery", self.wait_for_delivery)
        layout = LAYOUTS[client.name]
        if isinstance(self.tables, str):
            raise DstnyValidationError(None, "tables must be a list of names.")
        tables = frozenset(layout.tables if self.tables is None else self.tables)
        if unknown := sorted(tables - set(layout.tables)):
            raise DstnyValidationError(
                None, f"tables has {', '.join(unknown)}; {client.name} has {', '.join(layout.tables)}."
            )
        ids = None
        if not self._lists:
            if client.name == "dstny":
                raise DstnyValidationError(None, "conversation_ids: API v2 shows no single conversation; leave it out.")
            ids = tuple(unique_ids(self.conversation_ids, "conversation_ids"))
        return Options(
            conversation_ids=ids,
            interval=interval_of(context),
            tables=tables,
            file_format=self.format,
            redaction=self._redaction(context, layout),
            source_name=self.dstny_conn_id,
            lookback=self.lookback,
            sweep_every=self.sweep_every,
            give_up_after=self.give_up_after,
            daily_quota=self.hook.daily_conversation_quota,
            quota_reserve=self.quota_reserve,
            wait_for_delivery=self.wait_for_delivery,
            concurrency=self.concurrency,
        )

    def _redaction(self, context: Context, layout: Layout) -> Redaction:
        from airflow_provider_dstny.export.redaction import Redaction

        given = self.redaction
        if isinstance(given, Mapping) and isinstance(given.get("salt"), str):
            # Rendered here and not as a field of the task, which Airflow would show.
            given = {**given, "salt": self.render_template(given["salt"], context)}
        elif isinstance(given, Redaction) and given.salt is not None:
            given = replace(given, salt=self.render_template(given.salt, context))
        redaction = Redaction.parse(given, layout)
        if redaction.undocumented:
            self.log.warning("redaction: not documented, and perhaps misspelt: %s", ", ".join(redaction.undocumented))
        return redaction


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
    goes_on = "Recordings that are there whole stay; a retry fetches what is missing."

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
        from airflow_provider_dstny.api.ids import encode_id, some_of, unique_ids
        from airflow_provider_dstny.progress import Progress
        from airflow_provider_dstny.storage import storage_folder

        with final_errors_fail(self):
            ids = unique_ids(self.conversation_ids, "conversation_ids")
            names = {conversation_id: encode_id(conversation_id, "conversation_ids") for conversation_id in ids}
            folder = storage_folder(self.path)
            there = {} if self.overwrite else _recordings_by_stem(folder)
        landed = _Landed({one: there[name] for one, name in names.items() if name in there})
        wanted = [one for one in names if one not in landed.files]
        skipped = len(landed.files)
        progress = Progress("Fetching", len(wanted), "recordings")
        with final_errors_fail(self), self.hook.get_conn() as rest, progress:
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
                    progress.add()
        if landed.failures:
            raise partial_failure(
                f"{len(landed.failures)} of {len(names)} recordings failed; a retry fetches only what is not there yet",
                landed.failures,
                final=all(error.final for error in landed.failures.values()),
            )
        if landed.missing and self.fail_if_missing:
            raise AirflowFailException(
                f"{len(landed.missing)} conversations have no recording: {some_of(landed.missing)}"
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
    from airflow_provider_dstny.storage import files_in

    return {(folder / name).stem: str(folder / name) for name in files_in(folder) if _is_recording(name)}


def _is_recording(name: str) -> bool:
    kind = mimetypes.guess_type(name)[0] or ""
    return not name.startswith(".") and (kind.startswith(("audio/", "video/")) or name.endswith(".bin"))
