"""The plugin's sink: a delivery and its asset event, in one transaction of Airflow's database."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_dstny.assets import conversations_uri, partition_keys
from airflow_provider_dstny.webhooks import inbox
from airflow_provider_dstny.webhooks.receiver import StoreError
from airflow_provider_dstny.webhooks.verify import WebhookEvent

#: What lies between two events that must not be at the same moment.
_MOMENT = timedelta(microseconds=1)
_log = logging.getLogger(__name__)


class MetadataDatabase:
    """Stores a delivery and creates its asset event in one transaction of Airflow's database."""

    def __init__(self) -> None:
        self._prepared = threading.Lock()
        self._is_prepared = False

    async def store(self, dstny_conn_id: str, event: WebhookEvent) -> bool:
        try:
            return await asyncio.to_thread(self._store, dstny_conn_id, event)
        except Exception as error:
            # Nothing is stored; Airflow raises more than what its database does. Messages may show parameters.
            raise StoreError(type(error).__name__) from None

    def _store(self, dstny_conn_id: str, event: WebhookEvent) -> bool:
        from airflow.utils.session import create_session

        now = datetime.now(UTC)
        with create_session() as session:
            self._prepare(session)
            connection = session.connection()
            inbox.forget(connection, now)
            is_new = inbox.add(connection, dstny_conn_id, event, now, handed=True)
            if is_new:
                _register(conversations_uri(dstny_conn_id), event, session)
        return is_new

    def _prepare(self, session: Any) -> None:
        with self._prepared:
            if not self._is_prepared:
                inbox.create_table(session.get_bind())
                self._is_prepared = True


def _register(uri: str, event: WebhookEvent, session: Any) -> None:
    """Create the events of an asset that the DAGs on it want, so that the next run of each takes them, too."""
    from airflow.assets.manager import asset_manager

    asset = _asset(uri, session)
    has_partitions = _hold_dags(asset, session)
    made = []
    for key in partition_keys(has_partitions.values(), event.conversation_id):
        # Airflow before 3.2 knows no partitions.
        partition: dict[str, Any] = {} if key is None else {"partition_key": key}
        one = asset_manager.register_asset_change(asset=asset, extra=event.to_json(), session=session, **partition)
        if one is not None and key is None:
            made.append(one)
    _queue(asset, [dag_id for dag_id, has in has_partitions.items() if not has], made, session)


def _asset(uri: str, session: Any) -> Any:
    """Return the asset that DAGs know by a URI; one that no DAG knows yet is made."""
    from airflow.models.asset import AssetModel
    from sqlalchemy import select

    # Of those with one URI, at most one is active; the others are what is left of assets that DAGs had.
    known = session.scalars(select(AssetModel).where(AssetModel.uri == uri)).all()
    asset = next(iter(sorted(known, key=lambda one: (one.active is None, one.name != uri))), None)
    if asset is None:
        asset = AssetModel(name=uri, uri=uri, group="asset", extra={})
        session.add(asset)
        session.flush()
    return asset


def _hold_dags(asset: Any, session: Any) -> dict[str, bool]:
    """Keep schedulers from making runs of the DAGs on an asset; return whether each has partitions.

    Schedulers lock a DAG before they take its place in the queue. So what they do for it lies before or after all that
    this transaction does, and transactions like this one follow each other. But on SQLite, which locks no rows: what
    comes while a run is made may be left to the run of the next event.
    """
    from airflow.models.asset import DagScheduleAssetReference
    from airflow.models.dag import DagModel
    from airflow.utils.sqlalchemy import with_row_locks
    from sqlalchemy import select

    # Airflow 3.0 has this relation of an asset by another name.
    on_asset = select(DagScheduleAssetReference.dag_id).where(DagScheduleAssetReference.asset_id == asset.id)
    # In one order, so that nobody waits for somebody who waits for them.
    held = select(DagModel).where(DagModel.dag_id.in_(on_asset)).order_by(DagModel.dag_id)
    dags = session.scalars(with_row_locks(held, session, of=DagModel)).all()
    return {dag.dag_id: bool(getattr(dag, "timetable_partitioned", False)) for dag in dags}


def _queue(asset: Any, dag_ids: Collection[str], events: Collection[Any], session: Any) -> None:
    """Give events, and the places of DAGs in the queue, the same moment.

    A run takes the events that are later than the run before, until the moment of its place in the queue. A place that
    was there before would leave these events behind; and by the clock of this machine they might be earlier than a run.
    """
    from airflow.models.asset import AssetDagRunQueue
    from airflow.models.dagrun import DagRun
    from airflow.utils.types import DagRunType
    from sqlalchemy import func, select, update

    triggered = (DagRun.run_type == DagRunType.ASSET_TRIGGERED) & DagRun.dag_id.in_(dag_ids)
    latest = session.scalar(select(func.max(DagRun.run_after)).where(triggered))
    moment = datetime.now(UTC) if latest is None else max(datetime.now(UTC), latest + _MOMENT)
    for event in events:
        event.timestamp = moment
    session.flush()
    queued = (AssetDagRunQueue.asset_id == asset.id) & AssetDagRunQueue.target_dag_id.in_(dag_ids)
    moved = update(AssetDagRunQueue).where(queued).values(created_at=moment)
    session.execute(moved.execution_options(synchronize_session=False))
