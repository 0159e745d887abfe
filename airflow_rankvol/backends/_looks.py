"""Looks at a group that this process' threads share, so that describes do not grow in number with those."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

#: As many looks at a group a process may begin for each poll interval; each costs a describe of volumes and of nodes.
LOOKS_PER_INTERVAL = 2.0
#: As many it may begin at once, before they have to wait for their turn.
BURST = 2.0


@dataclass(slots=True, eq=False)
class _Look(Generic[T]):
    """One look, for all who asked before it began."""

    ended: threading.Event = field(default_factory=threading.Event)
    answers: list[T] = field(default_factory=list)
    error: Exception | None = None


@dataclass(slots=True)
class _Turns:
    """How many looks at one group may begin now; below zero, so many have their turns to come."""

    left: float
    at: float


class Looks(Generic[T]):
    """Looks by key. Whoever asks gets one that began after the question: what the caller has just done is in it.

    Args:
        interval_s: the poll interval.
        now: the time in seconds.
        sleep: blocks for that many seconds.
    """

    def __init__(self, interval_s: float, *, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._per_s = LOOKS_PER_INTERVAL / interval_s if interval_s > 0 else float("inf")
        self._now = now
        self._sleep = sleep
        self._lock = threading.Lock()
        self._to_come: dict[str, _Look[T]] = {}
        self._turns: dict[str, _Turns] = {}

    def look(self, key: str, read: Callable[[], T]) -> T:
        """Return what ``read`` returns, of a call that began after this one did.

        Raises:
            Exception: the one of that call, for all who share it.
        """
        while True:
            with self._lock:
                look = self._to_come.get(key)
                leads = look is None
                if look is None:
                    look = self._to_come[key] = _Look()
            if leads:
                self._lead(key, look, read)
            else:
                look.ended.wait()
            if look.error:
                raise look.error
            if look.answers:
                return look.answers[0]
            # Who led it was interrupted, by a timeout of its task for example.

    def _lead(self, key: str, look: _Look[T], read: Callable[[], T]) -> None:
        try:
            try:
                if wait_s := self._turn(key):
                    self._sleep(wait_s)
            finally:
                with self._lock:
                    del self._to_come[key]
            look.answers.append(read())
        except Exception as exc:  # noqa: BLE001 - everybody who shares the look gets it, whatever it is
            look.error = exc
        finally:
            look.ended.set()

    def _turn(self, key: str) -> float:
        """Take a turn, and return after how many seconds it comes."""
        with self._lock:
            now = self._now()
            self._turns = {known: turns for known, turns in self._turns.items() if self._left(turns, now) < BURST}
            left = self._left(self._turns.get(key, _Turns(BURST, now)), now) - 1
            self._turns[key] = _Turns(left, now)
            return max(0.0, -left / self._per_s)

    def _left(self, turns: _Turns, now: float) -> float:
        # A wall clock may be set back.
        return min(BURST, turns.left + max(0.0, now - turns.at) * self._per_s)
