"""The numbers of clients, told to the metrics backend of Airflow. Imported when a client is made."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import Stats

from airflow_provider_dstny.api.metrics import Tags


class AirflowMetrics:
    """Metrics that go where Airflow's own go: StatsD, Datadog or OpenTelemetry, whichever is configured."""

    def count(self, name: str, value: int = 1, tags: Tags | None = None) -> None:
        Stats.incr(name, value, tags=dict(tags or {}))

    def timing(self, name: str, seconds: float, tags: Tags | None = None) -> None:
        # A number would be taken as milliseconds.
        Stats.timing(name, timedelta(seconds=seconds), tags=dict(tags or {}))

    def gauge(self, name: str, value: float, tags: Tags | None = None) -> None:
        Stats.gauge(name, value, tags=dict(tags or {}))
