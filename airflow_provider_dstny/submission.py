"""Sending something once over all tries of a task: intent is recorded before, the id after it.

Airflow 3.3 keeps a state per task instance, over retries. Older ones do not, which is said in the log when
it matters.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.api.errors import DstnyAmbiguousError, DstnyApiError, DstnyConnectionError, DstnyError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

_KEY = "dstny_sent"
_log = logging.getLogger(__name__)


def send_once(
    context: Context,
    what: str,
    body: Mapping[str, Any],
    *,
    send: Callable[[], str],
    find: Callable[[], str | None] | None,
    resubmit_ambiguous: bool,
    look: Callable[[], str | None] | None = None,
) -> str:
    """Send something unless an earlier try did; return its id.

    :param what: its name in messages.
    :param body: what tells it from another, and from its corrected self.
    :param find: looks for what an earlier try sent without a usable answer; None where the API shows no such list.
    :param resubmit_ambiguous: send again when it cannot be found.
    :param look: called before the first sending; returns the id of what is there already and stands for it.
    :raises DstnyAmbiguousError: an earlier try may have sent it and it cannot be found.
    """
    fingerprint = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    store = context.get("task_state_store")
    record = _record(context)
    if find is None and not record.get("id") and record.get("max_tries") != context["ti"].max_tries:
        # Somebody cleared the task after having looked, which nobody else can.
        record = {}
    earlier = record.get("sent") == fingerprint
    if earlier:
        sent_id = record.get("id") or (find() if find is not None else None)
        if sent_id:
            _log.info("An earlier try sent %s: re-attaching", what)
            _remember(context, fingerprint, sent_id)
            return str(sent_id)
        if not resubmit_ambiguous:
            advice = (
                "the API does not tell whether it arrived. Check in Dstny: mark this task as success if it did, or "
                "clear it to send it again."
                if find is None
                else "it cannot be found (yet). Check in Dstny, or clear this task in some minutes so that it looks "
                "again. To send it again at the risk of a duplicate, set resubmit_ambiguous=True."
            )
            raise DstnyAmbiguousError(f"An earlier try sent {what} without a usable answer, and {advice}")
        _log.warning("Sending %s again: an earlier try may have arrived", what)
    elif look is not None:
        # Before anything is recorded: what it finds or raises must not look like something that was sent.
        there = look()
        if there is not None:
            return there
    elif store is None and context["ti"].try_number > 1:
        _log.warning(
            "This Airflow keeps no task state (3.3 does): if an earlier try already sent %s, "
            "this one sends it a second time",
            what,
        )
    _remember(context, fingerprint, None)
    try:
        sent_id = send()
    except DstnyError as error:
        if store is not None and not earlier and surely_not_done(error):
            store.delete(_KEY)
        raise
    _remember(context, fingerprint, sent_id)
    return sent_id


def mark_done(context: Context) -> None:
    """Note that the task has done its work, so that clearing it later runs it anew."""
    record = _record(context)
    if record:
        context["task_state_store"].set(_KEY, {**record, "done": True})


def _record(context: Context) -> dict[str, Any]:
    """Return what an earlier try left, nothing where the task has been cleared after it had succeeded."""
    store = context.get("task_state_store")
    record = store.get(_KEY) if store is not None else None
    if not isinstance(record, dict):
        return {}
    # Clearing raises max_tries; a retry after a crash in the last moment does not.
    return {} if record.get("done") and record.get("max_tries") != context["ti"].max_tries else record


def _remember(context: Context, fingerprint: str, sent_id: str | None) -> None:
    store = context.get("task_state_store")
    if store is not None:
        record: dict[str, Any] = {"sent": fingerprint, "max_tries": context["ti"].max_tries}
        store.set(_KEY, record if sent_id is None else {**record, "id": sent_id})


def surely_not_done(error: DstnyError) -> bool:
    """Tell whether an error proves that it was not taken: never sent, or refused."""
    if isinstance(error, DstnyApiError):
        return error.status_code is None or (400 <= error.status_code < 500 and error.status_code != 408)
    return isinstance(error, DstnyConnectionError)
