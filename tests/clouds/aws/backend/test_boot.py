"""Nodes that EC2 calls running and whose system never comes up: they end at boot_timeout, and cost no look each."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_rankvol.engine.loop import Watch
from airflow_rankvol.errors import DeadlineExceeded, RankFailed
from airflow_rankvol.records import NodeState, VolumeState
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.backend.kit import Lab, console_of, report, succeed
from tests.unit.engine.engine_kit import Rig

SUCCEED = f"{succeed.__module__}:{succeed.__name__}"
BOOT = timedelta(minutes=10)
LOOKS = ("DescribeInstanceStatus", "GetConsoleOutput")


def a_rig(lab: Lab, nodes: int = 1, **job: Any) -> Rig:
    rig = lab.rig(nodes, node=NodeTemplate(machine_type="m7i.large", zones=("us-east-1a",), boot_timeout=BOOT), **job)
    rig.create()
    return rig


def watches(rig: Rig) -> list[Watch]:
    """Launch every rank, and return what a triggerer steps."""
    works = [rig.begin(rank) for rank in range(rig.plan.job.nodes)]
    for work in works:
        assert rig.launch(work) is None
    return [Watch(rig.backend, work) for work in works]


def looks(lab: Lab) -> tuple[int, ...]:
    return tuple(lab.count(action) for action in LOOKS)


def test_a_node_that_never_boots_fails_at_its_boot_timeout_and_not_at_its_lifetime(lab: Lab) -> None:
    lab.double("never_boot")
    rig = a_rig(lab)
    started = lab.backend.clock.now()
    outcome = rig.run_rank(0)
    assert isinstance(outcome.error, DeadlineExceeded)
    for told in ("did not come up within 600 s", "'impaired'", "volume is kept"):
        assert told in str(outcome.error)
    assert BOOT <= lab.backend.clock.now() - started < BOOT + timedelta(minutes=1)
    assert looks(lab) == (1, 1)
    lab.settle(5)
    seen = rig.observe()
    assert {volume.state for volume in seen.volumes} == {VolumeState.AVAILABLE}
    assert all(node.state is NodeState.ENDED for node in seen.nodes)
    lab.double("end_nodes", script=SUCCEED, after_s=30.0)
    assert rig.run_rank(0, 2).error is None


def test_many_late_nodes_that_are_up_cost_one_look_together(lab: Lab) -> None:
    rig = a_rig(lab, 12)
    each = watches(rig)
    for _ in range(8):
        seen = rig.observe()
        assert [watch.step(seen) for watch in each] == [None] * 12
        lab.settle(120)
    assert looks(lab) == (1, 0)


def test_a_node_on_time_costs_no_look(lab: Lab) -> None:
    lab.double("end_nodes", script=SUCCEED, after_s=500.0)
    rig = a_rig(lab)
    assert rig.run_rank(0).error is None
    assert looks(lab) == (0, 1)


def test_a_node_that_does_not_answer_but_computes_goes_on(lab: Lab) -> None:
    """Its console shows that its system came up; what the status check says counts for nothing then."""
    lab.double("never_boot")
    rig = a_rig(lab)
    (watch,) = watches(rig)
    (node,) = rig.observe().nodes
    lab.double("power_off", instance=node.id, console="[   31.7] cloud-init[1577]: working\r\n", keep=True)
    for _ in range(10):
        assert watch.step(rig.observe()) is None
        lab.settle(120)
    assert looks(lab) == (1, 1)
    lab.double("power_off", instance=node.id, console=console_of(report()))
    lab.settle()
    (outcome,) = rig.until_end(rig.work(0))
    assert outcome.error is None


@pytest.mark.parametrize("fault", [{"kind": "throttle"}, {"kind": "error", "code": "UnauthorizedOperation"}])
def test_a_look_that_fails_ends_no_node(lab: Lab, fault: dict[str, Any]) -> None:
    """Where it may be made later it is; where a right is missing the lifetime has to do."""
    lab.double("never_boot")
    rig = a_rig(lab)
    (watch,) = watches(rig)
    assert watch.step(rig.observe()) is None
    lab.double.fault(**fault, action="DescribeInstanceStatus", status=403, times=2)
    lab.settle(BOOT.total_seconds())
    outcomes = []
    for _ in range(4):
        outcomes.append(watch.step(rig.observe()))
        lab.settle(20)
    again = fault["kind"] == "throttle"
    assert [outcome is None for outcome in outcomes[:3]] == [True, True, not again]
    assert lab.count("DescribeInstanceStatus") == (3 if again else 1)


def test_a_gang_ends_when_one_of_its_nodes_never_boots(lab: Lab) -> None:
    lab.double("never_boot")
    rig = a_rig(lab, 2, rendezvous=True)
    each = watches(rig)
    ended: dict[int, Any] = {}
    while len(ended) < 2:
        seen = rig.observe()
        ended |= {rank: end for rank, watch in enumerate(each) if rank not in ended and (end := watch.step(seen))}
        lab.settle(5)
    kinds = {type(outcome.error) for outcome in ended.values()}
    assert kinds == {DeadlineExceeded, RankFailed}, [str(outcome.error) for outcome in ended.values()]
