"""Who is who: the declared users held against those of the account."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

from airflow_provider_dstny.api.differences import ids_of
from airflow_provider_dstny.api.errors import DstnyResponseError, DstnyValidationError
from airflow_provider_dstny.api.models.directory import User
from airflow_provider_dstny.api.privacy import shown
from airflow_provider_dstny.directory.declared import Declared, DeclaredUser, Person, key_of

#: The id of a user of the account, or the key of a declared one that is yet to be created.
Ref: TypeAlias = int | str


class People:
    """Finds the users of an account by their addresses.

    :raises DstnyResponseError: the list shows a user without a number as id, so that it cannot be trusted.
    """

    def __init__(self, declared: Declared, users: Sequence[User]) -> None:
        self._declared = declared
        self.users = {user_id(user): user for user in users}
        # A username counts where no e-mail address fits, an alias where neither does.
        self._ids_by_key = _by_address(self.users, lambda user: [user.username]) | _by_address(
            self.users, lambda user: [user.email]
        )
        self._ids_by_alias = _by_address(self.users, _aliases)
        self._to_create = {one.key for one in declared.users or () if not self._ids(one.key)}
        self._by_alias = {
            key_of(alias): one.key for one in declared.users or () for alias in one.fields.email_aliases or ()
        }

    def match(self, declared: DeclaredUser) -> int | None:
        """Return the id of the user that is declared, None if it is yet to be created."""
        return next(iter(self._ids(declared.key)), None)

    def ref(self, person: Person) -> Ref | None:
        """Return whom a declaration means; None: somebody neither declared nor in the account."""
        if isinstance(person, int):
            return person if person in self.users else None
        key = key_of(person)
        if ids := self._ids(key):
            return ids[0]
        if key in self._to_create:
            return key
        declared_as = self._by_alias.get(key)
        return self.ref(declared_as) if declared_as is not None and declared_as != key else None

    def listed(self, shown: Any) -> list[int] | None:
        """Return the ids of users as a team shows them: by ids, objects or addresses. None: it cannot be told."""
        if shown is None:
            return []
        ids = ids_of(shown)
        if ids is None or not all(isinstance(one, int) or len(self._ids(key_of(one))) == 1 for one in ids):
            return None
        return list(dict.fromkeys(one if isinstance(one, int) else self._ids(key_of(one))[0] for one in ids))

    def name(self, ref: Any) -> str:
        """Return the e-mail address of somebody, as far as it is known."""
        user = self.users.get(ref) if isinstance(ref, int) else None
        return str((user.email or user.username) if user else ref)

    def check(self) -> None:
        """Raise every mistake of the declaration at once.

        :raises DstnyValidationError: each with its row and field, without phone numbers.
        """
        refuse([*self._declared.mistakes, *self._mistakes()])

    def _ids(self, key: str) -> list[int]:
        return self._ids_by_key.get(key) or self._ids_by_alias.get(key, [])

    def _mistakes(self) -> Iterator[str]:
        claimed: dict[int, str] = {}
        for user in self._declared.users or ():
            ids = self._ids(user.key)
            if len(ids) > 1:
                yield f"{user.where}: email: {user.fields.email} fits {len(ids)} users of the account"
            elif ids and user.key not in self._ids_by_key:
                # Taken for that user, a mailbox that is shared would give it its own address and name.
                known = self.name(ids[0])
                yield f"{user.where}: email: {user.fields.email} is an alias of {known}: declare that address"
            elif ids and (other := claimed.setdefault(ids[0], user.where)) != user.where:
                yield f"{user.where}: email: {user.fields.email} is the user of {other}"
        for team in self._declared.teams or ():
            for field, person in team.people:
                if isinstance(person, str) and len(self._ids(key_of(person))) > 1:
                    yield f"{team.where}: {field}: {person} fits several users of the account"
                elif self.ref(person) is None and key_of(str(person)) not in self._declared.misread:
                    yield f"{team.where}: {field}: {person} is neither declared nor in the account"


def user_id(user: User) -> int:
    """Return the id of a listed user.

    :raises DstnyResponseError: it has none that is a number.
    """
    text = str(user.id)
    if not (text.isascii() and text.isdecimal()):
        raise DstnyResponseError("The API lists a user without a number as id, so that nothing can be planned safely.")
    return int(text)


def refuse(mistakes: Sequence[str]) -> None:
    """Raise mistakes of a declaration, if there are any, each ``<where>: <what>``, without phone numbers."""
    if mistakes:
        places = (mistake.partition(": ") for mistake in mistakes)
        # A path may have as many digits as a phone number.
        listed = "\n".join(f"  {where}: {shown('text', what)}" for where, _, what in places)
        raise DstnyValidationError(
            None, f"{len(mistakes)} mistakes in what is declared; nothing was changed:\n{listed}"
        )


def _by_address(users: dict[int, User], addresses: Callable[[User], list[Any]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one, user in users.items():
        for key in Counter(key_of(address) for address in addresses(user) if isinstance(address, str)):
            found.setdefault(key, []).append(one)
    return found


def _aliases(user: User) -> list[Any]:
    aliases = getattr(user, "email_aliases", None)
    return aliases if isinstance(aliases, list) else []
