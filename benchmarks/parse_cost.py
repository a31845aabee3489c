"""What a DAG file pays for importing the operators: wall time and modules over ``airflow.sdk`` alone.

Prints this provider beside the http provider (``pip install apache-airflow-providers-http``), which is what
one would use instead. The plugin is what every component of Airflow imports, over Airflow's own plugins manager. The
example DAGs are read as a DAG processor reads them, over a DAG with an empty task; what they import of Airflow beyond
that counts, too: at the first asset with a URI Airflow looks through all providers that are installed. Each figure is
the median of new processes, measured in turn.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

RUNS = 10
EXAMPLES = sorted((Path(__file__).parent.parent / "example_dags").glob("example_*.py"))
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


DAG = """
import json, runpy, sys, time
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
with DAG("empty"):
    EmptyOperator(task_id="nothing")
modules, began = set(sys.modules), time.perf_counter()
{read}
took = 1000 * (time.perf_counter() - began)
print(json.dumps([took, len(set(sys.modules) - modules)]))
"""
Figures = dict[str, list[tuple[float, int]]]


def measure(script: str) -> tuple[float, int] | None:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    milliseconds, modules = json.loads(done.stdout.splitlines()[-1])
    return milliseconds, modules


def measure_in_turn(scripts: Mapping[str, str]) -> Figures:
    figures: Figures = {name: [] for name in scripts}
    for _ in range(RUNS):
        for name, script in scripts.items():
            if figure := measure(script):
                figures[name].append(figure)
    return figures


def show(title: str, figures: Figures) -> None:
    print(f"{title:<48} {'ms':>8} {'min':>8} {'max':>8} {'modules':>8}")
    for name, measured in figures.items():
        if not measured:
            print(f"{name:<48} not installed")
            continue
        times = [milliseconds for milliseconds, _ in measured]
        modules = measured[0][1]
        print(f"{name:<48} {statistics.median(times):>8.1f} {min(times):>8.1f} {max(times):>8.1f} {modules:>8}")


def main() -> None:
    imports = {
        name: SCRIPT.format(base="airflow.plugins_manager" if name == PLUGIN else "airflow.sdk", names=names)
        for name, names in CANDIDATES.items()
    }
    print(f"Python {platform.python_version()}, median of {RUNS} processes each\n")
    show("import, over airflow.sdk alone", measure_in_turn(imports))
    print()
    files = {example.stem: DAG.format(read=f"runpy.run_path({str(example)!r})") for example in EXAMPLES}
    asset = DAG.format(read="from airflow.sdk import Asset; Asset(name='any', uri='s3://bucket/key')")
    show("DAG, over an empty one", measure_in_turn({**files, "nothing but an asset of Airflow's own": asset}))


if __name__ == "__main__":
    main()
