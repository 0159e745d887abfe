"""Looks at a group that this process' threads share, so that describes do not grow in number with those."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

#: As many looks at a group a process has in any poll interval at most; each costs a describe of volumes and of nodes.
LOOKS_PER_INTERVAL = 2


@dataclass(slots=True, eq=False)
class _Look(Generic[T]):
    """One look, for all who asked before it began."""

    ended: threading.Event = field(default_factory=threading.Event)
    answers: list[T] = field(default_factory=list)
    error: Exception | None = None


class Looks(Generic[T]):
    """Looks by key. Whoever asks gets one that began after the question: what the caller has just done is in it.

    A look is made in a turn, of which each key has LOOKS_PER_INTERVAL, and a turn can be taken again one interval after
    it ended. So in no window of one interval, wherever that begins, there are calls of more looks than that. What else
    is asked of a group may take a turn, too, as long as it makes no more calls than a look.

    Args:
        interval_s: the poll interval.
        now: the time in seconds.
        sleep: blocks for that many seconds.
    """

    def __init__(self, interval_s: float, *, now: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._interval_s = interval_s
        self._now = now
        self._sleep = sleep
        self._changed = threading.Condition()
        self._to_come: dict[str, _Look[T]] = {}
        # When the turns that can be taken ended, the earliest first; of a turn that is taken nothing is here.
        self._turns: dict[str, list[float]] = {}

    def look(self, key: str, read: Callable[[], T], complete: Callable[[T], T] | None = None) -> T:
        """Return what ``read`` returns, of a call that began after this one did.

        Args:
            complete: adds what is missing, when the turn of ``read`` is over: it may take turns of its own.

        Raises:
            Exception: the one of that call, for all who share it.
        """
        while True:
            with self._changed:
                look = self._to_come.get(key)
                leads = look is None
                if look is None:
                    look = self._to_come[key] = _Look()
            if leads:
                self._lead(key, look, read, complete)
            else:
                look.ended.wait()
            if look.error:
                raise look.error
            if look.answers:
                return look.answers[0]
            # Who led it was interrupted, by a timeout of its task for example.

    def _lead(self, key: str, look: _Look[T], read: Callable[[], T], complete: Callable[[T], T] | None) -> None:
        try:
            with self.turn(key):
                self._close(key, look)
                found = read()
            look.answers.append(complete(found) if complete else found)
        except Exception as exc:  # noqa: BLE001 - everybody who shares the look gets it, whatever it is
            look.error = exc
        finally:
            self._close(key, look)
            look.ended.set()

    def _close(self, key: str, look: _Look[T]) -> None:
        """Let nobody join this look any more: it begins."""
        with self._changed:
            if self._to_come.get(key) is look:
                del self._to_come[key]

    @contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """Wait for a turn of a group, and take it; never within another one, as both could wait for each other."""
        with self._changed:
            self._forget()
            turns = self._turns.setdefault(key, [float("-inf")] * LOOKS_PER_INTERVAL)
            self._changed.wait_for(lambda: turns)
            ended = turns.pop(0)
        try:
            # A wall clock may be set back.
            wait_s = min(self._interval_s, ended + self._interval_s - self._now())
            if wait_s > 0:
                self._sleep(wait_s)
            yield
        finally:
            with self._changed:
                turns.append(self._now())
                self._changed.notify_all()

    def _forget(self) -> None:
        """Drop the groups at which nobody has looked for an interval."""
        since = self._now() - self._interval_s
        old = [key for key, turns in self._turns.items() if len(turns) == LOOKS_PER_INTERVAL and turns[-1] <= since]
        for key in old:
            del self._turns[key]
