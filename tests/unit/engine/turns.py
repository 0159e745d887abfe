"""Several processes at once without any waiting: one runs at a time, until it sleeps; then the next that wakes up."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import count
from typing import TypeVar

from airflow_rankvol.backends.base import Clock

T = TypeVar("T")


class Turns(Clock):
    """The clock of the processes that ``run`` runs.

    Args:
        clock: the clock of the cloud, which is moved when all of them sleep.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._asleep: list[tuple[datetime, int]] = []
        self._numbers = count()
        self._awake: int | None = None

    def now(self) -> datetime:
        return self._clock.now()

    def sleep(self, seconds: float) -> None:
        with self._changed:
            number = self._lie_down(seconds)
            self._wake_next()
            self._changed.wait_for(lambda: self._awake == number)

    def run(self, *processes: Callable[[], T], every_s: float = 0.0) -> list[T]:
        """Return what the processes return.

        Args:
            every_s: so many seconds after the one before each of them begins.
        """
        beginnings = [self._lie_down(every_s * place) for place in range(len(processes))]

        def one(process: Callable[[], T], number: int) -> T:
            with self._changed:
                self._changed.wait_for(lambda: self._awake == number)
            try:
                return process()
            finally:
                with self._changed:
                    self._wake_next()

        with ThreadPoolExecutor(len(processes)) as pool:
            results = [pool.submit(one, *item) for item in zip(processes, beginnings, strict=True)]
            with self._changed:
                self._wake_next()
        return [result.result() for result in results]

    def _lie_down(self, seconds: float) -> int:
        number = next(self._numbers)
        heapq.heappush(self._asleep, (self.now() + timedelta(seconds=seconds), number))
        return number

    def _wake_next(self) -> None:
        self._awake = None
        if self._asleep:
            at, self._awake = heapq.heappop(self._asleep)
            self._clock.sleep(max(0.0, (at - self.now()).total_seconds()))
        self._changed.notify_all()
