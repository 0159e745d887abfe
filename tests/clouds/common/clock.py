"""The double's clock: real time that tests can warp and freeze, and what falls due on it."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime

# A timer that fires late by this much is early enough; an idle double wakes up no more often than this.
_IDLE_S = 3600.0


class Clock:
    """Seconds since the epoch, plus what was warped, minus what was frozen."""

    def __init__(self) -> None:
        self._offset_s = 0.0
        self._frozen_at: float | None = None
        self.rate = 1.0
        # The time at which what happens now was due, so that one leap through a chain of events keeps their distance.
        self.due_at: float | None = None

    def now(self) -> float:
        """Return the double's time in seconds since the epoch."""
        return self.shown() if self.due_at is None else self.due_at

    def is_due(self, at: float) -> bool:
        """Return whether that time has come."""
        return at <= self.shown()

    def shown(self) -> float:
        """Return what the clock shows, also while something that was due earlier is happening."""
        return (time.time() if self._frozen_at is None else self._frozen_at) * self.rate + self._offset_s

    @property
    def frozen(self) -> bool:
        """Whether only ``advance`` moves the time."""
        return self._frozen_at is not None

    def run_at(self, rate: float) -> None:
        """Let so many seconds pass in each second from now on."""
        if rate <= 0:
            raise ValueError(f"the clock only goes forward, found the rate {rate}")
        before = self.shown()
        self.rate = rate
        self._offset_s += before - self.shown()

    def advance(self, seconds: float) -> None:
        """Move the time forward."""
        if seconds < 0:
            raise ValueError(f"the clock only goes forward, found {seconds} s")
        self._offset_s += seconds

    def reset(self) -> None:
        """Be the real time again."""
        self._offset_s, self._frozen_at, self.rate = 0.0, None, 1.0

    def freeze(self, frozen: bool) -> None:
        """Stop the clock, or let it go on from where it stands."""
        if frozen and self._frozen_at is None:
            self._frozen_at = time.time()
        elif not frozen and self._frozen_at is not None:
            self._offset_s -= (time.time() - self._frozen_at) * self.rate
            self._frozen_at = None


def as_datetime(seconds: float) -> datetime:
    """Return a time of the clock as an aware datetime, with EC2's millisecond resolution."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


class Agenda:
    """What happens later: callables on the clock, run in order by whoever settles the world.

    A request settles before it is served, so what a client sees depends on the clock alone. A thread settles when
    nobody asks, so that nodes start and end by themselves.
    """

    def __init__(self, clock: Clock, lock: threading.RLock) -> None:
        self._clock = clock
        self._wake = threading.Condition(lock)
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._closed = False

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Run the callable that much later, under the world's lock."""
        with self._wake:
            heapq.heappush(self._heap, (self._clock.now() + seconds, next(self._order), act))
            self._wake.notify_all()

    def settle(self) -> None:
        """Run all that has fallen due. The caller holds the lock."""
        while self._heap and self._clock.is_due(self._heap[0][0]):
            self._clock.due_at, _, act = heapq.heappop(self._heap)
            try:
                act()
            except Exception:  # noqa: BLE001 -- time goes on; the double's log has the reason
                traceback.print_exc()
            finally:
                self._clock.due_at = None

    def clear(self) -> None:
        """Forget all that was to come."""
        with self._wake:
            self._heap.clear()

    def poke(self) -> None:
        """Look at the clock again: it was warped, or has stopped."""
        with self._wake:
            self._wake.notify_all()

    def run(self) -> None:
        """Settle as time goes by until closed: the body of the thread."""
        with self._wake:
            while not self._closed:
                self.settle()
                due_s = (self._heap[0][0] - self._clock.now()) / self._clock.rate if self._heap else _IDLE_S
                self._wake.wait(min(max(due_s, 0.001), 1.0 if self._heap else _IDLE_S))

    def close(self) -> None:
        """End the thread."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
