"""What happens to many nodes at once, and to each of them in order."""

from __future__ import annotations

import threading
import traceback
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

THREADS = 16


class Lanes:
    """Runs what is to happen to each node one after the other, and different nodes at once."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="nodes")
        self._lock = threading.Lock()
        self._waiting: dict[str, deque[Callable[[], None]]] = defaultdict(deque)
        self._busy: set[str] = set()
        self._closed = False

    def put(self, node_id: str, act: Callable[[], None]) -> None:
        """Do this with a node after all that was put before."""
        with self._lock:
            if self._closed:
                return
            self._waiting[node_id].append(act)
            if node_id in self._busy:
                return
            self._busy.add(node_id)
        self._pool.submit(self._drive, node_id)

    def _drive(self, node_id: str) -> None:
        while True:
            with self._lock:
                if not self._waiting[node_id]:
                    self._busy.discard(node_id)
                    return
                act = self._waiting[node_id].popleft()
            try:
                act()
            except Exception:  # noqa: BLE001 -- a lane goes on; the double's log has the reason
                traceback.print_exc()

    def close(self) -> None:
        """Let what is under way end."""
        with self._lock:
            self._closed = True
            self._waiting.clear()
        self._pool.shutdown()
