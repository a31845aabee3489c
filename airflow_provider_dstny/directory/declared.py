"""The users and teams that an account is to have, as somebody wrote them down; every mistake with its row and field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.models.base import Payload
from airflow_provider_dstny.api.models.directory import TeamCreate, UserCreate
from airflow_provider_dstny.api.models.types import Email, Omittable

#: How a declaration names a user: an e-mail address or an id.
Person: TypeAlias = int | str

PayloadT = TypeVar("PayloadT", bound=Payload)

_email: TypeAdapter[str] = TypeAdapter(Email)
_LISTS = ("email_aliases", "members", "managers")


def key_of(text: str) -> str:
    """Return what two spellings of an e-mail address, or of a name, have in common."""
    return text.strip().casefold()


@dataclass(frozen=True)
class DeclaredUser:
    """A user with the place where it is declared, such as ``users row 3``."""

    where: str
    fields: UserCreate

    @property
    def key(self) -> str:
        return key_of(self.fields.email)


@dataclass(frozen=True)
class DeclaredTeam:
    """A team; its people stand beside its fields, because e-mail addresses become ids only when they are known.

    :param managers: None leaves those that there are.
    """

    where: str
    fields: TeamCreate
    members: tuple[str, ...] = ()
    managers: tuple[Person, ...] | None = None

    @property
    def key(self) -> str:
        return self.fields.name

    @property
    def people(self) -> Iterator[tuple[str, Person]]:
        """Yield each member and manager with the field that names it."""
        yield from (("members", one) for one in self.members)
        yield from (("managers", one) for one in self.managers or ())


@dataclass(frozen=True)
class Declared:
    """What an account is to have. None: this kind is not managed.

    :param misread: keys of users whose row has a mistake, so that no team is blamed for naming them.
    """

    users: tuple[DeclaredUser, ...] | None
    teams: tuple[DeclaredTeam, ...] | None
    mistakes: tuple[str, ...] = ()
    misread: frozenset[str] = frozenset()

    @property
    def needs_users(self) -> bool:
        """Whether anything cannot be planned without the users of the account."""
        return self.users is not None or any(True for team in self.teams or () for _ in team.people)


def declare(
    users: Sequence[Any] | None = None,
    teams: Sequence[Any] | None = None,
    *,
    users_from: str = "users",
    teams_from: str = "teams",
) -> Declared:
    """Read rows: users with the fields of ``UserCreate``, teams with those of ``TeamCreate`` and ``members``.

    Where a list of e-mail addresses is meant, a text is split at ``;``.

    :param users_from: begins the place of each user in messages; likewise ``teams_from``.
    """
    mistakes: list[str] = []
    declared_users: dict[str, DeclaredUser] = {}
    misread: set[str] = set()
    for where, row in _rows(users_from, users or (), mistakes):
        fields = _parsed(UserCreate, where, row, mistakes)
        if fields is None:
            misread.add(key_of(str(row.get("email"))))
        elif (user := DeclaredUser(where, fields)) is not (first := declared_users.setdefault(user.key, user)):
            mistakes.append(f"{where}: email: {fields.email} is declared at {first.where} already")
    declared_teams: dict[str, DeclaredTeam] = {}
    for where, row in _rows(teams_from, teams or (), mistakes):
        team = _team(where, row, mistakes)
        if team is not None and team is not (other := declared_teams.setdefault(key_of(team.key), team)):
            spelled = "" if team.key == other.key else f" as {other.key}"
            mistakes.append(f"{where}: name: {team.key} is declared at {other.where} already{spelled}")
    return Declared(
        None if users is None else tuple(declared_users.values()),
        None if teams is None else tuple(declared_teams.values()),
        tuple(mistakes),
        frozenset(misread),
    )


def _person(value: Any) -> Person:
    # Cells of files are text.
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, int) and not isinstance(text, bool):
        return text
    if isinstance(text, str) and text.isdecimal() and len(text) < 16:
        return int(text)
    try:
        return _email.validate_python(text)
    except ValidationError:
        raise ValueError("is neither an e-mail address nor the id of a user") from None


class _TeamPeople(Payload):
    members: Omittable[list[Email]] = None
    managers: Omittable[list[Annotated[Any, AfterValidator(_person)]]] = None


def _team(where: str, row: Mapping[str, Any], mistakes: list[str]) -> DeclaredTeam | None:
    people_row = {name: row[name] for name in _TeamPeople.model_fields if name in row}
    team = _parsed(TeamCreate, where, {name: row[name] for name in row if name not in people_row}, mistakes)
    people = _parsed(_TeamPeople, where, people_row, mistakes)
    if team is None or people is None:
        return None
    members = {key_of(email): email for email in people.members or ()}
    managers = None if people.managers is None else tuple(dict.fromkeys(people.managers))
    return DeclaredTeam(where, team, tuple(members.values()), managers)


def _parsed(model: type[PayloadT], where: str, row: Mapping[str, Any], mistakes: list[str]) -> PayloadT | None:
    try:
        return model.parse(row)
    except DstnyValidationError as error:
        # The name of a model says nothing to who wrote the row.
        mistakes.append(f"{where}: {error.message.partition(': ')[2].removesuffix('.')}")
        return None


def _rows(source: str, rows: Sequence[Any], mistakes: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in enumerate(rows, 1):
        where = f"{source} row {number}"
        if not isinstance(row, Mapping):
            mistakes.append(f"{where}: must be an object with fields, not {type(row).__name__}")
        elif None in row:
            mistakes.append(f"{where}: has more cells than the header has names")
        else:
            yield where, {name: _split(value) if name in _LISTS else value for name, value in row.items()}


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(";") if part.strip()] if isinstance(value, str) else value
