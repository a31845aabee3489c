"""What is wanted of a user or team, held against what a list shows of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from airflow_provider_dstny.api.models.base import Answer, SparsePayload


def differences(wanted: SparsePayload, actual: Answer) -> dict[str, tuple[Any, Any]]:
    """Return the fields that were set and differ, each as ``(old, new)``, in the order of the model.

    A field that the list does not show counts as different, with None for old. E-mail addresses are compared
    without case, lists of them and of managers without order.

    :param actual: may show managers as ids or as objects that have one, and numbers where texts are wanted.
    """
    found = {}
    for name, new in wanted.to_json().items():
        is_shown = name in actual.model_fields_set
        old = getattr(actual, name) if is_shown else None
        if not is_shown or not _SAME.get(name, _same)(old, new):
            found[name] = (old, new)
    return found


def _same(old: Any, new: Any) -> bool:
    return bool(old == new) or (_is_number(old) and isinstance(new, str) and str(old) == new)


def _same_email(old: Any, new: str) -> bool:
    return isinstance(old, str) and old.strip().lower() == new.lower()


def _same_emails(old: Any, new: list[str]) -> bool:
    texts = isinstance(old, list) and all(isinstance(email, str) for email in old)
    return texts and {email.strip().lower() for email in old} == {email.lower() for email in new}


def _same_number(old: Any, new: str) -> bool:
    if not _is_number(old):
        return bool(old == new)
    # A number has neither a plus nor spaces nor leading zeros.
    digits = re.sub(r"[\s().\-]", "", new).removeprefix("+")
    return digits.isdecimal() and digits.lstrip("0") == str(old)


def _same_ids(old: Any, new: list[int]) -> bool:
    if not isinstance(old, list):
        return False
    ids = [one.get("id") if isinstance(one, Mapping) else one for one in old]
    return {str(one).strip() for one in ids} == {str(one) for one in new}


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_SAME: dict[str, Callable[[Any, Any], bool]] = {
    "email": _same_email,
    "email_aliases": _same_emails,
    "mobile_number": _same_number,
    "managers": _same_ids,
}
