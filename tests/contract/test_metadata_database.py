"""What becomes of a delivery in Airflow's own database: in which runs of which DAGs it is."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from airflow import sdk

from tests.contract.scheduling import DAGS

ROOT = Path(__file__).parents[2]
SERVER = os.environ.get("DSTNY_TEST_POSTGRES", "postgresql://root@127.0.0.1:5432/test")
#: SQLAlchemy 1.4, that of Airflow 3.0, does not know psycopg 3.
DRIVERS = ("psycopg2", "asyncpg") if sqlalchemy.__version__ < "2" else ("psycopg", "psycopg_async")
needs_partitions = pytest.mark.skipif(
    not hasattr(sdk, "PartitionedAssetTimetable"), reason="Airflow before 3.2 knows no partitions"
)


def airflow(environment, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def database(request, tmp_path_factory):
    """The environment of an Airflow whose database knows the DAGs."""
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    (home / "dags" / "dags.py").write_text(DAGS)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        # Airflow 3.4 has a run for each event unless it is told otherwise.
        "AIRFLOW__SCHEDULER__BATCH_ASSET_EVENTS": "True",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
    }
    if request.param == "sqlite":
        airflow(environment, "airflow", "db", "migrate")
        airflow(environment, "airflow", "dags", "reserialize")
        yield environment
        return
    try:
        admin = psycopg.connect(SERVER, autocommit=True, connect_timeout=2)
    except psycopg.Error:
        pytest.skip(f"no PostgreSQL at {SERVER}: DSTNY_TEST_POSTGRES may name another")
    name = f"dstny_test_{secrets.token_hex(6)}"
    with admin:
        admin.execute(f"CREATE DATABASE {name}")
        url = SERVER.rpartition("/")[0].removeprefix("postgresql://") + f"/{name}"
        environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"postgresql+{DRIVERS[0]}://{url}"
        environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC"] = f"postgresql+{DRIVERS[1]}://{url}"
        try:
            airflow(environment, "airflow", "db", "migrate")
            airflow(environment, "airflow", "dags", "reserialize")
            yield environment
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def outcomes(database):
    return json.loads(airflow(database, "tests.contract.scheduling").splitlines()[-1])


def test_what_arrives_while_a_run_is_active_is_in_the_next_one(outcomes):
    assert outcomes["while_a_run_is_active"] == [["d-1"], ["d-2", "d-3"]]


def test_a_dag_on_two_connections_gets_every_delivery_once_however_slow_one_commits(outcomes):
    found = outcomes["while_another_delivery_is_slow"]
    assert sorted(one for run in found for one in run) == ["d-0", "d-1", "d-2", "d-3"]


def test_a_delivery_to_a_machine_whose_clock_is_behind_is_in_a_run(outcomes):
    assert outcomes["while_this_clock_is_behind"] == [["d-1"], ["d-2"]]


@needs_partitions
def test_dags_with_partitions_and_without_both_get_each_delivery(outcomes):
    assert outcomes["with_partitions_and_without"] == {
        "keys": [None, "c-1", None, "c-2"],
        "taken": ["d-1", "d-2"],
    }


def test_an_asset_may_have_a_name_of_its_own(outcomes):
    assert outcomes["with_a_name_of_its_own"] == [["d-1"]]


@needs_partitions
def test_what_airflow_cannot_take_is_not_stored(outcomes):
    assert outcomes["with_a_dag_that_breaks"] == {"told": "RuntimeError", "kept": 0, "events": 0}


def test_many_dags_and_deliveries_do_not_get_into_each_others_way(outcomes):
    assert outcomes["with_many_dags_and_deliveries"] == {"answers": {"stored": 60}, "whole": [True] * 8}


def test_old_deliveries_are_forgotten(outcomes):
    assert outcomes["old_deliveries"] == ["d-2"]
