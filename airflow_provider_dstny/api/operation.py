"""One definition per API operation, callable sync and async.

An operation is a generator: it yields each :class:`Request` it needs, receives the decoded JSON answer,
and returns its result. A client drives it with blocking or with awaited I/O; the definition is the same.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from functools import update_wrapper
from string import Formatter
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from airflow_provider_dstny.api.errors import DstnyError, DstnyValidationError
from airflow_provider_dstny.api.ids import encode_id

P = ParamSpec("P")
T = TypeVar("T")
ClientT = TypeVar("ClientT", bound="Driver")

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request below the API's base path.

    :param repeatable: a repeat cannot do a thing twice, so it is retried freely.
    :param scope: what the token must be allowed to, where the documents say so.
    :param timeout: seconds, None for the client's own.
    :param max_retries: None for the client's own.
    :param patience: seconds that it may wait for its turn, and after a 429; None for as long as it takes. A turn
        that would come later is a ``DstnyRateLimitError`` without a status, and nothing is sent.
    :param counted: what it takes from a daily quota: the id of a conversation, None for nothing.
    """

    operation: str
    method: str
    path: str
    repeatable: bool
    params: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    json: Any = field(default=None, repr=False)
    timeout: float | None = None
    max_retries: int | None = None
    scope: str | None = None
    patience: float | None = None
    counted: str | None = None

    def __str__(self) -> str:
        return f"{self.operation} ({self.method} {self.path})"


Steps: TypeAlias = Generator[Request, Any, T]


def without_retries(steps: Steps[T]) -> Steps[T]:
    """Let each request of an operation be tried only once, for callers that come back anyway."""
    return _each(steps, max_retries=0)


def with_patience(steps: Steps[T], seconds: float) -> Steps[T]:
    """Let each request of an operation wait at most so long for its turn; see :class:`Request`."""
    return _each(steps, patience=seconds)


def _each(steps: Steps[T], **changes: Any) -> Steps[T]:
    """Let each request of an operation be another one in some fields."""
    try:
        request = next(steps)
        while True:
            try:
                answer = yield replace(request, **changes)
            except DstnyError as error:
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


class Driver(Protocol):
    """What an operation needs of a client: something that performs its requests."""

    def run(self, steps: Steps[T]) -> T: ...

    def arun(self, steps: Steps[T]) -> Awaitable[T]: ...


class BoundOperation(Generic[P, T]):
    """An operation of one client: call it, await ``.aio``, or take its ``.steps`` into a larger operation."""

    def __init__(self, client: Driver, steps: Callable[P, Steps[T]]) -> None:
        self._client = client
        self.steps = steps
        update_wrapper(self, steps)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._client.run(self.steps(*args, **kwargs))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._client.arun(self.steps(*args, **kwargs))


class operation(Generic[ClientT, P, T]):  # noqa: N801 - used as a decorator
    """Turn a generator method of a client into an operation that is callable sync and async."""

    def __init__(self, define: Callable[Concatenate[ClientT, P], Steps[T]]) -> None:
        self._define = define
        update_wrapper(self, define)  # type: ignore[arg-type]

    @overload
    def __get__(self, client: None, owner: type[Any]) -> operation[ClientT, P, T]: ...

    @overload
    def __get__(self, client: ClientT, owner: type[Any]) -> BoundOperation[P, T]: ...

    def __get__(self, client: ClientT | None, owner: type[Any]) -> operation[ClientT, P, T] | BoundOperation[P, T]:
        if client is None:
            return self
        return BoundOperation(client, self._define.__get__(client, owner))


@dataclass(frozen=True, slots=True)
class Route:
    """Where an operation lives: a method and a path template below the API's base path.

    :param scope: what the token must be allowed to, where the documents say so.
    :param counted: its conversation counts against a daily quota.
    """

    method: str
    template: str
    scope: str | None = None
    counted: bool = False

    @property
    def repeatable(self) -> bool:
        return self.method in {"GET", "PUT"}

    @property
    def placeholders(self) -> frozenset[str]:
        return frozenset(name for _, name, _, _ in Formatter().parse(self.template) if name is not None)

    def path(self, operation_name: str, ids: Mapping[str, object]) -> str:
        """Fill the template with percent-encoded ids.

        :raises DstnyValidationError: an id is empty, or is not a string or an integer.
        """
        return self.template.format(
            **{name: encode_id(value, f"{operation_name}: {name}") for name, value in ids.items()}
        )


def override_routes(routes: Mapping[str, Route], overrides: Mapping[str, Any]) -> dict[str, Route]:
    """Return the path table with the entries of ``overrides`` in place of its own.

    An override is a path template (``"/sessions/{conversation_id}/transcript"``), one with its method
    (``"GET /sessions/…"``) or a pair of both (``["GET", "/sessions/…"]``). The method stays as it is
    unless given, and the placeholders must be those of the entry that is replaced.

    :raises DstnyValidationError: an unknown operation, method or placeholder.
    """
    unknown = sorted(set(overrides) - set(routes))
    if unknown:
        raise DstnyValidationError(
            None,
            f"paths names unknown operations: {', '.join(unknown)}.",
            hint=f"Known operations: {', '.join(sorted(routes))}.",
        )
    return {**routes, **{name: _override(name, routes[name], value) for name, value in overrides.items()}}


def _override(name: str, route: Route, value: Any) -> Route:
    match value:
        case [str(method), str(template)]:
            pass
        case str():
            method, _, template = value.rpartition(" ")
        case _:
            raise DstnyValidationError(None, f"paths.{name} must be a path or a [method, path] pair.")
    override = Route(method.strip().upper() or route.method, template.strip())
    if override.method not in _METHODS:
        raise DstnyValidationError(None, f"paths.{name} has an unknown method {override.method!r}.")
    if not re.fullmatch(r"/[^\s?#{}]*(\{\w+\}[^\s?#{}]*)*", override.template) or (
        override.placeholders != route.placeholders
    ):
        wanted = ", ".join(f"{{{placeholder}}}" for placeholder in sorted(route.placeholders)) or "no placeholder"
        raise DstnyValidationError(
            None, f"paths.{name} must be a path that starts with / and has {wanted}; got {override.template!r}."
        )
    return override
