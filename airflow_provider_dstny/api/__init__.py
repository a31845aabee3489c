"""The Dstny APIs for any Python program. Nothing below this package imports Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_dstny.api.dstny import DstnyClient

__all__ = ["DstnyClient"]


def __getattr__(name: str) -> Any:
    # Lazy, so that importing api.errors at DAG parse time does not build the models.
    if name == "DstnyClient":
        from airflow_provider_dstny.api.dstny import DstnyClient

        return DstnyClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
