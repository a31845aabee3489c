"""Running AI agents on conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_dstny.api.errors import DstnyError, DstnyValidationError
from airflow_provider_dstny.storage import read_jsonl, write_jsonl
from airflow_provider_dstny.tasks import DstnyHookMixin, final_errors_fail, partial_failure

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dstny.api.models.agents import AgentRun
    from airflow_provider_dstny.tasks import ConversationIds


class DstnyRunAgentOperator(DstnyHookMixin, BaseOperator):
    """Runs one AI agent on each conversation, one after the other.

    What an agent says goes to ``output_path``, one JSON row per conversation; XCom holds
    ``{"agent_id", "is_test_run", "conversations", "succeeded", "output_path"}``. If some conversations fail,
    the results of the others are written before the task fails and names them. A retry runs all again, which
    without ``force`` returns the stored results of those that are done. A refused token, a rate limit, a quota
    or an API that is not reached ends the round, because it would meet the other conversations too.

    :param agent_id: the agent (templated).
    :param conversation_ids: one id or many (templated); none at all is no work.
    :param is_test_run: True persists nothing at Dstny, False stores the result (templated). No default: the
        API's own is True, with which results vanish unless ``output_path`` is set.
    :param force: run again even where a result is stored.
    :param output_path: a ``.jsonl`` file in object storage (templated).
    :param request_timeout: seconds to wait for the agent on one conversation.
    :param dstny_conn_id: a connection of type ``dstny``.
    """

    conn_types = ("dstny",)
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
        conversation_ids: ConversationIds,
        is_test_run: bool | str,
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

    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_provider_dstny.api.ids import unique_ids

        with final_errors_fail():
            agent_id, is_test_run = _agent_id(self.agent_id), _is_test_run(self.is_test_run)
            ids = unique_ids(self.conversation_ids, "conversation_ids")
            if is_test_run and not self.output_path:
                self.log.warning("A test run persists nothing and output_path is not set: the results are dropped")
            # Read before the agent runs: a path that is no file must not cost the results.
            earlier = read_jsonl(self.output_path) if self.output_path else []
            runs, failures = self._run_all(agent_id, is_test_run, ids)
            if self.output_path:
                rows = [run.to_row() for run in runs]
                # What an earlier try found of conversations that failed in this one is kept.
                request = {"agent_id": agent_id, "is_test_run": is_test_run}
                kept = [row for row in earlier if _is_of(row, request) and row.get("conversation_id") in failures]
                write_jsonl(self.output_path, [*rows, *kept])
            if failures:
                raise partial_failure(
                    f"Agent {agent_id} failed on {len(failures)} of {len(ids)} conversations", failures
                )
        return {
            "agent_id": agent_id,
            "is_test_run": is_test_run,
            "conversations": len(ids),
            "succeeded": len(runs),
            "output_path": self.output_path,
        }

    def _run_all(
        self, agent_id: int, is_test_run: bool, ids: list[str]
    ) -> tuple[list[AgentRun], dict[str, DstnyError]]:
        """Run the agent on each conversation; an error that would meet the others too ends the round."""
        runs: list[AgentRun] = []
        failures: dict[str, DstnyError] = {}
        with self.hook.get_conn() as dstny:
            for done, conversation_id in enumerate(ids):
                try:
                    run = dstny.run_agent(
                        agent_id,
                        conversation_id,
                        is_test_run=is_test_run,
                        force=self.force,
                        request_timeout=self.request_timeout,
                    )
                except DstnyError as error:
                    self.log.error("Agent %s failed on conversation %s: %s", agent_id, conversation_id, error)
                    if error.affects_all:
                        failures |= dict.fromkeys(ids[done:], error)
                        break
                    failures[conversation_id] = error
                else:
                    runs.append(run)
                    self.log.info("Agent %s: %d of %d done", agent_id, done + 1, len(ids))
        return runs, failures


def _is_of(row: Any, request: Mapping[str, Any]) -> bool:
    return isinstance(row, dict) and request.items() <= row.items()


def _agent_id(value: int | str) -> int:
    # A template renders to text.
    if not isinstance(value, bool) and (isinstance(value, int) or str(value).strip().isdecimal()):
        return int(value)
    raise DstnyValidationError(None, f"agent_id must be an integer, not {value!r}.")


def _is_test_run(value: bool | str) -> bool:
    text = str(value).strip().lower()
    if text in {"true", "false"}:
        return text == "true"
    raise DstnyValidationError(None, f"is_test_run must be True or False, not {value!r}.")
