"""What a large recording costs: seconds and memory to bring it from its host to a file.

Prints the recording operator beside the http provider, which is what one would use instead. Each is a process of its
own, against the simulator on this machine; memory is what the process grew by at its peak.

    python benchmarks/recording_stream.py [--gigabytes 2]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from demo.local_airflow import free_port, running_simulator  # noqa: E402

MEASURE = """
import json, resource, sys, time
from pathlib import Path
url, folder, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
{prepare}
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
{fetch}
seconds = time.perf_counter() - began
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
(file,) = Path(folder).iterdir()
print(json.dumps([seconds, grown, file.stat().st_size]))
"""
OURS = (
    """
import os
from unittest.mock import patch
from airflow_provider_dstny.api.dstny_rest import DstnyRestClient
from airflow_provider_dstny.transfers.object_storage import DstnyRecordingToObjectStorageOperator
from airflow.providers.common.compat.sdk import ObjectStoragePath
os.environ["AIRFLOW_CONN_DSTNY_REST_DEFAULT"] = json.dumps(
    {"conn_type": "dstny_rest", "host": url.partition("/recordings")[0], "password": "mt_simulator"}
)
task = DstnyRecordingToObjectStorageOperator(task_id="r", conversation_ids="one", path="file://" + folder)
answer = {"conversation_id": "one", "has_recording": True, "recording_url": url}
""",
    'with patch.object(DstnyRestClient, "_send", return_value=answer):\n    task.execute({})',
)
HTTP = (
    """
import os
from airflow.providers.http.hooks.http import HttpHook
os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps({"conn_type": "http", "host": url.partition("/recordings")[0]})
hook = HttpHook(method="GET")
""",
    '(Path(folder) / "one.bin").write_bytes(hook.run("/recordings" + url.partition("/recordings")[2]).content)',
)


def measure(what: tuple[str, str], url: str, size: int) -> list[float]:
    prepare, fetch = what
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
        script = MEASURE.format(prepare=prepare, fetch=fetch)
        done = subprocess.run(
            [sys.executable, "-c", script, url, folder, str(size)],
            env={**os.environ, "AIRFLOW_HOME": home, "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"},
            capture_output=True,
            text=True,
            check=True,
        )
    seconds, grown, landed = json.loads(done.stdout.splitlines()[-1])
    if landed != size:
        raise SystemExit(f"{landed} of {size} bytes landed")
    return [seconds, grown]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=2)
    size = int(parser.parse_args().gigabytes * 2**30)
    print(f"{size / 2**30:g} GiB, Python {platform.python_version()}, {os.cpu_count()} cores\n")
    print(f"{'':<40} {'seconds':>8} {'memory grows by':>16}")
    with (
        tempfile.TemporaryDirectory() as folder,
        running_simulator(free_port(), Path(folder) / "simulator.log") as simulator,
    ):
        url = f"{simulator}/recordings/big-{size}.bin"
        for name, what in (("recording operator, to a local file", OURS), ("http provider, the same", HTTP)):
            seconds, grown = measure(what, url, size)
            print(f"{name:<40} {seconds:>8.1f} {grown:>13.1f} MB", flush=True)


if __name__ == "__main__":
    main()
