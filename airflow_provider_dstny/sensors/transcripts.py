"""Waiting for transcripts, in poke, reschedule and deferrable mode alike."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_dstny.failures import final_errors_fail
from airflow_provider_dstny.hooks.mixin import DstnyHookMixin

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    from airflow_provider_dstny.waiting.transcripts import Decision, TranscriptWait

#: The trigger ends a wait and names the cause; Airflow's own timeout only steps in where no triggerer runs.
_TRIGGERER_GRACE = timedelta(minutes=5)
_KEY = "dstny_wait"
_LONGEST = 366 * 24 * 60 * 60


class DstnyTranscriptSensor(DstnyHookMixin, BaseSensorOperator):
    """Succeeds when the transcripts of all given conversations are ready.

    A transcript that does not exist yet, a network failure, a 5xx and a 429 delay the wait and never end it;
    a refused token or a missing scope fails it at once, without retries. When time runs out, the last cause
    is named. XCom: per conversation id ``{"ready": True, "segments": int, "waited_seconds": float}``.

    :param conversation_ids: one id or many (templated); none at all is ready at once.
    :param dstny_conn_id: a connection of type ``dstny``.
    :param deferrable: wait in the triggerer; it looks once before it defers. ``poke_interval``, ``timeout``
        (seconds) and ``soft_fail`` mean the same in every mode; in the triggerer, the first look comes
        after at least 10 s and ``exponential_backoff`` has no effect. In reschedule mode, Airflow before 3.3
        forgets between two looks what is ready and asks again.
    """

    template_fields: Sequence[str] = ("conversation_ids", "dstny_conn_id")
    ui_color = "#e4f1ee"

    def __init__(
        self,
        *,
        conversation_ids: str | Sequence[str],
        dstny_conn_id: str = "dstny_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conversation_ids = conversation_ids
        self.dstny_conn_id = dstny_conn_id
        self.deferrable = deferrable
        self._wait: TranscriptWait | None = None

    def poke(self, context: Context) -> bool | PokeReturnValue:
        from airflow_provider_dstny.waiting.transcripts import WaitState, look

        with final_errors_fail():
            if self._wait is None:
                self._wait = self._begin(context)
            with self.hook.get_conn() as dstny:
                decision = dstny.run(look(dstny, self._wait))
        if decision.state is not WaitState.WAITING:
            return PokeReturnValue(is_done=True, xcom_value=conclude(decision))
        self.log.info("%s", decision.reason)
        if self.deferrable:
            defer(self, self._wait, poke_interval=self.poke_interval)
        self._remember(context, self._wait)
        return False

    def execute_complete(self, context: Context, event: Any) -> dict[str, Any]:
        from airflow_provider_dstny.waiting.transcripts import Decision

        return conclude(Decision.from_event(event))

    def _begin(self, context: Context) -> TranscriptWait:
        from airflow_provider_dstny.waiting.transcripts import TranscriptWait, utc_now

        store = self._store(context)
        stored = store.get(_KEY) if store is not None else None
        if stored and stored["try_number"] == context["ti"].try_number:
            return TranscriptWait.from_json(stored)
        first = context["ti"].get_first_reschedule_date(context) if self.reschedule else None
        started_at = first or utc_now()
        deadline = started_at + timedelta(seconds=min(self.timeout, _LONGEST))
        return TranscriptWait(self.conversation_ids, started_at=started_at, deadline=deadline)

    def _remember(self, context: Context, wait: TranscriptWait) -> None:
        store = self._store(context)
        if store is not None:
            store.set(_KEY, {**wait.to_json(), "try_number": context["ti"].try_number})

    def _store(self, context: Context) -> Any:
        """Where Airflow 3.3 keeps what a rescheduled sensor, a new object on every look, must remember."""
        return context.get("task_state_store") if self.reschedule else None


def defer(task: BaseOperator, wait: TranscriptWait, *, poke_interval: float) -> NoReturn:
    """Hand a wait over to the triggerer; the task resumes in ``execute_complete``."""
    from airflow_provider_dstny.triggers.transcripts import DstnyTranscriptTrigger
    from airflow_provider_dstny.waiting.transcripts import utc_now

    task.defer(
        trigger=DstnyTranscriptTrigger(
            **wait.to_json(),
            dstny_conn_id=task.dstny_conn_id,  # type: ignore[attr-defined]
            poll_interval=poke_interval,
        ),
        method_name="execute_complete",
        timeout=wait.deadline - utc_now() + _TRIGGERER_GRACE,
    )


def conclude(decision: Decision, *, on_timeout: type[AirflowException] = AirflowSensorTimeout) -> dict[str, Any]:
    """Return what is ready, or raise what a wait that ended without success means to Airflow."""
    from airflow_provider_dstny.waiting.transcripts import WaitState

    match decision.state:
        case WaitState.READY:
            return decision.transcripts
        case WaitState.TIMED_OUT | WaitState.GAVE_UP:
            raise on_timeout(decision.reason)
        case _:
            raise AirflowFailException(decision.reason)
