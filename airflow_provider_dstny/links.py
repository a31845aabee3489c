"""Links from a task to the pages of Dstny."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class DstnyConversationLink(BaseOperatorLink):
    """The page of the conversation that a task is about; where it is about many, the place where they are listed."""

    name = "Open in Dstny"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        # Airflow asks when a task ends, defers or is rescheduled, and keeps the answer as an XCom.
        return getattr(operator, "conversation_page", "")
