"""What a task tells Airflow of an export: the interval it is for, its XCom, and the extras of its asset events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from airflow_provider_dstny.export.windows import Interval
from airflow_provider_dstny.landing.curated import DIRECTORY
from airflow_provider_dstny.landing.export import Outcome

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

#: What is not a table of the lake.
_NOT_TABLES = ("raw", DIRECTORY)


def interval_of(context: Context) -> Interval:
    """Return the data interval of a DAG run; of one that has none, the moment after which it may run."""
    run: Any = context["dag_run"]
    start, end = run.data_interval_start, run.data_interval_end
    if start is None or end is None:
        start = end = run.run_after
    return Interval(start, end)


def landed(outcome: Outcome) -> dict[str, Any]:
    """Return what the XCom of a run holds: paths and counts."""
    manifest = outcome.manifest
    assert manifest is not None
    rows: Counter[str] = Counter()
    for file in manifest.files:
        if file.table not in _NOT_TABLES:
            rows[file.table] += file.rows
    return {
        "manifest": outcome.manifest_path,
        "interval": manifest.interval,
        "requests": manifest.requests,
        "rows": dict(sorted(rows.items())),
        **outcome.counts,
    }


def planned(outcome: Outcome) -> dict[str, Any]:
    """Return what the XCom of a dry run holds."""
    return {"dry_run": True, "days": [day._asdict() for day in outcome.days], **outcome.counts}


def plan_table(outcome: Outcome) -> str:
    """Return a plan for people, a line for each day."""
    lines = ["day          conversations  requests  minutes"]
    for number, day in enumerate(outcome.days):
        name = "today" if number == 0 else f"in {number} day{'s' * (number > 1)}"
        lines.append(f"{name:<12} {day.conversations:>13}  {day.requests:>8}  {day.minutes:>7g}")
    return "\n".join(lines)


def tell_outlets(outlets: Iterable[Any], context: Context, result: dict[str, Any]) -> None:
    """Give the asset events of a task what was landed."""
    from airflow.providers.common.compat.sdk import Asset

    for outlet in outlets:
        if isinstance(outlet, Asset):
            context["outlet_events"][outlet].extra.update(result)
