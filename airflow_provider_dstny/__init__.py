"""Apache Airflow provider for Dstny Conversational Intelligence."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"


def get_provider_info() -> dict[str, Any]:
    """Return the provider manifest; Airflow calls this through the ``apache_airflow_provider`` entry point."""
    from airflow_provider_dstny.provider_info import PROVIDER_INFO

    return PROVIDER_INFO
