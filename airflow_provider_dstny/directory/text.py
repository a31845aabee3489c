"""A plan as text to read: what is added and changed, what stays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from airflow_provider_dstny.api.models.base import SparsePayload
from airflow_provider_dstny.api.privacy import shown
from airflow_provider_dstny.directory.plan import Action, AddMembers, CreateTeam, CreateUser, Plan, Untouched, counts_of

_MOST_LINES = 200
_MOST_NAMES = 10
_LONGEST_VALUE = 60


def lines_of(plan: Plan) -> list[str]:
    """Return the lines of a plan, of long ones the beginning. Phone numbers are ``***``."""
    shown_actions = plan.actions[:_MOST_LINES]
    lines = [line_of(action) for action in shown_actions]
    if more := len(plan.actions) - len(shown_actions):
        lines.append(f"… and {more} more changes")
    for kind, counts in plan.counts().items():
        lines += _summary(kind, counts, getattr(plan, kind))
    return lines


def line_of(action: Action) -> str:
    """Return one action: ``+ user erik@example.com``, ``~ team Sales  description: "a" -> "b"``."""
    match action:
        case CreateUser(user=body):
            details = _fields(body, "email")
        case CreateTeam(team=body):
            details = _fields(body, "name")
            if action.manager_names:
                details.append(f"managers: {_value('managers', action.manager_names)}")
        case AddMembers(added=added):
            details = [_text(", ".join(list(added.values())[:_MOST_NAMES])), *_more(len(added))]
        case _:
            details = [f"{name}: {_change(name, old, new)}" for name, (old, new) in action.changes.items()]
    sign = "+" if isinstance(action, CreateUser | CreateTeam | AddMembers) else "~"
    return "  ".join([f"{sign} {_text(str(action))}", *details])


def counts_text(actions: Iterable[Action]) -> str:
    """Return what actions do: ``users: 3 added, 0 changed; teams: …``."""
    return "; ".join(f"{kind}: {_counts(counts)}" for kind, counts in counts_of(actions).items())


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _fields(body: SparsePayload, key: str) -> list[str]:
    return [f"{name}: {_value(name, value)}" for name, value in body.to_json().items() if name != key]


def _summary(kind: str, counts: Mapping[str, int], untouched: Untouched) -> Iterator[str]:
    yield f"{kind}: {_counts(counts)}"
    if names := untouched.unmanaged:
        listed = ", ".join(_text(name) for name in names[:_MOST_NAMES])
        yield "  ".join([f"  left as they are: {listed}", *_more(len(names))])


def _more(count: int) -> list[str]:
    return [f"… and {count - _MOST_NAMES} more"] if count > _MOST_NAMES else []


def _change(name: str, old: Any, new: Any) -> str:
    """Return both values; of long ones what stands around the place where they begin to differ."""
    texts = _whole(name, old), _whole(name, new)
    if name != "mobile_number" and texts[0] == texts[1]:
        return f"{_cut(texts[0])} -> something else that is not shown"
    begin = 0
    if max(map(len, texts)) > _LONGEST_VALUE:
        pairs = enumerate(zip(*texts, strict=False))
        first = next((at for at, (one, other) in pairs if one != other), min(map(len, texts)))
        begin = max(0, first - _LONGEST_VALUE // 3)
    return " -> ".join(_cut(text, begin) for text in texts)


def _value(name: str, value: Any) -> str:
    return _cut(_whole(name, value))


def _whole(name: str, value: Any) -> str:
    if name == "mobile_number" and value is not None:
        return "***"
    return _text(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str, begin: int = 0) -> str:
    end = begin + _LONGEST_VALUE
    return f"{'…' if begin else ''}{text[begin:end]}{'…' if len(text) > end else ''}"


def _text(value: str) -> str:
    """Return foreign text as one line that can be printed, without phone numbers."""
    line = "".join(character if character.isprintable() else "�" for character in value)
    return str(shown("text", line))
