"""What a node prints gets into its task's log: once, in order, bounded, and whatever goes wrong with that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest

from airflow_rankvol.backends.base import LogPart
from airflow_rankvol.engine import follow
from airflow_rankvol.engine.follow import Follower
from airflow_rankvol.engine.loop import Watch, launch, run
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import AuthDenied, Throttled
from airflow_rankvol.records import Node, NodeState
from airflow_rankvol.testing import Ending, FakeBackend, fails

from .engine_kit import Rig, a_plan


class Screen:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def show(self, lines: Sequence[str]) -> None:
        self.lines += lines

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def screen() -> Screen:
    return Screen()


@pytest.fixture
def backend() -> FakeBackend:
    """One whose logs can be followed."""
    backend = FakeBackend(endings={("rank", 0): Ending(after_s=60, log_tail="five\nsix\n")})
    backend.log_interval_s = 5.0
    return backend


@pytest.fixture
def rig(backend: FakeBackend) -> Rig:
    rig = Rig(backend, a_plan(1))
    rig.create()
    return rig


def printed(backend: FakeBackend, work: Work, *lines: str) -> None:
    backend.logs.setdefault(work.node_name, []).extend(lines)


def running(rig: Rig) -> tuple[Work, Node]:
    """Launch rank 0's node, and wait until it runs."""
    work = rig.work(0)
    assert launch(rig.backend, work, rig.launcher()) is None
    rig.backend.clock.sleep(20)
    (node,) = rig.observe().nodes
    assert node.state is NodeState.RUNNING
    return work, node


def test_lines_come_while_the_node_runs_and_each_of_them_once(backend: FakeBackend, rig: Rig, screen: Screen) -> None:
    work, _ = running(rig)
    watch = Watch(backend, work, screen)
    seen = []
    for line in ("one", "two", "three"):
        printed(backend, work, line)
        backend.clock.sleep(6)
        assert watch.wants(rig.observe()) or line == "one"  # the first time comes within one interval
        assert watch.step(rig.observe()) is None
        seen.append(len(screen.lines))
    assert screen.lines == ["one", "two", "three"][: len(screen.lines)]
    assert seen[-1] >= 2
    assert backend.count("read_log") <= 3


def test_a_log_is_read_at_the_end_and_what_it_lacks_is_taken_from_the_report(
    backend: FakeBackend, rig: Rig, screen: Screen
) -> None:
    work = rig.work(0)
    printed(backend, work, "three", "four", "five")
    outcome = run(backend, work, rig.launcher(), screen)
    assert outcome.error is None
    assert screen.lines == ["three", "four", "five", "six"]


@pytest.mark.parametrize(
    ("shown", "tail", "missing"),
    [
        ("a b c", "b c", ""),
        ("a b c", "b c d e", "d e"),
        ("a bcd e", "d e f", "f"),  # the tail begins in the middle of a line
        ("", "a b", "a b"),
        ("a b", "x y", "x y"),
        ("a b", "", ""),
    ],
)
def test_only_those_lines_of_a_tail_are_new_that_were_not_shown(shown: str, tail: str, missing: str) -> None:
    assert follow._after(shown.split(), tail.split()) == missing.split()


def test_a_gap_before_the_end_is_told(backend: FakeBackend, rig: Rig, screen: Screen) -> None:
    work = rig.work(0)
    printed(backend, work, "one")
    run(backend, work, rig.launcher(), screen)
    assert [screen.lines[0], *screen.lines[2:]] == ["one", "five", "six"]
    assert "could not be read in time" in screen.lines[1]


def test_the_end_of_a_failed_node_is_left_to_its_error(backend: FakeBackend, rig: Rig, screen: Screen) -> None:
    backend.endings[("rank", 0)] = fails(3, log_tail="one\ntwo\n")
    work = rig.work(0)
    printed(backend, work, "one")
    assert run(backend, work, rig.launcher(), screen).error is not None
    assert screen.lines == ["one"]


def test_where_logs_can_be_read_only_at_the_end_one_call_does_it(
    backend: FakeBackend, rig: Rig, screen: Screen
) -> None:
    backend.log_interval_s = None
    work = rig.work(0)
    printed(backend, work, "four", "five", "six")
    run(backend, work, rig.launcher(), screen)
    assert screen.lines == ["four", "five", "six"]
    assert backend.count("read_log") == 1


@pytest.mark.parametrize("error", [Throttled, AuthDenied, RuntimeError("broken pipe")])
def test_a_log_that_cannot_be_read_fails_nothing_and_is_told_once(
    backend: FakeBackend, rig: Rig, screen: Screen, error: type[Throttled] | BaseException
) -> None:
    backend.faults.fail("read_log", error, times=math.inf)
    outcome = run(backend, rig.work(0), rig.launcher(), screen)
    assert (outcome.error, outcome.result.exit_code) == (None, 0)
    assert len(screen.warnings) == 1
    assert "cannot be shown" in screen.warnings[0]
    assert screen.lines == ["five", "six"]


def test_a_log_that_cannot_be_read_is_asked_for_more_and_more_seldom(
    backend: FakeBackend, rig: Rig, screen: Screen
) -> None:
    _, node = running(rig)
    follower = Follower(backend, rig.work(0), screen, chance=lambda: 0.5)
    backend.faults.fail("read_log", Throttled, times=math.inf)
    asked = []
    for second in range(400):
        if follower.is_due(node):
            follower.follow(node)
            asked.append(second)
        backend.clock.sleep(1)
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses[:4] == [10, 20, 40, 80]
    assert max(pauses) <= 80


def test_the_more_ranks_the_more_seldom_each_log_is_read(backend: FakeBackend, screen: Screen) -> None:
    """256 ranks cost five reads a second in all, as fifty do."""
    rig = Rig(backend, a_plan(256))
    rig.create()
    node = Node("node-1", "node", NodeState.RUNNING, backend.clock.now())
    followers = [Follower(backend, rig.work(rank), screen, chance=lambda r=rank: r / 256) for rank in range(256)]  # type: ignore[misc]
    for _ in range(100):
        for follower in followers:
            if follower.is_due(node):
                follower.follow(node)
        backend.clock.sleep(1)
    assert 400 <= backend.count("read_log") <= 550


class Endless(FakeBackend):
    """Its nodes print more than anybody reads."""

    log_interval_s: float | None = 5.0

    def read_log(self, node_id: str, position: int) -> LogPart:
        return LogPart(tuple(f"line {n:06d}" for n in range(position, position + 5000)), position + 5000, more=True)


def test_much_output_comes_in_portions_and_at_last_no_more() -> None:
    """A turn shows some of it, the end what is left, up to a limit that says where the rest is."""
    screen, backend = Screen(), Endless()
    rig = Rig(backend, a_plan(1))
    rig.create()
    work, node = running(rig)
    follower = Follower(backend, work, screen)
    follower.follow(node)
    assert sum(len(line) + 1 for line in screen.lines) <= follow.TURN_CHARS + 20
    follower.catch_up(node)
    assert len("\n".join(screen.lines)) <= follow.SHOWN_CHARS + 200
    assert screen.lines[:-1] == [f"line {n:06d}" for n in range(len(screen.lines) - 1)]
    assert f".rankvol/{rig.group.key}/log" in screen.lines[-1]
    shown = len(screen.lines)
    follower.finish(node, "line 9")
    assert (len(screen.lines), follower.is_due(node)) == (shown, False)
