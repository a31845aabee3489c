"""``python -m airflow_provider_dstny.simulator``: the simulator on a port, until it is stopped."""

from __future__ import annotations

import argparse
import sys
from errno import EACCES, EADDRINUSE

from airflow_provider_dstny.simulator.rest import SCOPES
from airflow_provider_dstny.simulator.server import Simulator


def main() -> int:
    options = vars(_parser().parse_args())
    options["rest_tokens"] = {options.pop("rest_token"): options.pop("rest_scopes")}
    for limit in ("requests_per_minute", "daily_conversation_quota"):
        options[limit] = options[limit] or None
    try:
        simulator = Simulator(**options)
    except OSError as error:
        wrong = "port" if error.errno in (EACCES, EADDRINUSE) else "host"
        told = f"{wrong.capitalize()} {options[wrong]} cannot be used: {error.strerror}."
        print(f"{told} Choose another with --{wrong}.", file=sys.stderr)
        return 1
    tokens = (simulator.token, simulator.rest_token, simulator.tellcasey_token)
    print(f"Dstny simulator on {simulator.url}")
    for api, token in zip(simulator.app.apis, tokens, strict=True):
        print(f"  {api.name}: {simulator.url}{api.contract.base_path}, token {token}")
    sys.stdout.flush()
    simulator.serve()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_dstny.simulator",
        description="A stateful stand-in for three APIs: Dstny v2, Dstny REST v1, and tellcasey.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    option = parser.add_argument
    option("--host", default="127.0.0.1", help="address to listen on")
    option("--port", type=_port, default=8765, help="port, 0 for a free one")
    option("--token", default="dstny-simulator-token", help="accepted token of v2")
    option("--rest-token", default="mt_simulator", help="accepted token of v1")
    option("--rest-scopes", type=_scopes, default=",".join(SCOPES), metavar="A,B", help="what the token of v1 may do")
    option("--tellcasey-token", default="sk_test_simulator", help="accepted token of tellcasey")
    option("--visible-after", type=float, default=1.0, help="seconds until a new conversation can be read")
    option(
        "--transcript-after", type=float, default=20.0, help="seconds until the transcript of a conversation is there"
    )
    option("--jitter", type=float, default=10.0, help="up to so many seconds more")
    option(
        "--not-ready",
        choices=("404", "null", "empty", "blank"),
        default="404",
        help="how a missing transcript is answered",
    )
    option("--agent-seconds", type=float, default=0.2, help="how long an agent of v2 thinks")
    option("--requests-per-minute", type=float, default=60.0, help="limit of each token of v1, 0 for none")
    option(
        "--daily-conversation-quota",
        type=int,
        default=1000,
        help="unique conversations of each token of v1 per UTC day, 0 for no quota",
    )
    option("--samples", type=int, default=40, help="complete conversations of v1 and tellcasey at the start")
    option("--fresh", type=int, default=5, help="conversations of v1 and tellcasey that complete after the start")
    option("--dstny-samples", type=int, default=0, help="complete conversations of v2 at the start")
    order = parser.add_mutually_exclusive_group()
    order.add_argument(
        "--newest-first",
        action="store_true",
        default=argparse.SUPPRESS,
        help="order of the list of v1 (default)",
    )
    order.add_argument(
        "--oldest-first",
        action="store_false",
        dest="newest_first",
        default=argparse.SUPPRESS,
        help="the other order",
    )
    option("--inclusive-cursor", action="store_true", help="a page of v1 begins at its cursor instead of after it")
    option(
        "--no-webhooks",
        action="store_false",
        dest="webhooks",
        default=argparse.SUPPRESS,
        help="an account of v1 without deliveries to webhooks",
    )
    option("--webhook-url", help="where v1 sends webhooks of conversations that become complete")
    option("--webhook-secret", default="simulator-webhook-secret", help="what they are signed with")
    option("--seed", type=int, default=0, help="of all that is random")
    return parser


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError("must be a number from 0 to 65535")
    return int(text)


def _scopes(text: str) -> list[str]:
    scopes = [scope.strip() for scope in text.split(",") if scope.strip()]
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(SCOPES)}")
    return scopes


if __name__ == "__main__":
    sys.exit(main())
