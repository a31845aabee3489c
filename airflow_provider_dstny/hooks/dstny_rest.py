"""Connections to the REST API v1 of Dstny CI 2.0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.hooks.base import DstnyBaseHook

if TYPE_CHECKING:
    from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
    from airflow_provider_dstny.api.operation import Steps

#: No conversation has this id: asking for it shows a scope and spends no quota.
_NOBODY = "00000000-0000-0000-0000-000000000000"


class DstnyRestHook(DstnyBaseHook["DstnyRestClient"]):
    """Connection and token of the REST API v1 of Dstny CI 2.0.

    .. code-block:: python

        with DstnyRestHook("dstny_rest_default").get_conn() as rest:
            for conversation in rest.iter_conversations(date_from=..., date_to=...):
                ...

    :param dstny_conn_id: a connection of type ``dstny_rest``: host = base URL, password = ``mt_`` token.
    """

    conn_type = "dstny_rest"
    hook_name = "Dstny REST API v1"
    default_conn_name = "dstny_rest_default"

    def __init__(self, dstny_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(dstny_conn_id, **kwargs)

    @classmethod
    def client_class(cls) -> type[DstnyRestClient]:
        from airflow_provider_dstny.api.dstny_rest import DstnyRestClient

        return DstnyRestClient

    def _greet(self, client: DstnyRestClient) -> str:
        account = client.get_account()
        scopes = client.run(_scopes(client))
        told = [f"Account: {account.name or account.id or 'without a name'}."]
        for words, answer in (("Scopes it has", True), ("scopes it lacks", False), ("not to be told", None)):
            if named := [scope for scope, has in scopes.items() if has is answer]:
                told.append(f"{words}: {', '.join(named)};")
        return " ".join(told).rstrip(";") + "."


def _scopes(client: DstnyRestClient) -> Steps[dict[str, bool | None]]:
    """Tell of each scope whether the token has it, None where that cannot be seen without doing something."""
    from airflow_provider_dstny.api.errors import (
        DstnyApiError,
        DstnyNotFoundError,
        DstnyResponseError,
        DstnyScopeError,
    )

    questions: dict[str, Steps[Any]] = {
        "conversations": client.get_summary.steps(_NOBODY),
        "transcripts": client.get_transcript.steps(_NOBODY),
        "insights": client.get_insights.steps(_NOBODY),
        "recordings": client.get_recording_url.steps(_NOBODY),
        "users": client.list_users.steps(),
        "teams": client.list_teams.steps(),
        "departments": client.list_departments.steps(),
    }
    found: dict[str, bool | None] = dict.fromkeys([*questions, "notetaker"])
    for scope, question in questions.items():
        try:
            yield from question
            found[scope] = True
        except DstnyScopeError:
            found[scope] = False
        except DstnyNotFoundError:
            found[scope] = True
        except (DstnyApiError, DstnyResponseError) as error:
            if error.affects_all:
                break
    return found
