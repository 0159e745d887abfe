"""A killed task's ``on_kill`` runs within a signal's handler: it ends the node without waiting for anybody's look."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest

from airflow_rankvol._base_operator import RankVolumes
from airflow_rankvol.backends._looks import Looks
from airflow_rankvol.engine.loop import launch
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import AuthDenied, NoCapacity
from airflow_rankvol.operators import GatherRankResults, RunRank
from airflow_rankvol.plan import RunIdentity
from airflow_rankvol.records import Group, NodeState, Observation
from airflow_rankvol.testing import FakeBackend, hangs
from tests.unit.engine.engine_kit import Rig, a_rig


class SharedLooks(FakeBackend):
    """A fake cloud whose looks are shared between threads, as those of the clouds' adapters are."""

    def __init__(self) -> None:
        super().__init__(endings={("rank", 0): hangs(), ("gather", -1): hangs()})
        self.while_it_waits: Callable[[float], object] = self.clock.sleep
        self.looks = Looks[Observation](60.0, now=lambda: self.clock.now().timestamp(), sleep=self._wait)

    def _wait(self, seconds: float) -> None:
        self.while_it_waits(seconds)

    def observe(self, group: Group) -> Observation:
        return self.looks.look(group.key, lambda: super(SharedLooks, self).observe(group))


def rank_of(rig: Rig) -> tuple[RunRank, Work]:
    work = rig.begin(0)
    operator = RunRank(task_id="run_rank", nodes=1, volumes=["data:/data"], slot={})
    operator._running = (rig.backend, [work])
    return operator, work


def gather_of(rig: Rig) -> tuple[GatherRankResults, Work]:
    work = rig.gather_work()
    operator = GatherRankResults(task_id="gather", nodes=1, volumes=["data:/data"], slots=[], results=[])
    operator._running = (rig.backend, [work])
    return operator, work


@pytest.mark.parametrize("task_of", [rank_of, gather_of])
def test_a_signal_that_comes_while_its_thread_waits_for_a_turn_ends_the_node(
    task_of: Callable[[Rig], tuple[RunRank | GatherRankResults, Work]],
) -> None:
    backend = SharedLooks()
    rig = a_rig(1, backend=backend)
    operator, work = task_of(rig)
    assert rig.launch(work) is None
    backend.while_it_waits = lambda _seconds: operator.on_kill()
    # Three looks: the third has to wait for its turn. A thread, since a handler that waits for itself never returns.
    task = threading.Thread(target=lambda: [backend.observe(rig.group) for _ in range(3)], daemon=True)
    task.start()
    task.join(10)
    assert not task.is_alive()
    assert backend.count("delete_node") > 0
    backend.while_it_waits = backend.clock.sleep
    backend.clock.sleep(600)
    assert {node.state for node in backend.observe(rig.group).nodes} <= {NodeState.ENDED}


def test_a_node_that_cannot_be_ended_keeps_no_other_of_its_task_running() -> None:
    """Of a gather in parts, which has several."""
    backend = FakeBackend(endings={("gather", -1): hangs(), ("gather", -2): hangs()})
    rig = a_rig(2, backend=backend)
    operator, whole = gather_of(rig)
    works = whole.in_parts(1)
    operator._running = (backend, works)
    assert [launch(backend, work, rig.launcher(everyone=True)) for work in works] == [None, None]
    stuck = works[0].node_name
    backend.faults.fail("delete_node", AuthDenied, resource=stuck)
    with pytest.raises(AuthDenied, match=stuck):
        operator.on_kill()
    backend.clock.sleep(600)
    assert [node.name for node in rig.observe().nodes if node.state is not NodeState.ENDED] == [stuck]


def test_a_part_that_cannot_be_launched_is_what_its_task_says_also_when_another_cannot_be_ended() -> None:
    backend = FakeBackend(endings={("gather", -1): hangs()})
    rig = a_rig(2, backend=backend)
    operator, whole = gather_of(rig)
    works = whole.in_parts(1)
    backend.faults.fail("create_node", NoCapacity, resource=works[1].node_name, times=math.inf)
    backend.faults.fail("delete_node", AuthDenied, resource=works[0].node_name)
    volumes = RankVolumes(backend, RunIdentity("me", "dag", "run-1", "shards"), rig.plan.job)
    (outcome,) = operator.launch_and_wait(volumes, works, rig.launcher(everyone=True), deferrable=False)
    assert isinstance(outcome.error, NoCapacity)
    assert backend.count("delete_node") == 1
