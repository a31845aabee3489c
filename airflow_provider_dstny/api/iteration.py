"""One definition per listing that spans many pages, iterated with ``for`` and with ``async for``.

A listing is a generator like an operation: it yields each :class:`Request` it needs and receives the answer.
Between requests it yields what it :class:`Found`, one item at a time, so that nothing is read ahead.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from airflow_provider_dstny.api.errors import DstnyError
from airflow_provider_dstny.api.operation import Request, Steps

P = ParamSpec("P")
T = TypeVar("T")
ItemT = TypeVar("ItemT")
ClientT = TypeVar("ClientT", bound="Walker")


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """One item of a listing."""

    item: T


Findings: TypeAlias = Generator[Request | Found[T], Any, None]


def by_page(findings: Findings[T]) -> Findings[list[T]]:
    """Hand out what each answer of a listing showed as one list, before the next request is made."""
    page: list[T] = []
    step = next(findings, None)
    asked = False
    while step is not None:
        if isinstance(step, Found):
            page.append(step.item)
            step = next(findings, None)
            continue
        if asked:
            yield Found(page)
            page = []
        asked = True
        step = yield from _answered(findings, step)
    if asked:
        yield Found(page)


def next_item(findings: Findings[T]) -> Steps[T | None]:
    """Go on with a listing as far as its next item, None where it has ended."""
    step = next(findings, None)
    while isinstance(step, Request):
        step = yield from _answered(findings, step)
    return None if step is None else step.item


def _answered(findings: Findings[T], request: Request) -> Steps[Request | Found[T] | None]:
    """Pass a request of a listing on, and its answer back; return the step after it."""
    try:
        try:
            answer = yield request
        except DstnyError as error:
            return findings.throw(error)
        return findings.send(answer)
    except StopIteration:
        return None


class Walker(Protocol):
    """What a listing needs of a client: something that performs its requests and hands out its items."""

    def iterate(self, findings: Findings[ItemT]) -> Iterator[ItemT]: ...

    def aiterate(self, findings: Findings[ItemT]) -> AsyncGenerator[ItemT, None]: ...


class BoundIteration(Generic[P, T]):
    """A listing of one client: iterate over its call, over ``.aio`` with ``async for``, or take its ``.findings``."""

    def __init__(self, client: Walker, findings: Callable[P, Findings[T]]) -> None:
        self._client = client
        self.findings = findings
        update_wrapper(self, findings)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return self._client.iterate(self.findings(*args, **kwargs))

    def aio(self, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        return self._client.aiterate(self.findings(*args, **kwargs))


class iteration(Generic[ClientT, P, T]):  # noqa: N801 - used as a decorator
    """Turn a method that returns :data:`Findings` into a listing that is iterable sync and async."""

    def __init__(self, define: Callable[Concatenate[ClientT, P], Findings[T]]) -> None:
        self._define = define
        update_wrapper(self, define)  # type: ignore[arg-type]

    @overload
    def __get__(self, client: None, owner: type[Any]) -> iteration[ClientT, P, T]: ...

    @overload
    def __get__(self, client: ClientT, owner: type[Any]) -> BoundIteration[P, T]: ...

    def __get__(self, client: ClientT | None, owner: type[Any]) -> iteration[ClientT, P, T] | BoundIteration[P, T]:
        if client is None:
            return self
        return BoundIteration(client, self._define.__get__(client, owner))
