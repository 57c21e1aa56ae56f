"""Faults on demand: which requests go wrong, how, and how often."""

import re
import threading
from dataclasses import dataclass, field


@dataclass
class Fault:
    """One thing that goes wrong with each request whose "METHOD /path" holds `pattern`."""

    pattern: re.Pattern[str]
    status: int | None = None
    times: int | None = 1
    cut_after: int | None = None
    delay: float = 0.0
    corrupt: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    body: bytes | None = None

    def spoil(self, body: bytes) -> bytes:
        """`body` with its middle byte inverted where the fault is to corrupt, else as it is."""
        if not self.corrupt or not body:
            return body
        middle = len(body) // 2
        return body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :]


class Faults:
    """The faults that are still to happen, oldest first."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        """Take `fault` in; `times` None makes it happen always."""
        harmless = fault.status is None and fault.cut_after is None
        if harmless and not (fault.delay or fault.corrupt or fault.headers):
            raise ValueError("a fault needs one of status, cut_after, delay, corrupt, headers")
        if fault.times is not None and fault.times < 1:
            raise ValueError(f"times must be None or at least 1, got {fault.times}")
        with self._lock:
            self._waiting.append(fault)

    def take(self, method: str, path: str) -> Fault | None:
        """The first waiting fault for this request, counted as used; None if all is to go well."""
        with self._lock:
            for fault in self._waiting:
                if fault.pattern.search(f"{method} {path}"):
                    if fault.times is not None:
                        fault.times -= 1
                        if fault.times == 0:
                            self._waiting.remove(fault)
                    return fault
        return None

    def clear(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._waiting.clear()
