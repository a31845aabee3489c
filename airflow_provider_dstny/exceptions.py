"""Every error this provider raises on its own behalf, importable from one place."""

from __future__ import annotations

from airflow_provider_dstny.api.errors import (
    DstnyAmbiguousError,
    DstnyApiError,
    DstnyAuthError,
    DstnyConnectionError,
    DstnyError,
    DstnyNotFoundError,
    DstnyQuotaError,
    DstnyRateLimitError,
    DstnyResponseError,
    DstnyScopeError,
    DstnyServerError,
    DstnyTimeoutError,
    DstnyValidationError,
)

__all__ = [
    "DstnyAmbiguousError",
    "DstnyApiError",
    "DstnyAuthError",
    "DstnyConnectionError",
    "DstnyError",
    "DstnyNotFoundError",
    "DstnyQuotaError",
    "DstnyRateLimitError",
    "DstnyResponseError",
    "DstnyScopeError",
    "DstnyServerError",
    "DstnyTimeoutError",
    "DstnyValidationError",
]
