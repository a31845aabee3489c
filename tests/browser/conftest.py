"""A real Airflow and the simulator, and a browser that looks at them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from airflow_provider_dstny.simulator import Simulator
from demo.local_airflow import LocalAirflow, free_port
from tests.browser.ui import Camera

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Airflow looks anew every few seconds.
PATIENCE = 20_000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", type=Path, metavar="FOLDER", help="save what the tests see as PNG files")


@dataclass
class Lab:
    """What the browser visits.

    :param tokens: those that the simulator accepts, by type of the connection.
    """

    airflow: LocalAirflow
    simulator: Simulator
    tokens: dict[str, str]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(
            "No Chromium: install it (Debian: apt-get install chromium), or name one with CHROMIUM=/path/to/chrome.",
            pytrace=False,
        )
    # Chromium refuses to run as root with a sandbox.
    arguments = ["--no-proxy-server", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=arguments)
        yield running
        running.close()


@pytest.fixture(scope="session")
def lab(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """An Airflow with the examples; the connection of runs is set up already, and is not shown by the UI."""
    folder = tmp_path_factory.mktemp("browser")
    # Long enough to be seen waiting.
    with Simulator(transcript_after=45, jitter=1) as simulator:
        tokens = {
            "dstny": simulator.token,
            "dstny_rest": simulator.rest_token,
            "tellcasey": simulator.tellcasey_token,
        }
        connection = {"conn_type": "dstny", "host": simulator.url, "password": simulator.token}
        airflow = LocalAirflow(
            folder / "airflow",
            dags=ROOT / "example_dags",
            port=free_port(),
            connections={"dstny_default": connection},
        )
        with airflow:
            yield Lab(airflow, simulator, tokens)


@pytest.fixture
def page(browser: Browser, lab: Lab) -> Iterator[Page]:
    context = browser.new_context(
        base_url=lab.airflow.url, viewport={"width": 1280, "height": 800}, color_scheme="light", locale="en-US"
    )
    context.set_default_timeout(PATIENCE)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def camera(request: pytest.FixtureRequest) -> Camera:
    return Camera(request.config.getoption("--screenshots"))
