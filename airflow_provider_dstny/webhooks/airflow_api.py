"""Airflow's public REST API, as far as the stand-alone receiver needs it: events of assets."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any

import httpx

from airflow_provider_dstny.webhooks.sinks import keys_for
from airflow_provider_dstny.webhooks.verify import WebhookEvent

#: Seconds for which the DAGs of an asset are not asked for again.
_REMEMBERED = 60.0
_PAGE = 100


class AirflowError(Exception):
    """Airflow could not be told; trying again may help."""


class AirflowApi:
    """A user of Airflow's REST API, with the role *Op* or another that may create events of assets.

    An async context manager.

    :param url: of the API server, as people open it.
    :param username: with ``password`` exchanged for a token at ``/auth/token``; None where everybody is an admin.
    """

    def __init__(
        self,
        url: str,
        username: str | None,
        password: str | None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url.rstrip("/"), timeout=30.0, transport=transport)
        self._credentials = {"username": username, "password": password} if username else None
        self._token: str | None = None
        self._clock = clock
        self._assets: dict[str, tuple[float, int, list[bool]]] = {}

    async def __aenter__(self) -> AirflowApi:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def partition_keys(self, uri: str, event: WebhookEvent) -> Collection[str | None]:
        _, partitioned = await self._asset(uri)
        return keys_for(partitioned, event)

    async def create_event(self, uri: str, event: WebhookEvent, partition_key: str | None) -> None:
        asset_id, _ = await self._asset(uri)
        body: dict[str, Any] = {"asset_id": asset_id, "extra": event.to_json()}
        if partition_key is not None:
            body["partition_key"] = partition_key
        await self._ask("POST", "/api/v2/assets/events", json=body)

    async def has_event(self, uri: str, event: WebhookEvent, partition_key: str | None, since: datetime) -> bool:
        asset_id, _ = await self._asset(uri)
        offset = 0
        while True:
            params = {
                "asset_id": asset_id,
                "timestamp_gte": since.isoformat(),
                "limit": _PAGE,
                "offset": offset,
                "order_by": "timestamp",
            }
            page = await self._ask("GET", "/api/v2/assets/events", params=params)
            events = page.get("asset_events", [])
            for one in events:
                extra = one.get("extra") or {}
                if extra.get("delivery_id") == event.delivery_id and one.get("partition_key") == partition_key:
                    return True
            # Airflow may be configured to give fewer than were asked for.
            if not events:
                return False
            offset += len(events)

    async def leave_none_behind(self, uri: str) -> None:
        """Create an event without a conversation, if no run has taken the latest one.

        A run takes the events until the first one that waits, and those after it only when yet another one comes.
        """
        asset_id, partitioned = await self._asset(uri)
        params = {"asset_id": asset_id, "limit": 1, "order_by": "-timestamp"}
        page = await self._ask("GET", "/api/v2/assets/events", params=params)
        latest = next(iter(page.get("asset_events", [])), None)
        if latest is not None and not latest.get("created_dagruns") and not all(partitioned):
            await self._ask(
                "POST", "/api/v2/assets/events", json={"asset_id": asset_id, "extra": {"event": "reminder"}}
            )

    async def _asset(self, uri: str) -> tuple[int, list[bool]]:
        """Return the id of an asset, and of each DAG on it whether it has partitions."""
        known = self._assets.get(uri)
        if known is None or self._clock() - known[0] > _REMEMBERED:
            page = await self._ask("GET", "/api/v2/assets", params={"uri_pattern": uri, "limit": _PAGE})
            found = [asset for asset in page.get("assets", []) if asset.get("uri") == uri]
            if not found:
                raise AirflowError(f"no DAG uses the asset {uri} yet")
            partitioned = [
                bool((await self._ask("GET", f"/api/v2/dags/{dag['dag_id']}")).get("timetable_partitioned"))
                for dag in found[0].get("scheduled_dags") or found[0].get("consuming_dags") or []
            ]
            known = self._assets[uri] = self._clock(), int(found[0]["id"]), partitioned
        return known[1], known[2]

    async def _ask(self, method: str, path: str, **request: Any) -> Any:
        for is_last in (False, True):
            try:
                if self._token is None:
                    self._token = await self._new_token()
                response = await self._http.request(
                    method, path, headers={"Authorization": f"Bearer {self._token}"}, **request
                )
            except httpx.HTTPError as error:
                raise AirflowError(f"Airflow was not reached: {type(error).__name__}") from None
            if response.status_code != 401 or is_last:
                break
            # Tokens end after a day.
            self._token = None
        if not response.is_success:
            raise AirflowError(f"Airflow answered {response.status_code} to {method} {path}")
        return response.json()

    async def _new_token(self) -> str:
        if self._credentials is None:
            response = await self._http.get("/auth/token")
        else:
            response = await self._http.post("/auth/token", json=self._credentials)
        token = response.json().get("access_token") if response.is_success else None
        if not token:
            raise AirflowError(f"Airflow gave no token: {response.status_code}. Check the user and the password")
        return str(token)
