"""The life of a node, the same on every backend."""

from __future__ import annotations

import pytest

from airflow_rankvol.backends.base import Guard
from airflow_rankvol.errors import NotOurs, VolumeBusy, VolumeConflict
from airflow_rankvol.records import NodeState, VolumeState
from tests.contract.support import Lab, until


def test_a_node_holds_its_volume_while_it_lives(lab: Lab) -> None:
    volume = lab.volume()
    node = lab.node(volume, commands="sleep 60")
    seen = lab.see().volume(volume.id)
    assert seen is not None
    assert (seen.state, seen.attached_to) == (VolumeState.ATTACHED, node.id)
    assert seen.attached_at is not None
    assert volume.created_at <= node.created_at <= seen.attached_at
    lab.backend.attach(volume.id, node.id)
    lab.backend.delete_node(node.id, lab.guard)
    until(lambda: [v.state for v in lab.see().volumes] == [VolumeState.AVAILABLE], "the volume stays attached")
    assert [(v.attached_to, v.attached_at) for v in lab.see().volumes] == [(None, None)]


def test_launching_the_same_name_twice_gives_the_same_node(lab: Lab) -> None:
    volume = lab.volume()
    assert lab.node(volume, commands="sleep 60").id == lab.node(volume, commands="sleep 60").id


def test_a_volume_is_attached_to_one_node_at_a_time(lab: Lab) -> None:
    volume = lab.volume()
    node = lab.node(volume, commands="sleep 60")
    with pytest.raises(VolumeBusy, match=f"{node.id}|{node.name}"):
        lab.node(volume, attempt=2)


def test_a_volume_held_by_a_live_node_of_another_run_is_a_conflict(lab: Lab) -> None:
    volume = lab.volume()
    node = lab.node(volume, commands="sleep 60")
    # Where attaching is a call of its own, it is the engine that tells whose node it is.
    with pytest.raises((VolumeConflict, VolumeBusy), match=f"run-1|{node.id}|{node.name}"):
        lab.other().node(volume)
    assert lab.seen(node).state is not NodeState.ENDED


def test_a_foreign_node_is_not_deleted(lab: Lab) -> None:
    node = lab.node(lab.volume(), commands="sleep 60")
    for guard in (Guard("somebody", lab.key), Guard(lab.owner, "another")):
        with pytest.raises(NotOurs, match="not touched"):
            lab.backend.delete_node(node.id, guard)
    assert lab.seen(node).state is not NodeState.ENDED


def test_deleting_an_absent_node_succeeds(lab: Lab) -> None:
    node = lab.node(lab.volume(), commands="sleep 60")
    lab.backend.delete_node(node.id, lab.guard)
    lab.backend.delete_node(node.id, lab.guard)
    until(lambda: lab.see().node(node.id) is None, "the node is still there")


def test_live_nodes_have_different_addresses(lab: Lab) -> None:
    nodes = [lab.node(lab.volume(rank), rank=rank, commands="sleep 60") for rank in range(3)]
    addresses = {lab.seen(node).address for node in nodes}
    assert len(addresses) == 3
    assert "127.0.0.1" not in addresses
