"""The two kinds of models: payloads are strict, because we write them; answers never break a read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from airflow_provider_dstny.api.errors import DstnyValidationError


class Payload(BaseModel):
    """A request body: unknown fields are refused, and errors never show the input."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, hide_input_in_errors=True)

    #: Fields whose values are shown as ``***``.
    private_fields: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, from_text: bool = False) -> Self:
        """Validate a mapping.

        :param from_text: the values are the cells of a text file: all strings, empty for absent.
        :raises DstnyValidationError: every wrong field with its reason; nothing of the input.
        """
        try:
            if not from_text:
                return cls.model_validate(dict(values))
            cells = {name: cell for name, cell in values.items() if cell is not None and cell.strip()}
            return cls.model_validate_strings(cells)
        except ValidationError as error:
            raise DstnyValidationError(None, f"{cls.__name__}: {_reasons(error)}.") from None

    def to_json(self) -> dict[str, Any]:
        """Return the body to send: fields that were not set are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, "***" if name in self.private_fields and value is not None else value


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
        return cls.model_validate({**fields, **known, "raw": body})

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
    return "; ".join(
        ": ".join(filter(None, (".".join(map(str, detail["loc"])), detail["msg"].removeprefix("Value error, "))))
        for detail in error.errors(include_url=False, include_context=False, include_input=False)
    )
