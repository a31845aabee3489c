"""What the tasks of this provider share: the hook of their connection, and what an error means to Airflow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypeVar, cast, get_args

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, conf

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.providers.common.compat.sdk import BaseOperator, BaseOperatorLink, Context, XComArg

    from airflow_provider_dstny.api.errors import DstnyError
    from airflow_provider_dstny.hooks.base import DstnyBaseHook

    #: One id or many, or the output of a task that returns them.
    ConversationIds: TypeAlias = str | int | Sequence[str | int] | XComArg

#: What to do where something that is to be created is there already.
IfExists: TypeAlias = Literal["fail", "skip", "update"]
#: What goes on in Dstny when a task is ended from outside, where the triggerer tells it as well.
WAITING_GOES_ON = "Dstny goes on with what is waited for; nothing there has to be stopped. A retry waits for it anew."
RUNS_GO_ON = "Runs that were sent go on in Dstny. What was answered is saved; a retry runs the agent on what is left."
#: In seconds. A trigger that fires while the worker is still reporting the deferral can fail the task.
_SHORTEST_DEFERRAL = 30
T = TypeVar("T")
_log = logging.getLogger(__name__)


class DstnyHookMixin:
    """Gives a task the hook of its ``dstny_conn_id``; the hook's module is imported when the task runs."""

    dstny_conn_id: str
    #: Types of connections whose API can do the work.
    conn_types: ClassVar[Sequence[str]] = ("dstny", "dstny_rest", "tellcasey")
    #: A pause that the API demands, and that is too long to sleep, is spent in the triggerer.
    deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False)
    #: What goes on at Dstny when the task is ended from outside, and what a retry does then.
    goes_on: ClassVar[str] = ""
    _work: asyncio.Task[Any] | None = None

    @cached_property
    def hook(self) -> DstnyBaseHook[Any]:
        from airflow_provider_dstny.hooks import get_client_hook

        return get_client_hook(self.dstny_conn_id, self.conn_types)

    def execute_after_pause(self, context: Context, event: Any) -> Any:
        """Do the work anew: what the API refused with a pause has not happened."""
        return self.execute(context)  # type: ignore[attr-defined]

    def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something to its end, or until the task is ended from outside: then it is cancelled, so that it can save.

        :raises AirflowException: it was cancelled.
        """

        async def cancellable() -> T:
            self._work = asyncio.current_task()
            try:
                return await work
            finally:
                self._work = None

        with suppress(asyncio.CancelledError):
            return asyncio.run(cancellable())
        raise AirflowException(f"The task was ended from outside. {self.goes_on}")

    def on_kill(self) -> None:
        # Airflow calls this within a signal handler, and kills the process some seconds later.
        if self._work is not None:
            self._work.get_loop().call_soon_threadsafe(self._work.cancel)
        elif self.goes_on:
            _log.warning("The task was ended from outside. %s", self.goes_on)


class _Links:
    """The links of a task or of its class, imported when somebody asks: DAG files need not pay for them."""

    def __get__(self, task: object, owner: type) -> Collection[BaseOperatorLink]:
        from airflow_provider_dstny.links import DstnyConversationLink

        return (DstnyConversationLink(),)


class ConversationLinkMixin(DstnyHookMixin):
    """Gives a task the link to the conversation that it is about.

    Airflow keeps the link when a task ends, defers or is rescheduled; :meth:`show_link` is for one that waits itself.
    """

    operator_extra_links = cast("Collection[BaseOperatorLink]", _Links())
    #: The conversation, where it is not one of the parameter ``conversation_ids``.
    conversation_id: str | None = None

    @property
    def conversation_page(self) -> str:
        ids = self.conversation_id or getattr(self, "conversation_ids", None)
        if isinstance(ids, (list, tuple)):
            ids = ids[0] if len(ids) == 1 else None
        try:
            return self.hook.conversation_page(ids)
        except Exception:
            # Whatever is wrong with connection or id is the task's to tell.
            return ""

    def show_link(self, context: Context) -> None:
        for link in self.operator_extra_links:
            context["ti"].xcom_push(key=link.xcom_key, value=self.conversation_page)


@contextmanager
def final_errors_fail(task: DstnyHookMixin) -> Iterator[None]:
    """End a task without retries where a retry would fail the same way, defer it through a long pause.

    Other errors pass.
    """
    from airflow_provider_dstny.api.errors import DstnyError

    try:
        yield
        return
    except DstnyError as error:
        if task.deferrable:
            _defer_through_pause(cast("BaseOperator", task), error)
        if not error.final:
            raise
        reason = str(error)
    raise AirflowFailException(reason)


def _defer_through_pause(task: BaseOperator, error: DstnyError) -> None:
    """Defer a task until the API may be asked again, if it says when and that is not soon."""
    from datetime import datetime, timedelta

    from airflow_provider_dstny.api.errors import DstnyQuotaError, DstnyRateLimitError
    from airflow_provider_dstny.api.retry import LONGEST_WAIT
    from airflow_provider_dstny.waiting.wait import utc_now

    match error:
        case DstnyQuotaError(resets_at=datetime() as until):
            pass
        case DstnyRateLimitError(retry_after=float() | int() as seconds) if seconds > LONGEST_WAIT:
            until = utc_now() + timedelta(seconds=seconds)
        case _:
            return
    defer_until(task, until, str(error))


def defer_until(task: BaseOperator, until: datetime, reason: str) -> None:
    """Defer a task, which then begins anew.

    :param until: UTC; a moment that is near or past becomes one that is safe.
    """
    from datetime import timedelta

    from airflow.providers.standard.triggers.temporal import DateTimeTrigger

    from airflow_provider_dstny.waiting.wait import utc_now

    until = max(until, utc_now() + timedelta(seconds=_SHORTEST_DEFERRAL))
    task.log.warning("Deferred until %s UTC. %s", f"{until:%Y-%m-%d %H:%M:%S}", reason)
    task.defer(trigger=DateTimeTrigger(moment=until), method_name="execute_after_pause")


def checked_if_exists(value: str) -> IfExists:
    """Return a choice that a DAG file makes, or raise ValueError while it is parsed."""
    if value not in get_args(IfExists):
        raise ValueError(f"if_exists must be 'fail', 'skip' or 'update', not {value!r}.")
    return cast(IfExists, value)


def partial_failure(what: str, reasons: Mapping[str, object], *, final: bool) -> AirflowException:
    """Return what a task raises that failed on some of its conversations.

    :param what: begins the message.
    :param reasons: why, of each conversation id.
    :param final: a retry would fail in the same way.
    """
    named = "; ".join(f"{conversation_id}: {reason}" for conversation_id, reason in list(reasons.items())[:10])
    return (AirflowFailException if final else AirflowException)(f"{what}: {named}")
