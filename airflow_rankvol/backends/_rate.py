"""Request buckets: no call goes out for which the account has no token, so nothing earns throttling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from airflow_rankvol.errors import Throttled

#: Longer than this a call does not wait for its turn, in seconds; the engine comes back to it.
MAX_WAIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What a cloud takes, per bucket: the tokens that it holds, and those that come back per second.

    Args:
        backend: the backend's name, for errors.
        service: whose rate it is, as people call it.
        other: the bucket of whatever is not among ``buckets``.
        jitter_s: so many seconds' worth of tokens is left in each bucket.
    """

    backend: str
    service: str
    other: tuple[float, float]
    buckets: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    jitter_s: float = 0.0


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


class RateLimiter:
    """The buckets of one account and place, shared by all threads of this process."""

    def __init__(
        self,
        rates: Rates,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        max_wait_s: float = MAX_WAIT_S,
    ) -> None:
        self._rates = rates
        self._now = now
        self._sleep = sleep
        self._max_wait_s = max_wait_s
        self._lock = threading.RLock()  # a signal's handler may call while its thread is in here
        self._buckets: dict[str, _Bucket] = {}

    def acquire(self, bucket: str) -> None:
        """Wait until a call that counts against a bucket may go out.

        Raises:
            Throttled: that would take too long.
        """
        rates = self._rates
        with self._lock:
            now = self._now()
            if bucket not in self._buckets:
                capacity, per_second = rates.buckets.get(bucket, rates.other)
                capacity -= per_second * rates.jitter_s
                self._buckets[bucket] = _Bucket(capacity, per_second, capacity, now)
            found = self._buckets[bucket]
            wait_s = found.take(now, self._max_wait_s)
        if wait_s is None:
            raise Throttled(
                f"{bucket}: more than {self._max_wait_s:.0f} s of calls wait for their turn already; {rates.service} "
                f"takes {found.per_second:g} a second. It is tried again",
                backend=rates.backend,
                verb=bucket,
            )
        if wait_s:
            self._sleep(wait_s)
