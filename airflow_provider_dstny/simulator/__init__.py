"""A stateful stand-in for the Dstny API, on a real port: for the demo, for tests, and for users' own DAG tests."""

from __future__ import annotations

from airflow_provider_dstny.simulator.books import Fault
from airflow_provider_dstny.simulator.server import Simulator

__all__ = ["Fault", "Simulator"]
