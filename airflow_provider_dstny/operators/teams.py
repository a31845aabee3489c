"""Creating and changing the teams of an account, and who is in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_dstny.masking import NATIVE_LIST, NATIVE_MAPPING, MaskedPayload, MaskedPayloadMixin
from airflow_provider_dstny.tasks import DstnyHookMixin, checked_if_exists, final_errors_fail

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg

    from airflow_provider_dstny.api.models.directory import TeamCreate, TeamUpdate
    from airflow_provider_dstny.tasks import IfExists

# Repeated from the models, which are too heavy to import while DAG files are parsed.
_FIELDS = frozenset(
    {
        "name",
        "description",
        "type",
        "selectManagers",
        "managers",
        "low_priority_bot",
        "deleteMeetingRecordingDays",
        "deleteContactDataDays",
        "auto_join_meeting_bot",
        "can_use_ai_agents",
        "settings",
    }
)


class DstnyCreateTeamOperator(MaskedPayloadMixin, DstnyHookMixin, BaseOperator):
    """Creates one team, unless there is one of its name. XCom: the id of the team.

    A wrong or unknown field fails the task at once and nothing is sent. On Airflow 3.3 and later a retry
    re-attaches to the team that an earlier try created; after a lost answer it looks for the name, and fails with
    what to check if there is none, or several; on older ones that team counts as there.

    :param team: the fields of *Create a team*, or a ``TeamCreate`` (templated).
    :param if_exists: ``fail``; ``skip`` leaves the team as it is; ``update`` sends the fields that differ from
        what the list of teams shows, and those that it does not show.
    :param dstny_conn_id: a connection of type ``dstny``.
    :param resubmit_ambiguous: send again when it cannot be known whether an earlier try arrived.
    """

    conn_types = ("dstny",)
    template_fields: Sequence[str] = ("team", "dstny_conn_id")
    template_fields_renderers = {"team": "json"}  # noqa: RUF012 - Airflow's own form
    ui_color = "#dff0e3"
    payload_name = "team"
    team = MaskedPayload(_FIELDS.__contains__, f"team must be a mapping or a TeamCreate. {NATIVE_MAPPING}")

    def __init__(
        self,
        *,
        team: Mapping[str, Any] | TeamCreate | XComArg | str,
        if_exists: IfExists = "fail",
        dstny_conn_id: str = "dstny_default",
        resubmit_ambiguous: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.team = team
        self.if_exists = checked_if_exists(if_exists)
        self.dstny_conn_id = dstny_conn_id
        self.resubmit_ambiguous = resubmit_ambiguous

    def execute(self, context: Context) -> str:
        from airflow_provider_dstny.api.models.directory import TeamCreate
        from airflow_provider_dstny.existing import create_unless_there

        with final_errors_fail(self):
            team = TeamCreate.parse(self.payload_fields())
            with self.hook.get_conn() as dstny:
                team_id = create_unless_there(
                    context,
                    "team",
                    team,
                    if_exists=self.if_exists,
                    matches=lambda: [one for one in dstny.list_teams() if (one.name or "").strip() == team.name],
                    create=lambda: dstny.create_team(team),
                    update=dstny.update_team,
                    resubmit_ambiguous=self.resubmit_ambiguous,
                )
        self.log.info("The team is %s", team_id)
        return team_id


class DstnyUpdateTeamOperator(MaskedPayloadMixin, DstnyHookMixin, BaseOperator):
    """Changes the given fields of one team. XCom: the id of the team.

    A wrong or unknown field, or none at all, fails the task at once and nothing is sent. A retry sends the same
    fields again.

    :param team_id: the team (templated).
    :param changes: the fields of *Update a team* to change, or a ``TeamUpdate`` (templated).
    :param dstny_conn_id: a connection of type ``dstny``.
    """

    conn_types = ("dstny",)
    template_fields: Sequence[str] = ("team_id", "changes", "dstny_conn_id")
    template_fields_renderers = {"changes": "json"}  # noqa: RUF012 - Airflow's own form
    ui_color = "#dff0e3"
    payload_name = "changes"
    changes = MaskedPayload(_FIELDS.__contains__, f"changes must be a mapping or a TeamUpdate. {NATIVE_MAPPING}")

    def __init__(
        self,
        *,
        team_id: str | XComArg,
        changes: Mapping[str, Any] | TeamUpdate | XComArg | str,
        dstny_conn_id: str = "dstny_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.team_id = team_id
        self.changes = changes
        self.dstny_conn_id = dstny_conn_id

    def execute(self, context: Context) -> str:
        from airflow_provider_dstny.api.models.directory import TeamUpdate

        with final_errors_fail(self):
            changes = TeamUpdate.parse(self.payload_fields())
            with self.hook.get_conn() as dstny:
                dstny.update_team(self.team_id, changes)
        self.log.info("Team %s is changed: %s", self.team_id, ", ".join(changes.to_json()))
        return str(self.team_id).strip()


class DstnyAssignTeamUsersOperator(DstnyHookMixin, BaseOperator):
    """Puts users into a team; nothing is sent if all of them are in it. XCom: the id of the team.

    Whether they join those who are in the team or replace them is not documented: give all who shall be in it.
    Somebody who is in the team and not among them is not taken out by this operator.

    :param team_id: the team (templated).
    :param user_ids: the ids of users, one at least (templated).
    :param dstny_conn_id: a connection of type ``dstny``.
    """

    conn_types = ("dstny",)
    template_fields: Sequence[str] = ("team_id", "user_ids", "dstny_conn_id")
    ui_color = "#dff0e3"

    def __init__(
        self,
        *,
        team_id: str | XComArg,
        user_ids: Sequence[int | str | XComArg] | XComArg | str,
        dstny_conn_id: str = "dstny_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.team_id = team_id
        self.user_ids = user_ids
        self.dstny_conn_id = dstny_conn_id

    def execute(self, context: Context) -> str:
        with final_errors_fail(self):
            user_ids = _user_ids(self.user_ids)
            with self.hook.get_conn() as dstny:
                members = {str(user.id) for user in dstny.list_team_users(self.team_id)}
                missing = [user_id for user_id in user_ids if str(user_id) not in members]
                if missing:
                    dstny.assign_team_users(self.team_id, user_ids)
        self.log.info("%d of %d users were not yet in team %s", len(missing), len(user_ids), self.team_id)
        return str(self.team_id).strip()


def _user_ids(values: Any) -> list[int]:
    from airflow_provider_dstny.api.errors import DstnyValidationError
    from airflow_provider_dstny.api.models.directory import TeamMembers

    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise DstnyValidationError(None, f"user_ids must be a list of integers. {NATIVE_LIST}")
    # A template within the list renders to text.
    ids = [int(one) if isinstance(one, str) and re.fullmatch(r"\s*\d{1,18}\s*", one) else one for one in values]
    return list(dict.fromkeys(TeamMembers.parse({"user_ids": ids}).user_ids))
