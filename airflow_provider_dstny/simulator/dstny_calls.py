"""Calls that the simulated account of API v2 has without anybody having sent them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from airflow_provider_dstny.simulator.dstny_directory import USERS
from airflow_provider_dstny.simulator.moments import to_text
from airflow_provider_dstny.simulator.samples import CUSTOMERS, seeded

_HOUR, _DAY = 3600.0, 86400.0
_TOOK = 300


def default_body(number: int, sent_at: float) -> dict[str, Any]:
    """Return what was sent of the call with a number, as soon as it was over."""
    customer, owner = CUSTOMERS[number % len(CUSTOMERS)], USERS[number % len(USERS)]
    first_name, _, last_name = customer.name.partition(" ")
    return {
        "call_external_id": f"call-{number}",
        "call_start_time": to_text(sent_at - _TOOK),
        "call_end_time": to_text(sent_at),
        "call_recording_url": f"https://recordings.example.com/call-{number}.wav",
        "call_direction": ("incoming", "outgoing")[number % 2],
        "call_title": f"{'Discovery call' if number % 2 else 'Follow-up'} - {customer.company}",
        "owner_email": owner["email"],
        "owner_name": f"{owner['first_name']} {owner['last_name']}",
        "participant_email": customer.email,
        "participant_first_name": first_name,
        "participant_last_name": last_name,
        "participant_company_name": customer.company,
    }


def sample_moments(seed: int, ready: float, count: int) -> Iterator[float]:
    """Yield when calls were sent: within the ten days before ``ready``, the last hour excepted."""
    random = seeded(f"{seed} dstny samples")
    for _ in range(count):
        yield round(ready - random.uniform(_HOUR, 10 * _DAY), 3)
