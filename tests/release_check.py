"""Is what would be released fit to be released? ``make release-check``.

Builds the sdist and the wheel from a copy of what git knows, looks into them, and installs the wheel where nothing else
is. Each check is a function that returns what it has found, or raises ``AssertionError``.
"""

from __future__ import annotations

import argparse
import email
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from email.message import Message
from functools import cached_property
from pathlib import Path

from tests.matrix import PACKAGE, PYTHONS, ROOT, copy, list_sources

NAME = "airflow-provider-dstny"
#: Bytes of what Airflow may load; the simulator, which none of it needs, comes on top.
LARGEST_WHEEL = 300_000
CONNECTION_TYPES = ("dstny", "dstny_rest", "tellcasey")
#: Prints which fields and labels Airflow shows for each connection type.
FORMS = """
import json
from airflow.providers_manager import ProvidersManager
manager = ProvidersManager()
hooks, behaviours, widgets = manager.hooks, manager.field_behaviours, list(manager.connection_form_widgets)
print(json.dumps({
    name: {
        "hook": hooks[name].hook_name,
        "relabeled": sorted(behaviours[name]["relabeling"]),
        "fields": [one.rpartition("__")[2] for one in widgets if one.startswith(f"extra__{name}__")],
    }
    for name in %r
}))
"""
#: Imports a DAG file and fails on warnings, but not on those about lines of Airflow itself.
EXAMPLE = """
import runpy, sys, warnings
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    runpy.run_path(sys.argv[1])
sys.exit("".join(str(one) for one in told if "/site-packages/airflow/" not in one.filename) or 0)
"""


