"""``make demo``: push 25 calls, wait for their transcripts, run an agent, land the results, show all of it."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.local_airflow import LocalAirflow, StartError, check_port, running_simulator, sample_calls

DAG_ID = "example_call_to_transcript"
ROOT = Path(__file__).parent.parent
SIMULATOR_TOKEN = "dstny-simulator-token"  # noqa: S105 - opens nothing else


@dataclass
class Phases:
    """How long each part took."""

    started: float = field(default_factory=time.monotonic)
    seconds: dict[str, float] = field(default_factory=dict)

    def end(self, name: str) -> None:
        now = time.monotonic()
        self.seconds[name] = now - self.started
        self.started = now


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument("--airflow-port", type=int, default=8080)
    parser.add_argument("--simulator-port", type=int, default=8765)
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)
    try:
        return run(options)
    except StartError as error:
        print(f"\nThe demo could not go on: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped; nothing is left running.")
        return 130


def interrupt(*_: object) -> None:
    """Stop once: a second Ctrl-C must not cut the cleaning up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(options: argparse.Namespace) -> int:
    check_port(options.airflow_port, "AIRFLOW_PORT")
    check_port(options.simulator_port, "SIMULATOR_PORT")
    folder = (options.folder / time.strftime("%Y%m%d-%H%M%S", time.gmtime())).absolute()
    phases = Phases()
    print(f"Starting the simulator and Airflow in {folder} …", flush=True)
    simulator = running_simulator(
        options.simulator_port,
        folder / "simulator.log",
        token=SIMULATOR_TOKEN,
        transcript_after=22,
        jitter=6,
        agent_seconds=0.05,
    )
    with simulator as simulator_url:
        calls = sample_calls(folder / "recorded_calls.csv", simulator_url)
        connection = {"conn_type": "dstny", "host": simulator_url, "password": SIMULATOR_TOKEN}
        airflow = LocalAirflow(
            folder / "airflow",
            dags=ROOT / "example_dags",
            port=options.airflow_port,
            connections={"dstny_default": connection},
        )
        with airflow:
            phases.end("start Airflow")
            results = folder / "results"
            conf = {"calls_path": str(calls), "output_path": f"file://{results}"}
            run_id = airflow.trigger(DAG_ID, conf)
            phases.end("find and trigger the DAG")
            ok = follow(airflow, run_id, phases)
            show(airflow, run_id, calls, phases)
            if options.keep:
                print(f"\nAirflow: {airflow.url} (no login needed, you are admin)   simulator: {simulator_url}")
                print("Ctrl-C stops both.", flush=True)
                signal.pause()
    return 0 if ok else 1


def follow(airflow: LocalAirflow, run_id: str, phases: Phases) -> bool:
    """Print a line whenever something moved, until the run ends; tell whether it succeeded."""
    last = ""
    peak = 0
    while True:
        run_state = airflow.run_state(DAG_ID, run_id)
        instances = airflow.task_instances(DAG_ID, run_id)
        created = states(instances, "transcribe.create")
        waits = states(instances, "transcribe.wait")
        pool = airflow.get("/pools/default_pool")
        for name, counts in (("send the calls", created), ("await the transcripts", waits)):
            if counts and counts["success"] + counts["failed"] == counts.total() and name not in phases.seconds:
                phases.end(name)
        peak = max(peak, waits["deferred"]) if not pool["running_slots"] else peak
        line = (
            f"calls sent {created['success']:>2}/{created.total()}   waiting in the triggerer {waits['deferred']:>2}   "
            f"transcripts {waits['success']:>2}/{waits.total()}   worker slots in use {pool['running_slots']}"
        )
        if line != last:
            print(f"  {line}", flush=True)
            last = line
        if run_state in {"success", "failed"}:
            phases.end("run the agent and land the results")
            print(f"\nAt the most {peak} conversations waited while no worker slot was in use (pool default_pool).")
            return run_state == "success"
        time.sleep(1)


def states(instances: list[dict[str, Any]], task_id: str) -> Counter[str]:
    mapped = [one for one in instances if one["task_id"] == task_id and one["map_index"] >= 0]
    return Counter(str(one["state"]) for one in mapped)


def show(airflow: LocalAirflow, run_id: str, calls: Path, phases: Phases) -> None:
    """Print what a person wants to know of the run."""
    instances = airflow.task_instances(DAG_ID, run_id)
    ended = {one["task_id"] for one in instances if one["state"] == "success"}
    agent_run = airflow.xcom(DAG_ID, run_id, "run_agent") if "run_agent" in ended else None
    landed = airflow.xcom(DAG_ID, run_id, "land_transcripts") if "land_transcripts" in ended else []
    agents = read_results(agent_run["output_path"] if agent_run else None)
    print(f"\n{'call':<20} {'conversation':<38} {'waited':>7} {'segments':>8}  agent result")
    for index, call in enumerate(external_ids(calls)):
        state = {one["task_id"]: one["state"] for one in instances if one["map_index"] == index}
        if state.get("transcribe.wait") != "success":
            print(f"{call:<20} {'-':<38} {'-':>7} {'-':>8}  {state}")
            continue
        waited = airflow.xcom(DAG_ID, run_id, "transcribe.wait", index)
        for conversation_id, seen in waited.items():
            brief = agents.get(conversation_id, "-")
            print(f"{call:<20} {conversation_id:<38} {seen['waited_seconds']:>5.0f} s {seen['segments']:>8}  {brief}")
    failed = [
        f"{one['task_id']}[{one['map_index']}]" for one in instances if one["state"] in {"failed", "upstream_failed"}
    ]
    print(f"\nFailed tasks: {', '.join(failed) or 'none'}")
    if agent_run:
        results = agent_run["output_path"]
        transcripts = results.replace("agent_results", "transcripts")
        print(f"{len(landed)} of {len(external_ids(calls))} transcripts: {transcripts}")
        print(f"{agent_run['succeeded']} agent results: {results}")
    print("\nSeconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in phases.seconds.items()))


def external_ids(calls: Path) -> list[str]:
    return [line.partition(",")[0] for line in calls.read_text("utf-8").splitlines()[1:]]


def read_results(path: str | None) -> dict[str, str]:
    if path is None:
        return {}
    rows = [json.loads(line) for line in Path(path.removeprefix("file://")).read_text("utf-8").splitlines()]
    return {row["conversation_id"]: row["result"]["response"]["summary"][:60] for row in rows}


if __name__ == "__main__":
    sys.exit(main())
