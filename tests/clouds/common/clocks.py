"""The clocks that a backend gets in tests."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow_rankvol.backends.base import Clock
from tests.clouds.common.client import Process


class DoubleClock(Clock):
    """The double's clock: sleeping moves it, so nobody waits."""

    def __init__(self, double: Process) -> None:
        self._double = double

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds(), UTC)

    def seconds(self) -> float:
        return float(self._double("clock"))

    def sleep(self, seconds: float) -> None:
        self._double.advance(seconds)


class OnlyClock(Clock):
    """The double's clock for the only process that moves it: asked for once."""

    def __init__(self, double: Process) -> None:
        self._double = double
        self._at = float(double("clock"))

    def seconds(self) -> float:
        return self._at

    def now(self) -> datetime:
        return datetime.fromtimestamp(self._at, UTC)

    def sleep(self, seconds: float) -> None:
        self._at = float(self._double("clock", advance_s=seconds))


class RealClock(Clock):
    """The world's clock, for nodes that really run."""

    def seconds(self) -> float:
        return self.now().timestamp()


AnyClock = OnlyClock | RealClock
