"""A real Airflow on this machine: database, API server, scheduler, DAG processor and triggerer."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

#: The processes of an Airflow, each by a name, with the arguments of its command.
COMPONENTS: Mapping[str, Sequence[str]] = {
    component: (component,) for component in ("api-server", "scheduler", "dag-processor", "triggerer")
}


class StartError(Exception):
    """Something could not be started; the message is for a person."""


def check_port(port: int, variable: str) -> None:
    """Tell plainly when a port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise StartError(
                f"Port {port} is in use by another program. Stop it, or choose another port with {variable}=<port>."
            ) from None


def free_port() -> int:
    """Find a port below those that outgoing connections take, so that it is still free a minute later."""
    while True:
        port = random.randint(15000, 30000)  # noqa: S311
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Process:
    """A program in a process group of its own, its output in a file, stopped with all its children."""

    def __init__(self, command: list[str], *, log: Path, env: Mapping[str, str]) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Kill the program and all its descendants, as a machine that fails does."""
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
            self.signal(signal.SIGKILL)
            for child in family:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
        self._process.wait()

    def stop(self, patience: float = 5.0) -> None:
        """End the program and all its descendants; those that left the group would keep ports and databases."""
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
            for child in family:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            psutil.wait_procs(family, timeout=patience)
        self.signal(signal.SIGKILL)
        self._process.wait()

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])


class LocalAirflow:
    """Airflow in one folder with SQLite. A context manager: all that it starts, it stops.

    :param home: AIRFLOW_HOME; created.
    :param dags: the folder of DAGs.
    :param connections: connection id to its JSON form.
    :param config: further ``AIRFLOW__SECTION__KEY`` settings.
    :param components: what to start.
    """

    def __init__(
        self,
        home: Path,
        *,
        dags: Path,
        port: int,
        connections: Mapping[str, Mapping[str, Any]],
        config: Mapping[str, str] | None = None,
        components: Mapping[str, Sequence[str]] = COMPONENTS,
    ) -> None:
        self.home = home
        self._components = components
        self.url = f"http://127.0.0.1:{port}"
        self.processes: dict[str, Process] = {}
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            # SQLite takes few writers at once.
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "32",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "NO_PROXY": "127.0.0.1,localhost",
            **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connections.items()},
            **(config or {}),
        }
        self._http = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        try:
            self._migrate()
            for component in self._components:
                self.start(component)
            self._wait_until_healthy(90)
            self._log_in()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, component: str) -> None:
        """Start one component, again if it was killed."""
        command = [sys.executable, "-m", "airflow", *self._components[component]]
        self.processes[component] = Process(command, log=self.home / f"{component}.log", env=self._environment)

    def stop(self) -> None:
        self._http.close()
        with ThreadPoolExecutor() as pool:
            list(pool.map(Process.stop, self.processes.values()))

    def run(self, *arguments: str) -> str:
        """Run an airflow command and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StartError(f"airflow {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    def get(self, path: str, **params: Any) -> Any:
        """GET from the public REST API."""
        return self._checked(self._http.get(f"/api/v2{path}", params=params))

    def delete(self, path: str) -> None:
        """DELETE by the public REST API."""
        self._http.delete(f"/api/v2{path}").raise_for_status()

    def unpause(self, dag_id: str) -> None:
        """Unpause a DAG as soon as it is known."""
        deadline = time.monotonic() + 60
        while self._http.get(f"/api/v2/dags/{dag_id}").status_code == 404:
            if time.monotonic() > deadline:
                errors = [error["stack_trace"] for error in self.get("/importErrors")["import_errors"]]
                raise StartError(f"The DAG {dag_id} did not appear within 60 s. {''.join(errors)}")
            time.sleep(0.5)
        self._checked(self._http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}))

    def trigger(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Unpause a DAG as soon as it is known, trigger it, and return the run id."""
        self.unpause(dag_id)
        run = self._http.post(f"/api/v2/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": dict(conf)})
        return str(self._checked(run)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        return str(self.get(f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
            page = self.get(path, limit=100, offset=len(found))
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def mark(self, dag_id: str, run_id: str, task_id: str, map_index: int, state: str) -> None:
        """Set the state of a mapped task instance, as people do in the UI."""
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/{map_index}"
        self._checked(self._http.patch(path, json={"new_state": state}))

    def xcom(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return self.get(path, map_index=map_index, stringify=False)["value"]

    def _migrate(self) -> None:
        self.run("db", "migrate")

    def _wait_until_healthy(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            for component, process in self.processes.items():
                if not process.running:
                    raise StartError(f"airflow {component} ended at once:\n{process.tail()}")
            try:
                health = self._http.get("/api/v2/monitor/health").json()
            except (httpx.HTTPError, ValueError):
                health = {}
            if all(health.get(part, {}).get("status") == "healthy" for part in ("metadatabase", "scheduler")):
                return
            time.sleep(0.3)
        raise StartError(f"Airflow was not healthy after {patience:g} s; its logs are in {self.home}")

    def _log_in(self) -> None:
        token = self._checked(self._http.get("/auth/token"))["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"

    @staticmethod
    def _checked(response: httpx.Response) -> Any:
        if response.is_error:
            raise StartError(f"{response.request.method} {response.request.url.path}: {response.text[:500]}")
        return response.json()


@contextmanager
def running_simulator(port: int, log: Path, *, python: str = sys.executable, **options: Any) -> Iterator[str]:
    """Run the simulator as a process of its own and yield its URL."""
    arguments = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [python, "-m", "airflow_provider_dstny.simulator", "--port", str(port), *arguments]
    log.parent.mkdir(parents=True, exist_ok=True)
    process = Process(command, log=log, env=os.environ)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            if not process.running:
                raise StartError(f"The simulator ended at once:\n{process.tail()}")
            try:
                httpx.get(url, trust_env=False)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        else:
            raise StartError(f"The simulator did not answer on {url}:\n{process.tail()}")
        yield url
    finally:
        process.stop()


def sample_calls(target: Path, simulator_url: str) -> Path:
    """Copy the sample of recorded calls, its recordings served by a running simulator."""
    source = Path(__file__).parent.parent / "example_dags" / "data" / "recorded_calls.csv"
    target.parent.mkdir(parents=True, exist_ok=True)
    text = source.read_text("utf-8").replace("http://127.0.0.1:8765", simulator_url)
    target.write_text(text, "utf-8")
    return target
