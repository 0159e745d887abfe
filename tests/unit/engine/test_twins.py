"""Two nodes of one rank and attempt: one counts, in whatever order they are listed, and the other one goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import permutations
from typing import Any

import pytest

from airflow_rankvol.backends.base import NodeRequest
from airflow_rankvol.engine.step import stop_own
from airflow_rankvol.engine.views import own_node, own_nodes
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import DeadlineExceeded, FinalError, RankFailed
from airflow_rankvol.records import Group, Node, NodeState, Observation
from airflow_rankvol.spec.templates import NodeTemplate
from airflow_rankvol.testing import FakeBackend, Timings, fails, hangs, never_boots, succeeds

from .engine_kit import Rig, a_gang, a_plan, a_rig, all_launched

Order = Callable[[tuple[Node, ...]], tuple[Node, ...]]
ORDERS: dict[str, Order] = {
    "oldest first": lambda nodes: nodes,
    "youngest first": lambda nodes: nodes[::-1],
    "ended first": lambda nodes: tuple(sorted(nodes, key=lambda node: node.state is not NodeState.ENDED)),
}


class Repeating(FakeBackend):
    """A cloud that makes another node when a launch is repeated, as EC2 does for another machine type.

    It lists what has ended for an hour, and shows an exit code only of nodes that were told to go.
    """

    order: Order = staticmethod(ORDERS["oldest first"])
    hidden: frozenset[str] = frozenset()

    def __init__(self, **fields: Any) -> None:
        super().__init__(timings=Timings(linger_s=3600), **fields)

    def create_node(self, request: NodeRequest) -> Node:
        return self._verb("create_node", request.name, lambda: self._launch(request).view())

    def observe(self, group: Group) -> Observation:
        seen = super().observe(group)
        nodes = [node for node in seen.nodes if node.id not in self.hidden]
        shown = tuple(node if node.released else replace(node, exit_code=None) for node in nodes)
        return replace(seen, nodes=self.order(shown))


@pytest.fixture(params=list(ORDERS.values()), ids=list(ORDERS))
def backend(request: pytest.FixtureRequest) -> Repeating:
    made = Repeating()
    made.order = request.param
    return made


def launched_twice(rig: Rig, work: Work, *, after_s: float = 3.0) -> tuple[str, str]:
    """Launch a rank's node, and once more as a process does that knows nothing of it; return the ids."""
    before = {node.id for node in rig.observe().nodes}
    (request,) = rig.launcher(rank=work.rank).requests(work, Observation())
    for _ in range(2):
        rig.backend.create_node(request)
        rig.backend.clock.sleep(after_s)
    first, second = sorted({node.id for node in rig.observe().nodes} - before)
    return first, second


def running(rig: Rig) -> set[str]:
    rig.backend.clock.sleep(60)
    return {node.id for node in rig.observe().nodes if node.state is not NodeState.ENDED}


def removed(rig: Rig) -> list[int]:
    """Return the ranks of the nodes that were ended by a call."""
    return [node.tags.rank for node in rig.observe().nodes if node.tags and node.reason == "deleted"]


def holder(rig: Rig) -> str | None:
    return rig.observe().volumes[0].attached_to


def test_one_gets_the_volume_and_the_other_one_goes(backend: Repeating) -> None:
    rig = a_rig(1, backend=backend)
    work = rig.begin(0)
    first, _ = launched_twice(rig, work)
    (outcome,) = rig.until_end(work)
    assert (outcome.error, outcome.result.node_id) == (None, first)
    assert removed(rig) == [0]
    assert running(rig) == set()


def test_none_goes_before_one_of_them_has_the_volume(backend: Repeating) -> None:
    """Somebody who sees the other one only may be about to give it that."""
    rig = a_rig(1, backend=backend)
    work = rig.begin(0)
    launched_twice(rig, work)
    while not holder(rig):
        assert backend.count("delete_node") == 0
        assert rig.step(work) is None
        backend.clock.sleep(1)


def test_the_one_that_has_the_volume_counts_although_it_is_younger(backend: Repeating) -> None:
    """It was the only one to be seen; its result is read although both have ended, and neither has the volume then."""
    rig = a_rig(1, backend=backend)
    work = rig.begin(0)
    first, second = launched_twice(rig, work)
    backend.hidden = frozenset({first})
    rig.until_attached(work)
    assert holder(rig) == second
    backend.hidden = frozenset()
    assert rig.step(work) is None
    backend.clock.sleep(600)
    assert {node.state for node in rig.observe().nodes} == {NodeState.ENDED}
    assert holder(rig) is None
    (outcome,) = rig.until_end(work)
    assert (outcome.error, outcome.result.node_id) == (None, second)
    assert outcome.result.output == {"rank": 0}


def test_the_end_of_the_other_one_is_not_the_ranks(backend: Repeating) -> None:
    """Whoever ended it, while the rank computes."""
    backend.endings[("rank", 0)] = succeeds(after_s=300)
    rig = a_rig(1, backend=backend)
    work = rig.begin(0)
    first, second = launched_twice(rig, work)
    rig.until_attached(work)
    assert holder(rig) == first
    (other,) = (node for node in rig.observe().nodes if node.id == second)
    backend._world.delete(backend._world.machines[other.id], backend.clock.now())
    backend.clock.sleep(30)
    (outcome,) = rig.until_end(work)
    assert (outcome.error, outcome.result.node_id) == (None, first)


