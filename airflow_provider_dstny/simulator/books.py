"""What the simulator remembers: every request, and the faults it was told to commit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

FaultKind = Literal["status", "html", "reset", "truncated", "empty", "slow", "cut"]
#: The operation of a fault that hits the fetching of a recording.
RECORDING = "recording"
_KINDS_OF_APIS = set(get_args(FaultKind)) - {"cut"}
_KINDS_OF_RECORDINGS = {"status", "html", "reset", "slow", "cut"}


@dataclass
class Fault:
    """Something that goes wrong with the next ``times`` requests of an operation.

    :param kind: ``status`` answers ``status`` with a JSON body; ``html`` does with an HTML page; ``reset``
        breaks the connection; ``truncated`` cuts the true answer in half; ``empty`` answers nothing;
        ``slow`` answers after ``seconds``; ``cut`` breaks the connection after ``after_bytes`` of the body
        of a recording. ``status`` and ``html`` come instead of the work, ``slow`` before it, ``reset``,
        ``truncated`` and ``empty`` after it, unless ``before`` is set.
    :param operation: an operation id, None for any, ``recording`` for the fetching of a recording.
    :param retry_after: seconds, put into the header and, where the API has it, the body.
    :param api: ``dstny``, ``dstny_rest`` or ``tellcasey``, None for any.
    """

    kind: FaultKind
    operation: str | None = None
    times: int = 1
    status: int = 500
    retry_after: float | None = None
    message: str = "Simulated fault"
    seconds: float = 5.0
    before: bool = False
    api: str | None = None
    after_bytes: int = 0

    def __post_init__(self) -> None:
        if self.kind not in (_KINDS_OF_RECORDINGS if self.operation == RECORDING else _KINDS_OF_APIS):
            raise ValueError(f"{self.operation or 'an operation'} has no fault {self.kind!r}")


@dataclass
class Entry:
    """One request as the simulator saw it; ``violation`` says how it broke the contract."""

    at: float
    method: str
    path: str
    api: str
    operation: str | None = None
    status: int | None = None
    violation: str | None = None


@dataclass
class Download:
    """One request for a recording; ``authorized`` tells whether it carried an Authorization header."""

    name: str
    range: str | None
    authorized: bool
    status: int | None = None


@dataclass
class Books:
    """Requests in order. Thread-safe to append to, meant to be read by tests."""

    entries: list[Entry] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    downloads: list[Download] = field(default_factory=list)
    recordings_fetched: dict[str, int] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def violations(self) -> list[str]:
        return [f"{entry.method} {entry.path}: {entry.violation}" for entry in self.entries if entry.violation]

    def count(self, operation: str, api: str | None = None) -> int:
        """Return how many requests of an operation arrived, whatever they were answered."""
        return sum(entry.operation == operation and api in (None, entry.api) for entry in self.entries)

    def inject(self, fault: Fault) -> None:
        with self._lock:
            self.faults.append(fault)

    def take_fault(self, operation: str, api: str) -> Fault | None:
        """Use up one occurrence of the first fault that fits."""
        return self._take(lambda fault: fault.operation in (None, operation) and fault.api in (None, api))

    def take_recording_fault(self) -> Fault | None:
        """Use up one occurrence of the first fault that is meant for recordings: "any" means the APIs."""
        return self._take(lambda fault: fault.operation == RECORDING)

    def _take(self, fits: Callable[[Fault], bool]) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fits(fault):
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
            "downloads": [asdict(download) for download in self.downloads],
        }
