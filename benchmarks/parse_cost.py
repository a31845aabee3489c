"""What a DAG file pays for importing the operators: wall time and modules over ``airflow.sdk`` alone.

Prints this provider beside the http provider (``pip install apache-airflow-providers-http``), which is what
one would use instead. The plugin is what every component of Airflow imports, over Airflow's own plugins manager. Each
figure is the median of new processes, measured in turn.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys

RUNS = 10
OPERATORS_AND_SENSORS = (
    "airflow_provider_dstny.operators.agents",
    "airflow_provider_dstny.operators.conversations",
    "airflow_provider_dstny.operators.directory",
    "airflow_provider_dstny.operators.notetaker",
    "airflow_provider_dstny.operators.teams",
    "airflow_provider_dstny.operators.users",
    "airflow_provider_dstny.sensors.conversations",
    "airflow_provider_dstny.sensors.transcripts",
    "airflow_provider_dstny.transfers.object_storage",
)
PLUGIN = "the plugin of webhooks"
CANDIDATES = {
    "airflow-provider-dstny: operators and sensors": OPERATORS_AND_SENSORS,
    "the same and the hooks": (
        *OPERATORS_AND_SENSORS,
        "airflow_provider_dstny.hooks.dstny",
        "airflow_provider_dstny.hooks.dstny_rest",
        "airflow_provider_dstny.hooks.tellcasey",
    ),
    "http provider: operator and sensor": (
        "airflow.providers.http.operators.http",
        "airflow.providers.http.sensors.http",
    ),
    PLUGIN: ("airflow_provider_dstny.webhooks.plugin",),
}
SCRIPT = """
import importlib, json, sys, time
importlib.import_module({base!r})
modules, began = len(sys.modules), time.perf_counter()
for name in {names!r}:
    importlib.import_module(name)
print(json.dumps([1000 * (time.perf_counter() - began), len(sys.modules) - modules]))
"""


def measure(base: str, names: tuple[str, ...]) -> tuple[float, int] | None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(base=base, names=names)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return None
    milliseconds, modules = json.loads(done.stdout.splitlines()[-1])
    return milliseconds, modules


def main() -> None:
    figures: dict[str, list[tuple[float, int]]] = {name: [] for name in CANDIDATES}
    for _ in range(RUNS):
        for name, modules in CANDIDATES.items():
            if figure := measure("airflow.plugins_manager" if name == PLUGIN else "airflow.sdk", modules):
                figures[name].append(figure)
    print(f"Python {platform.python_version()}, median of {RUNS} processes each, over airflow.sdk alone\n")
    print(f"{'import':<48} {'ms':>8} {'min':>8} {'max':>8} {'modules':>8}")
    for name, measured in figures.items():
        if not measured:
            print(f"{name:<48} not installed")
            continue
        times = [milliseconds for milliseconds, _ in measured]
        modules = measured[0][1]
        print(f"{name:<48} {statistics.median(times):>8.1f} {min(times):>8.1f} {max(times):>8.1f} {modules:>8}")


if __name__ == "__main__":
    main()
