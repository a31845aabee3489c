"""``python -m demo.first_transcript``: the steps of docs/start.md in a fresh virtual environment, and their times."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from demo.local_airflow import free_port, running_simulator

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "start.md"
SIMULATOR_TOKEN = "dstny-simulator-token"  # noqa: S105 - opens nothing else


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.first_transcript", description=__doc__)
    parser.add_argument("--wheel", type=Path, help="the wheel to install; built from this checkout unless given")
    parser.add_argument("--pip-option", action="append", default=[], help="such as --pip-option=--no-cache-dir")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="first-transcript-") as folder:
        return follow_the_guide(Path(folder), options.wheel, options.pip_option)


def follow_the_guide(folder: Path, wheel: Path | None, pip_options: list[str]) -> int:
    home, python, port = folder / "airflow", folder / "venv" / "bin" / "python", free_port()
    url = f"http://127.0.0.1:{port}"
    connection = {"conn_type": "dstny", "host": url, "password": SIMULATOR_TOKEN}
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON", "VIRTUAL"))},
        "HOME": str(folder),
        "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip")),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW_CONN_DSTNY_DEFAULT": json.dumps(connection),
        "NO_PROXY": "127.0.0.1,localhost",
    }

    seconds: list[float] = []

    @contextmanager
    def timed(step: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        seconds.append(time.monotonic() - started)
        print(f"{seconds[-1]:6.1f} s  {step}", flush=True)

    def run(*command: object) -> str:
        done = subprocess.run(list(map(str, command)), env=env, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout

    with timed("make a virtual environment"):
        run(sys.executable, "-m", "venv", folder / "venv")
    if wheel is None:
        # Users get it from an index.
        run(python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT)
        (wheel,) = folder.glob("airflow_provider_dstny-*.whl")
    with timed("pip install the wheel, with Airflow"):
        run(python, "-m", "pip", "install", "--quiet", *pip_options, wheel.absolute())
    (home / "dags").mkdir(parents=True)
    with timed("airflow db migrate"):
        run(python, "-m", "airflow", "db", "migrate")
    with ExitStack() as stack:
        with timed("start the simulator"):
            stack.enter_context(running_simulator(port, folder / "simulator.log", python=str(python)))
        with timed("airflow connections test"):
            tested = run(python, "-m", "airflow", "connections", "test", "dstny_default")
        print(f"          {tested.strip().splitlines()[-1]}")
        with timed("write the DAG"):
            write_dag(home / "dags" / "first_transcript.py", url)
        with timed("airflow dags test, until the transcript is on disk"):
            run(python, "-m", "airflow", "dags", "test", "first_transcript")
    print(f"{sum(seconds):6.1f} s  in all")
    (row,) = (folder / "dstny" / "transcripts.jsonl").read_text("utf-8").splitlines()
    first = json.loads(row)["segments"][0]
    print(f"The transcript begins: {first['speaker']}: {first['text']}")
    return 0


def write_dag(path: Path, url: str) -> None:
    """Save the DAG of the guide, for a simulator on another port."""
    text = GUIDE.read_text("utf-8")
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def first_transcript" in block
    )
    path.write_text(code.replace("http://127.0.0.1:8765", url), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
