"""Where runs are killed: a double with other people's things on it, and processes that die when told to."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clouds.common.client import Process
from tests.clouds.common.crash.ground import Ground
from tests.clouds.common.crash.lives import superfluous
from tests.clouds.common.crash.way import Journal, Way

_ROOT = Path(__file__).resolve().parents[4]
#: What is under way has come to its end after that.
SETTLED_S = 300.0


@dataclass(frozen=True)
class Point:
    """A call at which the process dies: the nth of its action."""

    service: str
    action: str
    nth: int

    def __str__(self) -> str:
        return f"{self.action} {self.nth}"


class Nursery:
    """Processes that do ways, and die when told to."""

    def __init__(self, ground: Ground, double: Process, log: Path, *options: str) -> None:
        self._double = double
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.clouds.common.crash.nursery", ground.module, double.url,
             *options],
            cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )  # fmt: skip

    def begin(self, journal: Path) -> int:
        """Let a new process go on from a journal, and return its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{journal}\n")
        self._process.stdin.flush()
        return self._number()

    def ends(self) -> int:
        """Return the wait status of the process."""
        return self._number()

    def hangs(self) -> bool:
        """Wait until a call of the process hangs; False when the process has ended without."""
        while not self._double("held"):
            assert self._process.stdout is not None
            if select.select([self._process.stdout], [], [], 0.01)[0]:
                return False
        return True

    def _number(self) -> int:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("RANKVOL "):
                return int(line.split()[1])
        raise AssertionError(f"the nursery has ended; see {self._log.name}")

    def close(self) -> None:
        """End the process; what a child may hang in is dropped."""
        self._double("clear_faults")
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()
        self._log.close()


@dataclass
class Scene:
    """A double, and whoever runs there."""

    ground: Ground
    double: Process
    nursery: Nursery
    folder: Path
    real: bool = False
    number: int = 0

    def new(self, *, seen: bool = True) -> Path:
        """Be as new, and return the journal of a run that has not begun.

        Args:
            seen: whether listings show what was just made when somebody comes next.
        """
        self.double.reset()
        if not self.real:
            self.double.freeze()
            self.double("end_nodes", script=self.ground.ending, after_s=2.0)
        self.ground.prepare(self.double)
        if not seen:
            self.double.settings(**self.ground.unseen)
        self.number += 1
        return self.folder / f"journal-{self.number}.json"

    def strangers(self) -> dict[str, Any]:
        """Let there be what is not ours, and return what it is."""
        self.ground.strangers(self.double)
        self.double("clear_calls")
        return self.double.state()

    def dies(self, point: Point, when: str, journal: Path) -> None:
        """Let a run die at a point."""
        self.double.fault("hang", point.action, service=point.service, nth=point.nth, when=when)
        pid = self.nursery.begin(journal)
        if not self.nursery.hangs():
            raise AssertionError(f"the run has ended before {point}, with status {self.nursery.ends()}")
        os.kill(pid, signal.SIGKILL)
        assert os.WTERMSIG(self.nursery.ends()) == signal.SIGKILL
        self.double("clear_faults")  # and drop what hangs, without an answer
        self.double.advance(self.ground.noticed_s)

    def after(self, journal: Path) -> Way:
        """Return the run as those see it who come after the one that died."""
        return Way(self.ground, self.double, Journal(journal))

    def ours(self, theirs: dict[str, Any]) -> tuple[set[str], set[str]]:
        """Return the volumes and instances that are left of the run, once time has passed.

        Args:
            theirs: what somebody else has, and has to have still.
        """
        self.double.advance(SETTLED_S)
        state = self.double.state()
        for kind in self.ground.kinds:
            now = {item: state[kind].get(item) for item in theirs[kind]}
            assert now == theirs[kind], f"somebody else's {kind} were touched"
        volumes, nodes = self.ground.kinds
        left = {item for item, view in state[nodes].items() if self.ground.is_left(view)}
        return set(state[volumes]) - set(theirs[volumes]), left - set(theirs[nodes])

    def results(self, theirs: dict[str, Any]) -> tuple[set[str], set[str]]:
        """Return the volumes that a rank was handed and nobody has collected, and those that are just being marked."""
        state = self.double.state()
        kind = self.ground.kinds[0]
        tags = {item: self.ground.tags(view) for item, view in state[kind].items() if item not in theirs[kind]}
        found = {item for item, its in tags.items() if its and its.attempt > 0 and its.collected != its.key}
        return found, self.ground.doubtful(state)

    def touched(self, theirs: dict[str, Any]) -> list[str]:
        """Return the calls that were to change what is somebody else's, whatever became of them."""
        foreign = {item for kind in self.ground.kinds for item in theirs[kind]}
        calls = [(call["action"], self.ground.changed(call) & foreign) for call in self.double.calls()]
        return [f"{action} {', '.join(ids)}" for action, ids in calls if ids]

    def superfluous(self, journal: Path, *, seen: bool = True) -> list[str]:
        """Say which rank has had more nodes than tries, or two at once."""
        return superfluous(self.ground.lives(self.double), Journal(journal).entries, seen=seen)

    def made_twice(self) -> dict[str, set[str]]:
        """Return the names under which more than one volume or instance was made."""
        found: dict[str, set[str]] = defaultdict(set)
        for name, made in self.ground.made(self.double):
            found[name].add(made)
        return {name: made for name, made in found.items() if len(made) > 1}


@contextmanager
def scene_of(ground: Ground, folder: Path, *, real: bool = False) -> Iterator[Scene]:
    """Start a double and a nursery, and end them.

    Args:
        real: whether its nodes really run.
    """
    with ground.double(folder / "double", nodes=real) as double:
        options = ["--real"] if real else []
        with closing(Nursery(ground, double, folder / "nursery.log", *options)) as nursery:
            # Clients take longer to make than most of what they are used for.
            ground.warm(double)
            yield Scene(ground, double, nursery, folder, real)
