"""Every block of code in the README and in ``docs`` is run, or read by what a user would give it to."""

from __future__ import annotations

import ast
import asyncio
import configparser
import inspect
import json
import os
import re
import socket
import subprocess
import sys
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml

from airflow_provider_dstny import exceptions
from airflow_provider_dstny.api import DstnyClient, DstnyRestClient, TellcaseyClient
from airflow_provider_dstny.provider_info import PROVIDER_INFO, connection_form
from airflow_provider_dstny.simulator import Fault, Simulator
from tests.contract.documents import (
    BLOCKS,
    PAGES,
    ROOT,
    Block,
    anchors_of,
    commands_of,
    links_of,
    of_kind,
    prose_of,
)

KINDS = {"python", "sh", "json", "yaml", "ini", "sql", "text"}
PYTHON = of_kind("python")
TESTS = [block for block in PYTHON if "def test_" in block.source]
DAGS = [block for block in PYTHON if re.search(r"@dag\b|\bDAG\(", block.source) and block not in TESTS]
SNIPPETS = [block for block in PYTHON if block not in DAGS and block not in TESTS]
#: Where the pages say that the simulator is.
PORT = "8765"
TYPES = tuple(form["connection-type"] for form in PROVIDER_INFO["connection-types"])


def each(blocks: list[Block]) -> Any:
    assert blocks
    return pytest.mark.parametrize("block", blocks, ids=str)


def the_only(page: str, kind: str, having: str = "") -> Block:
    (found,) = [block for block in of_kind(kind) if block.page == page and having in block.source]
    return found


def test_every_block_is_of_a_kind_that_is_checked():
    assert [f"{block} is {block.kind!r}" for block in BLOCKS if block.kind not in KINDS] == []


# Python.


@pytest.fixture
def account(monkeypatch, no_sleep, call):
    with Simulator() as simulator:
        for name, token in (("dstny", simulator.token), ("dstny_rest", simulator.rest_token)):
            connection = {"conn_type": name, "host": simulator.url, "password": token}
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}_DEFAULT", json.dumps(connection))
        yield simulator


@pytest.fixture
def names(account, call):
    """What the examples take as given."""
    with DstnyClient(account.url, account.token) as dstny:
        call["call_recording_url"] = f"{account.url}/recordings/a.wav"
        conversation_id = dstny.create_call_conversation(call)
    account.state.settle()
    return {"token": account.token, "conversation_id": conversation_id, "user_id": "67c869eb", "print": lambda *_: None}


@each(SNIPPETS)
def test_an_example_runs_within_the_contract(account, names, block):
    source = block.source.replace("https://api.example.com", account.url)
    code = compile(source, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(code, names)
    if inspect.iscoroutine(outcome):
        asyncio.run(outcome)
    assert account.books.violations == []


@each(DAGS)
def test_a_dag_file_is_one(block, tmp_path):
    if "airflow.providers.http" in block.source and find_spec("airflow.providers.http") is None:
        pytest.skip("shows the http provider, which is not installed")
    if "DstnyRetryPolicy" in block.source:
        pytest.importorskip(
            "airflow_provider_dstny.policies", reason="shows what Airflow 3.3 has", exc_type=ImportError
        )
    file = tmp_path / "dag_of_the_docs.py"
    file.write_text(block.source, "utf-8")
    found = _dag_bag(file)
    assert found.import_errors == {}
    assert len(found.dags) == 1
    (dag,) = found.dags.values()
    assert dag.tasks
    for task in dag.tasks:
        check_payload(task)


def check_payload(task: Any) -> None:
    """Let what a task would send pass the check that is made before it is sent."""
    from airflow_provider_dstny.api import models
    from airflow_provider_dstny.export.redaction import Redaction

    given = {name: getattr(task, name, None) for name in ("agent", "call", "redaction", "team", "user")}
    if isinstance(given["agent"], dict):
        models.AgentDefinition.parse(given["agent"])
    if isinstance(given["redaction"], dict):
        Redaction.parse(given["redaction"])
    for name, model in (("call", models.CallConversation), ("team", models.TeamCreate), ("user", models.UserCreate)):
        if given[name] is not None and not isinstance(given[name], str):
            model.parse(task.payload_fields())


def _dag_bag(file: Path) -> Any:
    # Airflow 3.2 has moved it.
    name = "airflow.dag_processing.dagbag" if find_spec("airflow.dag_processing.dagbag") else "airflow.models.dagbag"
    return import_module(name).DagBag(dag_folder=str(file))


@each(TESTS)
def test_a_test_passes(block, tmp_path):
    """With pytest, in a process and with an Airflow of its own, beside the DAG of the page that begins."""
    dag = the_only("docs/start.md", "python", having="@dag").source
    port = _free_port()
    (tmp_path / "first_transcript.py").write_text(dag.replace(PORT, port), "utf-8")
    (tmp_path / "test_of_the_docs.py").write_text(block.source.replace(PORT, port), "utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", "utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path),
        "HOME": str(tmp_path),
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
    }
    if "first_transcript" in block.source:
        _run([sys.executable, "-m", "airflow", "db", "migrate"], tmp_path, environment)
    _run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], tmp_path, environment)


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return str(listening.getsockname()[1])


