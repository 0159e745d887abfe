"""A killed task's ``on_kill`` runs within a signal's handler: it ends the node without waiting for anybody's look."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from airflow_rankvol.backends._looks import Looks
from airflow_rankvol.engine.work import Work
from airflow_rankvol.operators import GatherRankResults, RunRank
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
