"""Reading the answer of a creation: one without an id is a lost answer, because nobody knows what was created."""

from __future__ import annotations

from typing import Any, TypeVar

from airflow_provider_dstny.api.answers import lost_answer
from airflow_provider_dstny.api.models.base import Answer, unwrap
from airflow_provider_dstny.api.operation import Request

AnswerT = TypeVar("AnswerT", bound=Answer)


def created_id(request: Request, answer: Any, *names: str) -> str | int:
    """Return the id of what was created, found under the first of the names that has one.

    :raises DstnyAmbiguousError: the answer has none.
    """
    body = unwrap(answer)
    given = [body.get(name) for name in names] if isinstance(body, dict) else []
    for one in given:
        if isinstance(one, (str, int)) and one is not True and one:
            return one
    raise lost_answer(request, f"the answer has no {names[0]}")


def read_created(model: type[AnswerT], request: Request, answer: Any) -> AnswerT:
    """Return what was created, which has an ``id``.

    :raises DstnyAmbiguousError: the answer has none.
    """
    created_id(request, answer, "id")
    return model.read(unwrap(answer))
