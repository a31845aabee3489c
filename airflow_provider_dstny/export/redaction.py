"""What must not leave the account is taken out of answers before anything is written. Pure: no I/O."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeAlias

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.export.dstny_rest_tables import TRANSCRIPT_SEGMENTS
from airflow_provider_dstny.export.layout import LAYOUTS, Layout
from airflow_provider_dstny.export.tables import Path, Table, json_text

#: Stands for any number of names, none included.
_ANY_DEPTH = "**"
_NAME = r"[^.*\s](?:[^.*]*[^.*\s])?"
_PATH = re.compile(rf"(?:\*\*\.)?{_NAME}(?:\.(?:\*\*\.)?{_NAME})*")
#: An answer that is nested deeper is cut there: no rule could be trusted to reach what hides below.
_MOST_LEVELS = 100
#: E-mail addresses can be guessed, and so can a shorter salt.
_SHORTEST_SALT = 16

#: A rule, or what is left of it on the way down; the flag says whether the field is dropped or hashed.
_Rule: TypeAlias = tuple[Path, bool]

_NAMES = ("name", "full_name")
#: Of a person, what a field says that another says, too, or says in part.
_TOLD_BY: Mapping[str, tuple[str, ...]] = {
    "name": ("full_name", "first_name", "last_name"),
    "full_name": ("name", "first_name", "last_name"),
    "first_name": _NAMES,
    "last_name": _NAMES,
    "email": ("username", "email_aliases"),
    "username": ("email", "email_aliases"),
    "mobile_number": ("phone_number",),
    "phone_number": ("mobile_number",),
}


def _sources(table: Table, column_name: str) -> set[str]:
    return {path[-1] for column in table.fields if column.name == column_name for path in column.sources}


#: What names a speaker; a role does not.
_SPEAKERS = frozenset(_sources(TRANSCRIPT_SEGMENTS, "speaker") - {"role"})
_SPEAKER_PATHS = frozenset(("transcript", _ANY_DEPTH, speaker) for speaker in _SPEAKERS)
_TEXTS = frozenset(_sources(TRANSCRIPT_SEGMENTS, "text"))


@dataclass(frozen=True, kw_only=True)
class Redaction:
    """Rules for the answers of an API. They hold for the raw answer, and so for every table made of it.

    A path names a field as the API does, case-sensitive: ``summary``, ``participants.email``. Lists on the way need no
    sign of their own, and ``**`` stands for any depth: ``**.email``. What is the same is redacted wherever the API
    shows it: a rule for ``user.email`` of the REST API v1 holds for ``users.email`` and ``teams.members.email`` too,
    one for ``name`` for ``full_name``, and one that takes the names of users or participants takes those of all
    speakers of the transcript as well. A bare value in place of an object that a rule leads into is taken, too. In
    what people say and write, they are still named: see ``drop_text``.

    :param drop: paths of fields to leave out. The id of a conversation cannot be left out, only hashed.
    :param hash: paths of fields to replace by their HMAC-SHA256 (hex), so that the same value still has the same hash
        everywhere. Of a list each item is hashed, of an object its JSON; null stays null. ``drop`` wins.
    :param salt: the key of the hashes, at least 16 characters; who knows it can check guesses.
    :param drop_text: leave out all that people said or wrote: the transcript whatever its form, title, summary, texts
        of insights, and every field that has no column or does not fit it, since it may hold text.
    :param apply: called with a copy of each conversation before the other rules; returns what to keep of it, or None
        to leave the conversation out.
    :param layout: of the API whose answers are redacted, the REST API v1 if nothing else is said.
    :raises DstnyValidationError: an argument is wrong, which is named; the salt is never shown.
    """

    drop: Sequence[str] = ()
    hash: Sequence[str] = ()
    salt: str | None = field(default=None, repr=False)
    drop_text: bool = False
    apply: Callable[[dict[str, Any]], dict[str, Any] | None] | None = field(default=None, repr=False)
    layout: Layout = field(default=LAYOUTS["dstny_rest"], repr=False)
    _rules: tuple[_Rule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        paths = {
            name: {one for path in _parsed(name, getattr(self, name)) for one in _alike(path, self.layout)}
            for name in ("drop", "hash")
        }
        if any(_reaches(path, place) for path in paths["drop"] for place in self.layout.id_column.sources):
            raise _wrong("drop", "must not take the id of a conversation, by which rows are told apart: hash it")
        if paths["hash"] and self.salt is None:
            raise _wrong("salt", "is missing, which hash needs")
        if self.salt is not None and (not isinstance(self.salt, str) or len(self.salt) < _SHORTEST_SALT):
            raise _wrong("salt", f"must be a text of at least {_SHORTEST_SALT} characters")
        if not isinstance(self.drop_text, bool):
            raise _wrong("drop_text", f"must be True or False, not {self.drop_text!r}")
        if self.apply is not None and not callable(self.apply):
            raise _wrong("apply", f"must be callable, not {type(self.apply).__name__}")
        rules = {(path, name == "drop") for name in paths for path in paths[name]}
        object.__setattr__(self, "drop", tuple(self.drop))
        object.__setattr__(self, "hash", tuple(self.hash))
        object.__setattr__(self, "_rules", tuple(sorted(rules)))

    @classmethod
    def parse(cls, arguments: Self | Mapping[str, Any] | None, layout: Layout | None = None) -> Self:
        """Read the arguments of a redaction from a mapping; None is one that takes nothing.

        :param layout: of the API whose answers are redacted; None keeps the one that a redaction has.
        :raises DstnyValidationError: an argument is wrong or not known.
        """
        if isinstance(arguments, cls):
            return arguments if layout in (None, arguments.layout) else replace(arguments, layout=layout)
        if arguments is not None and not isinstance(arguments, Mapping):
            raise DstnyValidationError(None, f"redaction must be a mapping, not {type(arguments).__name__}.")
        known = [one.name for one in fields(cls) if one.init and one.name != "layout"]
        for name in arguments or ():
            if name not in known:
                raise DstnyValidationError(None, f"redaction has no {str(name)[:40]!r}, only {', '.join(known)}.")
        return cls(**(arguments or {}), layout=layout or LAYOUTS["dstny_rest"])

    @property
    def digest(self) -> str:
        """What stands for the rules: what was landed under others has another."""
        key = hmac.new(b"airflow-provider-dstny", (self.salt or "").encode("utf-8", "surrogatepass"), "sha256")
        applied = f"{self.apply.__module__}.{getattr(self.apply, '__qualname__', '')}" if self.apply else None
        rules = [sorted(self.drop), sorted(self.hash), key.hexdigest() if self.hash else None, self.drop_text, applied]
        return hmac.new(b"rules", json_text(rules).encode(), "sha256").hexdigest()[:16]

    @property
    def can_be_repeated(self) -> bool:
        """Tell whether what was redacted can be redacted again without harm."""
        return not self.hash and self.apply is None

    @property
    def undocumented(self) -> tuple[str, ...]:
        """The paths that lead to no documented field: perhaps typing errors, which would redact nothing."""
        return tuple(text for text in (*self.drop, *self.hash) if not self._is_documented(tuple(text.split("."))))

    def _is_documented(self, path: Path) -> bool:
        # What is inside a documented field may be up to the user.
        return any(_reaches(path, known) or _reaches(known, path) for known in self.layout.documented)

    def redact_conversation(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return what may be written of the answer about a conversation, None for nothing. The answer stays as it is.

        :raises DstnyValidationError: ``apply`` returned neither None nor an object that JSON can hold.
        """
        kept = _object(body)
        if self.apply is not None:
            answer = self.apply(kept)
            if answer is None:
                return None
            kept = _checked(answer)
        if self.drop_text:
            kept = self.layout.without_text(kept)
        return self._rewritten(kept, self._rules)

    def redact(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return another answer, by the paths alone: a list of the directory, or what is known of a deletion."""
        return self._rewritten(_object(body), self._rules)

    def _rewritten(self, item: dict[str, Any], rules: Collection[_Rule]) -> dict[str, Any]:
        if not rules:
            return item
        kept = {}
        for name, value in item.items():
            below = _below(rules, name)
            met = [dropped for path, dropped in below if not path]
            if not any(met):
                kept[name] = self._hashed(value) if met else self._inside(value, below)
        return kept

    def _inside(self, value: Any, rules: Collection[_Rule]) -> Any:
        if isinstance(value, list):
            return [self._inside(item, rules) for item in value]
        if isinstance(value, dict):
            return self._rewritten(value, rules)
        # A bare value where a rule expects an object may be the very thing that the rule is about.
        meant = [dropped for path, dropped in rules if path[0] != _ANY_DEPTH]
        return None if any(meant) else self._hashed(value) if meant else value

    def _hashed(self, value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, list):
            return [self._hashed(item) for item in value]
        # An id has the same hash as a number and as a text.
        text = value if isinstance(value, str) else json_text(value, sort_keys=True)
        salt = (self.salt or "").encode("utf-8", "surrogatepass")
        return hmac.new(salt, text.encode("utf-8", "surrogatepass"), "sha256").hexdigest()


def _below(rules: Iterable[_Rule], name: str) -> set[_Rule]:
    """Return what is left of the rules below a field, each once, however many ways lead to it."""
    left: set[_Rule] = set()
    for path, dropped in rules:
        names = path
        if names[0] == _ANY_DEPTH:
            left.add((path, dropped))
            names = names[1:]
        if names[0] == name:
            left.add((names[1:], dropped))
    return left


def _reaches(path: Path, target: Path) -> bool:
    """Tell whether a path leads to a field, or to what the field is in."""
    rules: set[_Rule] = {(path, True)}
    for name in target:
        rules = _below(rules, name)
        if any(not left for left, _ in rules):
            return True
    return False


def _names(path: Path, target: Path) -> bool:
    """Tell whether a path leads to a field itself."""
    return _reaches(path, target) and not _reaches(path, target[:-1])


def _alike(path: Path, layout: Layout) -> set[Path]:
    """Return the paths to the same thing under all names of the API."""
    alike = _with_same_fields({path}, layout)
    for places in layout.same_places:
        inside = {one[len(place) :] for one in alike for place in places if one[: len(place)] == place and one != place}
        alike |= {(*place, *rest) for place in places for rest in inside}
    alike |= {(*one[:-1], name) for one in alike if _is_of_a_person(one, layout) for name in _TOLD_BY.get(one[-1], ())}
    alike = _with_same_fields(alike, layout)
    if path[0] in ("transcript", _ANY_DEPTH) and path[-1] in _SPEAKERS:
        alike |= _SPEAKER_PATHS
    if any(_reaches(one, (*place, name)) for one in alike for place in layout.speaking for name in _NAMES):
        alike |= _SPEAKER_PATHS
    return alike


def _with_same_fields(paths: set[Path], layout: Layout) -> set[Path]:
    same = (group for group in layout.same_fields if any(_names(path, one) for path in paths for one in group))
    return paths.union(*same)


def _is_of_a_person(path: Path, layout: Layout) -> bool:
    return any(_reaches(path, (*place, path[-1])) for place in layout.people)


def _parsed(argument: str, values: Any) -> list[Path]:
    if not isinstance(values, list | tuple):
        raise _wrong(argument, f"must be a list of fields such as participants.email, not {type(values).__name__}")
    return [_path(argument, value) for value in values]


def _path(argument: str, value: Any) -> Path:
    if not isinstance(value, str) or not _PATH.fullmatch(value):
        raise _wrong(argument, f"has {value!r}: a field is like participants.email (lists need no sign) or **.email")
    path = tuple(value.split("."))
    if path[0] == "transcript" and path[-1] in _TEXTS:
        # There are more forms of a transcript than names for its text.
        raise _wrong(argument, f"has {value!r}: drop transcript as a whole, or set drop_text")
    return path


def _object(body: Any) -> dict[str, Any]:
    """Return a copy of an answer; what is no object has no fields that rules could name, and reads as an empty one."""
    return {name: _copied(value, _MOST_LEVELS) for name, value in body.items()} if isinstance(body, dict) else {}


def _copied(value: Any, levels: int) -> Any:
    """Return a copy of JSON, null for what is nested too deep."""
    if not isinstance(value, dict | list):
        return value
    if not levels:
        return None
    if isinstance(value, list):
        return [_copied(item, levels - 1) for item in value]
    return {name: _copied(item, levels - 1) for name, item in value.items()}


def _checked(answer: Any) -> dict[str, Any]:
    """Return what ``apply`` made of a conversation, as JSON would give it back."""
    if not isinstance(answer, dict):
        raise _wrong("apply", f"must return an object or None, not {type(answer).__name__}")
    with suppress(TypeError, ValueError, RecursionError):
        return _object(json.loads(json.dumps(answer)))
    # Raised here, because those errors may show values.
    raise _wrong("apply", "returned something that JSON cannot hold")


def _wrong(argument: str, reason: str) -> DstnyValidationError:
    return DstnyValidationError(None, f"redaction: {argument} {reason}.")
