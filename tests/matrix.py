"""The wheel on every Airflow and Python that it supports: ``make matrix``.

Each cell is a fresh virtualenv with one Airflow, the wheel, and a folder that has the tests but not the package. It
runs the unit and contract tests and then one DAG on a real Airflow, the demo of 25 calls. An older Airflow gets what
was published by the day of its own release, since the newest of everything breaks it; the newest gets the newest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".matrix"
PACKAGE = "airflow_provider_dstny"
TEST_DEPENDENCIES = (
    "apache-airflow-providers-amazon[s3fs]",
    "apache-airflow-providers-openlineage",
    "apache-airflow-providers-postgres",
    "duckdb",
    "flask>=3",
    "flask-cors",
    "hypothesis",
    "moto[s3]",
    "pytest",
    "pytest-mock",
    "pytest-xdist",
    # With which Airflow 3.0 shows the forms of connections.
    "wtforms",
)
#: What touches Airflow most, for the Pythons that do not get all tests.
SMALL = {
    "unit": (
        "tests/unit/test_create_call_operator.py",
        "tests/unit/test_directory_operator.py",
        "tests/unit/test_ended_from_outside.py",
        "tests/unit/test_event_trigger.py",
        "tests/unit/test_hook.py",
        "tests/unit/test_import_cost.py",
        "tests/unit/test_lake_export_operator.py",
        "tests/unit/test_lake_lineage.py",
        "tests/unit/test_links.py",
        "tests/unit/test_metrics.py",
        "tests/unit/test_notetaker_operator.py",
        "tests/unit/test_retry_policy.py",
        "tests/unit/test_run_agent_operator.py",
        "tests/unit/test_storage.py",
        "tests/unit/test_transcript_sensor.py",
        "tests/unit/test_upload_calls_operator.py",
        "tests/unit/test_users_and_teams_operators.py",
        "tests/unit/test_wait_trigger.py",
        "tests/unit/test_webhook_inbox.py",
        "tests/unit/test_webhook_receiver.py",
    ),
    "contract": ("tests/contract/test_metadata_database.py",),
}
ALL = {"unit": ("tests/unit",), "contract": ("tests/contract",)}
PYTHONS = ("3.11", "3.12", "3.13")
#: Which of them gets all tests.
WHOLE = "3.12"


@dataclass(frozen=True)
class Release:
    """An Airflow.

    :param day: its own, and the last of its dependencies; None for the newest of everything.
    :param later: packages that need a later day.
    :param floors: the wheel's own dependencies are the oldest that it takes.
    :param may_fail: a pre-release, whose failures are shown and forgiven.
    """

    airflow: str
    day: str | None = None
    later: Mapping[str, str] = field(default_factory=dict)
    floors: bool = False
    may_fail: bool = False


RELEASES = (
    # Its own day lacks what the wheel needs, which comes at the lowest version that the wheel allows.
    Release("3.0.6", "2025-08-30", {"apache-airflow-providers-common-compat": "2026-01-18"}, floors=True),
    Release("3.1.8", "2026-03-12"),
    Release("3.2.2", "2026-05-30"),
    Release("3.3.2"),
    Release("3.4.0b2", may_fail=True),
)


@dataclass
class Result:
    airflow: str
    python: str
    unit: str = "-"
    contract: str = "-"
    dag_run: str = "-"
    #: What went wrong, by part.
    failed: dict[str, str] = field(default_factory=dict)


class CellError(Exception):
    """A cell could not be made."""


@dataclass(frozen=True)
class Cell:
    release: Release
    python: str

    @property
    def folder(self) -> Path:
        return FOLDER / f"{self.release.airflow}-py{self.python}"

    @property
    def interpreter(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def project(self) -> Path:
        return self.folder / "project"

    def prepare(self, uv: str, wheel: Path, sources: Sequence[str]) -> None:
        """Install into a new virtualenv, and lay the tests beside it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        copy([name for name in sources if not name.startswith(f"{PACKAGE}/")], self.project)
        self._logged([uv, "venv", "--quiet", "--python", find_python(self.python), str(self.folder / "venv")], "venv")
        days = ["--exclude-newer", self.release.day] if self.release.day else []
        for package, day in self.release.later.items():
            days += ["--exclude-newer-package", f"{package}={day}"]
        wanted = [
            f"apache-airflow=={self.release.airflow}",
            f"airflow-provider-dstny[parquet,postgres,redis] @ {wheel.as_uri()}",
            *TEST_DEPENDENCIES,
            # Not all of them were built for a newer Python.
            *(floors() if self.release.floors and self.python <= WHOLE else []),
        ]
        self._logged([uv, "pip", "install", "--python", str(self.interpreter), *days, *wanted], "install")

    def last_result(self) -> Result:
        """Return what is known of the cell, if it is still there."""
        file = self.folder / "result.json"
        return (
            Result(**json.loads(file.read_text("utf-8")))
            if file.exists()
            else Result(self.release.airflow, self.python)
        )

    def run(self, whole: bool, selected: Sequence[str]) -> Result:
        """Run what is selected of unit, contract and dag; of the others, tell what came of them before."""
        result = self.last_result()
        tests = ALL if whole else SMALL
        for part in selected:
            result.failed.pop(part, None)
            if part == "dag":
                result.dag_run = self._run_dag(result)
            else:
                setattr(result, part, self._test(part, tests[part], result) + ("" if whole else " ¹"))
            (self.folder / "result.json").write_text(json.dumps(asdict(result)), "utf-8")
        return result

    def _test(self, kind: str, paths: Sequence[str], result: Result) -> str:
        report = self.folder / f"{kind}.xml"
        report.unlink(missing_ok=True)
        command = [str(self.interpreter), "-m", "pytest", "-n", "2", "-q", f"--junitxml={report}"]
        try:
            self._logged([*command, *paths], kind)
        except CellError as error:
            result.failed[kind] = str(error)
        if not report.exists():
            return "did not run"
        suite = next(ET.parse(report).getroot().iter("testsuite"))
        counted = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
        failed = counted["failures"] + counted["errors"]
        passed = counted["tests"] - failed - counted["skipped"]
        return f"{passed} passed, {failed} failed, {counted['skipped']} skipped"

    def _run_dag(self, result: Result) -> str:
        ports = [str(port) for port in free_ports(2)]
        began = time.monotonic()
        command = [str(self.interpreter), "-m", "demo", "--airflow-port", ports[0], "--simulator-port", ports[1]]
        try:
            self._logged(command, "dag")
        except CellError as error:
            result.failed["dag"] = str(error)
            return "failed"
        return f"success, {time.monotonic() - began:.0f} s"

    def _logged(self, command: Sequence[str], name: str) -> None:
        """Run a command beside the tests, what it prints into a file."""
        log = self.folder / f"{name}.log"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "PYTHON"))}
        with log.open("wb") as output:
            done = subprocess.run(
                command,
                cwd=self.project,
                env=inherited | {"UV_PYTHON_DOWNLOADS": "never"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode:
            raise CellError(f"{name} ended with {done.returncode}, see {log.relative_to(ROOT)}")


def floors() -> Iterator[str]:
    """Each dependency of the wheel, but Airflow, pinned to the lowest version that it may have."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for text in chain(project["dependencies"], *project["optional-dependencies"].values()):
        wanted = Requirement(text)
        if wanted.name != "apache-airflow":
            yield from (f"{wanted.name}=={one.version}" for one in wanted.specifier if one.operator == ">=")


def find_python(minor: str) -> str:
    """Where a Python is, on the path or among pyenv's."""
    candidates = [shutil.which(f"python{minor}"), *sorted(Path.home().glob(f".pyenv/versions/{minor}.*/bin/python"))]
    for candidate in candidates:
        # A shim of pyenv may stand on the path for a Python that is not chosen.
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(candidate)
    raise CellError(f"no Python {minor} on this machine")


def free_ports(count: int) -> Iterator[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    for probe in probes:
        with probe:
            yield probe.getsockname()[1]


def list_sources() -> list[str]:
    """What git knows or would take, as it is now."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def copy(names: Sequence[str], target: Path) -> None:
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)


def build_wheel(uv: str, sources: Sequence[str]) -> Path:
    """Build the wheel from a copy, so that all cells have the same."""
    shutil.rmtree(FOLDER / "build", ignore_errors=True)
    copy(sources, FOLDER / "build" / "source")
    built = FOLDER / "build" / "dist"
    subprocess.run(
        [uv, "build", "--quiet", "--wheel", "--out-dir", str(built), str(FOLDER / "build" / "source")], check=True
    )
    (wheel,) = built.glob("*.whl")
    return wheel


def show(results: Sequence[Result]) -> None:
    print("\n| Airflow | Python | unit tests | contract tests | DAG run |\n|---|---|---|---|---|")
    for one in results:
        print(f"| {one.airflow} | {one.python} | {one.unit} | {one.contract} | {one.dag_run} |")
    if any("¹" in one.unit + one.contract for one in results):
        print(f"\n¹ What touches Airflow most; all tests run on Python {WHOLE}, or with --full.")
    for one in results:
        for failure in one.failed.values():
            print(f"Airflow {one.airflow}, Python {one.python}: {failure}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make matrix", description=__doc__)
    parser.add_argument("--airflow", action="append", help="only this Airflow, such as 3.0; may be repeated")
    parser.add_argument("--python", action="append", help="only this Python, such as 3.12; may be repeated")
    parser.add_argument("--only", action="append", choices=["unit", "contract", "dag"], help="only this part")
    tests = parser.add_mutually_exclusive_group()
    tests.add_argument("--full", action="store_true", help="all tests on every Python")
    tests.add_argument("--small", action="store_true", help="only the tests of what touches Airflow most")
    parser.add_argument("--keep", action="store_true", help="use the cells that are there as they are")
    parser.add_argument("--uv", type=os.path.abspath, default=shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv"))
    options = parser.parse_args()
    cells = [
        Cell(release, python)
        for release in RELEASES
        for python in options.python or PYTHONS
        if not options.airflow or release.airflow.startswith(tuple(options.airflow))
    ]
    sources = list_sources()
    wheel = None if options.keep else build_wheel(options.uv, sources)
    results = []
    for cell in cells:
        print(f"Airflow {cell.release.airflow}, Python {cell.python} …", flush=True)
        try:
            if wheel:
                cell.prepare(options.uv, wheel, sources)
            whole = options.full or (cell.python == WHOLE and not options.small)
            result = cell.run(whole, options.only or ["unit", "contract", "dag"])
        except CellError as error:
            result = Result(cell.release.airflow, cell.python, failed={"install": str(error)})
        results.append(result)
    show(results)
    forgiven = {release.airflow for release in RELEASES if release.may_fail}
    return int(any(one.failed and one.airflow not in forgiven for one in results))


if __name__ == "__main__":
    sys.exit(main())
