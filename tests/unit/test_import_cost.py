"""What a DAG file pays for importing the provider, in modules: the seconds are printed by the benchmark."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import json, sys
# What every DAG file has; airflow.sdk of Airflow 3.4 loads nothing before it is asked for something.
from airflow.sdk import DAG
# Airflow 3.2 and later load this one by themselves.
import airflow.providers.common.compat
before = set(sys.modules)
import airflow_provider_dstny.operators.agents
import airflow_provider_dstny.operators.conversations
import airflow_provider_dstny.operators.directory
import airflow_provider_dstny.operators.notetaker
import airflow_provider_dstny.operators.teams
import airflow_provider_dstny.operators.users
import airflow_provider_dstny.sensors.conversations
import airflow_provider_dstny.transfers.object_storage
import airflow_provider_dstny.sensors.transcripts
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported_by(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_operators_and_sensors_add_few_modules():
    added = imported_by(SCRIPT)
    assert "airflow_provider_dstny.operators.agents" in added
    assert len(added) <= 20, added
    heavy = (
        "airflow_provider_dstny.api.models",
        "airflow_provider_dstny.api.client",
        "fastapi",
        "starlette",
        "requests",
        "aiohttp",
        "pyarrow",
    )
    assert not [name for name in added if name.startswith(heavy)]


def test_the_manifest_adds_nothing_but_itself():
    script = """
import json, sys
before = set(sys.modules)
import airflow_provider_dstny
airflow_provider_dstny.get_provider_info()
heavy = ("airflow", "httpx", "pydantic")
print(json.dumps(sorted(name for name in set(sys.modules) - before if name.startswith(heavy))))
"""
    assert imported_by(script) == ["airflow_provider_dstny", "airflow_provider_dstny.provider_info"]


def test_the_plugin_adds_nothing_but_itself_as_long_as_webhooks_are_off():
    script = """
import json, sys
import airflow.plugins_manager
before = set(sys.modules)
from airflow_provider_dstny.webhooks.plugin import DstnyPlugin
assert DstnyPlugin().fastapi_apps == []
print(json.dumps(sorted(set(sys.modules) - before - {"airflow_provider_dstny"})))
"""
    assert imported_by(script) == ["airflow_provider_dstny.webhooks", "airflow_provider_dstny.webhooks.plugin"]
