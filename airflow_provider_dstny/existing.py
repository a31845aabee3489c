"""Creating what may be there already: look for it, then create it once over all tries of a task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.api.differences import differences
from airflow_provider_dstny.api.errors import DstnyApiError, DstnyResponseError, DstnyValidationError
from airflow_provider_dstny.submission import mark_done, send_once

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dstny.api.models.base import SparsePayload
    from airflow_provider_dstny.api.models.directory import Team, User
    from airflow_provider_dstny.tasks import IfExists

_log = logging.getLogger(__name__)


def create_unless_there(
    context: Context,
    kind: str,
    wanted: SparsePayload,
    *,
    if_exists: IfExists,
    matches: Callable[[], Sequence[User | Team]],
    create: Callable[[], User | Team],
    update: Callable[[str, Mapping[str, Any]], object],
    resubmit_ambiguous: bool,
) -> str:
    """Create something, or do with the one that is there what ``if_exists`` says; return its id.

    :param kind: its name in messages.
    :param matches: lists those that are it; one request.
    :param update: sends the fields that differ.
    :raises DstnyValidationError: it exists and must not, or several do.
    :raises DstnyAmbiguousError: an earlier try may have created it and it cannot be found.
    """

    def find() -> User | Team | None:
        found = matches()
        if any(one.id is None for one in found):
            raise DstnyResponseError(
                f"The API lists such a {kind} without an id, so that it cannot be told which it is."
            )
        if len(found) > 1:
            ids = ", ".join(str(one.id) for one in found)
            raise DstnyValidationError(
                None, f"Several such {kind}s exist already, with the ids {ids}: it is not clear which one is meant."
            )
        return found[0] if found else None

    def find_id() -> str | None:
        found = find()
        return None if found is None else str(found.id)

    def look() -> str | None:
        there = find()
        if there is None:
            return None
        there_id = str(there.id)
        if if_exists == "fail":
            raise DstnyValidationError(
                None, f"This {kind} exists already, with the id {there_id}: if_exists says what to do with it."
            )
        changes: dict[str, Any] = {}
        if if_exists == "update":
            changes = {name: new for name, (_, new) in differences(wanted, there).items()}
        if changes:
            update(there_id, changes)
        _log.info("The %s exists already, with the id %s; changed: %s", kind, there_id, ", ".join(changes) or "nothing")
        return there_id

    try:
        result = send_once(
            context,
            f"this {kind}",
            wanted.to_json(),
            send=lambda: str(create().id),
            find=find_id,
            resubmit_ambiguous=resubmit_ambiguous,
            look=look,
        )
    except DstnyApiError as error:
        # Somebody else created it after the look.
        there = look() if error.status_code == HTTPStatus.CONFLICT else None
        if there is None:
            raise
        result = there
    mark_done(context)
    return result
