"""What must not leave the account is taken out of answers before anything is written. Pure: no I/O."""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from typing import Any, Self, TypeAlias

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.export.tables import (
    CONVERSATIONS,
    DEPARTMENTS,
    INSIGHTS,
    PARTICIPANTS,
    TEAM_MEMBERS,
    TEAMS,
    TRANSCRIPT_SEGMENTS,
    USERS,
    Path,
    Table,
    json_text,
)

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

#: Under which names the API shows the same thing.
_SAME_PLACES: tuple[frozenset[Path], ...] = (
    frozenset({("user",), ("users",), ("teams", "members")}),
    frozenset({("department",), ("departments",)}),
)
_NAMES = ("name", "full_name")
_PEOPLE: frozenset[Path] = _SAME_PLACES[0] | {("participants",)}


def _sources(table: Table, column_name: str) -> set[str]:
    return {path[-1] for column in table.fields if column.name == column_name for path in column.sources}


#: What names a speaker; a role does not.
_SPEAKERS = frozenset(_sources(TRANSCRIPT_SEGMENTS, "speaker") - {"role"})
_SPEAKER_PATHS = frozenset(("transcript", _ANY_DEPTH, speaker) for speaker in _SPEAKERS)
_TEXTS = frozenset(_sources(TRANSCRIPT_SEGMENTS, "text"))

_DOCUMENTED: frozenset[Path] = frozenset(
    (*place, *path)
    for place, table in (
        ((), CONVERSATIONS),
        (("participants",), PARTICIPANTS),
        (("insights",), INSIGHTS),
        (("users",), USERS),
        (("teams",), TEAMS),
        (("teams", "members"), TEAM_MEMBERS),
        (("departments",), DEPARTMENTS),
        *(
            (("transcript", *shape), TRANSCRIPT_SEGMENTS)
            for shape in ((), ("segments",), ("sentences",), ("messages",))
        ),
    )
    for column in table.fields
    for path in column.sources
)


