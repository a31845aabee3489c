"""What an error of the API means to Airflow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_dstny.api.errors import DstnyError


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
