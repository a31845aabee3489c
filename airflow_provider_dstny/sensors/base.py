"""Waiting in poke, reschedule and deferrable mode alike."""

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

from airflow_provider_dstny.tasks import WAITING_GOES_ON, ConversationLinkMixin, final_errors_fail

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context

    from airflow_provider_dstny.tasks import ConversationIds
    from airflow_provider_dstny.triggers.base import DstnyWaitTrigger
    from airflow_provider_dstny.waiting.lookout import Lookout
    from airflow_provider_dstny.waiting.wait import AnyClient, Decision, Wait

#: The trigger ends a wait and names the cause; Airflow's own timeout only steps in where no triggerer runs.
_TRIGGERER_GRACE = timedelta(minutes=5)
#: The look before a deferral takes no longer: what is left is asked for in the triggerer.
_FIRST_LOOK = timedelta(seconds=30)
#: Nor does it stand in line behind other tasks with its token, in seconds.
_PATIENCE = 5.0
#: A look that has begun in time may end so much later than the deadline.
_LAST_LOOK = timedelta(minutes=1)
_KEY = "dstny_wait"
#: A year, in seconds.
LONGEST = 366 * 24 * 60 * 60


class DstnyWaitSensor(ConversationLinkMixin, BaseSensorOperator):
    """What the sensors of this provider share: one wait, however its looks are spread over time."""

    template_fields: Sequence[str] = ("conversation_ids", "dstny_conn_id")
    ui_color = "#e4f1ee"
    goes_on = WAITING_GOES_ON

    def __init__(
        self,
        *,
        conversation_ids: ConversationIds,
        accept_statuses: Sequence[str] = (),
        dstny_conn_id: str = "dstny_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.conversation_ids = conversation_ids
        self.accept_statuses = accept_statuses
        self.dstny_conn_id = dstny_conn_id
        self.deferrable = deferrable
        self._wait: Wait | None = None

    def trigger_class(self) -> type[DstnyWaitTrigger]:
        """Return what waits in the triggerer."""
        raise NotImplementedError

    def wait_class(self) -> type[Wait]:
        """Return what decides; imported only when the task runs."""
        raise NotImplementedError

    def wait_options(self) -> dict[str, Any]:
        """Return what a wait of this sensor needs beside ids and times."""
        return {"accept_statuses": self.accept_statuses}

    def poke(self, context: Context) -> bool | PokeReturnValue:
        from airflow_provider_dstny.waiting.lookout import Lookout
        from airflow_provider_dstny.waiting.wait import WaitState, utc_now

        with final_errors_fail(self):
            if self._wait is None:
                self._wait = self._begin(context)
                self._lookout = Lookout(every_look=True)
                self._lookout.add(self._wait, self.poke_interval)
                if not (self.deferrable or self.reschedule):
                    self.show_link(context)
            with self.hook.get_conn() as client:
                look_for(client, self._lookout, self._wait, deferrable=self.deferrable)
            decision = self._wait.decide(utc_now())
        if decision.state is not WaitState.WAITING:
            return PokeReturnValue(is_done=True, xcom_value=self._in_order(conclude(decision)))
        self.log.info("%s", decision.reason)
        if self.deferrable:
            defer(self, self._wait, self.trigger_class(), poke_interval=self.poke_interval)
        self._remember(context, self._wait)
        return False

    def execute_complete(self, context: Context, event: Any) -> dict[str, Any]:
        from airflow_provider_dstny.waiting.wait import Decision

        return self._in_order(conclude(Decision.from_event(event)))

    def _in_order(self, ready: dict[str, Any]) -> dict[str, Any]:
        """Return what is ready in the order in which it was waited for: a stored wait has an order of its own."""
        from airflow_provider_dstny.api.ids import unique_ids

        given = unique_ids(self.conversation_ids, "conversation_ids")
        return {one: ready[one] for one in dict.fromkeys([*given, *ready]) if one in ready}

    def _begin(self, context: Context) -> Wait:
        from airflow_provider_dstny.waiting.wait import utc_now

        store = self._store(context)
        stored = store.get(_KEY) if store is not None else None
        if stored and stored["try_number"] == context["ti"].try_number:
            known = {name: value for name, value in stored.items() if name != "try_number"}
            # What lists have shown is not kept, so that each is asked for in each look.
            return self.wait_class().from_json({**known, "unasked": None})
        first = context["ti"].get_first_reschedule_date(context) if self.reschedule else None
        started_at = first or utc_now()
        deadline = started_at + timedelta(seconds=min(self.timeout, LONGEST))
        return self.wait_class()(self.conversation_ids, started_at=started_at, deadline=deadline, **self.wait_options())

    def _remember(self, context: Context, wait: Wait) -> None:
        store = self._store(context)
        if store is not None:
            store.set(_KEY, {**wait.to_json(), "try_number": context["ti"].try_number})

    def _store(self, context: Context) -> Any:
        """Where Airflow 3.3 keeps what a rescheduled sensor, a new object on every look, must remember."""
        return context.get("task_state_store") if self.reschedule else None


def look_for(client: AnyClient, lookout: Lookout, wait: Wait, *, deferrable: bool) -> None:
    """Look once: briefly where the triggerer goes on with it, else as long as the wait may last."""
    from airflow_provider_dstny.waiting.lookout import look
    from airflow_provider_dstny.waiting.wait import utc_now

    if deferrable:
        look(client, lookout, until=utc_now() + _FIRST_LOOK, patience=_PATIENCE)
    else:
        look(client, lookout, until=max(wait.deadline, utc_now()) + _LAST_LOOK)


def defer(task: BaseOperator, wait: Wait, trigger_class: type[DstnyWaitTrigger], *, poke_interval: float) -> NoReturn:
    """Hand a wait over to the triggerer; the task resumes in ``execute_complete``."""
    from airflow_provider_dstny.waiting.wait import utc_now

    task.defer(
        trigger=trigger_class(
            **wait.to_json(),
            dstny_conn_id=task.dstny_conn_id,  # type: ignore[attr-defined]
            poll_interval=poke_interval,
        ),
        method_name="execute_complete",
        timeout=wait.deadline - utc_now() + _TRIGGERER_GRACE,
    )


def conclude(decision: Decision, *, on_timeout: type[AirflowException] = AirflowSensorTimeout) -> dict[str, Any]:
    """Return what is ready, or raise what a wait that ended without success means to Airflow."""
    from airflow_provider_dstny.waiting.wait import WaitState

    match decision.state:
        case WaitState.READY:
            return decision.ready
        case WaitState.TIMED_OUT | WaitState.GAVE_UP:
            raise on_timeout(decision.reason)
        case _:
            raise AirflowFailException(decision.reason)