def test_a_failure_ends_both(backend: Repeating) -> None:
    backend.endings[("rank", 0)] = never_boots()
    rig = a_rig(1, backend=backend, node=NodeTemplate(boot_timeout=timedelta(minutes=3)))
    work = rig.begin(0)
    launched_twice(rig, work)
    (outcome,) = rig.until_end(work)
    assert isinstance(outcome.error, DeadlineExceeded)
    assert running(rig) == set()


@pytest.mark.parametrize("exit_code", [0, 3])
def test_what_was_not_seen_while_the_rank_computed_goes_with_its_end(backend: Repeating, exit_code: int) -> None:
    backend.endings[("rank", 0)] = fails(exit_code) if exit_code else succeeds()
    backend._world.ended_nodes_hold_volumes = True
    rig = a_rig(1, backend=backend)
    work = rig.begin(0)
    _, second = launched_twice(rig, work)
    backend.hidden = frozenset({second})
    rig.until_attached(work)
    backend.clock.sleep(60)
    backend.hidden = frozenset()
    (outcome,) = rig.until_end(work)
    assert (outcome.error is None) is (exit_code == 0)
    assert running(rig) == set()


def test_a_result_counts_although_the_other_one_cannot_be_ended() -> None:
    """The teardown tries again."""
    backend = Repeating()
    backend._world.ended_nodes_hold_volumes = True
    rig = a_rig(1, backend=backend)
    work = rig.begin(0)
    _, second = launched_twice(rig, work)
    backend.hidden = frozenset({second})
    rig.until_attached(work)
    backend.clock.sleep(60)
    backend.hidden = frozenset()
    backend.faults.fail("delete_node", FinalError)
    (outcome,) = rig.until_end(work)
    assert outcome.error is None
    assert running(rig) == {second}
    rig.teardown()
    assert running(rig) == set()


@pytest.mark.parametrize("at_once", [False, True])
def test_a_killed_task_ends_both(backend: Repeating, at_once: bool) -> None:
    rig = a_rig(1, backend=backend)
    work = rig.begin(0)
    launched_twice(rig, work)
    assert stop_own(backend, work, at_once=at_once) is not None
    assert running(rig) == set()


def test_the_nodes_of_another_hand_out_are_none_of_them(backend: Repeating) -> None:
    backend.endings[("rank", 0)] = hangs()
    old = a_rig(1, backend=backend)
    before = old.begin(0)
    old.launch(before)
    old.until_attached(before)
    new = Rig(backend, a_plan(1))
    new.create()
    work = new.begin(0)
    assert own_nodes(work, new.observe()) == ()
    backend.endings.clear()
    outcome = new.run_rank(0)
    assert outcome.error is None
    assert outcome.result.node_id not in {node.id for node in own_nodes(before, new.observe())}


@pytest.mark.parametrize("twice", [(0,), (2,), (0, 1, 2)], ids=str)
def test_a_gang_counts_ranks_and_not_nodes(backend: Repeating, twice: tuple[int, ...]) -> None:
    rig = a_gang(3, backend=backend)
    for rank in twice:
        launched_twice(rig, rig.work(rank))
    works = all_launched(rig)
    assert {node.tags.rank for node in rig.observe().nodes if node.tags} == {0, 1, 2}
    outcomes = rig.until_end(*works)
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert backend.count("create_node") == 3 + len(twice)
    assert sorted(removed(rig)) == sorted(twice)
    assert running(rig) == set()
    told = [node for node in rig.observe().nodes if node.released]
    assert sorted(node.tags.rank for node in told if node.tags) == [0, 1, 2]


def test_a_gang_that_fails_ends_all_of_them(backend: Repeating) -> None:
    backend.endings[("rank", 1)] = never_boots()
    rig = a_gang(3, backend=backend, node=NodeTemplate(boot_timeout=timedelta(minutes=3)))
    launched_twice(rig, rig.work(1))
    outcomes = rig.until_end(*all_launched(rig))
    assert all(isinstance(outcome.error, DeadlineExceeded | RankFailed) for outcome in outcomes)
    assert running(rig) == set()


def test_gather_has_one_node_too(backend: Repeating) -> None:
    rig = a_rig(2, backend=backend)
    for rank in range(2):
        assert rig.run_rank(rank).error is None
    work = rig.gather_work()
    (request,) = rig.launcher(everyone=True).requests(work, rig.observe())
    backend.create_node(request)
    backend.create_node(request)
    (outcome,) = rig.until_end(work)
    assert outcome.error is None
    assert outcome.result.output == [{"rank": 0}, {"rank": 1}]
    assert running(rig) == set()


def test_the_choice_is_the_same_in_any_order() -> None:
    """Also where two look alike, and where each has one of the rank's volumes."""
    backend = Repeating()
    rig = a_rig(1, backend=backend, volumes=["a-${NODE_RANK}:/a", "b-${NODE_RANK}:/b"])
    work = rig.begin(0)
    (request,) = rig.launcher().requests(work, Observation())
    nodes = [backend.create_node(request) for _ in range(3)]
    backend.clock.sleep(30)
    seen = rig.observe()
    assert {own_node(work, replace(seen, nodes=order)) for order in permutations(seen.nodes)} == {seen.nodes[0]}
    for volume_id, node in zip(work.volume_ids, (nodes[2], nodes[1]), strict=True):
        backend.attach(volume_id, node.id)
    seen = rig.observe()
    assert {own_node(work, replace(seen, nodes=order)) for order in permutations(seen.nodes)} == {seen.nodes[1]}
    (outcome,) = rig.until_end(work)
    assert (outcome.error, outcome.result.node_id) == (None, nodes[1].id)
    assert running(rig) == set()
