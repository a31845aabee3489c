"""What operators and sensors share: the hook of their connection, resolved once."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_dstny.hooks.dstny import DstnyHook


class DstnyHookMixin:
    """Gives a task the hook of its ``dstny_conn_id``; the hook's module is imported when the task runs."""

    dstny_conn_id: str

    @cached_property
    def hook(self) -> DstnyHook:
        from airflow_provider_dstny.hooks.dstny import DstnyHook

        return DstnyHook(self.dstny_conn_id)
