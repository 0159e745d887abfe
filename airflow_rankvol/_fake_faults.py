"""What may go wrong on the in-memory cloud behind ``airflow_rankvol.testing``, and the clock it goes by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from airflow_rankvol.backends.base import Clock
from airflow_rankvol.errors import BackendError, Throttled

When = Literal["before", "midway", "after", "ignored"]


class SimulatedCrash(BaseException):
    """The process that called the backend has died; no handler for ordinary errors may stop it."""


class FakeClock(Clock):
    """A clock that only moves when somebody sleeps.

    Args:
        start: the first moment; 2026-01-01 UTC when left out.
        on_sleep: called with the seconds at the begin of each sleep, so that a test can act in between.
    """

    def __init__(self, start: datetime | None = None, on_sleep: Callable[[float], None] | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)
        self.on_sleep = on_sleep
        self.slept_s = 0.0

    def now(self) -> datetime:
        """Return the clock's time."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let that many seconds pass at once."""
        if self.on_sleep:
            self.on_sleep(seconds)
        self.slept_s += seconds
        self._now += timedelta(seconds=seconds)


@dataclass(slots=True)
class Fault:
    """One entry of a fault script; see ``FaultScript.fail``."""

    verb: str
    error: type[BackendError] | BaseException
    when: When
    call: int | None
    resource: str | None
    times: float


class FaultScript:
    """Says which calls of which verb go wrong, and how."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._seen: dict[str, int] = {}

    def fail(
        self,
        verb: str,
        error: type[BackendError] | BaseException = Throttled,
        *,
        when: When = "before",
        call: int | None = None,
        resource: str | None = None,
        times: float = 1,
    ) -> None:
        """Let calls of a verb fail.

        Args:
            error: an error class of the package, or any exception; after a SimulatedCrash every verb raises it
                until ``revive``.
            when: before the effect; after it (the answer is lost); midway (a batch verb does half of it);
                or "ignored": accepted without an error and without any effect.
            call: only from the k-th call of this verb on, counted from 1.
            resource: only where the name or id holds this text.
            times: how often; ``math.inf`` for always.
        """
        self._faults.append(Fault(verb, error, when, call, resource, times))

    def clear(self) -> None:
        """Forget every fault."""
        self._faults.clear()

    def take(self, verb: str, resource: str) -> Fault | None:
        """Count this call and return the fault that strikes it."""
        self._seen[verb] = self._seen.get(verb, 0) + 1
        for fault in self._faults:
            if fault.verb != verb or fault.times <= 0:
                continue
            if fault.call is not None and self._seen[verb] < fault.call:
                continue
            if fault.resource is not None and fault.resource not in resource:
                continue
            fault.times -= 1
            return fault
        return None
