"""Defining AI agents, and running them on conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, BaseOperator, conf

from airflow_provider_dstny.masking import PlainTextMixin
from airflow_provider_dstny.tasks import (
    RUNS_GO_ON,
    ConversationLinkMixin,
    DstnyHookMixin,
    final_errors_fail,
    partial_failure,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath, XComArg

    from airflow_provider_dstny.agent_runs import AgentRound, ResultsFile, RoundOutcome
    from airflow_provider_dstny.api.dstny import DstnyClient
    from airflow_provider_dstny.api.models.agents import AgentDefinition
    from airflow_provider_dstny.hooks.base import DstnyBaseHook
    from airflow_provider_dstny.tasks import ConversationIds

_KEY = "dstny_agent_round"
_LONGEST_TIMEOUT = 86400.0


class DstnyRunAgentOperator(ConversationLinkMixin, BaseOperator):
    """Runs one AI agent on each conversation, several at a time.

    What an agent says goes to ``output_path``, one JSON row per conversation, written as it comes; other rows of the
    file stay. A retry and any later run leave out what is done: conversations with a row in that file, or, without a
    file, those with a stored result at Dstny. If more than ``max_failures`` conversations fail, the task fails and
    names them, after the results of the others are written. A refused token, a rate limit, a quota or an API that is
    not reached ends the round, because it would meet the other conversations too.

    XCom: ``{"agent_id", "is_test_run", "conversations", "succeeded", "skipped", "failed": [conversation ids],
    "output_path"}``; ``succeeded`` have a result, ``skipped`` of them had it before.

    :param agent_id: the agent (templated).
    :param conversation_ids: one id or many (templated); none at all is no work.
    :param is_test_run: True persists nothing at Dstny, False stores the result (templated). No default: the
        API's own is True, with which results vanish unless ``output_path`` is set.
    :param force: run again even where a result is stored. On Airflow 3.3 and later a retry of the task still leaves
        out what an earlier try has written to ``output_path``.
    :param output_path: a ``.jsonl`` file in object storage (templated), to which no other task writes at the time.
    :param request_timeout: seconds to wait for the agent on one conversation.
    :param concurrency: how many conversations at a time, within the pace of the connection.
    :param max_failures: how many conversations may fail.
    :param dstny_conn_id: a connection of type ``dstny``.
    :param deferrable: run in the triggerer, which waits for the agents and writes the file.
    """

    conn_types = ("dstny",)
    goes_on = RUNS_GO_ON
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
        agent_id: int | str | XComArg,
        conversation_ids: ConversationIds,
        is_test_run: bool | str,
        force: bool = False,
        output_path: str | ObjectStoragePath | None = None,
        request_timeout: float = 300.0,
        concurrency: int = 4,
        max_failures: int = 0,
        dstny_conn_id: str = "dstny_default",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.conversation_ids = conversation_ids
        self.is_test_run = is_test_run
        self.force = force
        self.output_path = output_path
        self.request_timeout = request_timeout
        self.concurrency = concurrency
        self.max_failures = max_failures
        self.dstny_conn_id = dstny_conn_id
        self.deferrable = deferrable

    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_provider_dstny.agent_runs import ResultsFile

        with final_errors_fail(self):
            agent_round = self._round(context)
            if agent_round.is_test_run and not agent_round.output_path:
                self.log.warning("A test run persists nothing and output_path is not set: the results are dropped")
            # Read before the agent runs: a path that is no file must not cost the results.
            file = ResultsFile(agent_round.output_path)
            # Resolved here: a connection that will not do is told at once, and Airflow's lookup blocks.
            hook = self.hook
            if self.deferrable and len(agent_round.done_in(file)) < len(agent_round.conversation_ids):
                self._defer(agent_round)
            outcome = self.run_async(_run(hook, agent_round, file))
        return self._conclude(agent_round, outcome)

    def execute_complete(self, context: Context, event: Any) -> dict[str, Any]:
        from airflow_provider_dstny.agent_runs import RoundOutcome

        outcome = RoundOutcome.from_event(event)
        if outcome is None:
            told = event if isinstance(event, Mapping) and "error" in event else {}
            kind = AirflowFailException if told.get("final", True) else AirflowException
            raise kind(told.get("error", "The trigger sent an event that is not understood."))
        return self._conclude(self._round(context), outcome)

    def _round(self, context: Context) -> AgentRound:
        from airflow_provider_dstny.agent_runs import AgentRound
        from airflow_provider_dstny.api.arguments import check_boolean, check_integer, check_positive, rendered_flag
        from airflow_provider_dstny.api.errors import DstnyValidationError
        from airflow_provider_dstny.api.ids import unique_ids

        check_boolean("force", self.force)
        check_positive("request_timeout", self.request_timeout, up_to=_LONGEST_TIMEOUT)
        check_integer("concurrency", self.concurrency)
        check_positive("concurrency", self.concurrency, up_to=100)
        check_integer("max_failures", self.max_failures)
        if self.max_failures < 0:
            raise DstnyValidationError(None, "max_failures must not be negative.")
        return AgentRound(
            agent_id=_agent_id(self.agent_id),
            conversation_ids=unique_ids(self.conversation_ids, "conversation_ids"),
            is_test_run=rendered_flag("is_test_run", self.is_test_run),
            force=self.force,
            output_path=None if self.output_path is None else str(self.output_path),
            request_timeout=self.request_timeout,
            concurrency=self.concurrency,
            since=self._since(context) if self.force else "",
        )

    def _since(self, context: Context) -> str:
        """Return when the first try began; clearing, which raises max_tries, begins anew."""
        from datetime import UTC, datetime

        from airflow_provider_dstny.api.times import iso_time

        now = iso_time(datetime.now(UTC))
        store = context.get("task_state_store")
        if store is None:
            return now
        record = store.get(_KEY)
        max_tries = context["ti"].max_tries
        if not isinstance(record, dict) or record.get("max_tries") != max_tries:
            record = {"max_tries": max_tries, "since": now}
            store.set(_KEY, record)
        return str(record["since"])

    def _defer(self, agent_round: AgentRound) -> NoReturn:
        from airflow_provider_dstny.triggers.agents import DstnyAgentRunTrigger

        self.defer(
            trigger=DstnyAgentRunTrigger(round_of_runs=agent_round.to_json(), dstny_conn_id=self.dstny_conn_id),
            method_name="execute_complete",
        )

    def _conclude(self, agent_round: AgentRound, outcome: RoundOutcome) -> dict[str, Any]:
        total = len(agent_round.conversation_ids)
        if len(outcome.failures) > self.max_failures:
            what = f"Agent {agent_round.agent_id} failed on {len(outcome.failures)} of {total} conversations"
            raise partial_failure(what, outcome.failures, final=outcome.final)
        return {
            "agent_id": agent_round.agent_id,
            "is_test_run": agent_round.is_test_run,
            "conversations": total,
            "succeeded": outcome.succeeded,
            "skipped": outcome.skipped,
            "failed": list(outcome.failures),
            "output_path": agent_round.output_path,
        }


class DstnyCreateAgentOperator(PlainTextMixin, DstnyHookMixin, BaseOperator):
    """Creates an AI agent. XCom: its id.

    A wrong field fails the task at once and nothing is sent. On Airflow 3.3 and later a retry re-attaches to the agent
    that an earlier try created; after a lost answer it looks for one of the same name and type.

    :param agent: the fields of *Create an AI agent* (templated), or an ``AgentDefinition``.
    :param dstny_conn_id: a connection of type ``dstny``.
    :param resubmit_ambiguous: create again when it cannot be known whether an earlier try arrived.
    """

    conn_types = ("dstny",)
    template_fields: Sequence[str] = ("agent", "dstny_conn_id")
    template_fields_renderers = {"agent": "json"}  # noqa: RUF012 - Airflow's own form
    ui_color = "#f3e9d8"

    def __init__(
        self,
        *,
        agent: Mapping[str, Any] | AgentDefinition | XComArg,
        dstny_conn_id: str = "dstny_default",
        resubmit_ambiguous: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent = _fields(agent)
        self.dstny_conn_id = dstny_conn_id
        self.resubmit_ambiguous = resubmit_ambiguous

    def execute(self, context: Context) -> str:
        from airflow_provider_dstny.api.models.agents import AgentDefinition
        from airflow_provider_dstny.submission import mark_done, send_once

        with final_errors_fail(self):
            definition = AgentDefinition.parse(self.agent)
            with self.hook.get_conn() as dstny:
                agent_id = send_once(
                    context,
                    f"agent {definition.name!r}",
                    definition.to_json(),
                    send=lambda: str(dstny.create_agent(definition).id),
                    find=lambda: _find(dstny, definition),
                    resubmit_ambiguous=self.resubmit_ambiguous,
                )
        mark_done(context)
        self.log.info("Agent %r is %s", definition.name, agent_id)
        return agent_id


class DstnyUpdateAgentOperator(PlainTextMixin, DstnyHookMixin, BaseOperator):
    """Replaces the definition of an AI agent. XCom: its id. What is left out may fall back to the API's defaults.

    :param agent_id: the agent (templated).
    :param agent: the fields of *Update an AI agent* (templated), or an ``AgentDefinition``.
    :param dstny_conn_id: a connection of type ``dstny``.
    """

    conn_types = ("dstny",)
    template_fields: Sequence[str] = ("agent_id", "agent", "dstny_conn_id")
    template_fields_renderers = {"agent": "json"}  # noqa: RUF012
    ui_color = "#f3e9d8"

    def __init__(
        self,
        *,
        agent_id: int | str | XComArg,
        agent: Mapping[str, Any] | AgentDefinition | XComArg,
        dstny_conn_id: str = "dstny_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.agent = _fields(agent)
        self.dstny_conn_id = dstny_conn_id

    def execute(self, context: Context) -> str:
        with final_errors_fail(self), self.hook.get_conn() as dstny:
            agent_id = _agent_id(self.agent_id)
            dstny.update_agent(agent_id, self.agent)
        return str(agent_id)


class DstnyDeleteAgentOperator(DstnyHookMixin, BaseOperator):
    """Deletes an AI agent, which then processes no new conversations. XCom: its id.

    An agent that is not there is an error. On Airflow 3.3 and later it is none where an earlier try has sent the
    deletion.

    :param agent_id: the agent (templated).
    :param dstny_conn_id: a connection of type ``dstny``.
    """

    conn_types = ("dstny",)
    template_fields: Sequence[str] = ("agent_id", "dstny_conn_id")
    ui_color = "#f3e9d8"

    def __init__(self, *, agent_id: int | str | XComArg, dstny_conn_id: str = "dstny_default", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agent_id = agent_id
        self.dstny_conn_id = dstny_conn_id

    def execute(self, context: Context) -> str:
        from airflow_provider_dstny.api.errors import DstnyNotFoundError
        from airflow_provider_dstny.submission import mark_done, send_once

        def delete() -> str:
            dstny.delete_agent(agent_id)
            return str(agent_id)

        def find() -> str | None:
            try:
                dstny.get_agent(agent_id)
            except DstnyNotFoundError:
                return str(agent_id)
            return None

        with final_errors_fail(self), self.hook.get_conn() as dstny:
            agent_id = _agent_id(self.agent_id)
            try:
                # Sent again if an earlier try did not delete it after all: that cannot do any harm.
                send_once(
                    context,
                    f"the deletion of agent {agent_id}",
                    {"agent_id": agent_id},
                    send=delete,
                    find=find,
                    resubmit_ambiguous=True,
                )
            except DstnyNotFoundError as error:
                raise AirflowFailException(f"There is no agent {agent_id} to delete. {error}") from None
        mark_done(context)
        return str(agent_id)


async def _run(hook: DstnyBaseHook[Any], agent_round: AgentRound, file: ResultsFile) -> RoundOutcome:
    async with hook.get_async_conn() as dstny:
        return await agent_round.run(dstny, file)


def _fields(agent: Any) -> Any:
    # Airflow renders templates in plain values only.
    return agent.to_json() if hasattr(agent, "to_json") else agent


def _find(dstny: DstnyClient, definition: AgentDefinition) -> str | None:
    for agent in dstny.list_agents():
        if (agent.name, agent.type) == (definition.name, definition.type) and agent.id is not None:
            return str(agent.id)
    return None


def _agent_id(value: Any) -> int:
    from airflow_provider_dstny.api.errors import DstnyValidationError

    # A template renders to text.
    if not isinstance(value, bool) and (isinstance(value, int) or str(value).strip().isdecimal()):
        return int(value)
    raise DstnyValidationError(None, f"agent_id must be an integer, not {value!r}.")
