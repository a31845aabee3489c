"""A person, as somebody who is to be found in answers of any API: by e-mail address, or by name."""

from __future__ import annotations

from collections import Counter
from typing import Any
from unicodedata import normalize

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.models.transcripts import SPEAKER_KEYS, TEXT_KEYS
from airflow_provider_dstny.export.layout import LAYOUTS
from airflow_provider_dstny.export.redaction import Redaction
from airflow_provider_dstny.export.tables import Type

#: Fields that hold people, and one that the list of a team or a conversation is likely to have.
_PEOPLE = frozenset(
    {path[-1] for layout in LAYOUTS.values() for path in layout.people}
    | {"participant_profile", "manager", "speaker", "speakers", "team_members"}
)
#: Fields that hold users of the account.
_USERS = frozenset({"user", "owner", "organizer", "users", "members", "manager", "managers"})
_USER_IDS = frozenset(f"{user}_id" for user in ("user", "owner", "organizer", "manager"))
#: Objects that are no person, even if they have an e-mail address.
_GROUPS = frozenset({"team", "teams", "department", "departments"})
_NAMES = ("name", "full_name", "display_name", "username")
#: What people are called where they have no object of their own; a bare value may stand for such an object.
_NAMED = (
    _PEOPLE
    | {f"{person}_{name}" for person in _PEOPLE for name in _NAMES}
    | (frozenset(SPEAKER_KEYS) - {"name", "role"})
)
#: Which field has the first name, by the one that has the last name.
_FIRST_NAMES = {
    f"{prefix}last_name": f"{prefix}first_name" for prefix in ("", *(f"{person}_" for person in sorted(_PEOPLE)))
}
_TEXTS = frozenset({*TEXT_KEYS, "message"})
#: Hex digits of what a redaction makes of a text.
HASH_LENGTH = 64
#: Longer texts are neither addresses nor names.
_LONGEST = 1_000
#: Stands for what is left of a value that is to go as a whole.
GONE = object()


