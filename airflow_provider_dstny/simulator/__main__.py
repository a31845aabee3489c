"""``python -m airflow_provider_dstny.simulator``: the simulator on a port, until it is stopped."""

from __future__ import annotations

import argparse
import sys

from airflow_provider_dstny.simulator.server import Simulator


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_dstny.simulator",
        description="A stateful stand-in for the Dstny API v2: push calls, wait for transcripts, run agents.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8765, help="port, 0 for a free one (default: %(default)s)")
    parser.add_argument("--token", default="dstny-simulator-token", help="accepted token (default: %(default)s)")
    parser.add_argument(
        "--visible-after", type=float, default=1.0, help="seconds until a call can be read (default: %(default)s)"
    )
    parser.add_argument(
        "--transcript-after",
        type=float,
        default=20.0,
        help="seconds until its transcript is there (default: %(default)s)",
    )
    parser.add_argument("--jitter", type=float, default=10.0, help="up to so many seconds more (default: %(default)s)")
    parser.add_argument(
        "--not-ready",
        choices=("404", "null", "empty", "blank"),
        default="404",
        help="how a missing transcript is answered (default: %(default)s)",
    )
    parser.add_argument(
        "--agent-seconds", type=float, default=0.2, help="how long an agent thinks (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the jitter (default: %(default)s)")
    arguments = vars(parser.parse_args())
    try:
        simulator = Simulator(**arguments)
    except OSError as error:
        print(
            f"Port {arguments['port']} cannot be used: {error.strerror}. Choose another with --port.", file=sys.stderr
        )
        return 1
    print(f"Dstny simulator on {simulator.url}, token {simulator.token}", flush=True)
    simulator.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
