"""Airflow's public REST API, as far as the stand-alone receiver needs it: events of assets."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from airflow_provider_dstny import assets
from airflow_provider_dstny.webhooks.sinks import NotCreatedError
from airflow_provider_dstny.webhooks.verify import WebhookEvent

#: Seconds for which the DAGs of an asset are not asked for again.
_REMEMBERED = 60.0
_PAGE = 100
#: What the reminders of :meth:`AirflowApi.leave_none_behind` say they are.
_REMINDER = "reminder"
#: Reminders of one event for each DAG, at the most: one that takes none of them will take none.
_REMINDERS = 3
#: Errors before anything was sent.
_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_log = logging.getLogger(__name__)


class AirflowError(Exception):
    """Airflow could not be told, or its answer was lost; trying again may help."""


class AirflowRefusedError(AirflowError, NotCreatedError):
    """Airflow was not reached, or has refused: it has surely done nothing."""


@dataclass(frozen=True, slots=True)
class _Dag:
    """A DAG on an asset.

    :param takes_events: it is neither paused nor gone.
    """

    dag_id: str
    is_partitioned: bool
    takes_events: bool


@dataclass(frozen=True, slots=True)
class _Asset:
    asset_id: int
    dags: Sequence[_Dag]


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
        self._assets: dict[str, tuple[float, _Asset]] = {}

    async def __aenter__(self) -> AirflowApi:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.aclose()

    async def partition_keys(self, uri: str, event: WebhookEvent) -> Collection[str | None]:
        """Return the partition keys with which the DAGs on an asset want an event; None is for those without."""
        dags = (await self._asset(uri)).dags
        return assets.partition_keys([dag.is_partitioned for dag in dags], event.conversation_id)

    async def create_event(self, uri: str, event: WebhookEvent, partition_key: str | None) -> None:
        """Create an event of an asset.

        :raises NotCreatedError: it is not created; after any other error it may be, and even later.
        """
        body: dict[str, Any] = {"asset_id": (await self._asset(uri)).asset_id, "extra": event.to_json()}
        if partition_key is not None:
            body["partition_key"] = partition_key
        await self._ask("POST", "/api/v2/assets/events", json=body)

    async def has_event(self, uri: str, event: WebhookEvent, partition_key: str | None, since: datetime) -> bool:
        """Tell whether the asset has this event already.

        :raises NotCreatedError: Airflow was not asked.
        """
        asset, offset = await self._asset(uri), 0
        # Airflow may be configured to give fewer than were asked for.
        while page := await self._events(asset, order_by="timestamp", timestamp_gte=since.isoformat(), offset=offset):
            for one in page:
                if _extra(one).get("delivery_id") == event.delivery_id and one.get("partition_key") == partition_key:
                    return True
            offset += len(page)
        return False

    async def leave_none_behind(self, uri: str) -> bool:
        """Tell whether each DAG has taken the latest event; create one without a conversation if one never would.

        A run takes the events until the moment of its DAG's place in the queue, where a DAG whose runs are as many as
        may be keeps it. Those after it are taken only when yet another one comes and finds the place free.
        """
        asset = await self._find(uri)
        dags = {dag.dag_id for dag in asset.dags if dag.takes_events and not dag.is_partitioned} if asset else set()
        if asset is None or not dags:
            return True
        # Before the events: who leaves the queue meanwhile has taken its events when these are read.
        queued = await self._queued(asset)
        has_latest, taken_by, reminders = False, set(), 0
        for event in await self._events(asset, order_by="-timestamp"):
            # Who has taken a later one is past those before.
            taken_by |= {run["dag_id"] for run in event.get("created_dagruns", [])}
            if _extra(event).get("event") == _REMINDER:
                reminders += 1
            elif event.get("partition_key") is None:
                has_latest = True
                break
        late = dags - taken_by if has_latest else set()
        if not late - queued:
            return not late
        if reminders >= _REMINDERS * len(dags):
            _log.warning("No run takes the latest event of %s: %s", uri, ", ".join(sorted(late - queued)))
            return True
        body = {"asset_id": asset.asset_id, "extra": {"event": _REMINDER}}
        await self._ask("POST", "/api/v2/assets/events", json=body)
        return False

    async def _events(self, asset: _Asset, **params: str | int) -> Sequence[dict[str, Any]]:
        """Return a page of the events of an asset."""
        wanted = {"asset_id": asset.asset_id, "limit": _PAGE, **params}
        events: list[dict[str, Any]] = (await self._ask("GET", "/api/v2/assets/events", params=wanted))["asset_events"]
        return events

    async def _queued(self, asset: _Asset) -> set[str]:
        """Return the DAGs that have a place in the queue for an asset."""
        # Older versions answer 404 if there are none.
        page = await self._ask("GET", f"/api/v2/assets/{asset.asset_id}/queuedEvents", missing={})
        return {place["dag_id"] for place in page.get("queued_events", [])}

    async def _asset(self, uri: str) -> _Asset:
        """Return an asset as it was a short while ago.

        :raises AirflowRefusedError: there is none.
        """
        at, asset = self._assets.get(uri, (0.0, None))
        if asset is None or self._clock() - at > _REMEMBERED:
            asset = await self._find(uri)
        if asset is None:
            raise AirflowRefusedError(f"no DAG uses the asset {uri} yet")
        return asset

    async def _find(self, uri: str) -> _Asset | None:
        """Return an asset as it is now, None if no DAG uses it."""
        page = await self._ask("GET", "/api/v2/assets", params={"uri_pattern": uri, "limit": _PAGE})
        found = next((asset for asset in page.get("assets", []) if asset.get("uri") == uri), None)
        if found is None:
            return None
        dags = []
        # Airflow 3.0 calls them otherwise.
        for one in found.get("scheduled_dags") or found.get("consuming_dags") or []:
            dag = await self._ask("GET", f"/api/v2/dags/{one['dag_id']}")
            takes_events = not dag.get("is_paused") and not dag.get("is_stale")
            dags.append(_Dag(one["dag_id"], bool(dag.get("timetable_partitioned")), takes_events))
        asset = _Asset(int(found["id"]), dags)
        self._assets[uri] = self._clock(), asset
        return asset

    async def _ask(self, method: str, path: str, *, missing: Any = None, **request: Any) -> Any:
        """Return Airflow's answer.

        :param missing: what 404 means; None if it is an error.
        :raises AirflowRefusedError: Airflow has surely done nothing.
        :raises AirflowError: it may have done it, or may do it yet.
        """
        for is_last in (False, True):
            try:
                if self._token is None:
                    self._token = await self._new_token()
                response = await self._http.request(
                    method, path, headers={"Authorization": f"Bearer {self._token}"}, **request
                )
            except httpx.HTTPError as error:
                kind = AirflowRefusedError if isinstance(error, _NOTHING_SENT) else AirflowError
                raise kind(f"Airflow was not reached: {type(error).__name__}") from None
            if response.status_code != 401 or is_last:
                break
            # Tokens end after a day.
            self._token = None
        if response.status_code == 404 and missing is not None:
            return missing
        if not response.is_success:
            kind = AirflowRefusedError if response.status_code < 500 else AirflowError
            raise kind(f"Airflow answered {response.status_code} to {method} {path}")
        return response.json()

    async def _new_token(self) -> str:
        if self._credentials is None:
            response = await self._http.get("/auth/token")
        else:
            response = await self._http.post("/auth/token", json=self._credentials)
        token = response.json().get("access_token") if response.is_success else None
        if not token:
            raise AirflowRefusedError(f"Airflow gave no token: {response.status_code}. Check the user and the password")
        return str(token)


def _extra(event: dict[str, Any]) -> dict[str, Any]:
    return event.get("extra") or {}
