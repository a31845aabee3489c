"""What the simulator remembers: every request, and the faults it was told to commit."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

FaultKind = Literal["status", "html", "reset", "truncated", "empty", "slow"]


@dataclass
class Fault:
    """Something that goes wrong with the next ``times`` requests of an operation.

    :param kind: ``status`` answers ``status`` with a JSON body; ``html`` does with an HTML page; ``reset``
        breaks the connection; ``truncated`` cuts the true answer in half; ``empty`` answers nothing;
        ``slow`` answers after ``seconds``. ``status``, ``html`` and ``slow`` come instead of the work,
        ``reset``, ``truncated`` and ``empty`` after it, unless ``before`` is set.
    :param operation: an operation id, None for any.
    :param retry_after: seconds, put into the body as ``retryAfter``.
    """

    kind: FaultKind
    operation: str | None = None
    times: int = 1
    status: int = 500
    retry_after: float | None = None
    message: str = "Simulated fault"
    seconds: float = 5.0
    before: bool = False


@dataclass
class Entry:
    """One request as the simulator saw it; ``violation`` says how it broke the contract."""

    at: float
    method: str
    path: str
    operation: str | None = None
    status: int | None = None
    violation: str | None = None


@dataclass
class Books:
    """Requests in order. Thread-safe to append to, meant to be read by tests."""

    entries: list[Entry] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    recordings_fetched: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def violations(self) -> list[str]:
        return [f"{entry.method} {entry.path}: {entry.violation}" for entry in self.entries if entry.violation]

    def count(self, operation: str) -> int:
        """Return how many requests of an operation arrived, whatever they were answered."""
        return sum(entry.operation == operation for entry in self.entries)

    def inject(self, fault: Fault) -> None:
        with self._lock:
            self.faults.append(fault)

    def take_fault(self, operation: str) -> Fault | None:
        """Use up one occurrence of the first fault that fits."""
        with self._lock:
            for fault in self.faults:
                if fault.operation in (None, operation):
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                    return fault
        return None

    def recording_fetched(self, url: str) -> None:
        with self._lock:
            self.recordings_fetched[url] = self.recordings_fetched.get(url, 0) + 1

    def to_json(self) -> dict[str, Any]:
        return {
            "entries": [asdict(entry) for entry in self.entries],
            "violations": self.violations,
            "recordings_fetched": self.recordings_fetched,
        }
