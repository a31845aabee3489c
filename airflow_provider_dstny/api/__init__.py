"""The Dstny APIs for any Python program. Nothing below this package imports Airflow."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_dstny.api.dstny import DstnyClient
    from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
    from airflow_provider_dstny.api.tellcasey import TellcaseyClient

__all__ = ["DstnyClient", "DstnyRestClient", "TellcaseyClient"]

_MODULES = {"DstnyClient": "dstny", "DstnyRestClient": "dstny_rest", "TellcaseyClient": "tellcasey"}


def __getattr__(name: str) -> Any:
    # Lazy, so that importing api.errors at DAG parse time does not build the models.
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
