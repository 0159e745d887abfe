"""A node's output on its way into the log of its task: a bit now and then while it runs, the rest when it has ended."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from airflow_rankvol.backends.base import Backend
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import RetryableError
from airflow_rankvol.records import Node, NodeState, Role

# All nodes of a group together have their logs read as often, in a second; a fifth of what Compute Engine takes for
# reads of one region ("Rate quotas": 1,500 a minute).
READS_PER_S = 5.0
# So many characters of one node a turn shows while it runs, and of the whole log: lines of a thousand nodes are
# much to go through one triggerer, and the log on the volume is whole.
TURN_CHARS = 16_384
SHOWN_CHARS = 1_048_576
# As many times longer than usual it waits, at most, when a log cannot be read.
SLOWEST = 16.0
# A report's tail has at most 50 lines (engine/bootstrap.sh).
_REMEMBERED = 200


class Screen(Protocol):
    """Where people see what a node prints."""

    def show(self, lines: Sequence[str]) -> None:
        """Show lines of a node's output."""

    def warn(self, message: str) -> None:
        """Say why something cannot be shown."""


class Follower:
    """What one node printed, shown once. Nothing that goes wrong here fails the task.

    Args:
        chance: a number from 0 to 1, so that not all nodes' logs are read at the same moment.
    """

    def __init__(
        self, backend: Backend, work: Work, screen: Screen, chance: Callable[[], float] = random.random
    ) -> None:
        self.backend = backend
        self._work = work
        self._screen = screen
        self._chance = chance
        self._streams = backend.log_interval_s is not None
        self._interval_s = max(backend.log_interval_s or 0.0, work.nodes / READS_PER_S)
        self._slower = 1.0
        self._due: datetime | None = None
        self._position = 0
        self._waiting: deque[str] = deque()
        self._last: deque[str] = deque(maxlen=_REMEMBERED)
        self._left = SHOWN_CHARS
        self._warned = False

    def is_due(self, node: Node | None) -> bool:
        """Say whether a node's log is to be looked at now; the first time within one interval."""
        if not self._streams or self._left <= 0 or node is None or node.state is not NodeState.RUNNING:
            return False
        now = self.backend.clock.now()
        if self._due is None:
            self._due = now + timedelta(seconds=self._interval_s * self._chance())
        return now >= self._due

    def follow(self, node: Node) -> None:
        """Show what is new of a node that runs; of much, the first part."""
        self._read(node)
        self._due = self.backend.clock.now() + timedelta(
            seconds=self._interval_s * self._slower * (0.9 + 0.2 * self._chance())
        )
        self._show(TURN_CHARS)

    def catch_up(self, node: Node) -> None:
        """Show all that can be had of a node that is about to be done with."""
        while self._streams and self._read(node) and self._left > 0:
            self._show(SHOWN_CHARS)
        self._show(SHOWN_CHARS)

    def finish(self, node: Node | None, tail: str) -> None:
        """Show what is left when a node's work is over.

        Args:
            tail: the end of its output by its report, where people do not see that anyway.
        """
        if not self._streams and node is not None:
            self._read(node)
        self._show(SHOWN_CHARS)
        end = tail.splitlines()
        missing = _after(list(self._last), end) if self._left > 0 else []
        if missing and missing == end and self._last:
            missing.insert(0, "rankvol: some lines could not be read in time; these are the last ones:")
        if missing:
            self._screen.show(missing)

    def _read(self, node: Node) -> bool:
        """Take what is new; say whether there is more."""
        try:
            part = self.backend.read_log(node.id, self._position)
        except Exception as exc:  # noqa: BLE001 - a log that cannot be read is no reason to fail
            self._not_read(node, exc)
            return False
        self._slower = 1.0
        self._position = part.next
        self._waiting.extend(part.lines)
        return part.more

    def _not_read(self, node: Node, exc: Exception) -> None:
        self._slower = min(2 * self._slower, SLOWEST) if isinstance(exc, RetryableError) else SLOWEST
        if not self._warned:
            self._warned = True
            self._screen.warn(f"The output of {node.label} cannot be shown for now ({exc}); it goes on all the same")

    def _show(self, chars: int) -> None:
        lines: list[str] = []
        while self._waiting and chars > 0 and self._left > 0:
            line = self._waiting.popleft()
            chars -= len(line) + 1
            self._left -= len(line) + 1
            lines.append(line)
        self._last.extend(lines)
        if self._left <= 0:
            self._waiting.clear()
        if lines and self._left <= 0:
            whole = f"; the whole log is .rankvol/{self._work.group.key}/log on its volume"
            lines.append(f"rankvol: more is not shown here{whole if self._work.role is Role.RANK else ''}")
        if lines:
            self._screen.show(lines)


def _after(shown: Sequence[str], tail: Sequence[str]) -> list[str]:
    """Return the lines of a tail that follow what was shown; the first one may have lost its beginning."""
    for end in range(len(tail), 0, -1):
        known = tail[1:end] if end > 1 else tail[:1]
        if any(shown[at : at + len(known)] == list(known) for at in range(len(shown) - len(known) + 1)):
            return list(tail[end:])
    return list(tail)
