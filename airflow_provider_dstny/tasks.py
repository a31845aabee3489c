"""What the tasks of this provider share: the hook of their connection, and what an error means to Airflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_dstny.api.errors import DstnyError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import XComArg

    from airflow_provider_dstny.hooks.base import DstnyBaseHook

    #: One id or many, or the output of a task that returns them.
    ConversationIds: TypeAlias = str | int | Sequence[str | int] | XComArg


class DstnyHookMixin:
    """Gives a task the hook of its ``dstny_conn_id``; the hook's module is imported when the task runs."""

    dstny_conn_id: str
    #: Types of connections whose API can do the work.
    conn_types: ClassVar[Sequence[str]] = ("dstny", "dstny_rest", "tellcasey")

    @cached_property
    def hook(self) -> DstnyBaseHook[Any]:
        from airflow_provider_dstny.hooks import get_client_hook

        return get_client_hook(self.dstny_conn_id, self.conn_types)


@contextmanager
def final_errors_fail() -> Iterator[None]:
    """End a task without retries where a retry would fail the same way; let other errors pass."""
    try:
        yield
        return
    except DstnyError as error:
        if not error.final:
            raise
        reason = str(error)
    raise AirflowFailException(reason)


def partial_failure(what: str, failures: Mapping[str, DstnyError]) -> AirflowException:
    """Return what a task raises that failed on some of its conversations; a retry is due if it can mend any.

    :param what: begins the message.
    :param failures: the error of each conversation id.
    """
    kind = AirflowFailException if all(error.final for error in failures.values()) else AirflowException
    named = "; ".join(f"{conversation_id}: {error}" for conversation_id, error in list(failures.items())[:10])
    return kind(f"{what}: {named}")
