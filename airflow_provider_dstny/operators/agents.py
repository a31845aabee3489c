"""Running AI agents on conversations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dstny.api.models.agents import AgentRun
    from airflow_provider_dstny.hooks.dstny import DstnyHook


class DstnyRunAgentOperator(BaseOperator):
    """Runs one AI agent on each conversation, one after the other.

    What an agent says goes to ``output_path``, one JSON row per conversation; XCom holds
    ``{"agent_id", "is_test_run", "conversations", "succeeded", "output_path"}``. If some conversations fail,
    the results of the others are written before the task fails and names them. A retry runs all again, which
    without ``force`` returns the stored results of those that are done.

    :param agent_id: the agent (templated).
    :param conversation_ids: one id or many (templated).
    :param is_test_run: True persists nothing at Dstny, False stores the result. There is no default: the
        API's own is True, with which results vanish unless ``output_path`` is set.
    :param force: run again even where a result is stored.
    :param output_path: a ``.jsonl`` file in object storage (templated).
    :param request_timeout: seconds to wait for the agent on one conversation.
    :param dstny_conn_id: a connection of type ``dstny``.
    """

    template_fields: Sequence[str] = (
        "agent_id",
        "conversation_ids",
        "is_test_run",
        "output_path",
        "dstny_conn_id",
    )
    ui_color = "#f3e9d8"

    def __init__(
        self,
        *,
        agent_id: int | str,
        conversation_ids: str | Sequence[str],
        is_test_run: bool,
        force: bool = False,
        output_path: str | None = None,
        request_timeout: float = 300.0,
        dstny_conn_id: str = "dstny_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.conversation_ids = conversation_ids
        self.is_test_run = is_test_run
        self.force = force
        self.output_path = output_path
        self.request_timeout = request_timeout
        self.dstny_conn_id = dstny_conn_id

    @cached_property
    def hook(self) -> DstnyHook:
        from airflow_provider_dstny.hooks.dstny import DstnyHook

        return DstnyHook(self.dstny_conn_id)

    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_provider_dstny.api.errors import DstnyAuthError, DstnyError, DstnyScopeError, DstnyValidationError
        from airflow_provider_dstny.storage import write_jsonl

        if not isinstance(self.is_test_run, bool):
            raise AirflowFailException(f"is_test_run must be True or False, not {self.is_test_run!r}.")
        if self.is_test_run and not self.output_path:
            self.log.warning("is_test_run=True persists nothing and output_path is not set: the results are dropped")
        ids = [self.conversation_ids] if isinstance(self.conversation_ids, str) else list(self.conversation_ids)
        runs: list[AgentRun] = []
        failures: dict[str, DstnyError] = {}
        with self.hook.get_conn() as dstny:
            for conversation_id in ids:
                try:
                    run = dstny.run_agent(
                        _agent_id(self.agent_id),
                        conversation_id,
                        is_test_run=self.is_test_run,
                        force=self.force,
                        request_timeout=self.request_timeout,
                    )
                except (DstnyAuthError, DstnyScopeError) as error:
                    raise AirflowFailException(str(error)) from None
                except DstnyError as error:
                    self.log.error("Agent %s failed on conversation %s: %s", self.agent_id, conversation_id, error)
                    failures[conversation_id] = error
                else:
                    runs.append(run)
                    self.log.info("Agent %s: %d of %d done", self.agent_id, len(runs) + len(failures), len(ids))
        if self.output_path:
            write_jsonl(self.output_path, (run.model_dump(mode="json") for run in runs))
        if failures:
            final = all(isinstance(error, DstnyValidationError) for error in failures.values())
            raise (AirflowFailException if final else AirflowException)(
                f"Agent {self.agent_id} failed on {len(failures)} of {len(ids)} conversations: "
                + "; ".join(f"{conversation_id}: {error}" for conversation_id, error in list(failures.items())[:10])
            )
        return {
            "agent_id": _agent_id(self.agent_id),
            "is_test_run": self.is_test_run,
            "conversations": len(ids),
            "succeeded": len(runs),
            "output_path": self.output_path,
        }


def _agent_id(value: int | str) -> int:
    # A template renders to text.
    if isinstance(value, int) or str(value).strip().isdecimal():
        return int(value)
    raise AirflowFailException(f"agent_id must be an integer, not {value!r}.")
