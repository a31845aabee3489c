"""A run of an example as people look at it: waiting, as a graph, its link and its rendered fields."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from demo.local_airflow import sample_calls
from tests.browser.ui import RunPage
from tests.system.waiting import wait_for

DAG_ID = "example_call_to_transcript"
CALLS = 3


@pytest.fixture(scope="module")
def calls(lab):
    # The name of the folder is seen on a screenshot.
    with tempfile.TemporaryDirectory(prefix="calls-") as folder:
        path = sample_calls(Path(folder) / "recorded_calls.csv", lab.simulator.url)
        header, *rows = path.read_text("utf-8").splitlines()
        path.write_text("\n".join([header, *rows[:CALLS]]) + "\n", "utf-8")
        yield path


@pytest.fixture(scope="module")
def run_id(lab, calls):
    conf = {"calls_path": str(calls), "output_path": f"file://{calls.parent}/results"}
    return lab.airflow.trigger(DAG_ID, conf)


@pytest.fixture
def run(page, run_id):
    return RunPage(page, DAG_ID, run_id)


@pytest.fixture
def finished(lab, run, run_id):
    wait_for(lambda: lab.airflow.run_state(DAG_ID, run_id) in {"success", "failed"}, 180, "the end of the run")
    assert lab.airflow.run_state(DAG_ID, run_id) == "success"
    return run


def test_a_wait_is_deferred_and_says_so(lab, run, run_id, camera):
    sensor = "DstnyTranscriptSensor"

    def all_wait():
        states = [one["state"] for one in lab.airflow.task_instances(DAG_ID, run_id) if one["operator"] == sensor]
        return states == ["deferred"] * CALLS

    wait_for(all_wait, 120, "waiting conversations")
    run.page.set_viewport_size({"width": 1280, "height": 720})
    run.open()
    expect(run.states().filter(has_text="Deferred")).to_have_count(CALLS)
    camera.take("run_deferred", run.page)
    run.open_task("transcribe.wait", 0, tab="Details")
    expect(run.page.get_by_text("airflow_provider_dstny.triggers.transcripts.DstnyTranscriptTrigger")).to_be_visible()
    expect(run.link("Open in Dstny")).to_be_visible()


def test_the_graph_shows_each_step_and_that_it_succeeded(lab, finished, camera):
    finished.page.set_viewport_size({"width": 1280, "height": 520})
    graph = finished.open_graph()
    tasks = [task["task_id"] for task in lab.airflow.get(f"/dags/{DAG_ID}/tasks")["tasks"]]
    assert len(tasks) > 4
    for task in tasks:
        node = graph.get_by_test_id(f"rf__node-{task}")
        expect(node).to_be_visible()
        expect(node.get_by_test_id("state-badge")).to_have_text("success")
    camera.take("graph", graph)


def test_a_finished_task_links_to_its_conversation(lab, finished, camera, run_id):
    finished.page.set_viewport_size({"width": 1280, "height": 800})
    finished.open_task("transcribe.wait", 0, tab="Details")
    (conversation_id,) = lab.airflow.xcom(DAG_ID, run_id, "transcribe.wait", 0)
    link = finished.link("Open in Dstny")
    expect(link).to_have_attribute("href", f"https://app.meetric.com/recording/{conversation_id}")
    expect(link).to_have_attribute("target", "_blank")
    assert "noopener" in link.get_attribute("rel")
    camera.take("link", finished.page, height=460)


def test_rendered_fields_show_references_and_nothing_private(lab, finished, camera, calls):
    private = {*re.findall(r"\+(\d{9,})", calls.read_text("utf-8")), *lab.tokens.values()}
    assert len(private) > CALLS
    finished.page.set_viewport_size({"width": 1280, "height": 800})
    finished.open_task("transcribe.create", 0, tab="Rendered Templates")
    fields = finished.rendered()
    assert str(calls) in fields["call"].replace("\n", "")
    assert "dstny_default" in fields["dstny_conn_id"]
    camera.take("rendered", finished.page, height=490)
    for task_id, map_index in (("transcribe.create", 0), ("transcribe.wait", 0), ("run_agent", None)):
        finished.open_task(task_id, map_index, tab="Rendered Templates")
        assert finished.rendered()
        seen = finished.page.content()
        assert not [one for one in private if one in seen]
