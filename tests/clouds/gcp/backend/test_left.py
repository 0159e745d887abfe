"""What nodes leave, and what must not go with them: boot disks, volumes that somebody let go with a node, deletions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_rankvol.backends._gcp_labels import description_of, labels_of
from airflow_rankvol.backends._gcp_launch import root_tags
from airflow_rankvol.backends.base import Guard, Selector
from airflow_rankvol.engine.reap import RunState, reap, survey
from airflow_rankvol.errors import FinalError, NotOurs, NotReady, VolumeConflict
from airflow_rankvol.records import Node, NodeState, VolumeState
from tests.clouds.gcp.backend.kit import ZONE, Lab


def auto_delete(lab: Lab, node: Node, device: str, *, on: bool) -> None:
    """Let a disk of a node go with it or not, as somebody does by hand."""
    path = f"zones/{ZONE}/instances/{node.name}/setDiskAutoDelete"
    lab.double.rest().post(path, {}, autoDelete=str(on).lower(), deviceName=device)
    lab.settle()


def test_a_node_is_not_ended_that_would_take_its_volume_with_it(lab: Lab) -> None:
    """Somebody may have set that by hand; what a rank has computed must not go."""
    volume = lab.volume()
    node = lab.node(volume)
    lab.see()  # a moment later it is set
    auto_delete(lab, node, volume.name, on=True)
    with pytest.raises(FinalError, match="--no-auto-delete"):
        lab.backend.delete_node(node.id, lab.guard)
    assert lab.count("instances.delete") == 0
    auto_delete(lab, node, volume.name, on=False)
    lab.backend.delete_node(node.id, lab.guard)
    lab.settle()
    assert lab.seen_volume(volume).state is VolumeState.AVAILABLE


def left_boot_disk(lab: Lab, node: Node) -> None:
    """End a node whose boot disk was told to stay."""
    auto_delete(lab, node, "rankvol_boot", on=False)
    lab.backend.delete_node(node.id, lab.guard)
    lab.settle()
    assert f"{ZONE}/{node.name}" in lab.double.state()["disks"]


def test_a_foreign_disk_of_a_nodes_name_is_named_with_the_next_step(lab: Lab) -> None:
    """It is its boot disk that could not be made; trying again would never help."""
    request = lab.node_request(lab.volume())
    disk = lab.foreign_disk(request.name)
    with pytest.raises(VolumeConflict, match=f"disk {disk} with no tags of ours.*gcloud compute disks delete"):
        lab.backend.create_node(request)
    assert disk in lab.double.state()["disks"]
    assert lab.count("disks.delete") == 0


def test_a_disk_of_ours_that_no_node_booted_from_is_no_boot_disk_to_remove(lab: Lab) -> None:
    """A rank's volume of that name has what it has computed."""
    request = lab.node_request()
    volume = lab.volume(name=request.name)
    with pytest.raises(VolumeConflict, match=f"taken by disk {volume.id} with key {lab.key!r}"):
        lab.backend.create_node(request)
    assert volume.id in lab.double.state()["disks"]
    assert lab.count("disks.delete") == 0


@pytest.mark.parametrize("whose", [{"owner": "somebody"}, {"key": "ffffffff"}], ids=str)
def test_a_boot_disk_that_is_left_of_anothers_node_stays(lab: Lab, whose: dict[str, Any]) -> None:
    """It says that this node booted from it, and has another owner's or group's tags."""
    request = lab.node_request()
    tags = root_tags(replace(request.tags, **whose))
    labels = {**labels_of(tags), "rankvol-root": request.name}
    disk = lab.foreign_disk(request.name, labels=labels, description=description_of(tags))
    with pytest.raises(VolumeConflict, match=f"taken by disk {disk} with key {tags.key!r} of owner {tags.owner!r}"):
        lab.backend.create_node(request)
    assert disk in lab.double.state()["disks"]
    assert lab.count("disks.delete") == 0


def test_a_boot_disk_that_is_left_of_the_node_itself_goes_before_the_next_launch(lab: Lab) -> None:
    volume = lab.volume()
    left_boot_disk(lab, lab.node(volume))
    with pytest.raises(NotReady, match="tried again"):
        lab.node(volume)
    lab.settle()
    assert lab.seen_node(lab.node(volume)).state is NodeState.RUNNING


def test_a_boot_disk_that_is_left_is_listed_for_the_reaper_and_is_no_volume_of_the_group(lab: Lab) -> None:
    node = lab.node(lab.volume())
    selector = Selector(lab.owner)
    assert node.name not in [
        volume.name for volume in lab.backend.list_owned(selector).volumes
    ]  # it goes with its node
    left_boot_disk(lab, node)
    assert node.name not in [volume.name for volume in lab.see().volumes]
    found = lab.process().list_owned(selector).volumes
    assert [v.tags.run for v in found if v.tags and v.name == node.name] == [lab.run]
    assert node.name not in [v.name for v in lab.backend.list_owned(Selector("somebody")).volumes]
    with pytest.raises(NotOurs):
        lab.backend.delete_volume(f"{ZONE}/{node.name}", Guard("somebody", lab.key))


def test_the_reaper_takes_a_node_that_powered_off_and_boot_disks_that_are_left(lab: Lab) -> None:
    left_boot_disk(lab, lab.node(lab.volume(1), rank=1))
    foreign = lab.foreign_disk("of-somebody")
    stopped = lab.node(lab.volume(0), spot=True)
    lab.double("power_off", instance=stopped.name)
    lab.settle()
    assert lab.double.state()["instances"][stopped.id]["status"] == "TERMINATED"
    backend, selector = lab.process(), Selector(lab.owner)
    findings = survey(backend, selector, lambda dag, run: RunState.ENDED)
    gone, problems = reap(backend, selector, findings)
    assert not problems
    assert len(gone) == 4
    assert list(lab.double.state()["disks"]) == [foreign]
    assert lab.double.state()["instances"] == {}


def test_a_node_that_is_being_deleted_is_not_taken_for_the_one_to_launch(lab: Lab) -> None:
    node = lab.node()
    lab.double.freeze()
    lab.backend.delete_node(node.id, lab.guard)
    assert lab.seen_node(node).state is NodeState.ENDED  # not gone before it is
    with pytest.raises(NotReady, match="once it is gone"):
        lab.node()
    lab.double.freeze(False)
    lab.settle()
    assert lab.see().nodes == ()
    assert lab.seen_node(lab.node()).state is NodeState.RUNNING
