"""What the simulator asks of each of the APIs that it serves."""

from __future__ import annotations

from typing import Any, Protocol

from airflow_provider_dstny.simulator.contract import Call, Contract, ContractError

_PHRASES = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 429: "Too Many Requests"}


class Api(Protocol):
    """One API: its document, its tokens, and the state behind it."""

    #: The name of the document, as books and faults know it.
    name: str
    contract: Contract

    def authorize(self, token: str) -> ContractError | None:
        """Return why a token may not make a request now, None if it may."""

    def answer(self, call: Call, token: str) -> Any:
        """Do what a request asks for and return the JSON answer.

        :raises ContractError: it cannot be done.
        """

    def seconds_to_answer(self, call: Call) -> float:
        """Return how long the API thinks before it answers."""
        return 0.0

    def error_body(self, status: int, message: str, retry_after: float | None = None) -> dict[str, Any]:
        """Return the body of an error."""
        return dstny_error(status, message, retry_after)


def dstny_error(status: int, message: str, retry_after: float | None = None) -> dict[str, Any]:
    """Return the body of an error as both Dstny APIs write it; with a delay it names no error."""
    rest = {"error": _PHRASES.get(status, "Error")} if retry_after is None else {"retryAfter": retry_after}
    return {"statusCode": status, "message": message, **rest}
