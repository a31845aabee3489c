"""Pushing recorded calls into Dstny."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseOperator, conf

from airflow_provider_dstny.api.privacy import shown
from airflow_provider_dstny.sensors.base import conclude, defer
from airflow_provider_dstny.storage import ROW_REFERENCE, read_row
from airflow_provider_dstny.tasks import DstnyHookMixin, final_errors_fail

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context
    from jinja2 import Environment

    from airflow_provider_dstny.api.dstny import DstnyClient
    from airflow_provider_dstny.api.models.calls import CallConversation
    from airflow_provider_dstny.waiting.wait import Decision


_NOT_A_CALL = (
    "call must be a mapping, a CallConversation, or one row of a file like s3://bucket/calls.csv#1, counted from 1. "
    "A template that renders to a mapping needs render_template_as_native_obj=True on the DAG."
)
_LONGEST = 366 * 24 * 60 * 60


class CallFields:
    """A call as the author of a DAG wrote it, templates included.

    What Airflow shows, logs or stores of it, in rendered fields and in the serialized DAG, has no phone
    numbers and no query string of the recording URL, which may be a signature. To Airflow each field is a
    template field of its own, because it logs the whole of a template that fails.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        # A text without a template is left alone: rendered to a native object, a phone number becomes a number.
        templates = [name for name, value in fields.items() if _is_field(name) and not _is_plain(value)]
        self.__dict__.update(fields=dict(fields), template_fields=templates)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self.fields[name] = value

    def serialize(self) -> dict[str, Any]:
        return {(str(name) if _is_field(name) else "***"): shown(name, value) for name, value in self.fields.items()}

    def __repr__(self) -> str:
        return repr(self.serialize())


def _is_field(name: object) -> bool:
    return isinstance(name, str) and name.startswith(("call_", "owner_", "participant_"))


def _is_plain(value: object) -> bool:
    return isinstance(value, str) and "{{" not in value and "{%" not in value


class DstnyCreateCallConversationOperator(DstnyHookMixin, BaseOperator):
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
    """

    conn_types = ("dstny",)
    template_fields: Sequence[str] = ("call", "dstny_conn_id")
    template_fields_renderers = {"call": "json"}  # noqa: RUF012 - Airflow's own form
    ui_color = "#dcebf7"

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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.call = call
        self.dstny_conn_id = dstny_conn_id
        self.wait_for_transcript = wait_for_transcript
        self.poke_interval = _seconds("poke_interval", poke_interval)
        self.timeout = _seconds("timeout", timeout)
        self.deferrable = deferrable
        self.resubmit_ambiguous = resubmit_ambiguous

    @property
    def call(self) -> Any:
        return self._call

    @call.setter
    def call(self, call: Any) -> None:
        # A CallConversation becomes its fields, so that there is one form to render, show and validate.
        fields = call.to_json() if hasattr(call, "to_json") else call
        if isinstance(fields, Mapping):
            from airflow.providers.common.compat.sdk import XComArg

            # Airflow does not look for upstream tasks inside of the wrapper.
            XComArg.apply_upstream_relationship(self, dict(fields))
            fields = CallFields(fields)
        elif _is_plain(fields) and not ROW_REFERENCE.fullmatch(fields):
            raise AirflowFailException(_NOT_A_CALL)
        self._call = fields

    def render_template_fields(self, context: Context, jinja_env: Environment | None = None) -> None:
        if isinstance(self.call, CallFields):
            # Airflow renders a shallow copy of the task: the templates must stay with the original.
            self.call = self.call.fields
        super().render_template_fields(context, jinja_env)

    def execute(self, context: Context) -> str:
        from airflow_provider_dstny.submission import send_once

        with final_errors_fail():
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
                )
                self.log.info("Call %s is conversation %s", call.call_external_id, conversation_id)
                if self.wait_for_transcript:
                    self._wait(dstny, conversation_id)
        return self._done(conversation_id, context)

    def execute_complete(self, context: Context, event: Any) -> str:
        from airflow_provider_dstny.waiting.wait import Decision

        decision = Decision.from_event(event)
        self._conclude(decision)
        return self._done(next(iter(decision.ready)), context)

    def _validated_call(self) -> CallConversation:
        from airflow_provider_dstny.api.errors import DstnyValidationError
        from airflow_provider_dstny.api.models.calls import CallConversation

        match self.call:
            case CallFields():
                return CallConversation.parse(self.call.fields)
            case str(reference) if ROW_REFERENCE.fullmatch(reference):
                row = read_row(reference)
                try:
                    return CallConversation.parse(row)
                except DstnyValidationError as error:
                    raise DstnyValidationError(None, f"{reference}: {error.message}") from None
        raise DstnyValidationError(None, _NOT_A_CALL)

    def _wait(self, dstny: DstnyClient, conversation_id: str) -> None:
        from airflow_provider_dstny.triggers.transcripts import DstnyTranscriptTrigger
        from airflow_provider_dstny.waiting.transcripts import TranscriptWait
        from airflow_provider_dstny.waiting.wait import WaitState, look, utc_now

        started_at = utc_now()
        wait = TranscriptWait(
            [conversation_id], started_at=started_at, deadline=started_at + timedelta(seconds=self.timeout)
        )
        while (decision := dstny.run(look(dstny, wait))).state is WaitState.WAITING:
            if self.deferrable:
                defer(self, wait, DstnyTranscriptTrigger, poke_interval=self.poke_interval)
            self.log.info("%s", decision.reason)
            time.sleep(wait.seconds_to_next_look(utc_now(), self.poke_interval))
        self._conclude(decision)

    def _conclude(self, decision: Decision) -> None:
        # A timeout here is retried: the retry re-attaches to the same conversation and waits again.
        conclude(decision, on_timeout=AirflowException)

    def _done(self, conversation_id: str, context: Context) -> str:
        from airflow_provider_dstny.submission import mark_done

        mark_done(context)
        return conversation_id


def _find(dstny: DstnyClient, call: CallConversation) -> str | None:
    """Look for a call among the conversations of its day; the days around it allow for timezones."""
    day = timedelta(days=1)
    conversations = dstny.list_conversations(
        recording_types=["call"], global_start=call.call_start_time - day, global_end=call.call_start_time + day
    )
    for conversation in conversations:
        if conversation.id is not None and str(conversation.call_external_id) == call.call_external_id:
            return str(conversation.id)
    return None


def _seconds(name: str, value: float | timedelta) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= _LONGEST:
        raise ValueError(f"{name} must be a timedelta or a number of seconds, up to a year.")
    return float(seconds)