@dataclass(frozen=True, kw_only=True)
class Redaction:
    """Rules for answers of the REST API v1. They hold for the raw answer, and so for every table made of it.

    A path names a field as the API does, case-sensitive: ``summary``, ``participants.email``. Lists on the way need no
    sign of their own, and ``**`` stands for any depth: ``**.email``. What is the same is redacted wherever the API
    shows it: a rule for ``user.email`` holds for ``users.email`` and ``teams.members.email`` too, one for ``name`` for
    ``full_name``, and one that takes the names of users or participants takes those of all speakers of the transcript
    as well. A bare value in place of an object that a rule leads into is taken, too. In what people say and write,
    they are still named: see ``drop_text``.

    :param drop: paths of fields to leave out. The id of a conversation cannot be left out, only hashed.
    :param hash: paths of fields to replace by their HMAC-SHA256 (hex), so that the same value still has the same hash
        everywhere. Of a list each item is hashed, of an object its JSON; null stays null. ``drop`` wins.
    :param salt: the key of the hashes, at least 16 characters; who knows it can check guesses.
    :param drop_text: leave out all that people said or wrote: the transcript whatever its form, title, summary, texts
        of insights, and every field that is not documented or not of the documented type, since it may hold text.
    :param apply: called with a copy of each conversation before the other rules; returns what to keep of it, or None
        to leave the conversation out.
    :raises DstnyValidationError: an argument is wrong, which is named; the salt is never shown.
    """

    drop: Sequence[str] = ()
    hash: Sequence[str] = ()
    salt: str | None = field(default=None, repr=False)
    drop_text: bool = False
    apply: Callable[[dict[str, Any]], dict[str, Any] | None] | None = field(default=None, repr=False)
    _rules: tuple[_Rule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        paths = {name: _parsed(name, getattr(self, name)) for name in ("drop", "hash")}
        if any(_reaches(path, ("id",)) for path in paths["drop"]):
            raise _wrong("drop", "must not take the id of a conversation, by which rows are told apart: hash it")
        if paths["hash"] and self.salt is None:
            raise _wrong("salt", "is missing, which hash needs")
        if self.salt is not None and (not isinstance(self.salt, str) or len(self.salt) < _SHORTEST_SALT):
            raise _wrong("salt", f"must be a text of at least {_SHORTEST_SALT} characters")
        if not isinstance(self.drop_text, bool):
            raise _wrong("drop_text", f"must be True or False, not {self.drop_text!r}")
        if self.apply is not None and not callable(self.apply):
            raise _wrong("apply", f"must be callable, not {type(self.apply).__name__}")
        rules = {(one, name == "drop") for name in paths for path in paths[name] for one in _alike(path)}
        object.__setattr__(self, "drop", tuple(self.drop))
        object.__setattr__(self, "hash", tuple(self.hash))
        object.__setattr__(self, "_rules", tuple(sorted(rules)))

    @classmethod
    def parse(cls, arguments: Self | Mapping[str, Any] | None) -> Self:
        """Read the arguments of a redaction from a mapping; None is one that takes nothing.

        :raises DstnyValidationError: an argument is wrong or not known.
        """
        if isinstance(arguments, cls):
            return arguments
        if arguments is not None and not isinstance(arguments, Mapping):
            raise DstnyValidationError(None, f"redaction must be a mapping, not {type(arguments).__name__}.")
        known = [one.name for one in fields(cls) if one.init]
        for name in arguments or ():
            if name not in known:
                raise DstnyValidationError(None, f"redaction has no {str(name)[:40]!r}, only {', '.join(known)}.")
        return cls(**(arguments or {}))

    @property
    def undocumented(self) -> tuple[str, ...]:
        """The paths that lead to no documented field: perhaps typing errors, which would redact nothing."""
        paths = {text: tuple(text.split(".")) for text in (*self.drop, *self.hash)}
        return tuple(text for text, path in paths.items() if not any(_reaches(path, known) for known in _DOCUMENTED))

    def redact_conversation(self, body: dict[str, Any]) -> dict[str, Any] | None:
        """Return what may be written of the answer of *Get conversation*, None for nothing. The answer stays as it is.

        :raises DstnyValidationError: ``apply`` returned neither None nor an object that JSON can hold.
        """
        kept = _object(body)
        if self.apply is not None:
            answer = self.apply(kept)
            if answer is None:
                return None
            kept = _checked(answer)
        if self.drop_text:
            kept = _without_text(kept)
        return self._rewritten(kept, self._rules)

    def redact(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return another answer, by the paths alone: a list of the directory, or what is known of a deletion."""
        return self._rewritten(_object(body), self._rules)

    def _rewritten(self, item: dict[str, Any], rules: Iterable[_Rule]) -> dict[str, Any]:
        kept = {}
        for name, value in item.items():
            below = list(_below(rules, name))
            met = [dropped for path, dropped in below if not path]
            if not any(met):
                kept[name] = self._hashed(value) if met else self._inside(value, below)
        return kept

    def _inside(self, value: Any, rules: list[_Rule]) -> Any:
        if isinstance(value, list):
            return [self._inside(item, rules) for item in value]
        if isinstance(value, dict):
            return self._rewritten(value, rules) if rules else value
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


def _below(rules: Iterable[_Rule], name: str) -> Iterator[_Rule]:
    """Yield what is left of the rules below a field."""
    for path, dropped in rules:
        names = path
        if names[0] == _ANY_DEPTH:
            yield path, dropped
            names = names[1:]
        if names[0] == name:
            yield names[1:], dropped


def _reaches(path: Path, target: Path) -> bool:
    """Tell whether a path leads to a field, or to what the field is in."""
    rules: list[_Rule] = [(path, True)]
    for name in target:
        rules = list(_below(rules, name))
        if any(not left for left, _ in rules):
            return True
    return False


def _alike(path: Path) -> set[Path]:
    """Return the paths to the same thing under all names of the API."""
    alike = {path}
    for places in _SAME_PLACES:
        inside = {path[len(place) :] for place in places if path[: len(place)] == place and path != place}
        alike |= {(*place, *rest) for place in places for rest in inside}
    alike |= {(*one[:-1], name) for one in alike if _names_a_person(one) for name in _NAMES}
    if path[0] in ("transcript", _ANY_DEPTH) and path[-1] in _SPEAKERS:
        alike |= _SPEAKER_PATHS
    if any(_reaches(one, (place, name)) for one in alike for place in ("user", "participants") for name in _NAMES):
        alike |= _SPEAKER_PATHS
    return alike


def _names_a_person(path: Path) -> bool:
    return path[-1] in _NAMES and any(_reaches(path, (*place, path[-1])) for place in _PEOPLE)


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


def _without_text(body: dict[str, Any]) -> dict[str, Any]:
    kept = _wordless(CONVERSATIONS, body)
    for name, table in (("participants", PARTICIPANTS), ("insights", INSIGHTS)):
        if isinstance(items := body.get(name), list):
            kept[name] = [_wordless(table, item) for item in items]
    return kept


def _wordless(table: Table, item: Any) -> dict[str, Any]:
    """Return the fields that have a column which fits them, and hold nothing that people said or wrote."""
    kept: dict[str, Any] = {}
    for column in (one for one in table.fields if not one.said):
        for path, value in column.found(item):
            if column.type.read(value) is not None:
                place = kept
                for name in path[:-1]:
                    place = place.setdefault(name, {})
                place[path[-1]] = value
    return kept


def _wrong(argument: str, reason: str) -> DstnyValidationError:
    return DstnyValidationError(None, f"redaction: {argument} {reason}.")
