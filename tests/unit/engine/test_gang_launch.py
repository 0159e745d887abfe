"""Who launches a gang's nodes: each rank's task its own; where some do not come, one of the others theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest

from airflow_rankvol.backends.base import NodeRequest
from airflow_rankvol.engine.calls import patiently
from airflow_rankvol.engine.loop import launch
from airflow_rankvol.engine.step import Outcome, choose_attempt
from airflow_rankvol.errors import NoCapacity
from airflow_rankvol.records import Group, Node, Observation
from airflow_rankvol.spec.templates import NodeTemplate
from airflow_rankvol.testing import FakeBackend, SimulatedCrash, Timings, fails, hangs

from .engine_kit import Rig, a_gang
from .turns import Turns

RANKS = 8
#: Longer than any test's launches take.
SOON = timedelta(seconds=60)


class SlowCloud(FakeBackend):
    """A cloud whose answers are on their way for a while, in which other processes act."""

    def observe(self, group: Group) -> Observation:
        seen = super().observe(group)
        self.clock.sleep(0.3)
        return seen

    def create_node(self, request: NodeRequest) -> Node:
        self.clock.sleep(0.5)
        made = super().create_node(request)
        self.clock.sleep(1.0)
        return made


class Gang:
    """A gang whose ranks' tasks run at the same time, each in a process of its own."""

    def __init__(self, ranks: int = RANKS, backend: FakeBackend | None = None) -> None:
        self.backend = backend or SlowCloud(endings={("rank", rank): hangs() for rank in range(ranks)})
        self.rig: Rig = a_gang(ranks, backend=self.backend, node=NodeTemplate(boot_timeout=timedelta(minutes=5)))
        self.turns = Turns(self.backend.clock)

    def task(self, rank: int, try_number: int = 1) -> Callable[[], Outcome | None]:
        """Return what the task of a rank does before it defers."""

        def begin() -> Outcome | None:
            backend, rig = self.backend, self.rig
            seen = patiently(backend, backend.observe, rig.group)
            work = choose_attempt(rig.work(rank, try_number), seen, try_number)
            return launch(backend, work, rig.launcher(everyone=True), seen)

        return begin

    def launched(self, *ranks: int, every_s: float = 0.0) -> timedelta:
        """Run the tasks of some ranks until all nodes are there, and return how long that took."""
        before = self.backend.clock.now()
        self.backend.clock, clock = self.turns, self.backend.clock
        assert self.turns.run(*map(self.task, ranks), every_s=every_s) == [None] * len(ranks)
        self.backend.clock = clock
        assert len(self.backend.nodes) == self.rig.plan.job.nodes
        return clock.now() - before

    def calls(self) -> Counter[str]:
        return Counter(call.resource for call in self.backend.calls if call.verb == "create_node")


@pytest.mark.parametrize("ranks", [4, 40])
@pytest.mark.parametrize("every_s", [0.0, 0.1, 1.0])
def test_tasks_that_begin_together_launch_a_node_each(ranks: int, every_s: float) -> None:
    gang = Gang(ranks)
    gang.launched(*range(ranks), every_s=every_s)
    assert gang.calls().total() == ranks


@pytest.mark.parametrize("rank", [0, 5])
def test_a_task_that_is_alone_launches_all_nodes_after_a_moment(rank: int) -> None:
    gang = Gang()
    assert gang.launched(rank) <= SOON
    assert gang.calls().total() == RANKS


@pytest.mark.parametrize("there", [(0, 1, 2), (7, 4, 2, 1)], ids=str)
def test_of_a_few_tasks_one_launches_what_is_missing(there: tuple[int, ...]) -> None:
    gang = Gang()
    assert gang.launched(*there) <= SOON
    assert gang.calls().total() == RANKS


def test_tasks_that_begin_after_the_others_were_helped_find_their_nodes() -> None:
    gang = Gang()
    gang.launched(*range(RANKS), every_s=10.0)
    assert gang.calls().total() == RANKS


@pytest.mark.parametrize("gone", [(0,), (0, 1), (0, 1, 2)], ids=str)
def test_where_the_first_tasks_are_gone_another_goes_on_in_time(gone: tuple[int, ...]) -> None:
    gang = Gang()
    for rank in gone:
        gang.backend.faults.fail("create_node", SimulatedCrash(), when="after")
        with pytest.raises(SimulatedCrash):
            gang.task(rank)()
        gang.backend.revive()
        gang.backend.clock.sleep(1)
    assert gang.launched(3, 4, 5) <= SOON
    assert max(gang.calls().values()) <= 2  # the later their turn, the more take it at once


def test_whoever_began_to_help_goes_on_without_a_pause_when_a_node_is_refused() -> None:
    gang = Gang()
    gang.backend.faults.fail("create_node", NoCapacity, resource="-r5-", times=10)
    assert gang.launched(0) <= SOON
    assert max(calls for name, calls in gang.calls().items() if "-r5-" not in name) == 1


def test_what_is_listed_late_costs_others_no_call() -> None:
    """Each asks for its own until it is listed; that is a call only where a process forgets what it made."""
    gang = Gang(backend=SlowCloud(timings=Timings(lag_s=7)))
    gang.launched(*range(RANKS))
    launched_by = [gang.calls()[name] for name in gang.backend.nodes]
    assert launched_by == [launched_by[0]] * RANKS


def test_a_short_boot_timeout_leaves_the_others_less_time() -> None:
    """It counts from the launch of one's own node, and the others have to come up within it."""
    backend = FakeBackend(endings={("rank", rank): hangs() for rank in range(3)}, timings=Timings(boot_s=50.0))
    backend.poll_interval_s = 10.0
    rig = a_gang(backend=backend, node=NodeTemplate(boot_timeout=timedelta(seconds=90)))
    works = [rig.begin(0)]
    assert rig.launch(works[0]) is None
    works += [rig.begin(rank) for rank in (1, 2)]
    rig.until_attached(*works)
    for _ in range(10):
        assert [rig.step(work) for work in works] == [None] * 3
        backend.clock.sleep(10)
    assert all(node.released for node in rig.observe().nodes)


def test_the_retries_of_a_gang_that_failed_launch_a_node_each_of_one_attempt() -> None:
    gang = Gang(backend=SlowCloud(endings={("rank", 2, 1): fails(9)}))
    outcome = gang.rig.run_rank(2)
    assert outcome.error is not None
    gang.backend.clock.sleep(60)
    gang.backend.clock = gang.turns
    tasks = [gang.task(rank, try_number) for rank, try_number in ((2, 2), (0, 1), (1, 1), (3, 2), (4, 1))]
    assert gang.turns.run(*tasks) == [None] * len(tasks)
    second = {name: calls for name, calls in gang.calls().items() if name.endswith("-a2")}
    assert list(second.values()) == [1] * RANKS


def test_a_release_follows_whoever_launched(backend: FakeBackend) -> None:
    rig = a_gang(RANKS, backend=backend)
    turns = Turns(backend.clock)
    backend.clock = turns
    tasks = [partial(rig.run_rank, rank) for rank in range(RANKS)]
    assert [outcome.error for outcome in turns.run(*tasks)] == [None] * RANKS
    assert len({node.started_at for node in backend.nodes.values()}) == 1
