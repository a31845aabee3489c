"""The provider manifest: what Airflow learns about this package without importing the rest of it."""

from __future__ import annotations

from typing import Any

_INTEGER_OR_EMPTY = ["integer", "null"]
_NUMBER_OR_EMPTY = ["number", "null"]
_TEXT_OR_EMPTY = ["string", "null"]

_DSTNY_FIELDS: dict[str, dict[str, Any]] = {
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "How long to wait for an answer. Default: 30.",
        "schema": {"type": _NUMBER_OR_EMPTY, "minimum": 1},
    },
    "max_retries": {
        "label": "Max retries",
        "description": "Further attempts of a request that may safely be repeated. Default: 4.",
        "schema": {"type": _INTEGER_OR_EMPTY, "minimum": 0},
    },
    "requests_per_minute": {
        "label": "Requests per minute",
        "description": "Pace of this token in one process, such as one task. Empty: no limit.",
        "schema": {"type": _NUMBER_OR_EMPTY, "minimum": 1},
    },
    "verify": {
        "label": "Verify TLS",
        "description": "true (default), false, or the path of a CA bundle on the workers.",
        "schema": {"type": _TEXT_OR_EMPTY},
    },
    "paths": {
        "label": "Path overrides (JSON)",
        "description": (
            "For accounts whose API lives elsewhere, by operation: "
            '{"get_transcript": "/sessions/{conversation_id}/transcript"}'
        ),
        "schema": {"type": _TEXT_OR_EMPTY},
    },
}

PROVIDER_INFO: dict[str, Any] = {
    "package-name": "airflow-provider-dstny",
    "name": "Dstny",
    "description": "Dstny Conversational Intelligence: calls in, transcripts and AI-agent results out.",
    "integrations": [
        {
            "integration-name": "Dstny Conversational Intelligence",
            "external-doc-url": "https://www.dstny.com/",
            "tags": ["service"],
        }
    ],
    "hooks": [
        {
            "integration-name": "Dstny Conversational Intelligence",
            "python-modules": ["airflow_provider_dstny.hooks.dstny"],
        }
    ],
    "operators": [
        {
            "integration-name": "Dstny Conversational Intelligence",
            "python-modules": [
                "airflow_provider_dstny.operators.agents",
                "airflow_provider_dstny.operators.conversations",
            ],
        }
    ],
    "sensors": [
        {
            "integration-name": "Dstny Conversational Intelligence",
            "python-modules": ["airflow_provider_dstny.sensors.transcripts"],
        }
    ],
    "triggers": [
        {
            "integration-name": "Dstny Conversational Intelligence",
            "python-modules": ["airflow_provider_dstny.triggers.transcripts"],
        }
    ],
    "connection-types": [
        {
            "connection-type": "dstny",
            "hook-name": "Dstny API v2",
            "hook-class-name": "airflow_provider_dstny.hooks.dstny.DstnyHook",
            "conn-fields": _DSTNY_FIELDS,
            "ui-field-behaviour": {
                # The port stays visible: Airflow 3.3.1 and 3.3.2 cannot test a connection saved without one.
                "hidden-fields": ["schema", "login"],
                "relabeling": {"host": "Base URL", "password": "API token (JWT)"},
                "placeholders": {"host": "https://api.example.com", "port": "443"},
            },
        }
    ],
}


def connection_form(connection_type: str) -> dict[str, Any]:
    """Return the manifest entry of a connection type."""
    return next(form for form in PROVIDER_INFO["connection-types"] if form["connection-type"] == connection_type)
