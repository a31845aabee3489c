"""The example DAGs as files: they import without a warning, and can be read on a screen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "example_dags").glob("*.py"))
# Airflow's own: its provider of @task.sensor imports a name that Airflow has moved.
OF_AIRFLOW = "The `airflow.utils.operator_helpers"


def test_they_import_without_a_warning():
    code = f"import sys, runpy; [runpy.run_path(path) for path in {[str(path) for path in EXAMPLES]!r}]"
    options = ["-W", "error", "-W", f"ignore:{OF_AIRFLOW}"]
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # Airflow 3.1 tells what alembic loads.
    assert [line for line in done.stderr.splitlines() if "[info " not in line] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_fits_a_screen(path):
    assert len(path.read_text("utf-8").splitlines()) <= 77
