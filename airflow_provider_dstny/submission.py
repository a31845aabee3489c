"""Sending a call once over all tries of a task: intent is recorded before, the id after.

Airflow 3.3 keeps a state per task instance, over retries. Older ones do not, which is said in the log when
it matters.
"""

from __future__ import annotations

import hashlib
import json
import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.api.errors import DstnyAmbiguousError, DstnyApiError, DstnyConnectionError, DstnyError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_dstny.api.dstny import DstnyClient
    from airflow_provider_dstny.api.models.calls import CallConversation

_KEY = "dstny_call"
_log = logging.getLogger(__name__)


def submit_once(dstny: DstnyClient, call: CallConversation, context: Context, *, resubmit_ambiguous: bool) -> str:
    """Send a call unless an earlier try did; return its conversation id.

    :raises DstnyAmbiguousError: an earlier try may have sent it and it cannot be found.
    """
    store = context.get("task_state_store")
    record = _record(context)
    earlier = record.get("call") == _fingerprint(call)
    if earlier:
        conversation_id = record.get("conversation_id") or _find(dstny, call)
        if conversation_id:
            _log.info("An earlier try sent call %s: re-attaching", call.call_external_id)
            _remember(context, call, conversation_id)
            return str(conversation_id)
        if not resubmit_ambiguous:
            raise DstnyAmbiguousError(
                f"An earlier try sent call {call.call_external_id} without a usable answer, and the call is not "
                "among the account's conversations (yet). Check in Dstny, or clear this task in some minutes so that "
                "it looks again. To send it again at the risk of a duplicate, set resubmit_ambiguous=True."
            )
        _log.warning("Sending call %s again: an earlier try may have arrived", call.call_external_id)
    elif store is None and context["ti"].try_number > 1:
        _log.warning(
            "This Airflow keeps no task state (3.3 does): if an earlier try already sent call %s, "
            "this one sends it a second time",
            call.call_external_id,
        )
    _remember(context, call, None)
    try:
        conversation_id = dstny.create_call_conversation(call)
    except DstnyError as error:
        if store is not None and not earlier and _surely_not_done(error):
            store.delete(_KEY)
        raise
    _remember(context, call, conversation_id)
    return conversation_id


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


def _remember(context: Context, call: CallConversation, conversation_id: str | None) -> None:
    store = context.get("task_state_store")
    if store is not None:
        record: dict[str, Any] = {"call": _fingerprint(call), "max_tries": context["ti"].max_tries}
        store.set(_KEY, record if conversation_id is None else {**record, "conversation_id": conversation_id})


def _fingerprint(call: CallConversation) -> str:
    """Tell one call from another, and from its corrected self; a recording's URL may be signed anew each time."""
    body = {name: value for name, value in call.to_json().items() if name != "call_recording_url"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _surely_not_done(error: DstnyError) -> bool:
    """Tell whether an error proves that the call was not taken: never sent, or refused."""
    if isinstance(error, DstnyApiError):
        return error.status_code is None or (400 <= error.status_code < 500 and error.status_code != 408)
    return isinstance(error, DstnyConnectionError)


def _find(dstny: DstnyClient, call: CallConversation) -> str | None:
    """Look for a call among the conversations of its day; the days around it allow for timezones."""
    day = timedelta(days=1)
    conversations = dstny.list_conversations(
        recording_types=["call"], global_start=call.call_start_time - day, global_end=call.call_start_time + day
    )
    for conversation in conversations:
        if conversation.id is not None and str(conversation.call_external_id) == call.call_external_id:
            return str(conversation.id)
    return None
