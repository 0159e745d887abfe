"""What the page knows of the places where volumes are: one look at each is shared by everybody who asks meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass
from datetime import datetime

from airflow_rankvol._reaping import Place, place_of
from airflow_rankvol.engine.reap import Finding, RunState, survey
from airflow_rankvol.records import utc_now

#: For how long a look holds, in seconds.
FRESH_S = 5.0
#: For how long a request waits for a look; what comes later is shown to the next one.
PATIENCE_S = 15.0


@dataclass(frozen=True)
class Seen:
    """What one connection leads to, or why that is not known; ``place`` is None where there is nothing to look at."""

    conn_id: str
    place: Place | None = None
    findings: tuple[Finding, ...] = ()
    at: datetime | None = None
    problem: str = ""


class Looks:
    """Looks at each connection, in threads of its own; a place that does not answer hides no other.

    Args:
        state_of: asks whether a run lives.
    """

    def __init__(self, state_of: Callable[[str, str], RunState]) -> None:
        self._state_of = state_of
        # Taken again by the thread that has it: a look that ends at once is stored by the one that began it.
        self._lock = threading.RLock()
        # One thread for each connection: one that hangs, however often it is asked for anew, takes none from another.
        self._threads: dict[str, ThreadPoolExecutor] = {}
        self._running: dict[str, Future[Seen]] = {}
        self._done: dict[str, tuple[float, Seen]] = {}

    def all(self, conn_ids: list[str]) -> list[Seen]:
        """Return what was seen a moment ago, or look again."""
        begun = [(conn_id, self._begin(conn_id)) for conn_id in dict.fromkeys(conn_ids)]
        deadline = time.monotonic() + PATIENCE_S
        return [self._result(conn_id, look, deadline) for conn_id, look in begun]

    def forget(self) -> None:
        """Look again when asked next: something was removed."""
        with self._lock:
            self._done.clear()
            self._running.clear()  # a look that began before shows what is gone now

    def _begin(self, conn_id: str) -> Future[Seen] | Seen:
        with self._lock:
            at, seen = self._done.get(conn_id, (0.0, None))
            if seen is not None and time.monotonic() - at < FRESH_S:
                return seen
            running = self._running.get(conn_id)
            if running is not None:
                return running
            if conn_id not in self._threads:
                self._threads[conn_id] = ThreadPoolExecutor(1, thread_name_prefix=f"rankvol-page-{conn_id}")
            look = self._running[conn_id] = self._threads[conn_id].submit(look_at, conn_id, self._state_of)
            look.add_done_callback(lambda done: self._store(conn_id, done))
            return look

    def _store(self, conn_id: str, look: Future[Seen]) -> None:
        with self._lock:
            if self._running.get(conn_id) is look:
                del self._running[conn_id]
                self._done[conn_id] = (time.monotonic(), look.result())

    def _result(self, conn_id: str, look: Future[Seen] | Seen, deadline: float) -> Seen:
        if isinstance(look, Seen):
            return look
        try:
            return look.result(max(deadline - time.monotonic(), 0.01))
        except Late:
            problem = f"it has not answered within {PATIENCE_S:.0f} s; what is shown here may be old"
        with self._lock:
            _, old = self._done.get(conn_id, (0.0, Seen(conn_id)))
        return Seen(conn_id, old.place, old.findings, old.at, problem)


def look_at(conn_id: str, state_of: Callable[[str, str], RunState]) -> Seen:
    """Look at a place once, and say what is wrong with it where that fails."""
    try:
        place = place_of(conn_id)
        return Seen(conn_id, place, tuple(survey(place.backend, place.selector, state_of)), utc_now())
    except Exception as exc:  # noqa: BLE001 - whatever it is, the page shows the other places
        return Seen(conn_id, problem=f"{type(exc).__name__}: {exc}")
