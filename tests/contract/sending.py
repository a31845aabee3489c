"""One try of a task that sends a call, in a process that may be killed; what Airflow keeps of it is a file here."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx

from airflow_provider_dstny.operators.conversations import DstnyCreateCallConversationOperator


class KeptState:
    """Airflow's state of a task instance, kept over tries."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> Any:
        return self._all().get(key)

    def set(self, key: str, value: Any) -> None:
        self._keep({**self._all(), key: value})

    def delete(self, key: str) -> None:
        self._keep({name: value for name, value in self._all().items() if name != key})

    def _all(self) -> dict[str, Any]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    def _keep(self, values: dict[str, Any]) -> None:
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(values))
        part.replace(self._path)


def die_when_answered(send: Callable[..., httpx.Response]) -> Callable[..., httpx.Response]:
    """Kill this process once the API has taken a POST, before anybody reads its answer."""

    def dying(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        response = send(client, request, **options)
        if request.method == "POST":
            os.kill(os.getpid(), signal.SIGKILL)
        return response

    return dying


def one_try(folder: Path, call: dict[str, Any], connection: str, try_number: int, *, dies: bool) -> None:
    os.environ["AIRFLOW_CONN_DSTNY_DEFAULT"] = connection
    if dies:
        httpx.Client.send = die_when_answered(httpx.Client.send)  # type: ignore[method-assign]
    context = {
        "ti": SimpleNamespace(try_number=try_number, max_tries=3, xcom_push=lambda key, value: None),
        "task_state_store": KeptState(folder / f"{call['call_external_id']}.json"),
    }
    try:
        told = DstnyCreateCallConversationOperator(task_id="create", call=call).execute(context)  # type: ignore[arg-type]
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    (folder / f"{call['call_external_id']}.told").write_text(told)