class Release:
    """The distributions and an environment that has nothing but the wheel."""

    def __init__(self, folder: Path, uv: str) -> None:
        self.folder, self.uv = folder, uv
        self.source = folder / "source"
        copy(list_sources(), self.source)
        # The wheel is made of the sdist.
        self.run(uv, "build", "--quiet", "--out-dir", str(folder / "dist"), str(self.source))
        (self.wheel,) = (folder / "dist").glob("*.whl")
        (self.sdist,) = (folder / "dist").glob("*.tar.gz")

    @cached_property
    def python(self) -> str:
        """Install the wheel, once."""
        folder = self.folder / "clean"
        self.run(self.uv, "venv", "--quiet", "--python", sys.executable, str(folder))
        python = str(folder / "bin" / "python")
        self.run(self.uv, "pip", "install", "--quiet", "--python", python, str(self.wheel))
        self.run(python, "-m", "airflow", "db", "migrate")
        return python

    @cached_property
    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as wheel:
            (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
            return email.message_from_bytes(wheel.read(name))

    def run(self, *command: str) -> str:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "PYTHON"))}
        home = {"AIRFLOW_HOME": str(self.folder / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
        done = subprocess.run(
            command, cwd=self.folder, env=inherited | home, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command[:4])} …: {(done.stdout + done.stderr)[-1500:]}"
        return done.stdout


def contents(wheel: Path) -> dict[str, str]:
    """Return the hash of each file."""
    with zipfile.ZipFile(wheel) as opened:
        return {name: hashlib.sha256(opened.read(name)).hexdigest() for name in opened.namelist()}


def check_descriptions(release: Release) -> str:
    release.run(sys.executable, "-m", "twine", "check", "--strict", str(release.wheel), str(release.sdist))
    return "twine check --strict passes"


def check_files_of_the_wheel(release: Release) -> str:
    names = contents(release.wheel)
    tops = {name.partition("/")[0] for name in names}
    version = release.metadata["Version"]
    assert tops == {PACKAGE, f"{PACKAGE}-{version}.dist-info"}, f"unexpected at the top: {sorted(tops)}"
    missing = [name for name in (f"{PACKAGE}/py.typed",) if name not in names]
    assert not missing, f"missing: {missing}"
    known = {name for name in list_sources() if name.startswith(f"{PACKAGE}/")}
    packed = {name for name in names if name.startswith(f"{PACKAGE}/")}
    assert packed == known, f"differ from what git knows: {sorted(packed ^ known)}"
    return f"the wheel has {len(packed)} files, py.typed and nothing but {PACKAGE}"


def check_size(release: Release) -> str:
    size = release.wheel.stat().st_size
    with zipfile.ZipFile(release.wheel) as wheel:
        inside = [one for one in wheel.infolist() if one.filename.startswith(f"{PACKAGE}/simulator/")]
    # Each file has two headers of 76 bytes in all, and its name in both.
    simulator = sum(one.compress_size + 76 + 2 * len(one.filename) for one in inside)
    loaded = size - simulator
    assert loaded < LARGEST_WHEEL, f"the wheel has {loaded:,} bytes besides its simulator, more than {LARGEST_WHEEL:,}"
    return f"the wheel has {size:,} bytes, {simulator:,} of them the simulator"


def check_metadata(release: Release) -> str:
    told = release.metadata
    assert (told["Name"], told["License-Expression"]) == (NAME, "Apache-2.0"), (
        told["Name"],
        told["License-Expression"],
    )
    assert told["Requires-Python"] == f">={PYTHONS[0]}", told["Requires-Python"]
    for header in ("Summary", "Description-Content-Type", "Keywords"):
        assert told[header], f"no {header}"
    classifiers = told.get_all("Classifier", [])
    wanted = ["Framework :: Apache Airflow :: Provider", "Typing :: Typed"]
    wanted += [f"Programming Language :: Python :: {version}" for version in PYTHONS]
    assert not set(wanted) - set(classifiers), f"missing: {sorted(set(wanted) - set(classifiers))}"
    return f"version {told['Version']}, Python {told['Requires-Python']}, {len(classifiers)} classifiers"


def check_licence(release: Release) -> str:
    (name,) = [name for name in contents(release.wheel) if name.endswith(".dist-info/licenses/LICENSE")]
    with zipfile.ZipFile(release.wheel) as wheel:
        assert wheel.read(name) == (release.source / "LICENSE").read_bytes(), "another LICENSE than that of the source"
    return "LICENSE is in the wheel"


def check_sdist(release: Release) -> str:
    with tarfile.open(release.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    wanted = {"README.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml", "tests/conftest.py"}
    assert not wanted - names, f"missing: {sorted(wanted - names)}"
    direct = release.folder / "direct"
    release.run(release.uv, "build", "--quiet", "--wheel", "--out-dir", str(direct), str(release.source))
    (wheel,) = direct.glob("*.whl")
    assert contents(wheel) == contents(release.wheel), "the wheel of the sdist differs from that of the source"
    return f"the sdist has {len(names)} files, and makes the same wheel as the source"


def check_provider(release: Release) -> str:
    release.run(release.python, "-m", "airflow", "providers", "get", NAME)
    listed = release.run(release.python, "-m", "airflow", "providers", "hooks", "--output", "json")
    types = {one["connection_type"] for one in json.loads(listed)}
    assert set(CONNECTION_TYPES) <= types, f"missing: {set(CONNECTION_TYPES) - types}"
    return f"airflow providers get {NAME} shows it"


def check_forms(release: Release) -> str:
    shown = json.loads(release.run(release.python, "-c", FORMS % (CONNECTION_TYPES,)).splitlines()[-1])
    for name, form in shown.items():
        assert form["hook"], f"{name} has no name"
        assert {"host", "password"} <= set(form["relabeled"]), f"{name} has no labels of its own: {form}"
        assert "timeout" in form["fields"], f"{name} has no fields of its own: {form}"
    return "forms: " + ", ".join(f"{form['hook']} ({len(form['fields'])} fields)" for form in shown.values())


def check_plugin(release: Release) -> str:
    plugins = json.loads(release.run(release.python, "-m", "airflow", "plugins", "--output", "json"))
    assert any("dstny" in json.dumps(one) for one in plugins), "Airflow does not know the plugin"
    return "Airflow knows the plugin"


def check_examples(release: Release) -> str:
    examples = sorted((release.source / "example_dags").glob("*.py"))
    for example in examples:
        release.run(release.python, "-c", EXAMPLE, str(example))
    return f"{len(examples)} example DAGs import without a warning"


CHECKS: tuple[Callable[[Release], str], ...] = (
    check_descriptions,
    check_files_of_the_wheel,
    check_size,
    check_metadata,
    check_licence,
    check_sdist,
    check_provider,
    check_forms,
    check_plugin,
    check_examples,
)


def run(release: Release, checks: Sequence[Callable[[Release], str]]) -> int:
    """Run all checks and return how many failed."""
    failed = 0
    for check in checks:
        try:
            print(f"ok    {check(release)}", flush=True)
        except AssertionError as error:
            failed += 1
            print(f"FAIL  {check.__name__.removeprefix('check_').replace('_', ' ')}: {error}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="make release-check", description=__doc__)
    parser.add_argument("--uv", type=os.path.abspath, default=shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dstny-release-") as folder:
        return int(run(Release(Path(folder), options.uv), CHECKS) > 0)


if __name__ == "__main__":
    sys.exit(main())
