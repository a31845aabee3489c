"""The two kinds of models: payloads are strict, because we write them; answers never break a read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from airflow_provider_dstny.api.errors import DstnyResponseError, DstnyValidationError
from airflow_provider_dstny.api.privacy import shown


class Payload(BaseModel):
    """A request body: unknown fields are refused, and errors never show the input."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, hide_input_in_errors=True)

    @classmethod
    def parse(cls, values: Self | Mapping[str, Any]) -> Self:
        """Validate a mapping; what is a model already is returned as it is.

        :raises DstnyValidationError: every wrong field with its reason; nothing of the input.
        """
        if isinstance(values, cls):
            return values
        if not isinstance(values, Mapping):
            raise DstnyValidationError(
                None, f"{cls.__name__}: must be a mapping or a {cls.__name__}, not {type(values).__name__}."
            )
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            reasons = _reasons(error)
        raise DstnyValidationError(None, f"{cls.__name__}: {reasons}.")

    def to_json(self) -> dict[str, Any]:
        """Return the body to send: fields that were not set are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, shown(name, value)


class SparsePayload(Payload):
    """A body in which null says something: what was not set is left out, a None that was set is sent.

    Its fields hold what JSON has: texts, numbers, booleans, lists and objects.
    """

    def to_json(self) -> dict[str, Any]:
        """Return the body to send: exactly the fields that were set."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    @field_validator("*")
    @classmethod
    def _can_be_sent(cls, value: Any) -> Any:
        try:
            json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError):
            raise ValueError("cannot be written as JSON") from None
        return value


class Changes(SparsePayload):
    """An update of some fields: one without any is refused."""

    @model_validator(mode="after")
    def _change_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("has no field, so there is nothing to change")
        return self


class Answer(BaseModel):
    """Something an API said. Unknown fields are kept; a field of an unexpected type reads as None.

    ``raw`` is the answer as it came. It is left out of dumps, and a printed answer shows no unknown fields.
    """

    model_config = ConfigDict(extra="allow")

    raw: Any = Field(default=None, exclude=True, repr=False)

    @classmethod
    def read(cls, body: Any, **known: Any) -> Self:
        """Read one object of an answer; ``known`` is what the request already says about it."""
        fields = {name: value for name, value in body.items() if name != "raw"} if isinstance(body, dict) else {}
        try:
            return cls.model_validate({**fields, **known, "raw": body})
        except ValidationError:
            # A name of a field that is no valid text; everything is still in raw.
            return cls.model_validate({**known, "raw": body})

    @classmethod
    def read_rows(cls, body: Any, name: str = "data") -> list[Self]:
        """Read a whole list, bare or below ``name``, where null is an empty one.

        :raises DstnyResponseError: there is no list, which is not the same as an empty one, or it has further pages.
        """
        listed = unwrap(body, name)
        if listed is None and isinstance(body, dict):
            return []
        if not isinstance(listed, list):
            raise DstnyResponseError(
                f"The list ({cls.__name__}) came in a form that is not documented, so that it cannot be told from an "
                "empty one. A retry helps only if it was a hiccup."
            )
        if isinstance(body, dict) and goes_on(body):
            raise DstnyResponseError(
                f"The list ({cls.__name__}) has further pages, which are not documented, so that it is not whole. A "
                "retry fails the same way."
            )
        return [cls.read(row) for row in listed]

    @field_validator("*", mode="wrap")
    @classmethod
    def _misfit_is_none(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            return None

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        unknown = self.__pydantic_extra__ or {}
        return [(name, value) for name, value in super().__repr_args__() if name not in unknown]


def goes_on(body: dict[str, Any]) -> bool:
    """Tell whether a list has a next page, by the names that are in common use."""
    places = [place for name in ("links", "meta", "pagination") if isinstance(place := body.get(name), dict)]
    return any(
        place.get(name)
        for place in (body, *places)
        for name in ("next", "next_page_url", "next_cursor", "nextCursor", "next_page", "has_more", "hasMore")
    )


def rows(body: Any) -> list[Any]:
    """Return the rows of a list answer, which comes bare or as ``{"data": […]}``."""
    listed = unwrap(body)
    if listed is None:
        return []
    return listed if isinstance(listed, list) else [listed]


def listed(body: Any, name: str) -> list[Any]:
    """Return the rows below ``name``; what is no list reads as none."""
    rows = body.get(name) if isinstance(body, dict) else None
    return rows if isinstance(rows, list) else []


def unwrap(body: Any, name: str = "data") -> Any:
    """Return what stands below ``name``, or the body itself."""
    return body[name] if isinstance(body, dict) and name in body else body


def _reasons(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        ": ".join(filter(None, (_location(detail["loc"]), detail["msg"].removeprefix("Value error, "))))
        for detail in details
    )


def _location(path: tuple[int | str, ...]) -> str:
    # The name of an unknown field is input too: a file without a header has values for names.
    return ".".join(str(name) if re.fullmatch(r"[A-Za-z_]{1,40}|\d{1,6}", str(name)) else "***" for name in path)
