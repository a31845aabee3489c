"""The lake examples on a real Airflow: the export at 60 requests a minute, killed, repeated, and asked a question."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path

import httpx
import psutil
import pytest

from airflow_provider_dstny.simulator import Simulator
from airflow_provider_dstny.simulator.rest import SCOPES
from demo.local_airflow import LocalAirflow, free_port
from tests.system.waiting import wait_for

EXPORT, BACKFILL = "example_lake_export", "example_backfill"
EXAMPLES = Path(__file__).parents[2] / "example_dags"
TOKEN = "mt_lake_system_test_token"
# More than are saved together, so that a kill can meet a task that has saved some of them.
COMPLETE, PENDING, SAVED_TOGETHER = 52, 4, 50
READ = "get_conversation"
PARTS = ("conversations", "participants", "transcript_segments", "insights")


def copy_examples(folder):
    """Copy the DAGs, less patient."""
    folder.mkdir()
    for name in (EXPORT, BACKFILL):
        text = (EXAMPLES / f"{name}.py").read_text("utf-8")
        assert "timedelta(seconds=30)" in text
        (folder / f"{name}.py").write_text(text.replace("timedelta(seconds=30)", "timedelta(seconds=3)"), "utf-8")
    shutil.copytree(EXAMPLES / "data", folder / "data")
    return folder


class Run:
    """A run of a DAG."""

    def __init__(self, airflow, dag_id, run_id):
        self._airflow, self._dag_id, self.run_id = airflow, dag_id, run_id

    @property
    def ended(self):
        return self._airflow.run_state(self._dag_id, self.run_id) in {"success", "failed"}

    def succeed(self, seconds):
        wait_for(lambda: self.ended, seconds, f"the end of {self._dag_id}")
        assert self._airflow.run_state(self._dag_id, self.run_id) == "success", self.tasks
        return self

    @property
    def tasks(self):
        found = self._airflow.task_instances(self._dag_id, self.run_id)
        return {one["task_id"]: (one["state"], one["try_number"]) for one in found}

    def xcom(self, task_id):
        return self._airflow.xcom(self._dag_id, self.run_id, task_id)

    def clear(self):
        """Let all of its tasks run anew."""
        token = httpx.get(f"{self._airflow.url}/auth/token", trust_env=False).json()["access_token"]
        httpx.post(
            f"{self._airflow.url}/api/v2/dags/{self._dag_id}/clearTaskInstances",
            headers={"Authorization": f"Bearer {token}"},
            json={"dry_run": False, "dag_run_id": self.run_id, "only_failed": False},
            timeout=30,
            trust_env=False,
        ).raise_for_status()
        return self


def kill_task():
    """Kill -9 the process of the one task that runs."""
    family = psutil.Process().children(recursive=True)
    workers = {one.pid for one in family if "LocalExecutor" in " ".join(one.cmdline())}
    (task,) = [one for one in family if one.ppid() in workers]
    task.kill()


def read_ids(simulator):
    """Which conversations were read, in order; what the limit refused was not."""
    entries = [entry for entry in list(simulator.books.entries) if entry.operation == READ]
    return [entry.path.rpartition("/")[2] for entry in entries if entry.status not in (None, 429)]


def hashes(lake):
    """What the curated files are, by name."""
    found = [file for table in PARTS for file in lake.glob(f"{table}/*/*.parquet")]
    return {str(file.relative_to(lake)): hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def told(xcom):
    path = Path(xcom["path"].removeprefix("file://"))
    return {row["account_executive"]: row for row in map(json.loads, path.read_text("utf-8").splitlines())}


def expected(simulator):
    """The answer to the sales lead, worked out by hand from what the account has now."""
    of = defaultdict(list)
    for one in simulator.rest.conversations.values():
        of[one.user["name"]].append(one)
    return {name: expected_row(name, conversations, simulator.rest._clock()) for name, conversations in of.items()}


def expected_row(name, conversations, now):
    ready = [one for one in conversations if one.transcript_at <= now]
    # Of one conversation, each segment takes as long as the others.
    lines = [(one, [who == "guest" for who in speakers(one)]) for one in ready]
    seconds = [(one.duration / len(guest) * 0.9, guest) for one, guest in lines]
    moods = {"positive": 1, "neutral": 0, "negative": -1}
    return {
        "account_executive": name,
        "conversations": len(conversations),
        "transcribed": len(ready),
        "with_kpi": sum("next_step" in {row["kpi_slug"] for row in one.insights()} for one in ready) / len(ready),
        "customer_talk": sum(each * sum(guest) for each, guest in seconds)
        / sum(each * len(guest) for each, guest in seconds),
        "mood": sum(moods[one.sentiment] for one in conversations) / len(conversations),
    }


def speakers(one):
    (segments,) = one.transcript().values()
    named = [row.get("speaker") or row.get("speaker_name") or row.get("name") for row in segments]
    return ["host" if name == one.user["name"] else "guest" for name in named]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Both DAGs: the plan, an export that is killed once, changes, what is left, and the export again."""
    folder = tmp_path_factory.mktemp("system")
    lake = folder / "lake"
    later = 0.0
    simulator = Simulator(
        rest_tokens={TOKEN: SCOPES},
        samples=COMPLETE,
        fresh=PENDING,
        transcript_after=3600,
        clock=lambda: time.time() + later,
    )
    with simulator:
        conversations = list(simulator.rest.conversations.values())
        # Some of the talk leads nowhere.
        for one in conversations[::3]:
            one.insights = list
        airflow = LocalAirflow(
            folder / "airflow",
            dags=copy_examples(folder / "dags"),
            port=free_port(),
            connections={
                "dstny_rest_default": {"conn_type": "dstny_rest", "host": simulator.url, "password": TOKEN},
            },
            # A test that lasts beyond an hour's end must not get a second run.
            config={"AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "False"},
        )
        with airflow:
            conf = {"lake": f"file://{lake}"}
            plan = Run(airflow, BACKFILL, airflow.trigger(BACKFILL, conf))
            export = Run(airflow, EXPORT, airflow.trigger(EXPORT, conf))
            wait_for(lambda: list(lake.glob("_dstny/unfinished/*/00001-read.jsonl")), 150, "the first saved reads")
            plan.succeed(30)
            wait_for(lambda: len(read_ids(simulator)) > SAVED_TOGETHER + 1, 30, "a further read")
            kill_task()
            before_kill = read_ids(simulator)
            export.succeed(120)
            found = {
                "folder": folder,
                "conversations": conversations,
                "plan": plan.xcom("plan"),
                "plan_tasks": plan.tasks,
                "before_kill": before_kill,
                "read": read_ids(simulator),
                "tasks": export.tasks,
                "export": export.xcom("export"),
                "ask": export.xcom("ask"),
                "told": told(export.xcom("ask")),
                "expected": expected(simulator),
                "files": hashes(lake),
                "events": airflow.get("/assets/events")["asset_events"],
            }
            deleted, changed, *_ = pending = conversations[COMPLETE:]
            simulator.rest.delete(deleted.id)
            simulator.rest.change(changed.id, sentiment="positive")
            # By now the transcripts are there, and what was read yesterday is missed.
            later = 25 * 3600.0
            fill = Run(airflow, BACKFILL, airflow.trigger(BACKFILL, {**conf, "dry_run": False})).succeed(90)
            found |= {
                "pending": {one.id for one in pending},
                "fill": fill.xcom("fill"),
                "read_then": read_ids(simulator)[len(found["read"]) :],
            }
            export.clear().succeed(90)
            found |= {
                "read_at_last": read_ids(simulator)[len(found["read"]) + len(found["read_then"]) :],
                "export_again": export.xcom("export"),
                "files_again": hashes(lake),
                "told_again": told(export.xcom("ask")),
                "expected_again": expected(simulator),
                "books": simulator.books,
            }
            yield found


def assert_answers(found, expected):
    assert set(found) == set(expected)
    for name, row in expected.items():
        # The share of the talk is of times that the API rounds.
        assert found[name] == pytest.approx(row, abs=0.006), name


def test_the_plan_tells_what_is_to_be_read_and_nothing_more_happens(outcome):
    assert outcome["plan"]["days"][0]["conversations"] == COMPLETE + PENDING
    assert outcome["plan"]["left"] == 0
    assert {task: state for task, (state, _) in outcome["plan_tasks"].items()} == {
        "plan": "success",
        "go_on": "success",
        "fill": "skipped",
    }


def test_everything_has_landed_once(outcome):
    xcom = outcome["export"]
    assert outcome["tasks"] == {"export": ("success", 2), "ask": ("success", 1)}
    assert (xcom["listed"], xcom["left"], xcom["failed"]) == (COMPLETE + PENDING, 0, 0)
    manifest = json.loads(Path(xcom["manifest"].removeprefix("file://")).read_text("utf-8"))
    lake = outcome["folder"] / "lake"
    hashed = {file["path"]: file["sha256"] for file in manifest["files"] if file["table"] in PARTS}
    assert hashed == outcome["files"]
    rows = Counter()
    for file in manifest["files"]:
        assert (lake / file["path"]).stat().st_size == file["bytes"]
        rows[file["table"]] += file["rows"]
    assert rows["conversations"] == COMPLETE + PENDING
    assert {table: rows[table] for table in xcom["rows"]} == xcom["rows"]
    assert not list(lake.rglob(".*"))


def test_a_retry_goes_on_where_a_killed_try_was(outcome):
    times = Counter(outcome["read"])
    assert set(times) == {one.id for one in outcome["conversations"]}
    saved, lost = outcome["before_kill"][:SAVED_TOGETHER], outcome["before_kill"][SAVED_TOGETHER:]
    assert {times[one] for one in saved} == {1}
    # A request may have been on its way when the process ended.
    assert {one for one, count in times.items() if count > 1} <= {
        *lost,
        *outcome["read"][len(outcome["before_kill"]) :],
    }
    assert len(outcome["read"]) <= COMPLETE + PENDING + len(lost) + 4


def test_the_sales_lead_is_told_the_truth(outcome):
    assert_answers(outcome["told"], outcome["expected"])
    assert len({row["with_kpi"] for row in outcome["told"].values()}) > 1
    assert outcome["ask"]["rows"] == len(outcome["told"])
    assert sum(row["conversations"] for row in outcome["told"].values()) == COMPLETE + PENDING


def test_the_asset_tells_what_has_landed(outcome):
    (event,) = [one for one in outcome["events"] if one["source_dag_id"] == EXPORT]
    assert event["name"] == "dstny_lake"
    assert event["extra"] == outcome["export"]


def test_late_transcripts_changes_and_deletions_are_picked_up(outcome):
    assert len(outcome["read_then"]) == PENDING
    assert set(outcome["read_then"]) == outcome["pending"]
    fill = outcome["fill"]
    assert (fill["left"], fill["complete"], fill["gone"]) == (0, PENDING - 1, 1)


def test_the_export_repeated_reads_nothing_and_writes_the_same(outcome):
    assert outcome["read_at_last"] == []
    assert outcome["export_again"]["interval"] == outcome["export"]["interval"]
    assert outcome["export_again"]["rows"] == outcome["export"]["rows"]
    assert outcome["files"].items() <= outcome["files_again"].items()


def test_the_latest_version_counts_and_the_deleted_do_not(outcome):
    assert_answers(outcome["told_again"], outcome["expected_again"])
    total = sum(row["conversations"] for row in outcome["told_again"].values())
    assert total == COMPLETE + PENDING - 1


def test_the_pace_and_the_contract_are_kept(outcome):
    assert outcome["books"].violations == []
    refused = [entry for entry in outcome["books"].entries if entry.status == 429]
    assert len(refused) < len(outcome["books"].entries) / 4


def test_no_token_and_nothing_that_was_said_is_in_logs_or_database(outcome):
    one = outcome["conversations"][0]
    said = [one.summary, one.participants[0]["email"], "switchboard", "Porting takes about"]
    raw = b"".join(file.read_bytes() for file in (outcome["folder"] / "lake" / "raw").rglob("*.jsonl"))
    assert all(text.encode() in raw for text in said)
    left = [path for path in (outcome["folder"] / "airflow").rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in left)
    assert sum(path.name.startswith("attempt=") for path in left) >= 8
    for path in left:
        content = path.read_bytes()
        found = [secret for secret in (TOKEN, *said) if secret.encode() in content]
        assert not found, f"{path} has {found}"
