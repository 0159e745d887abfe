"""Deletions of nodes that Compute Engine accepts, and that fail later: in whatever state, none is called gone."""

from __future__ import annotations

import pytest

from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.errors import LeakError, NotReady, QuotaExceeded, RetryableError, VolumeConflict
from airflow_rankvol.records import NodeState
from tests.clouds.common.engine import left
from tests.clouds.gcp.backend.kit import Lab
from tests.unit.engine.engine_kit import Rig

SUCCEED = "tests.clouds.gcp.backend.kit:succeed"
STATES = pytest.mark.parametrize("state", ["RUNNING", "TERMINATED"])


def a_run(lab: Lab, state: str, **template: str) -> Rig:
    """Return a run of one rank whose node is in that state, and whose next deletion of an instance fails late."""
    rig = lab.rig(1, volume_template={"size": "10GB", **template})
    rig.create()
    if state == "TERMINATED":  # it has powered off, as it does when its rank is done, and holds its volume
        lab.double("end_nodes", script=SUCCEED, after_s=1.0)
        assert rig.run_rank(0).error is None
    else:
        assert rig.launch(rig.begin(0)) is None
        lab.settle()
    lab.double("fail_later", action="instances.delete", code="INTERNAL_ERROR", times=1)
    return rig


@STATES
@pytest.mark.parametrize(
    "template", [{"reclaim": "retain"}, {"reclaim": "delete"}, {"scope": "dag"}, {"scope": "global"}], ids=str
)
def test_a_node_whose_deletion_fails_late_is_named_and_deleted_by_the_next_try(
    lab: Lab, state: str, template: dict[str, str]
) -> None:
    """That the call was accepted is not that the node is gone; its volume stays."""
    rig = a_run(lab, state, **template)
    told = "still running" if state == "RUNNING" else "ended, but still holds volume"
    with pytest.raises(LeakError, match=f"{told}.* after 600 s") as caught:
        rig.teardown()
    ((node, found),) = lab.double.state()["instances"].items()
    assert found["status"] == state
    assert [node in label for label in caught.value.resources] == [True]
    (label,) = rig.teardown().nodes
    assert node in label
    lab.settle()
    assert lab.double.state()["instances"] == {}
    assert len(lab.double.state()["disks"]) == 1


@STATES
def test_a_node_whose_deletion_fails_late_is_named_besides_the_volume_that_cannot_go(lab: Lab, state: str) -> None:
    rig = a_run(lab, state, reclaim="delete_always")
    with pytest.raises(LeakError) as caught:
        rig.teardown()
    assert [label.split()[0] for label in caught.value.resources] == ["node", "volume"]
    assert len(rig.teardown().deleted) == 1
    assert not left(lab).nodes
    assert not left(lab).volumes


@STATES
@pytest.mark.parametrize("reclaim", ["retain", "delete"])
def test_the_reaper_names_a_node_whose_deletion_fails_late_and_deletes_it_the_next_time(
    lab: Lab, state: str, reclaim: str
) -> None:
    rig = a_run(lab, state, reclaim=reclaim)
    gone, problems = rig.reap(RunState.ENDED)
    ((node, _),) = lab.double.state()["instances"].items()
    assert not gone
    assert [name for name in problems if node in name]
    gone, problems = rig.reap(RunState.ENDED)
    assert (node in gone[0], problems) == (True, {})
    assert not left(lab).nodes


def test_an_attach_that_fails_late_says_why_and_the_next_one_attaches(lab: Lab) -> None:
    volume, late = lab.volume(0), lab.volume(1)
    node = lab.node(volume)
    lab.double("fail_later", action="instances.attachDisk", code="QUOTA_EXCEEDED", times=1)
    with pytest.raises(QuotaExceeded, match="QUOTA_EXCEEDED"):
        lab.backend.attach(late.id, node.id)
    assert lab.seen_volume(late).attached_to is None
    lab.backend.attach(late.id, node.id)
    assert lab.seen_volume(late).attached_to == node.id


def test_a_message_whose_setting_fails_late_is_set_by_the_next_try(lab: Lab) -> None:
    """A rendezvous would have waited for it until its end."""
    node = lab.node(lab.volume())
    lab.double("fail_later", action="instances.setMetadata", code="INTERNAL_ERROR", times=1)
    with pytest.raises(RetryableError, match="INTERNAL_ERROR"):
        lab.backend.tell_nodes([node.id], {"NODES_IPS": "10.0.0.1"})
    assert not lab.seen_node(node).released
    lab.backend.tell_nodes([node.id], {"NODES_IPS": "10.0.0.1"})
    assert lab.seen_node(node).released


def test_a_run_that_meets_what_such_a_node_holds_is_told_that_it_has_ended_and_what_to_do(lab: Lab) -> None:
    """To wait for its run's end would help nobody."""
    before = a_run(lab, "TERMINATED", scope="dag")
    with pytest.raises(LeakError):
        before.teardown()
    after = Rig(before.backend, lab.rig(1, volume_template={"size": "10GB", "scope": "dag"}, run="run-2").plan)
    with pytest.raises(VolumeConflict, match=r"of run run-1 of DAG dag that has ended and still holds it.*reap"):
        after.create()
    before.teardown()
    lab.settle()
    after.create()


def test_a_stopped_node_whose_deletion_failed_is_not_for_ever_one_that_is_being_deleted(lab: Lab) -> None:
    node = lab.node(lab.volume())
    lab.double("power_off", instance=node.name)
    lab.settle()
    lab.double("fail_later", action="instances.delete", code="INTERNAL_ERROR", times=1)
    lab.backend.delete_node(node.id, lab.guard)
    with pytest.raises(NotReady, match="once it is gone"):
        lab.node()
    lab.settle(120)
    lab.see()
    assert lab.node().state is NodeState.ENDED
