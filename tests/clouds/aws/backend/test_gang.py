"""A gang whose ranks' tasks run at the same time, each in a process that knows nothing of the others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest

from airflow_rankvol.backends._aws_memory import Memory
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.engine.loop import launch
from airflow_rankvol.engine.step import Outcome, choose_attempt
from tests.clouds.aws.backend.kit import DoubleClock, Lab
from tests.unit.engine.engine_kit import Rig
from tests.unit.engine.turns import Turns


def task(lab: Lab, rig: Rig, clock: Turns, rank: int) -> Callable[[], Outcome | None]:
    """Return what the task of a rank does before it defers."""
    memory = Memory(DoubleClock(lab.double).seconds)
    backend = cast("Any", AwsBackend(lab.clients, poll_interval_s=10.0, clock=clock, memory=memory))

    def begin() -> Outcome | None:
        seen = backend.observe(rig.group)
        return launch(backend, choose_attempt(rig.work(rank), seen, 1), rig.launcher(everyone=True), seen)

    return begin


def launched(lab: Lab, ranks: int, *there: int) -> timedelta:
    """Run the tasks of some ranks of a gang until all nodes are listed; return how long that took."""
    rig = lab.rig(ranks, rendezvous=True)
    rig.create()
    lab.settle()
    clock = Turns(DoubleClock(lab.double))
    before = clock.now()
    assert clock.run(*(task(lab, rig, clock, rank) for rank in there), every_s=2.0) == [None] * len(there)
    assert sorted(node.tags.rank for node in rig.observe().nodes if node.tags) == list(range(ranks))
    return clock.now() - before


@pytest.fixture
def lab(lab: Lab) -> Lab:
    lab.double.settings(visible_s=1.0)
    return lab


@pytest.mark.parametrize("ranks", [4, 8])
def test_each_task_launches_its_own_node_and_no_other(lab: Lab, ranks: int) -> None:
    launched(lab, ranks, *range(ranks))
    assert lab.count("RunInstances") == ranks


@pytest.mark.parametrize("there", [(0,), (2,), (3, 1)], ids=str)
def test_tasks_that_run_launch_also_for_those_that_have_no_slot(lab: Lab, there: tuple[int, ...]) -> None:
    took = launched(lab, 4, *there)
    assert lab.count("RunInstances") == 4
    assert took < timedelta(seconds=60)
