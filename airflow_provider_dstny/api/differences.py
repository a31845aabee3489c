"""What is wanted of a user or team, held against what a list shows of it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from airflow_provider_dstny.api.models.base import Answer, SparsePayload

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def differences(wanted: SparsePayload, actual: Answer) -> dict[str, tuple[Any, Any]]:
    """Return the fields that were set and differ, each as ``(old, new)``, in the order of the model.

    A field that the list does not show counts as different, with None for old, and so does one that it shows in a form
    that cannot be compared. Texts are compared without space around them, e-mail addresses without case, phone numbers
    by their digits, lists of addresses and of managers without order. Nothing at all (null, an empty text, list or
    object) is one and the same, and for a boolean it is false. Of an object only the keys that are wanted are compared;
    new is then the whole of it, with what the list shows besides.

    :param actual: may show managers as ids or as objects that have one, and numbers where texts are wanted.
    """
    changes, not_compared = compared(wanted, actual)
    body = wanted.to_json()
    hidden = {name: (shown_of(actual, name), body[name]) for name in not_compared}
    found = changes | hidden
    return {name: found[name] for name in body if name in found}


def compared(wanted: SparsePayload, actual: Answer) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
    """Return what :func:`differences` does of fields that can be compared, and the names of the others."""
    changes: dict[str, tuple[Any, Any]] = {}
    not_compared = []
    for name, new in wanted.to_json().items():
        old = shown_of(actual, name)
        is_same = _SAME.get(name, _same)(old, new) if name in actual.model_fields_set else None
        if is_same is None:
            not_compared.append(name)
        elif not is_same:
            changes[name] = (old, _merged(old, new))
    return changes, not_compared


def shown_of(actual: Answer, name: str) -> Any:
    """Return a field as the API sent it, of whatever type; None if it did not."""
    value = getattr(actual, name, None)
    return actual.raw.get(name) if value is None and isinstance(actual.raw, Mapping) else value


def ids_of(users: Any) -> list[int | str] | None:
    """Return whom a list of ids, e-mail addresses or objects with one of them names; None: it is no such list."""
    if not isinstance(users, list):
        return None
    found: list[int | str] = []
    for user in users:
        named = user
        if isinstance(user, Mapping):
            named = next((user[key] for key in ("id", "user_id", "email") if user.get(key)), None)
        text = _text(named) if isinstance(named, str) or _is_number(named) else ""
        if not text:
            return None
        found.append(int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else text)
    return found


# Each tells whether two values are the same; None: the old one is of a type that cannot be compared.


def _same(old: Any, new: Any) -> bool | None:
    if isinstance(new, bool):
        value = False if _is_empty(old) else _boolean(old)
        return None if value is None else value is new
    if _is_empty(old):
        return _is_empty(new)
    if isinstance(new, Mapping):
        return _has(old, new) if isinstance(old, Mapping) else None
    if isinstance(old, list | Mapping):
        return bool(old == new) if isinstance(new, list) else None
    if new is None or isinstance(new, list):
        return False
    return _boolean(new) is old if isinstance(old, bool) else _text(old) == _text(new)


def _same_email(old: Any, new: str) -> bool | None:
    if old is None:
        return False
    return old.strip().lower() == new.lower() if isinstance(old, str) else None


def _same_emails(old: Any, new: list[str]) -> bool | None:
    if _is_empty(old):
        return not new
    listed = [one.get("email") if isinstance(one, Mapping) else one for one in old] if isinstance(old, list) else [None]
    emails = {email.strip().lower() for email in listed if isinstance(email, str)}
    return emails == {email.lower() for email in new} if all(isinstance(one, str) for one in listed) else None


def _same_number(old: Any, new: str) -> bool | None:
    if _is_empty(old) or _is_empty(new) or not (isinstance(old, str) or _is_number(old)):
        return _same(old, new)
    digits = _digits(new)
    # A number has no leading zeros.
    return digits == _digits(old) or (_is_number(old) and digits.lstrip("0") == _text(old))


def _same_ids(old: Any, new: list[int]) -> bool | None:
    ids = [] if old is None else ids_of(old)
    return None if ids is None or not all(isinstance(one, int) for one in ids) else set(ids) == set(new)


def _has(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return all(name in old and (old[name] == value or bool(_same(old[name], value))) for name, value in new.items())


def _merged(old: Any, new: Any) -> Any:
    """Return an object with what is not wanted of it as it is shown."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return new
    return {**old, **{name: _merged(old.get(name), value) for name, value in new.items()}}


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else _BOOLEANS.get(_text(value).lower())


def _text(value: Any) -> str:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    return unicodedata.normalize("NFC", str(whole)).strip()


def _digits(value: Any) -> str:
    """Return a phone number without what it is written with: spaces and signs, and the plus or 00 in front."""
    text = re.sub(r"[\s().\-/]", "", _text(value))
    digits = text.removeprefix("+") if text.startswith("+") else text.removeprefix("00")
    return digits if digits.isdecimal() else text


def _is_empty(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, list | dict) and not value)
    )


def _is_number(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


_SAME: dict[str, Callable[[Any, Any], bool | None]] = {
    "email": _same_email,
    "email_aliases": _same_emails,
    "mobile_number": _same_number,
    "managers": _same_ids,
}