# Shell.


@each(of_kind("sh"))
def test_a_command_is_understood(block, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    commands = list(commands_of(block.source))
    assert commands
    for words in commands:
        program, arguments = words[0], words[1:]
        if program == "export":
            for assignment in arguments:
                check_variable(assignment, monkeypatch)
        elif program == "pip":
            check_pip(arguments)
        elif program == "make":
            check_make(arguments)
        elif words[:3] == ["python", "-m", "airflow_provider_dstny.simulator"]:
            import_module("airflow_provider_dstny.simulator.__main__")._parser().parse_args(words[3:])
        elif words[:3] == ["python", "-m", "airflow_provider_dstny.webhooks"]:
            check_receiver(words[3:], monkeypatch, tmp_path)
        elif program == "airflow":
            check_airflow(arguments, monkeypatch)
        elif program == "curl":
            check_curl(arguments)
        elif program == "mkdir":
            assert arguments == ["-p", "$AIRFLOW_HOME/dags"]
        elif program == "cat":
            check_file(arguments, block)
        else:
            pytest.fail(f"{block}: nothing checks {program}")


def check_variable(assignment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _, value = assignment.partition("=")
    if name.startswith("AIRFLOW_CONN_"):
        check_connection(name.removeprefix("AIRFLOW_CONN_").lower(), value, monkeypatch)
    elif name.startswith("AIRFLOW__"):
        section, option = name.removeprefix("AIRFLOW__").lower().split("__")
        check_option(section, option)
    elif name != "AIRFLOW_HOME":
        assert name == import_module("airflow_provider_dstny.webhooks.__main__")._PASSWORD
        monkeypatch.setenv(name, value)


def check_connection(conn_id: str, value: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let Airflow read a connection, and its hook make a client of it."""
    from airflow.providers.common.compat.sdk import BaseHook

    from airflow_provider_dstny.hooks import hook_of

    monkeypatch.setenv("REDIS_PASSWORD", "secret")
    # What stands for a token of yours.
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", re.sub("…|<[a-z ]+>", "x", value))
    connection = BaseHook.get_connection(conn_id)
    if connection.conn_type not in TYPES:
        assert connection.conn_type == "http"
        return connection
    form = connection_form(connection.conn_type)
    assert set(connection.extra_dejson) <= set(form["conn-fields"])
    with hook_of(conn_id, connection).get_conn() as client:
        assert client.base_url.startswith("https://") or "127.0.0.1" in client.base_url
        assert client.base_url.endswith(type(client).base_path)
    return connection


def check_pip(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    for requirement in arguments[1:]:
        name, _, extras = requirement.rstrip("]").partition("[")
        assert name in ("airflow-provider-dstny", ".")
        check_extras(extras)


def check_extras(extras: str) -> None:
    known = metadata.metadata("airflow-provider-dstny").get_all("Provides-Extra")
    assert {one for one in extras.split(",") if one} <= set(known or ())


def check_make(arguments: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for argument in arguments:
        name, is_variable, _ = argument.partition("=")
        assert f"$({name})" in makefile if is_variable else re.search(rf"(?m)^{name}:", makefile), argument


def check_receiver(arguments: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Start the receiver as far as it starts before it listens."""
    program = import_module("airflow_provider_dstny.webhooks.__main__")
    served = []

    class Server:
        started = True

        def __init__(self, config: Any) -> None:
            served.append(config)

        def run(self) -> None:
            pass

    monkeypatch.setattr(program, "uvicorn", SimpleNamespace(Config=import_module("uvicorn").Config, Server=Server))
    program.main([argument.replace("/var/lib/dstny", str(tmp_path)) for argument in arguments])
    assert len(served) == 1


@cache
def _airflow_parser() -> Any:
    return import_module("airflow.cli.cli_parser").get_parser()


def check_airflow(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    given = _airflow_parser().parse_args(arguments)
    if arguments[:2] == ["connections", "add"]:
        fields = {
            "conn_type": given.conn_type,
            "host": given.conn_host,
            "port": given.conn_port,
            "password": given.conn_password,
            "extra": json.loads(given.conn_extra or "{}"),
        }
        check_connection(given.conn_id, json.dumps(fields, ensure_ascii=False), monkeypatch)


def check_curl(arguments: list[str]) -> None:
    """Send it to a simulator, which must take it."""
    options = {"-X": "GET", "-H": "Accept: */*", "-d": None}
    words = iter(arguments)
    url = ""
    for word in words:
        if word in options:
            options[word] = next(words)
        else:
            url = word
    name, _, value = str(options["-H"]).partition(": ")
    with Simulator() as simulator:
        url = url.replace(f"http://127.0.0.1:{PORT}", simulator.url)
        answer = httpx.request(str(options["-X"]), url, headers={name: value}, content=options["-d"], trust_env=False)
    assert answer.is_success


def check_file(arguments: list[str], block: Block) -> None:
    """It is the file that the DAG of the same page writes."""
    (path,) = arguments
    names: dict[str, Any] = {}
    exec(compile(the_only(block.page, "python", having="@dag").source, str(block), "exec"), names)
    assert Path(path).expanduser() == names["TARGET"]


def test_the_simulator_tells_where_the_apis_are():
    command = [sys.executable, "-m", "airflow_provider_dstny.simulator"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert "--webhook-url" in _run([*command, "--help"], ROOT, environment)
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True, env=environment) as running:
        told = [running.stdout.readline() for _ in range(4)] if running.stdout else []
        running.terminate()
    assert "dstny-simulator-token" in told[1]
    pages = the_only("docs/start.md", "sh", having="AIRFLOW_CONN").source
    assert "dstny-simulator-token" in pages
    assert f"http://127.0.0.1:{PORT}" in pages


# Data.


@each(of_kind("json"))
def test_json_is_what_it_is_shown_for(block, monkeypatch):
    from airflow_provider_dstny.hooks.base import ConnectionExtra
    from airflow_provider_dstny.upload_journal import Result

    shown = json.loads(block.source)
    if "conn_type" in shown:
        check_connection(f"{shown['conn_type']}_default", block.source, monkeypatch)
    elif set(shown) <= set(ConnectionExtra.model_fields):
        connection = {"conn_type": "dstny", "host": "https://api.example.com", "password": "x", "extra": shown}
        check_connection("dstny_default", json.dumps(connection), monkeypatch)
    else:
        assert block.page == "docs/jobs/calls.md"
        result = Result.read(shown)
        assert result is not None
        assert result.to_json() == shown


def test_declared_users_and_teams_make_the_plan_that_is_shown():
    from airflow_provider_dstny.directory.apply import read_account
    from airflow_provider_dstny.directory.declared import declare
    from airflow_provider_dstny.directory.plan import plan
    from airflow_provider_dstny.directory.text import lines_of

    page = "docs/jobs/directory.md"
    assert {block.page for block in of_kind("yaml", "text")} == {page}
    users, teams = (yaml.safe_load(block.source) for block in of_kind("yaml"))
    declared = declare(users, teams, users_from="users", teams_from="teams")
    with Simulator() as simulator, DstnyClient(simulator.url, simulator.token) as dstny:
        planned = plan(declared, read_account(dstny, declared))
    lines = [f"Plan: {planned.changes} changes", *lines_of(planned)]
    assert the_only(page, "text").source.splitlines() == lines


@each(of_kind("ini"))
def test_settings_of_airflow_exist(block):
    parser = configparser.ConfigParser()
    parser.read_string(block.source)
    for section in parser.sections():
        for option in parser[section]:
            check_option(section, option)
    for module in json.loads(parser.get("celery", "extra_celery_config", fallback="{}")).get("imports", ()):
        assert find_spec(module)


def check_option(section: str, option: str) -> None:
    from airflow.configuration import conf

    if section.startswith("celery") and find_spec("airflow.providers.celery") is None:
        return
    described = {name.lower(): about["options"] for name, about in conf.configuration_description.items()}
    described |= {name: about["options"] for name, about in PROVIDER_INFO["config"].items()}
    assert option in described[section], f"[{section}] {option}"


@each(of_kind("sql"))
def test_a_query_reads_a_lake(block, tmp_path, no_sleep):
    from datetime import UTC, datetime, timedelta

    duckdb = pytest.importorskip("duckdb", reason="asks with DuckDB, which is not installed")
    from airflow_provider_dstny.export.layout import LAYOUTS
    from airflow_provider_dstny.export.redaction import Redaction
    from airflow_provider_dstny.export.windows import Interval
    from airflow_provider_dstny.landing.export import Export, Options

    now = datetime.now(UTC)
    lake = tmp_path / "lake"
    options = Options(
        interval=Interval(now - timedelta(hours=1), now),
        tables=frozenset(LAYOUTS["dstny_rest"].tables),
        file_format="parquet",
        redaction=Redaction(),
        source_name="dstny_rest_default",
        lookback=timedelta(days=2),
        sweep_every=timedelta(days=7),
        give_up_after=timedelta(days=7),
    )

    async def land(simulator: Simulator) -> None:
        async with DstnyRestClient(simulator.url, simulator.rest_token, requests_per_minute=1e6) as rest:
            await Export(rest, str(lake), options).run()

    with Simulator(samples=5, fresh=0, requests_per_minute=None) as simulator:
        asyncio.run(land(simulator))
    assert "s3://lake/dstny/" in block.source
    rows = duckdb.sql(block.source.replace("s3://lake/dstny", str(lake))).fetchall()
    assert len(rows) == 5


# What the text says.


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_named_in_passing_exists(page):
    text = prose_of(page)
    for section, option in re.findall(r"`\[(\w+)\] (\w+)", text):
        check_option(section, option)
    for extras in re.findall(r"airflow-provider-dstny\[([\w,]+)\]", text):
        check_extras(extras)
    for command in re.findall(r"`make ([^`]+)`", text):
        check_make(command.split())
    for fault in re.findall(r"`(Fault\(.+?\))`", text):
        assert eval(fault, {"Fault": Fault})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for file, anchor in links_of(page):
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), file
        assert not anchor or anchor in anchors_of(target), f"{file}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_speak_to_users(page):
    """No registry is named, and no other place of work."""
    text = page.read_text("utf-8").lower()
    assert re.findall(r"pypi|/work/|\bsessions?\b(?!/)|\bhelpers?\b", text) == []


def test_every_operator_is_in_the_readme_and_in_the_reference():
    readme, reference = ((ROOT / page).read_text("utf-8") for page in ("README.md", "docs/reference/operators.md"))
    for module in [*PROVIDER_INFO["operators"][0]["python-modules"], *PROVIDER_INFO["sensors"][0]["python-modules"]]:
        for name, value in vars(import_module(module)).items():
            if inspect.isclass(value) and value.__module__ == module and name.startswith("Dstny"):
                assert name in readme
                assert name in reference or ".sensors." in module


def test_every_example_is_in_the_readme():
    readme = (ROOT / "README.md").read_text("utf-8")
    for path in ROOT.glob("example_dags/example_*.py"):
        assert f"[`{path.stem}`](example_dags/{path.name})" in readme


def test_every_error_is_explained():
    text = (ROOT / "docs" / "errors.md").read_text("utf-8")
    for name in exceptions.__all__:
        assert name in ("DstnyError",) or f"| `{name}` |" in text, name


def test_every_field_of_a_connection_is_explained():
    text = (ROOT / "docs" / "connections.md").read_text("utf-8")
    for form in PROVIDER_INFO["connection-types"]:
        for field in form["conn-fields"]:
            assert f"| `{field}` |" in text, field
        assert form["hook-name"] in text


def test_every_operation_and_its_path_is_named():
    listed = (ROOT / "docs" / "jobs" / "python.md").read_text("utf-8")
    for client in (DstnyClient, DstnyRestClient, TellcaseyClient):
        for operation in client.routes:
            assert f"`{operation}`" in listed, operation
    paths = (ROOT / "docs" / "connections.md").read_text("utf-8")
    for operation, route in DstnyClient.routes.items():
        row = next(line for line in paths.splitlines() if line.startswith("| ") and f"`{operation}`" in line)
        assert route.method in row
        assert route.template in row or route.template.rpartition("/")[2] in row


def test_figures_are_those_that_were_measured():
    """A figure of a table beside those of others is in the file of results, rounded perhaps."""
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text("utf-8")
    measured = {row.split()[0]: row for row in results.splitlines() if re.match(r"\S.* 1000 ", row)}
    assert {"DstnyTranscriptTrigger", "HttpSensor,"} <= set(measured)
    for page in ("docs/jobs/wait.md", "docs/from-http-operator.md"):
        text = (ROOT / page).read_text("utf-8")
        for name, row in (("DstnyTranscriptSensor", "DstnyTranscriptTrigger"), ("HttpSensor", "HttpSensor,")):
            shown = next(line for line in text.splitlines() if re.match(rf"\| `{name}`.*\| \d", line))
            figures = {one.replace(",", "") for one in re.findall(r"[\d,]*\d(?: MB)?", shown) if "MB" in one}
            assert all(re.search(rf"\b{figure.removesuffix(' MB')}\b", measured[row]) for figure in figures)
            requests = re.findall(r"\| ([\d,]+) \|", shown)[0].replace(",", "")
            assert re.search(rf"\b{requests}\b", measured[row])


# The site.


def test_the_site_builds_and_asks_no_other_host(tmp_path):
    if find_spec("mkdocs") is None or find_spec("material") is None or find_spec("mkdocstrings") is None:
        pytest.skip("the group docs is not installed: make docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    _run(command, ROOT, {**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"?(https?://[^\s\">]+)|<link[^>]* href=\"?(https?://[^\s\">]+)",
            page.read_text("utf-8"),
        )
        assert loaded == [], page
