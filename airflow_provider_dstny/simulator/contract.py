"""Holds requests against an OpenAPI document: what the documents do not know, the simulator refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any
from urllib.parse import unquote, urlsplit

from jsonschema import Draft202012Validator, FormatChecker

from airflow_provider_dstny.simulator.moments import is_date_time

_FORMATS = FormatChecker()


class ContractError(Exception):
    """A request that the document or the state does not allow; ``status`` is what a strict server answers.

    :param retry_after: seconds after which it may be allowed.
    :param headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after
        self.headers = dict(headers or {})


class _InvalidError(Exception):
    """A value that its schema does not allow."""


@dataclass(frozen=True)
class Call:
    """A request that the document knows, its parameters decoded."""

    operation: str
    ids: dict[str, Any]
    query: dict[str, Any]
    body: Any


class Contract:
    """One OpenAPI document.

    :param name: a document of this package.
    :param invalid_status: what the API answers to a value that its schema does not allow.
    """

    def __init__(self, name: str, *, invalid_status: int = 422) -> None:
        self._invalid_status = invalid_status
        text = files("airflow_provider_dstny.simulator").joinpath("openapi", f"{name}.json").read_text("utf-8")
        self.document: dict[str, Any] = json.loads(text)

    @property
    def title(self) -> str:
        return str(self.document["info"]["title"])

    @property
    def base_path(self) -> str:
        return str(self.document["servers"][0]["url"])

    @cached_property
    def operations(self) -> list[str]:
        return [operation["operationId"] for _, _, operation in self._entries]

    def check(self, method: str, raw_path: str, query: Iterable[tuple[str, str]], body: bytes) -> Call:
        """Match a request and check every part of it.

        :param raw_path: below the base path, percent-encoded as it came.
        :raises ContractError: unknown path, wrong method, or a parameter or field that is not documented.
        """
        methods: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
        for known_method, pattern, operation in self._entries:
            if match := pattern.fullmatch(raw_path):
                methods[known_method] = operation, match.groupdict()
        if not methods:
            raise ContractError(404, f"Cannot {method} {raw_path}")
        if method not in methods:
            raise ContractError(405, f"{raw_path} takes {', '.join(sorted(methods))}, not {method}")
        operation, segments = methods[method]
        declared = {(p["in"], p["name"]): p["schema"] for p in operation.get("parameters", ())}
        path = {name: [unquote(segment)] for name, segment in segments.items()}
        try:
            ids = {name: _decoded(name, declared["path", name], value) for name, value in path.items()}
            return Call(operation["operationId"], ids, _query(declared, query), _body(operation, body))
        except _InvalidError as error:
            raise ContractError(self._invalid_status, str(error)) from None

    @cached_property
    def _entries(self) -> list[tuple[str, re.Pattern[str], dict[str, Any]]]:
        return [
            (method.upper(), re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(template))), operation)
            for template, methods in self.document["paths"].items()
            for method, operation in methods.items()
        ]


def _query(declared: Mapping[tuple[str, str], Any], query: Iterable[tuple[str, str]]) -> dict[str, Any]:
    given: dict[str, list[str]] = {}
    for name, value in query:
        given.setdefault(name, []).append(value)
    if unknown := sorted(name for name in given if ("query", name) not in declared):
        raise ContractError(400, f"unknown query parameter: {', '.join(unknown)}")
    return {name: _decoded(name, declared["query", name], values) for name, values in given.items()}


def _decoded(name: str, schema: Mapping[str, Any], values: list[str]) -> Any:
    if schema["type"] == "array":
        decoded: Any = [_typed(schema["items"], value) for value in values]
    elif len(values) > 1:
        raise ContractError(400, f"{name} is given {len(values)} times")
    else:
        decoded = _typed(schema, values[0])
    _validate(name, schema, decoded)
    return decoded


def _typed(schema: Mapping[str, Any], value: str) -> Any:
    return int(value) if schema["type"] == "integer" and re.fullmatch(r"-?\d+", value) else value


def _body(operation: Mapping[str, Any], body: bytes) -> Any:
    if "requestBody" not in operation:
        if body:
            raise ContractError(400, "this operation takes no body")
        return None
    try:
        decoded = json.loads(body or b"{}")
    except ValueError:
        raise ContractError(400, "the body is not JSON") from None
    _validate("body", operation["requestBody"]["content"]["application/json"]["schema"], decoded)
    return decoded


def _validate(name: str, schema: Mapping[str, Any], value: Any) -> None:
    errors = Draft202012Validator(schema, format_checker=_FORMATS).iter_errors(value)
    for error in errors:
        where = ".".join([name, *map(str, error.absolute_path)])
        raise _InvalidError(f"{where}: {error.validator} {json.dumps(error.validator_value)[:120]} is not met")


def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or is_date_time(value)


def _is_uri(value: object) -> bool:
    if not isinstance(value, str):
        return True
    parts = urlsplit(value)
    return bool(parts.scheme and (parts.netloc or parts.path)) and value.isascii() and " " not in value


# Without optional packages jsonschema lets any text pass as these two.
_FORMATS.checks("date-time")(_is_date_time)
_FORMATS.checks("uri", raises=ValueError)(_is_uri)
