"""The two kinds of models: payloads are strict, because we write them; answers never break a read."""

from __future__ import annotations

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
)

from airflow_provider_dstny.api.errors import DstnyValidationError
from airflow_provider_dstny.api.privacy import shown


class Payload(BaseModel):
    """A request body: unknown fields are refused, and errors never show the input."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, hide_input_in_errors=True)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate a mapping.

        :raises DstnyValidationError: every wrong field with its reason; nothing of the input.
        """
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
    def read_rows(cls, body: Any) -> list[Self]:
        """Read a list, bare or below ``data``."""
        return [cls.read(row) for row in rows(body)]

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


def rows(body: Any) -> list[Any]:
    """Return the rows of a list answer, which comes bare or as ``{"data": […]}``."""
    listed = unwrap(body)
    if listed is None:
        return []
    return listed if isinstance(listed, list) else [listed]


def unwrap(body: Any) -> Any:
    """Return what stands below ``data``, or the body itself."""
    return body["data"] if isinstance(body, dict) and "data" in body else body


def _reasons(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        ": ".join(filter(None, (_location(detail["loc"]), detail["msg"].removeprefix("Value error, "))))
        for detail in details
    )


def _location(path: tuple[int | str, ...]) -> str:
    # The name of an unknown field is input too: a file without a header has values for names.
    return ".".join(str(name) if re.fullmatch(r"[A-Za-z_]{1,40}|\d{1,6}", str(name)) else "***" for name in path)