class Person:
    """Who is to be erased, and where answers and rows show them."""

    def __init__(self, email: str | None, participant: str | None, salt: str | None) -> None:
        if (email is None) == (participant is None):
            raise DstnyValidationError(None, "Either email or participant must be given, and not both.")
        name, given = ("email", email) if participant is None else ("participant", participant)
        if not isinstance(given, str) or not given.strip():
            raise DstnyValidationError(None, f"{name} must be a text that is not blank.")
        if (name == "email") != ("@" in given):
            problem = "email has no @: is it a name?" if name == "email" else "participant has an @: give it as email."
            raise DstnyValidationError(None, f"{problem} Names are given as participant, addresses as email.")
        self._by_name = name == "participant"
        self._redaction = None if salt is None else Redaction(hash=["value"], salt=salt)
        self._values = {_plain(given)}
        #: Hashes of first and last names.
        self._pairs: set[tuple[str, str]] = set()
        #: Under which ids the directory has the person.
        self._ids: set[str] = set()
        if self._redaction is not None:
            texts = {given, given.strip(), " ".join(given.split())}
            forms = {normalize("NFC", form) for text in texts for form in (text, text.lower())} | texts
            self._values |= {self.hashed(form) for form in forms}
            for words in (form.split() for form in forms):
                for at in range(1, len(words)):
                    self._pairs.add((self.hashed(" ".join(words[:at])), self.hashed(" ".join(words[at:]))))
        #: Where the person is shown, there are all words of one of these.
        self._words: set[tuple[str, ...]] = {*(tuple(value.split()) for value in self._values), *self._pairs}

    @property
    def has_salt(self) -> bool:
        return self._redaction is not None

    def hashed(self, text: str) -> str:
        """Return what a redaction makes of a text."""
        assert self._redaction is not None
        return str(self._redaction.redact({"value": text})["value"])

    def may_be_in(self, line: bytes) -> bool:
        """Tell whether a line of JSON is worth a closer look: faster than to look."""
        if b"\\" in line:
            # Escapes may stand for anything.
            return True
        text = _folded(line.decode("utf-8", "replace"))
        return any(all(word in text for word in words) for words in self._words)

    def is_shown(self, value: Any, place: str = "", *, own: bool = False) -> bool:
        """Tell whether JSON shows the person anywhere.

        :param place: the field that it is the value of.
        :param own: leave out other people that it has in it.
        """
        if isinstance(value, list):
            return any(self.is_shown(item, place, own=own) for item in value if not (own and _is_person(item, place)))
        if isinstance(value, dict):
            return bool(self._meant_by(value, place)) or any(
                self.is_shown(item, name, own=own)
                for name, item in value.items()
                if not (own and _is_person(item, name))
            )
        return (not self._by_name or place in _NAMED) and self._is(value)

    def learn_ids(self, value: Any, place: str) -> None:
        """Keep the ids that the directory has of the person."""
        if isinstance(value, list):
            for item in value:
                self.learn_ids(item, place)
        elif isinstance(value, dict):
            if _is_person(value, place) and self.is_shown(value, place, own=True):
                ids = (Type.TEXT.read(value.get(name)) for name in ("id", "user_id"))
                self._ids.update(one for one in ids if one is not None)
                self._words.update((_folded(one),) for one in self._ids)
            for name, item in value.items():
                self.learn_ids(item, name)

    def left_of(self, value: Any, place: str, counts: Counter[str]) -> Any:
        """Return JSON of the directory without the person, who may be all of it: then ``GONE``."""
        if isinstance(value, list):
            items = [self.left_of(item, place, counts) for item in value]
            return [item for item in items if item is not GONE]
        if not isinstance(value, dict):
            is_gone = self.is_shown(value, place)
        elif not (is_gone := _is_person(value, place) and self.is_shown(value, place, own=True)):
            meant = self._meant_by(value, place)
            counts["directory_rows_removed"] += bool(meant)
            left = {name: self.left_of(item, name, counts) for name, item in value.items() if name not in meant}
            return {name: item for name, item in left.items() if item is not GONE}
        counts["directory_rows_removed"] += is_gone
        return GONE if is_gone else value

    def _meant_by(self, item: dict[str, Any], place: str) -> set[str]:
        """Return the fields of an object by which it is the person's, beyond what their values alone tell."""
        meant: set[str] = set()
        if self._ids:
            names = _USER_IDS | {"id"} if place in _USERS else _USER_IDS
            meant.update(name for name in names & item.keys() if Type.TEXT.read(item[name]) in self._ids)
        if not self._by_name:
            return meant.union(filter(self._is, item))
        if _is_person(item, place) or not _TEXTS.isdisjoint(item):
            meant.update(name for name in _NAMES if self._is(item.get(name)))
        for last in _FIRST_NAMES.keys() & item.keys():
            if self._is_pair(item.get(_FIRST_NAMES[last]), item[last]):
                meant |= {_FIRST_NAMES[last], last}
        return meant

    def _is(self, value: Any) -> bool:
        if not isinstance(value, str) or len(value) > _LONGEST:
            return False
        # Most texts are no address, and no hash.
        is_likely = self._by_name or "@" in value or (self.has_salt and len(value.strip()) == HASH_LENGTH)
        return is_likely and _plain(value) in self._values

    def _is_pair(self, first: Any, last: Any) -> bool:
        if not isinstance(first, str) or not isinstance(last, str):
            return False
        return self._is(f"{first} {last}") or (first.strip(), last.strip()) in self._pairs


def _plain(text: str) -> str:
    """Return a text as it is compared."""
    return " ".join(_folded(text).split())


def _folded(text: str) -> str:
    # An accent may be a character of its own.
    return text.lower() if text.isascii() else normalize("NFC", normalize("NFC", text).casefold())


def _is_person(item: Any, place: str) -> bool:
    if not isinstance(item, dict):
        return False
    return place in _PEOPLE or (place not in _GROUPS and any("email" in name.lower() for name in item))
