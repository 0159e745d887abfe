"""Every call that reached the double, whoever answered it, and what the double did wrong itself."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Call:
    """One call: who asked for what, and what came of it."""

    service: str
    action: str
    params: dict[str, Any]
    agent: str = ""
    access_key: str = ""
    token: str = ""
    at: float = 0.0
    n: int = -1
    status: int = 0  # 0: no answer was sent (yet)
    code: str = ""
    fault: str = ""
    took_s: float = 0.0
    made: list[str] = field(default_factory=list)


class Recorder:
    """The list of calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._ever: dict[str, set[str]] = {}
        self._bugs: list[str] = []

    def add(self, call: Call) -> None:
        """Take a call that has just come in."""
        with self._lock:
            call.n = len(self._calls)
            self._calls.append(call)
            self._ever.setdefault(call.access_key, set()).add(f"{call.service}:{call.action}")

    def ever(self, access_key: str) -> list[str]:
        """Return every ``service:Action`` that a key has ever called; what is cleared counts, too."""
        with self._lock:
            return sorted(self._ever.get(access_key, ()))

    def calls(self, since: int = 0, action: str = "") -> list[dict[str, Any]]:
        """Return the calls from a number on, of one action or of all."""
        with self._lock:
            return [asdict(c) for c in self._calls[since:] if action in ("", c.action)]

    def counts(self, since: int = 0) -> dict[str, int]:
        """Return how many calls there were, as ``service:Action``."""
        with self._lock:
            return dict(Counter(f"{c.service}:{c.action}" for c in self._calls[since:]))

    def note(self, bugs: Iterable[str]) -> None:
        """Note what a test must fail for, whatever its client makes of the answer."""
        with self._lock:
            self._bugs += bugs

    def bugs(self) -> list[str]:
        """Return what was noted and never told before; clearing the calls does not lose it."""
        with self._lock:
            found, self._bugs = self._bugs, []
            return found

    def clear(self) -> None:
        """Forget all calls."""
        with self._lock:
            self._calls.clear()
