"""Volumes that hang in attaching or detaching until a test lets them go, or for ever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class _Rule:
    volume_id: str  # or "*"
    state: str
    left: int


class Stuck:
    """What is to hang, and what hangs."""

    def __init__(self) -> None:
        self._rules: list[_Rule] = []
        self._held: dict[str, Callable[[], None]] = {}

    def add(self, volume_id: str, state: str, times: int = 1) -> None:
        """Let the next so many transitions of a volume ("*": of any) hang in that state."""
        if state not in ("attaching", "detaching"):
            raise ValueError(f"a volume hangs in 'attaching' or 'detaching', found {state!r}")
        self._rules.append(_Rule(volume_id, state, times))

    def holds(self, volume_id: str, state: str, go_on: Callable[[], None]) -> bool:
        """Return whether this transition hangs; what goes on later is kept."""
        for rule in self._rules:
            if rule.left > 0 and rule.state == state and rule.volume_id in ("*", volume_id):
                rule.left -= 1
                self._held[volume_id] = go_on
                return True
        return False

    def release(self, volume_id: str) -> int:
        """Let go of what hangs ("*": all), and return how many did."""
        ids = list(self._held) if volume_id == "*" else [i for i in (volume_id,) if i in self._held]
        for held in [self._held.pop(i) for i in ids]:
            held()
        return len(ids)

    def clear(self) -> None:
        """Forget all rules and all that hangs."""
        self._rules.clear()
        self._held.clear()
