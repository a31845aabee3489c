"""Creating and changing the users of an account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_dstny.masking import NATIVE_MAPPING, MaskedPayload, MaskedPayloadMixin
from airflow_provider_dstny.tasks import DstnyHookMixin, checked_if_exists, final_errors_fail

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, XComArg

    from airflow_provider_dstny.api.models.directory import User, UserCreate, UserUpdate
    from airflow_provider_dstny.tasks import IfExists

# Repeated from the models, which are too heavy to import while DAG files are parsed.
_FIELDS = frozenset(
    {
        "email",
        "first_name",
        "last_name",
        "mobile_number",
        "is_passive",
        "email_aliases",
        "deleteMeetingRecordingDays",
        "deleteContactDataDays",
        "auto_join_meeting_bot",
        "can_use_ai_agents",
        "settings",
    }
)


class DstnyCreateUserOperator(MaskedPayloadMixin, DstnyHookMixin, BaseOperator):
    """Creates one user, unless there is one. XCom: the id of the user.

    A user is there if its e-mail address or username is the address of the new one, whatever the case. A wrong or
    unknown field fails the task at once and nothing is sent. On Airflow 3.3 and later a retry re-attaches to the
    user that an earlier try created; after a lost answer it looks for the address, and fails with what to check
    if there is none; on older ones that user counts as there.

    :param user: the fields of *Create User*, or a ``UserCreate`` (templated); phone numbers are not shown.
    :param if_exists: ``fail``; ``skip`` leaves the user as it is; ``update`` sends the fields that differ from
        what the list of users shows, and those that it does not show.
    :param dstny_conn_id: a connection of type ``dstny``.
    :param resubmit_ambiguous: send again when it cannot be known whether an earlier try arrived.
    """

    conn_types = ("dstny",)
    template_fields: Sequence[str] = ("user", "dstny_conn_id")
    template_fields_renderers = {"user": "json"}  # noqa: RUF012 - Airflow's own form
    ui_color = "#dff0e3"
    payload_name = "user"
    user = MaskedPayload(_FIELDS.__contains__, f"user must be a mapping or a UserCreate. {NATIVE_MAPPING}")

    def __init__(
        self,
        *,
        user: Mapping[str, Any] | UserCreate | XComArg | str,
        if_exists: IfExists = "fail",
        dstny_conn_id: str = "dstny_default",
        resubmit_ambiguous: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.user = user
        self.if_exists = checked_if_exists(if_exists)
        self.dstny_conn_id = dstny_conn_id
        self.resubmit_ambiguous = resubmit_ambiguous

    def execute(self, context: Context) -> int | str:
        from airflow_provider_dstny.api.models.directory import UserCreate
        from airflow_provider_dstny.existing import create_unless_there

        with final_errors_fail(self):
            user = UserCreate.parse(self.payload_fields())
            with self.hook.get_conn() as dstny:
                user_id = create_unless_there(
                    context,
                    "user",
                    user,
                    if_exists=self.if_exists,
                    matches=lambda: [other for other in dstny.list_users() if _has_address(other, user.email)],
                    create=lambda: dstny.create_user(user),
                    update=dstny.update_user,
                    resubmit_ambiguous=self.resubmit_ambiguous,
                )
        self.log.info("The user is %s", user_id)
        return _as_number(user_id)


class DstnyUpdateUserOperator(MaskedPayloadMixin, DstnyHookMixin, BaseOperator):
    """Changes the given fields of one user. XCom: the id of the user.

    A wrong or unknown field, or none at all, fails the task at once and nothing is sent. A retry sends the same
    fields again.

    :param user_id: the user (templated).
    :param changes: the fields of *Edit User* to change, or a ``UserUpdate`` (templated); phone numbers are not shown.
    :param dstny_conn_id: a connection of type ``dstny``.
    """

    conn_types = ("dstny",)
    template_fields: Sequence[str] = ("user_id", "changes", "dstny_conn_id")
    template_fields_renderers = {"changes": "json"}  # noqa: RUF012 - Airflow's own form
    ui_color = "#dff0e3"
    payload_name = "changes"
    changes = MaskedPayload(_FIELDS.__contains__, f"changes must be a mapping or a UserUpdate. {NATIVE_MAPPING}")

    def __init__(
        self,
        *,
        user_id: int | str | XComArg,
        changes: Mapping[str, Any] | UserUpdate | XComArg | str,
        dstny_conn_id: str = "dstny_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.user_id = user_id
        self.changes = changes
        self.dstny_conn_id = dstny_conn_id

    def execute(self, context: Context) -> int | str:
        from airflow_provider_dstny.api.models.directory import UserUpdate

        with final_errors_fail(self):
            changes = UserUpdate.parse(self.payload_fields())
            with self.hook.get_conn() as dstny:
                dstny.update_user(self.user_id, changes)
        self.log.info("User %s is changed: %s", self.user_id, ", ".join(changes.to_json()))
        return _as_number(self.user_id)


def _has_address(user: User, email: str) -> bool:
    return email.lower() in {text.strip().lower() for text in (user.email, user.username) if text is not None}


def _as_number(user_id: object) -> int | str:
    # Teams take their users and managers as numbers.
    text = str(user_id).strip()
    return int(text) if text.isdecimal() else text
