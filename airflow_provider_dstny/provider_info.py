"""The provider manifest: what Airflow learns about this package without importing the rest of it."""

from __future__ import annotations

from typing import Any

_INTEGER_OR_EMPTY = ["integer", "null"]
_NUMBER_OR_EMPTY = ["number", "null"]
_TEXT_OR_EMPTY = ["string", "null"]

#: In the order of the forms: what limits a token stands together.
_FIELDS: dict[str, dict[str, Any]] = {
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
        "description": "Pace of this token in one process, such as one task; of all that share a throttle URL.",
        "schema": {"type": _NUMBER_OR_EMPTY, "minimum": 1},
    },
    "daily_conversation_quota": {
        "label": "Daily conversation quota",
        "description": (
            "Different conversations that this token may read a UTC day, for planning exports. Default: 1000."
        ),
        "schema": {"type": _INTEGER_OR_EMPTY, "minimum": 1},
    },
    "throttle_url": {
        "label": "Throttle URL",
        "description": (
            "Where workers and triggerers share the pace of this token: redis://host:6379/0, "
            "postgresql://user:${PASSWORD}@host/database, or the absolute path of an SQLite file on one machine. "
            "${NAME} is replaced from the environment, so that no password need be here. "
            "Empty: each process keeps a pace of its own."
        ),
        "schema": {"type": _TEXT_OR_EMPTY},
    },
    "app_url": {
        "label": "App URL",
        "description": "Where people open conversations, for the link of a task. Default: https://app.meetric.com",
        "schema": {"type": _TEXT_OR_EMPTY},
    },
    "webhook_secrets": {
        "label": "Webhook secrets",
        "description": "Two, separated by a comma, while a new one takes over.",
        "schema": {"type": _TEXT_OR_EMPTY, "format": "password"},
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


def _fields(*left_out: str, pace: str, webhooks: str) -> dict[str, dict[str, Any]]:
    fields = {name: dict(field) for name, field in _FIELDS.items() if name not in left_out}
    fields["requests_per_minute"]["description"] += f" Empty: {pace}."
    fields["webhook_secrets"]["description"] = f"{webhooks} {_FIELDS['webhook_secrets']['description']}"
    return fields


#: Of APIs that sign no webhooks.
_AT_THE_END_OF_URLS = "What webhooks have at the end of their URL: /dstny/webhooks/<connection id>/<secret>."


def _connection_type(
    name: str,
    hook_name: str,
    hook_class: str,
    *,
    credential: str,
    example: str,
    host: str = "https://api.example.com",
    fields: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    return {
        "connection-type": name,
        "hook-name": hook_name,
        "hook-class-name": hook_class,
        "conn-fields": fields,
        "ui-field-behaviour": {
            "hidden-fields": ["schema", "login"],
            "relabeling": {
                # Messages, variables and files speak of host and password.
                "host": "Base URL (host)",
                "password": f"{credential} (password)",
                # Airflow 3.3.1 and 3.3.2 answer a test of a connection without a port with "Bad Request".
                "port": "Port (443 to test)",
            },
            "placeholders": {"host": host, "password": example, "port": "443"},
        },
    }


_INTEGRATION = "Dstny Conversational Intelligence"


def _modules(*names: str) -> list[dict[str, Any]]:
    return [{"integration-name": _INTEGRATION, "python-modules": [f"airflow_provider_dstny.{name}" for name in names]}]


PROVIDER_INFO: dict[str, Any] = {
    "package-name": "airflow-provider-dstny",
    "name": "Dstny",
    "description": "Dstny Conversational Intelligence: calls in, transcripts and AI-agent results out.",
    "integrations": [
        {"integration-name": _INTEGRATION, "external-doc-url": "https://www.dstny.com/", "tags": ["service"]}
    ],
    "hooks": _modules("hooks.dstny", "hooks.dstny_rest", "hooks.tellcasey"),
    "operators": _modules(
        "operators.agents",
        "operators.conversations",
        "operators.directory",
        "operators.notetaker",
        "operators.teams",
        "operators.users",
    ),
    "sensors": _modules("sensors.conversations", "sensors.transcripts"),
    "triggers": _modules("triggers.agents", "triggers.conversations", "triggers.events", "triggers.transcripts"),
    "transfers": [
        {
            "source-integration-name": _INTEGRATION,
            "target-integration-name": "Object Storage",
            "python-module": "airflow_provider_dstny.transfers.object_storage",
        }
    ],
    "asset-uris": [{"schemes": ["dstny"], "handler": "airflow_provider_dstny.assets.sanitize_uri"}],
    "config": {
        "dstny": {
            "description": "Dstny Conversational Intelligence.",
            "options": {
                "webhooks_enabled": {
                    "description": (
                        "Take webhooks in at /dstny/webhooks/<connection id> of the API server. Whoever knows the "
                        "secret of a connection can create events of its asset there, without a login."
                    ),
                    "version_added": "0.1.0",
                    "type": "boolean",
                    "example": None,
                    "default": "False",
                },
            },
        },
    },
    "extra-links": ["airflow_provider_dstny.links.DstnyConversationLink"],
    "connection-types": [
        _connection_type(
            "dstny",
            "Dstny API v2",
            "airflow_provider_dstny.hooks.dstny.DstnyHook",
            credential="API token",
            example="eyJ…",
            fields=_fields("daily_conversation_quota", pace="no limit", webhooks=_AT_THE_END_OF_URLS),
        ),
        _connection_type(
            "dstny_rest",
            "Dstny REST API v1",
            "airflow_provider_dstny.hooks.dstny_rest.DstnyRestHook",
            credential="API token",
            example="mt_…",
            fields=_fields(
                pace="60, what the API allows", webhooks="With which the webhooks of this account are signed."
            ),
        ),
        _connection_type(
            "tellcasey",
            "tellcasey",
            "airflow_provider_dstny.hooks.tellcasey.TellcaseyHook",
            credential="API key",
            example="sk_live_…",
            host="https://api.tellcasey.com",
            fields=_fields("app_url", "daily_conversation_quota", pace="no limit", webhooks=_AT_THE_END_OF_URLS),
        ),
    ],
}


def connection_form(connection_type: str) -> dict[str, Any]:
    """Return the manifest entry of a connection type."""
    return next(form for form in PROVIDER_INFO["connection-types"] if form["connection-type"] == connection_type)
