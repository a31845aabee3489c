"""Keeping the users and teams of an account as they are declared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_dstny.masking import NATIVE_LIST, Hidden, MaskedFields, MaskedFieldsMixin, MaskedRows, is_plain
from airflow_provider_dstny.tasks import DstnyHookMixin, final_errors_fail, partial_failure

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context, ObjectStoragePath, XComArg
    from jinja2 import Environment

    from airflow_provider_dstny.api.dstny import DstnyClient
    from airflow_provider_dstny.api.errors import DstnyError
    from airflow_provider_dstny.directory.declared import Declared
    from airflow_provider_dstny.directory.plan import Action, Plan

_NOT_DECLARED = f"must be a list of mappings, or the path of a .csv, .jsonl, .json, .yaml or .yml file. {NATIVE_LIST}"
#: A text without anything but space stands for nothing.
_PATH = re.compile(r"(?i)\s*|.+\.(csv|jsonl?|ya?ml)")


class DeclaredRow(MaskedFields):
    """A user or team; of it Airflow shows the e-mail address or the name."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__(fields, str.isidentifier)

    def serialize(self) -> Any:
        from airflow_provider_dstny.api.privacy import shown

        key = self.fields.get("email") or self.fields.get("name")
        return shown("key", key) if isinstance(key, str) else "***"


