"""EC2's request buckets: no call goes out for which the account has no token, so nothing earns throttling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from airflow_rankvol.errors import Throttled

#: Action → tokens that its bucket holds, and tokens that come back per second. Each action has a bucket of its own,
#: per account and region (Amazon EC2 Developer Guide, "Request throttling for the Amazon EC2 API").
BUCKETS: dict[str, tuple[float, float]] = {
    "RunInstances": (5, 2),
    "CreateVolume": (100, 5),
    "DeleteVolume": (100, 5),
    "TerminateInstances": (100, 5),
    "AttachVolume": (50, 5),
    "DetachVolume": (50, 5),
    "CreateTags": (100, 10),
}
#: Describe… with filters and pages, as all of ours are, and everything else that only reads.
READING = (100.0, 20.0)
#: So many seconds' worth of tokens is left in each bucket: of two calls the later one may get to EC2 sooner than it
#: left us after the other, and the account would be throttled where the bucket is empty to the last token.
JITTER_S = 1.0

#: Longer than this a call does not wait for its turn, in seconds; the engine comes back to it.
MAX_WAIT_S = 30.0


@dataclass(slots=True)
class _Bucket:
    capacity: float
    per_second: float
    tokens: float
    at: float

    def take(self, now: float, max_wait_s: float) -> float | None:
        """Return after how many seconds the call may go out, or None when that is too long to wait."""
        self.tokens = min(self.capacity, self.tokens + (now - self.at) * self.per_second)
        self.at = now
        wait_s = max(0.0, (1 - self.tokens) / self.per_second)
        if wait_s > max_wait_s:
            return None
        self.tokens -= 1  # below zero: those that wait have their turns one after the other
        return wait_s


class Limiter:
    """The buckets of one account and region, shared by all threads of this process."""

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self._now = now
        self._sleep = sleep
        self._max_wait_s = max_wait_s
        self._lock = threading.Lock()
        self._buckets: dict[str, _Bucket] = {}

    def acquire(self, action: str) -> None:
        """Wait until a call of this action may go out.

        Raises:
            Throttled: that would take too long.
        """
        with self._lock:
            now = self._now()
            if action not in self._buckets:
                capacity, per_second = BUCKETS.get(action, READING)
                capacity -= per_second * JITTER_S
                self._buckets[action] = _Bucket(capacity, per_second, capacity, now)
            bucket = self._buckets[action]
            wait_s = bucket.take(now, self._max_wait_s)
        if wait_s is None:
            raise Throttled(
                f"{action}: more than {self._max_wait_s:.0f} s of calls wait for their turn already; EC2 takes "
                f"{bucket.per_second:g} a second. It is tried again",
                backend="aws",
                verb=action,
            )
        if wait_s:
            self._sleep(wait_s)
