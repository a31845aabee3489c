"""Pushing recorded calls into Dstny."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, BaseOperator, conf

from airflow_provider_dstny.masking import (
    NATIVE_LIST,
    NATIVE_MAPPING,
    MaskedFields,
    MaskedPayload,
    MaskedPayloadList,
    MaskedPayloadListMixin,
    MaskedPayloadMixin,
    MaskedRows,
)
from airflow_provider_dstny.sensors.base import LONGEST, conclude, defer, look_for
from airflow_provider_dstny.tasks import ConversationLinkMixin, DstnyHookMixin, final_errors_fail, partial_failure

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath, XComArg

    from airflow_provider_dstny.api.dstny import DstnyClient
    from airflow_provider_dstny.api.models.calls import CallConversation
    from airflow_provider_dstny.call_uploads import Upload, UploadOutcome
    from airflow_provider_dstny.checked_calls import CheckedCalls, Source
    from airflow_provider_dstny.hooks.base import DstnyBaseHook
    from airflow_provider_dstny.waiting.wait import Decision


_NOT_A_CALL = (
    "call must be a mapping, a CallConversation, or one row of a file like s3://bucket/calls.csv#1, counted from 1. "
    f"{NATIVE_MAPPING}"
)
_NOT_CALLS = f"calls must be a list of mappings or CallConversations; the path of a file is calls_path. {NATIVE_LIST}"


def _is_field(name: str) -> bool:
    return name.startswith(("call_", "owner_", "participant_"))


def _is_row(text: str) -> bool:
    from airflow_provider_dstny.storage import ROW_REFERENCE

    return bool(ROW_REFERENCE.fullmatch(text))


class DstnyCreateCallConversationOperator(MaskedPayloadMixin, ConversationLinkMixin, BaseOperator):
    """Validates one recorded call and sends it to Dstny. XCom: the conversation id.

    The call is invalid: the task fails at once with every field and reason, and nothing is sent. On Airflow
    3.3 and later the intent is recorded before the call is sent and the id after it: a retry re-attaches to
    a known id; after a lost answer it looks for the call, and fails with what to check if it cannot tell.

    :param call: the fields of *Create a new call conversation* (templated), a ``CallConversation``, or one
        row of a file, ``s3://bucket/calls.csv#7`` (rows count from 1), which keeps phone numbers out of XCom.
    :param dstny_conn_id: a connection of type ``dstny``.
    :param wait_for_transcript: end only when the transcript is ready.
    :param poke_interval: seconds between two looks while waiting.
    :param timeout: seconds to wait for the transcript, in each try.
    :param deferrable: wait in the triggerer.
    :param resubmit_ambiguous: send again when it cannot be known whether an earlier try arrived.
    :param preflight_recording: ask the host of the recording first, without reading it: a URL that does not work would
        be found out only when no transcript comes. The worker must reach that host as Dstny does.
    """

    conn_types = ("dstny",)
    goes_on = (
        "A call that was sent is transcribed all the same. On Airflow 3.3 and later a retry finds it and waits for it; "
        "before, a retry sends it a second time."
    )
    template_fields: Sequence[str] = ("call", "dstny_conn_id")
    template_fields_renderers = {"call": "json"}  # noqa: RUF012 - Airflow's own form
    ui_color = "#dcebf7"
    payload_name = "call"
    call = MaskedPayload(_is_field, _NOT_A_CALL, _is_row)

    def __init__(
        self,
        *,
        call: Mapping[str, Any] | CallConversation | str,
        dstny_conn_id: str = "dstny_default",
        wait_for_transcript: bool = False,
        poke_interval: float | timedelta = 60.0,
        timeout: float | timedelta = 6 * 60 * 60,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        resubmit_ambiguous: bool = False,
        preflight_recording: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.preflight_recording = preflight_recording
        self.call = call
        self.dstny_conn_id = dstny_conn_id
        self.wait_for_transcript = wait_for_transcript
        self.poke_interval = _seconds("poke_interval", poke_interval)
        self.timeout = _seconds("timeout", timeout)
        self.deferrable = deferrable
        self.resubmit_ambiguous = resubmit_ambiguous

    def execute(self, context: Context) -> str:
        from airflow_provider_dstny.submission import send_once

        with final_errors_fail(self):
            call = self._validated_call()
            with self.hook.get_conn() as dstny:
                conversation_id = send_once(
                    context,
                    f"call {call.call_external_id}",
                    # A recording's URL may be signed anew each time.
                    {name: value for name, value in call.to_json().items() if name != "call_recording_url"},
                    send=lambda: dstny.create_call_conversation(call),
                    find=lambda: _find(dstny, call),
                    resubmit_ambiguous=self.resubmit_ambiguous,
                    # Not where an earlier try has sent it: its URL may have run out since.
                    look=(lambda: _preflight(dstny, call)) if self.preflight_recording else None,
                )
                self.log.info("Call %s is conversation %s", call.call_external_id, conversation_id)
                self.conversation_id = conversation_id
                if self.wait_for_transcript:
                    if not self.deferrable:
                        self.show_link(context)
                    self._wait(dstny, conversation_id)
        return self._done(conversation_id, context)

    def execute_complete(self, context: Context, event: Any) -> str:
        from airflow_provider_dstny.waiting.wait import Decision

        decision = Decision.from_event(event)
        self._conclude(decision)
        self.conversation_id = next(iter(decision.ready))
        return self._done(self.conversation_id, context)

    def _validated_call(self) -> CallConversation:
        from airflow_provider_dstny.api.errors import DstnyValidationError
        from airflow_provider_dstny.api.models.calls import CallConversation
        from airflow_provider_dstny.storage import read_row

        match self.call:
            case MaskedFields():
                return CallConversation.parse(self.payload_fields())
            case str(reference) if _is_row(reference):
                row = read_row(reference)
                try:
                    return CallConversation.parse(row)
                except DstnyValidationError as error:
                    raise DstnyValidationError(None, f"{reference}: {error.message}") from None
        raise DstnyValidationError(None, _NOT_A_CALL)

    def _wait(self, dstny: DstnyClient, conversation_id: str) -> None:
        from airflow_provider_dstny.triggers.transcripts import DstnyTranscriptTrigger
        from airflow_provider_dstny.waiting.lookout import Lookout
        from airflow_provider_dstny.waiting.transcripts import TranscriptWait
        from airflow_provider_dstny.waiting.wait import WaitState, utc_now

        started_at = utc_now()
        wait = TranscriptWait(
            [conversation_id], started_at=started_at, deadline=started_at + timedelta(seconds=self.timeout)
        )
        lookout = Lookout(every_look=True)
        lookout.add(wait, self.poke_interval)
        while True:
            look_for(dstny, lookout, wait, deferrable=self.deferrable)
            decision = wait.decide(utc_now())
            if decision.state is not WaitState.WAITING:
                return self._conclude(decision)
            if self.deferrable:
                defer(self, wait, DstnyTranscriptTrigger, poke_interval=self.poke_interval)
            self.log.info("%s", decision.reason)
            time.sleep(wait.seconds_to_next_look(utc_now(), self.poke_interval))

    def _conclude(self, decision: Decision) -> None:
        # A timeout here is retried: the retry re-attaches to the same conversation and waits again.
        conclude(decision, on_timeout=AirflowException)

    def _done(self, conversation_id: str, context: Context) -> str:
        from airflow_provider_dstny.submission import mark_done

        mark_done(context)
        return conversation_id


class DstnyUploadCallsOperator(MaskedPayloadListMixin, DstnyHookMixin, BaseOperator):
    """Sends many calls in one task, several at a time and at the pace of the connection, each of them once.

    All rows are checked before anything is sent. What becomes of each goes to ``results_path``, one JSON row per call:
    ``{"call_external_id", "conversation_id", "state", "error", "row"}``, where ``state`` is ``sent``, ``failed``,
    ``ambiguous`` (it may have arrived) or ``invalid`` (the row is no call). While the task runs, a folder beside the
    file (``<results_path>.journal``) says which calls are about to be sent. So a retry, a cleared task and any later
    run with the same path send only what is missing, also after a kill: a call is known by its ``call_external_id``.
    Calls that may have arrived are looked for in Dstny, and not sent again if they cannot be found.

    If more than ``max_failures`` calls are bad, refused or in doubt, the task fails and names the first ten; if that
    many rows are no calls, before anything is sent. A refused token, a rate limit, a quota, an API that is not reached,
    and three lost answers in a row end the upload early.

    XCom: ``{"results_path", "calls", "sent", "skipped", "failed", "invalid", "ambiguous"}``; ``calls`` is the sum of
    the others, and ``skipped`` were sent before.

    :param results_path: a ``.jsonl`` file in object storage (templated), to which no other task writes at the time.
    :param calls_path: a ``.csv`` or ``.jsonl`` file in object storage (templated), one call per row, with the fields of
        *Create a new call conversation*. It is read twice and never held in memory.
    :param calls: the calls themselves (templated), where there is no file: mappings or ``CallConversation``.
    :param max_failures: how many calls may be bad, refused or in doubt.
    :param concurrency: how many calls at a time; after a kill, fewer than twice as many have to be looked for.
    :param resubmit_ambiguous: send again what may have arrived and cannot be found.
    :param dstny_conn_id: a connection of type ``dstny``.
    :param deferrable: spend a long pause that the API demands in the triggerer.
    """

    conn_types = ("dstny",)
    goes_on = "What was sent is transcribed all the same, and noted beside the results; a retry sends what is missing."
    template_fields: Sequence[str] = ("calls", "calls_path", "results_path", "dstny_conn_id")
    template_fields_renderers = {"calls": "json"}  # noqa: RUF012 - Airflow's own form
    ui_color = "#dcebf7"
    payload_name = "calls"
    calls = MaskedPayloadList(_is_field, _NOT_CALLS)

    def __init__(
        self,
        *,
        results_path: str | ObjectStoragePath | XComArg,
        calls_path: str | ObjectStoragePath | XComArg | None = None,
        calls: Sequence[Mapping[str, Any] | CallConversation | XComArg] | XComArg | str | None = None,
        max_failures: int = 0,
        concurrency: int = 4,
        resubmit_ambiguous: bool = False,
        dstny_conn_id: str = "dstny_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (calls is None) == (calls_path is None):
            raise ValueError("Give either calls_path or calls.")
        self.results_path = results_path
        self.calls_path = calls_path
        self.calls = calls
        self.max_failures = max_failures
        self.concurrency = concurrency
        self.resubmit_ambiguous = resubmit_ambiguous
        self.dstny_conn_id = dstny_conn_id
        self.deferrable = deferrable

    def execute(self, context: Context) -> dict[str, Any]:
        with final_errors_fail(self):
            upload = self._upload()
            self._refuse_bad_rows(upload.calls)
            # Resolved here: a connection that will not do is told at once, and Airflow's lookup blocks.
            outcome = self.run_async(_upload(self.hook, upload))
            if outcome.stopped is not None:
                raise outcome.stopped
        if len(outcome.reasons) > self.max_failures:
            raise partial_failure(
                f"{len(outcome.reasons)} of {outcome.calls} calls were not sent, or it is not known; max_failures is "
                f"{self.max_failures}. A retry sends only what is missing",
                outcome.reasons,
                final=outcome.final,
            )
        return {"results_path": str(self.results_path), **outcome.counts()}

    def _upload(self) -> Upload:
        from airflow_provider_dstny.api.arguments import check_boolean, check_integer, check_positive
        from airflow_provider_dstny.api.errors import DstnyValidationError
        from airflow_provider_dstny.call_uploads import Upload
        from airflow_provider_dstny.checked_calls import check_calls
        from airflow_provider_dstny.upload_journal import UploadJournal

        check_integer("concurrency", self.concurrency)
        check_positive("concurrency", self.concurrency, up_to=100)
        check_integer("max_failures", self.max_failures)
        check_boolean("resubmit_ambiguous", self.resubmit_ambiguous)
        if self.max_failures < 0:
            raise DstnyValidationError(None, "max_failures must not be negative.")
        if str(self.results_path) == str(self.calls_path):
            raise DstnyValidationError(None, "results_path must be another file than calls_path.")
        journal = UploadJournal(str(self.results_path))
        return Upload(
            calls=check_calls(self._source()),
            journal=journal,
            concurrency=self.concurrency,
            resubmit_ambiguous=self.resubmit_ambiguous,
        )

    def _source(self) -> Source:
        from airflow_provider_dstny.api.errors import DstnyValidationError
        from airflow_provider_dstny.storage import iter_rows

        if isinstance(self.calls, MaskedRows):
            return lambda: self.calls.fields
        if self.calls is not None:
            raise DstnyValidationError(None, _NOT_CALLS)
        if self.calls_path is None:
            raise DstnyValidationError(None, "The task that gives calls_path, or calls, gave nothing.")
        path = str(self.calls_path)
        return lambda: iter_rows(path)

    def _refuse_bad_rows(self, calls: CheckedCalls) -> None:
        if len(calls.bad) > self.max_failures:
            raise partial_failure(
                f"{len(calls.bad)} of {len(calls)} calls are wrong, so nothing was sent; max_failures is "
                f"{self.max_failures}. A retry fails in the same way until these rows are mended",
                {f"row {row}": reason for row, reason in calls.bad.items()},
                final=True,
            )


def _preflight(dstny: DstnyClient, call: CallConversation) -> None:
    from airflow_provider_dstny.api.downloads import preflight

    preflight(dstny, f"call_recording_url of call {call.call_external_id}", call.call_recording_url)


def _find(dstny: DstnyClient, call: CallConversation) -> str | None:
    from airflow_provider_dstny.call_uploads import find_calls

    days = {call.call_external_id: call.call_start_time.date()}
    return dstny.run(find_calls(dstny, days)).get(call.call_external_id)


async def _upload(hook: DstnyBaseHook[Any], upload: Upload) -> UploadOutcome:
    async with hook.get_async_conn() as dstny:
        return await upload.run(dstny)


def _seconds(name: str, value: float | timedelta) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST:
        raise ValueError(f"{name} must be a timedelta or a number of seconds, up to a year.")
    return float(seconds)