class DstnySyncDirectoryOperator(DstnyHookMixin, MaskedFieldsMixin, BaseOperator):
    """Compares declared users and teams with those of the account, shows the plan in the log, and applies it.

    Nothing is ever removed or deactivated: users, teams and members that are not declared stay, and are reported as
    unmanaged. All mistakes of a declaration are reported together, before anything is changed. A change that fails is
    named while the others go on; a retry plans anew and does only the rest, and a second run changes nothing.

    A user is known by the e-mail address, in any case, which may also be a username or an alias that the API shows; a
    team by its name. A field that the API does not show of one that exists, such as ``settings``, cannot be compared:
    it is sent on creation only, and a warning names it.

    XCom: ``{"dry_run", "users": {"added", "changed", "unchanged", "unmanaged"}, "teams": {the same}, "memberships":
    {"added", "unchanged", "unmanaged"}, "not_compared": fields, "requests"}``.

    :param users: mappings with the fields of ``UserCreate``, or the path of a ``.csv``, ``.jsonl``, ``.json`` or
        ``.yaml`` file in object storage (templated); None leaves users alone.
    :param teams: likewise, with the fields of ``TeamCreate``; ``members`` is a list of e-mail addresses who shall be in
        the team among others, ``managers`` a list of addresses or ids. In CSV files lists are separated by ``;``.
    :param dry_run: show the plan only (templated).
    :param max_changes: a plan with more changes is shown and refused, where each member who joins a team is one; None
        for no limit.
    :param dstny_conn_id: a connection of type ``dstny``.
    """

    conn_types = ("dstny",)
    template_fields: Sequence[str] = ("users", "teams", "dry_run", "dstny_conn_id")
    ui_color = "#e3ecd8"
    _is_rendering = False

    def __init__(
        self,
        *,
        users: Sequence[Mapping[str, Any]] | str | ObjectStoragePath | XComArg | None = None,
        teams: Sequence[Mapping[str, Any]] | str | ObjectStoragePath | XComArg | None = None,
        dry_run: bool | str = False,
        max_changes: int | None = 100,
        dstny_conn_id: str = "dstny_default",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if max_changes is not None and (isinstance(max_changes, bool) or not isinstance(max_changes, int)):
            raise ValueError("max_changes must be an integer, or None for no limit.")
        self.users = users
        self.teams = teams
        # BaseOperator has a method of the name dry_run, for debugging.
        self.dry_run = dry_run  # type: ignore[assignment,method-assign]
        self.max_changes = max_changes
        self.dstny_conn_id = dstny_conn_id

    @property
    def users(self) -> Any:
        return self._users

    @users.setter
    def users(self, users: Any) -> None:
        self._users = self._masked("users", users)

    @property
    def teams(self) -> Any:
        return self._teams

    @teams.setter
    def teams(self, teams: Any) -> None:
        self._teams = self._masked("teams", teams)

    def render_template_fields(self, context: Context, jinja_env: Environment | None = None) -> None:
        # Airflow renders a shallow copy of the task: the templates must stay with the original.
        self._users, self._teams = _copied(self.users), _copied(self.teams)
        super().render_template_fields(context, jinja_env)

    def _do_render_template_fields(
        self, parent: Any, template_fields: Any, context: Context, jinja_env: Environment, seen_oids: set[int]
    ) -> None:
        for rows in (self.users, self.teams):
            if isinstance(rows, MaskedRows) and id(rows.given) in seen_oids:
                # What a mapped task gets from another task is no template.
                seen_oids.update(map(id, rows))
        was_rendering, self._is_rendering = self._is_rendering, True
        try:
            super()._do_render_template_fields(parent, template_fields, context, jinja_env, seen_oids)
        finally:
            self._is_rendering = was_rendering

    def execute(self, context: Context) -> dict[str, Any]:
        from airflow_provider_dstny.api.arguments import rendered_flag
        from airflow_provider_dstny.directory.apply import read_account
        from airflow_provider_dstny.directory.plan import plan

        with final_errors_fail(self):
            dry_run, declared = rendered_flag("dry_run", self.dry_run), self._declared()
            with self.hook.get_conn() as dstny:
                account = read_account(dstny, declared)
                planned = plan(declared, account)
                self._show(planned, dry_run)
                if not dry_run:
                    self._refuse_too_many(planned.changes)
                    self._apply(dstny, planned.actions)
        return {
            "dry_run": dry_run,
            **planned.counts(),
            "not_compared": planned.not_compared.total(),
            "requests": account.requests + (0 if dry_run else len(planned.actions)),
        }

    def _masked(self, name: str, declared: Any) -> Any:
        if self._may_be_shown(declared):
            return declared
        if isinstance(declared, list | tuple):
            from airflow.providers.common.compat.sdk import XComArg

            rows = MaskedRows(declared, DeclaredRow)
            # Airflow does not look for upstream tasks inside of the wrapper.
            XComArg.apply_upstream_relationship(self, rows.fields)
            if self._is_rendering or not any(isinstance(row, Hidden) for row in rows):
                return rows
        elif self._is_rendering:
            return Hidden(declared)
        raise AirflowFailException(f"{name} {_NOT_DECLARED}")

    def _may_be_shown(self, declared: Any) -> bool:
        if isinstance(declared, str):
            # A template that is rendered is one no more, whatever it looks like.
            return bool(_PATH.fullmatch(declared)) or not (self._is_rendering or is_plain(declared))
        # A path of object storage, and the output of another task.
        return (
            declared is None or isinstance(declared, Hidden) or hasattr(declared, "fs") or hasattr(declared, "resolve")
        )

    def _declared(self) -> Declared:
        from airflow_provider_dstny.api.errors import DstnyValidationError
        from airflow_provider_dstny.directory.declared import declare

        users, users_from = _rows("users", self.users)
        teams, teams_from = _rows("teams", self.teams)
        if users is None and teams is None:
            raise DstnyValidationError(None, "Neither users nor teams are declared, so there is nothing to do.")
        return declare(users, teams, users_from=users_from, teams_from=teams_from)

    def _show(self, planned: Plan, dry_run: bool) -> None:
        from airflow_provider_dstny.directory.text import lines_of

        self.log.info("Plan%s: %d changes", " (dry run)" if dry_run else "", planned.changes)
        for line in lines_of(planned):
            self.log.info("%s", line)
        if planned.not_compared:
            self.log.warning(
                "Sent on creation only, because the API does not show them of users and teams that exist, or not in a "
                "form that can be compared: %s",
                ", ".join(f"{field} ({count})" for field, count in sorted(planned.not_compared.items())),
            )
        if dry_run and self.max_changes is not None and planned.changes > self.max_changes:
            self.log.warning("max_changes=%d would refuse this plan", self.max_changes)

    def _refuse_too_many(self, changes: int) -> None:
        from airflow_provider_dstny.api.errors import DstnyValidationError

        if self.max_changes is not None and changes > self.max_changes:
            raise DstnyValidationError(
                None,
                f"The plan has {changes} changes, more than max_changes={self.max_changes}; nothing was changed. If "
                f"you want the plan in the log of this task, set max_changes={changes}, or None for no limit.",
            )

    def _apply(self, dstny: DstnyClient, actions: Sequence[Action]) -> None:
        from airflow_provider_dstny.api.privacy import shown
        from airflow_provider_dstny.directory.apply import apply
        from airflow_provider_dstny.directory.text import counts_text
        from airflow_provider_dstny.progress import Progress

        done: list[Action] = []
        failures: dict[str, DstnyError] = {}
        is_final = False
        with Progress("Applying", len(actions), "changes") as progress:
            for result in apply(dstny, actions):
                # An address may be a phone number at a domain.
                name = shown("action", str(result.action))
                if result.error is not None:
                    self.log.error("%s: %s", name, result.error)
                    # Several may be shown alike.
                    failures[f"{len(failures) + 1}. {name}"] = result.error
                    if result.error.affects_all:
                        is_final = result.error.final
                        break
                elif result.missing:
                    missing = shown("missing", ", ".join(result.missing))
                    self.log.error("%s: needs %s, whose creation failed", name, missing)
                else:
                    done.append(result.action)
                    progress.add()
        if failures:
            left = len(actions) - len(done) - len(failures)
            raise partial_failure(
                f"{len(failures)} of {len(actions)} changes failed and {left} were not tried. "
                f"Done: {counts_text(done)}. The next try plans anew and does only the rest",
                failures,
                final=is_final or all(error.final for error in failures.values()),
            )


def _rows(name: str, declared: Any) -> tuple[Sequence[Any] | None, str]:
    """Return the rows that are declared, and what to call the place where they are."""
    from airflow_provider_dstny.api.errors import DstnyValidationError
    from airflow_provider_dstny.storage import read_rows

    if declared is None or (isinstance(declared, str) and not declared.strip()):
        # A template of something that was not given renders to nothing.
        return None, name
    if isinstance(declared, MaskedRows):
        return declared.fields, name
    if isinstance(declared, str) or hasattr(declared, "fs"):
        return read_rows(declared), str(declared)
    raise DstnyValidationError(None, f"{name} {_NOT_DECLARED}")


def _copied(declared: Any) -> Any:
    return MaskedRows(declared.fields, DeclaredRow) if isinstance(declared, MaskedRows) else declared
