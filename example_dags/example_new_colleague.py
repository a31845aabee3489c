"""Somebody begins: a user is created unless there is one, and put into a team, which is created unless there is one.

Run again with another name, the user is changed. Nobody is taken out of a team. To keep whole lists of users and teams,
see ``example_directory_sync``.

Needs a connection ``dstny_default``.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import Param, dag

from airflow_provider_dstny.operators.teams import DstnyAssignTeamUsersOperator, DstnyCreateTeamOperator
from airflow_provider_dstny.operators.users import DstnyCreateUserOperator, DstnyUpdateUserOperator


@dag(
    schedule=None,
    max_active_runs=1,
    default_args={"dstny_conn_id": "dstny_default", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params={
        "email": Param("nils.sund@example.com", type="string", format="email"),
        "first_name": Param("Nils", type="string"),
        "last_name": Param("Sund", type="string"),
        "team": Param("Onboarding", type="string"),
    },
    tags=["dstny"],
    doc_md=__doc__,
)
def example_new_colleague() -> None:
    user = DstnyCreateUserOperator(
        task_id="user",
        user={name: f"{{{{ params.{name} }}}}" for name in ("email", "first_name", "last_name")},
        if_exists="update",
    )
    team = DstnyCreateTeamOperator(
        task_id="team",
        team={"name": "{{ params.team }}", "description": "The first ninety days"},
        if_exists="skip",
    )
    assign = DstnyAssignTeamUsersOperator(task_id="assign", team_id=team.output, user_ids=[user.output])
    allow = DstnyUpdateUserOperator(task_id="allow", user_id=user.output, changes={"can_use_ai_agents": True})
    assign >> allow


example_new_colleague()
