"""The life of a node on Compute Engine: launched once with its disks, told, read, ended."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_rankvol.errors import (
    AuthDenied,
    FinalError,
    NoCapacity,
    NotOurs,
    QuotaExceeded,
    RetryableError,
    VolumeBusy,
    VolumeConflict,
)
from airflow_rankvol.records import Node, NodeState, VolumeState
from tests.clouds.gcp.backend.kit import OTHER_ZONE, ZONE, Lab


def instance(lab: Lab, node: Node) -> dict[str, Any]:
    """Return an instance as it really is."""
    found: dict[str, Any] = lab.double.state()["instances"][node.id]
    return found


def test_a_node_is_what_was_asked_for(lab: Lab) -> None:
    volume = lab.volume()
    node = lab.node(
        volume,
        tags={"team": "etl"},
        service_account="node@rankvol-test.iam.gserviceaccount.com",
        scopes="devstorage.read_only",
        network_tags="ranks",
        root_size="30GB",
        subnets="nodes",
    )
    raw = instance(lab, node)
    boot, data = raw["disks"]
    assert (boot["autoDelete"], boot["diskSizeGb"], boot["boot"]) == (True, "30", True)
    assert (data["autoDelete"], data["deviceName"], data["mode"]) == (False, volume.name, "READ_WRITE")
    assert raw["machineType"].endswith("/machineTypes/n2-standard-2")
    assert raw["labels"]["team"] == "etl"
    assert raw["serviceAccounts"] == [
        {
            "email": "node@rankvol-test.iam.gserviceaccount.com",
            "scopes": ["https://www.googleapis.com/auth/devstorage.read_only"],
        }
    ]
    assert raw["tags"]["items"] == ["ranks"]
    (interface,) = raw["networkInterfaces"]
    assert interface["subnetwork"].endswith("/subnetworks/nodes")
    assert "accessConfigs" not in interface
    assert raw["shieldedInstanceConfig"] == {
        "enableSecureBoot": True, "enableVtpm": True, "enableIntegrityMonitoring": True
    }  # fmt: skip
    assert raw["scheduling"]["maxRunDuration"] == {"seconds": "3900"}
    assert raw["scheduling"]["instanceTerminationAction"] == "DELETE"
    assert not raw["scheduling"]["automaticRestart"]
    metadata = {item["key"]: item["value"] for item in raw["metadata"]["items"]}
    assert metadata["startup-script"] == "#!/bin/bash\ntrue\n"
    assert metadata["enable-guest-attributes"] == "TRUE"


def test_a_node_has_no_identity_unless_one_is_named(lab: Lab) -> None:
    assert "serviceAccounts" not in instance(lab, lab.node(lab.volume()))


def test_a_public_address_is_asked_for(lab: Lab) -> None:
    (interface,) = instance(lab, lab.node(lab.volume(), external_ip=True))["networkInterfaces"]
    assert interface["accessConfigs"]


def test_spot_and_accelerators_are_asked_for(lab: Lab) -> None:
    node = lab.node(
        lab.volume(), machine_type="n1-standard-2", spot=True, accelerator="nvidia-tesla-t4", gpus_per_node=2
    )
    raw = instance(lab, node)
    assert raw["scheduling"]["provisioningModel"] == "SPOT"
    assert raw["scheduling"]["onHostMaintenance"] == "TERMINATE"
    (card,) = raw["guestAccelerators"]
    assert (card["acceleratorCount"], card["acceleratorType"].rpartition("/")[2]) == (2, "nvidia-tesla-t4")
    assert not raw["shieldedInstanceConfig"]["enableSecureBoot"]


@pytest.mark.parametrize(
    ("machine_type", "image"),
    [
        ("n2-standard-2", "debian-13"),
        ("t2a-standard-1", "debian-13-arm64"),
        ("c4-standard-2", "debian-13"),
        ("n4a-standard-2", "debian-13-arm64"),
    ],
)
def test_the_default_image_is_the_newest_debian_on_a_disk_that_the_machine_takes(
    lab: Lab, machine_type: str, image: str
) -> None:
    kind = "hyperdisk-balanced" if machine_type.startswith(("c4", "n4")) else "pd-balanced"
    node = lab.node(lab.volume(type=kind), machine_type=machine_type)
    boot = lab.double.state()["disks"][f"{ZONE}/{node.name}"]
    assert image.removesuffix("-arm64") in boot["sourceImage"]
    assert ("arm64" in image) == ("arm64" in boot["sourceImage"])
    assert boot["type"].rpartition("/")[2] == kind


@pytest.mark.parametrize(
    "name", ["own-image", "own-family", "debian-12", "projects/debian-cloud/global/images/family/debian-12"]
)
def test_an_image_is_found_by_its_name_its_family_or_its_link(lab: Lab, name: str) -> None:
    node = lab.node(lab.volume(), image=name)
    assert name.rpartition("/")[2].split("-")[0] in lab.double.state()["disks"][f"{ZONE}/{node.name}"]["sourceImage"]


def test_the_boot_disk_is_no_volume_of_the_group(lab: Lab) -> None:
    node = lab.node(lab.volume())
    assert [volume.name for volume in lab.see().volumes] == [f"data-{lab.key}-0"]
    assert lab.double.state()["disks"][f"{ZONE}/{node.name}"]["labels"]["rankvol-root"] == node.name


def test_scopes_may_be_called_as_gcloud_does(lab: Lab) -> None:
    node = lab.node(lab.volume(), service_account="default", scopes="storage-ro, logging.write")
    (account,) = instance(lab, node)["serviceAccounts"]
    base = "https://www.googleapis.com/auth"
    assert account["scopes"] == [f"{base}/devstorage.read_only", f"{base}/logging.write"]


def test_the_volume_is_attached_when_the_node_runs(lab: Lab) -> None:
    volume = lab.volume()
    node = lab.node(volume)
    seen = lab.seen_volume(volume)
    assert (seen.state, seen.attached_to) == (VolumeState.ATTACHED, node.id)
    assert (lab.seen_node(node).state, lab.seen_node(node).ready) == (NodeState.RUNNING, True)
    assert lab.seen_node(node).address
    assert lab.count("instances.attachDisk") == 0


def test_launching_twice_launches_one(lab: Lab) -> None:
    volume = lab.volume()
    assert lab.node(volume).id == lab.node(volume).id
    assert lab.count("instances.insert") == 1


@pytest.mark.parametrize("other_process", [False, True])
def test_a_lost_answer_launches_no_second_node(lab: Lab, other_process: bool) -> None:
    volume = lab.volume()
    lab.double.fault("lose", "instances.insert", when="after")
    with pytest.raises(RetryableError, match="no answer"):
        lab.node(volume)
    backend = lab.process() if other_process else lab.backend
    backend.create_node(lab.node_request(volume))
    assert len(lab.double.state()["instances"]) == 1
    assert lab.see().nodes[0].state is NodeState.RUNNING


def test_a_name_of_somebody_else_is_a_conflict(lab: Lab) -> None:
    request = lab.node_request(lab.volume())
    lab.other().backend.create_node(lab.other().node_request())
    body = {
        "name": request.name,
        "machineType": f"zones/{ZONE}/machineTypes/n2-standard-2",
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": {
            "sourceImage": "projects/debian-cloud/global/images/family/debian-13"}}],
        "networkInterfaces": [{}],
    }  # fmt: skip
    lab.double.rest().post(f"zones/{ZONE}/instances", body)
    lab.settle()
    with pytest.raises(VolumeConflict, match="name is taken"):
        lab.backend.create_node(request)


def test_a_machine_that_cannot_move_to_another_host_ends_when_its_host_is_maintained(lab: Lab) -> None:
    node = lab.node(lab.volume(type="hyperdisk-balanced"), machine_type="c3-standard-192-metal")
    assert instance(lab, node)["scheduling"]["onHostMaintenance"] == "TERMINATE"


@pytest.mark.parametrize("code", ["QUOTA_EXCEEDED", "CPU_QUOTA_EXCEEDED", "GPU_QUOTA_EXCEEDED"])
def test_the_next_machine_type_is_taken_where_a_quota_is_used_up(lab: Lab, code: str) -> None:
    lab.double("fail_later", action="instances.insert", code=code, message="used up")
    node = lab.node(lab.volume(), machine_type="n2-standard-2, n2-standard-4")
    assert instance(lab, node)["machineType"].endswith("/n2-standard-4")


def test_the_next_machine_type_is_taken_where_there_is_no_room(lab: Lab) -> None:
    lab.double("no_capacity", type="n2-standard-2")
    node = lab.node(lab.volume(), machine_type="n2-standard-2, n2-standard-4")
    assert instance(lab, node)["machineType"].endswith("/n2-standard-4")


def test_no_room_is_told_with_what_was_tried_and_tried_again(lab: Lab) -> None:
    volume = lab.volume()
    lab.double("no_capacity", type="*")
    for _ in range(2):  # not only the answer of the first time
        with pytest.raises(NoCapacity, match="does not have enough resources") as caught:
            lab.node(volume, machine_type="n2-standard-2, e2-standard-2")
        assert "another machine type" in caught.value.__notes__[0]
    assert lab.see().nodes == ()
    assert lab.seen_volume(volume).state is VolumeState.AVAILABLE
    lab.double("no_capacity", type="*", times=0)
    assert lab.node(volume).state is NodeState.RUNNING


def test_a_machine_that_does_not_take_the_disk_is_told(lab: Lab) -> None:
    volume = lab.volume(type="pd-balanced")
    with pytest.raises(FinalError, match="not compatible"):
        lab.node(volume, machine_type="c4-standard-2")


def test_the_quota_is_named(lab: Lab) -> None:
    lab.double.settings(quotas={"INSTANCES": 0.0})
    with pytest.raises(QuotaExceeded, match="INSTANCES"):
        lab.node(lab.volume())


@pytest.mark.parametrize("late", [True, False], ids=["by the operation", "at once"])
def test_a_policy_of_the_organisation_is_no_reason_to_try_again(lab: Lab, late: bool) -> None:
    volume = lab.volume()
    said = "Constraint constraints/compute.vmExternalIpAccess violated for project 1. Add instance i to the constraint."
    if late:
        lab.double("fail_later", action="instances.insert", code="CONDITION_NOT_MET", message=said, status=412)
    else:
        lab.double.fault("error", "instances.insert", status=412, code="conditionNotMet", message=said)
    with pytest.raises(AuthDenied, match=r"policy constraints/compute\.vmExternalIpAccess forbids it.*external_ip"):
        lab.node(volume, machine_type="n2-standard-2, n2-standard-4", external_ip=True)
    assert lab.count("instances.insert") == 1


def test_a_volume_in_use_keeps_a_node_from_its_launch(lab: Lab) -> None:
    volume = lab.volume()
    lab.node(volume)
    with pytest.raises(VolumeBusy):
        lab.node(volume, attempt=2)


def test_volumes_of_two_zones_are_refused(lab: Lab) -> None:
    with pytest.raises(FinalError, match="a disk attaches only within its zone"):
        lab.node(lab.volume(0), lab.volume(1, OTHER_ZONE))


def test_a_node_goes_where_its_volumes_are(lab: Lab) -> None:
    assert lab.node(lab.volume(zone=OTHER_ZONE)).zone == OTHER_ZONE


def test_nodes_are_told_once_and_keep_what_they_had(lab: Lab) -> None:
    nodes = [lab.node(lab.volume(rank), rank=rank) for rank in range(3)]
    ids = [node.id for node in nodes]
    for _ in range(2):
        lab.backend.tell_nodes(ids, {"NODES_IPS": "10.0.0.1\n10.0.0.2"})
    assert lab.count("instances.setMetadata") == 3
    for node in nodes:
        keys = {item["key"] for item in instance(lab, node)["metadata"]["items"]}
        assert keys >= {"rankvol-go", "startup-script", "enable-guest-attributes"}
        assert lab.seen_node(node).released


def test_a_foreign_node_is_not_told(lab: Lab) -> None:
    node = lab.node(lab.volume())
    raw = instance(lab, node)
    lab.double.rest().post(
        f"zones/{ZONE}/instances/{node.name}/setLabels", {"labels": {}, "labelFingerprint": raw["labelFingerprint"]}
    )
    lab.settle()
    with pytest.raises(NotOurs, match="no tags of ours"):
        lab.backend.tell_nodes([node.id], {"NODES_IPS": "10.0.0.1"})


def test_a_volume_is_attached_once_while_the_node_runs(lab: Lab) -> None:
    volume, late = lab.volume(0), lab.volume(1)
    node = lab.node(volume)
    for _ in range(2):
        lab.backend.attach(late.id, node.id)
        lab.settle()
        lab.see()
    assert lab.count("instances.attachDisk") == 1
    assert lab.seen_volume(late).attached_to == node.id


def test_a_volume_that_is_elsewhere_is_busy(lab: Lab) -> None:
    volume = lab.volume(0)
    lab.node(volume)
    other = lab.node(lab.volume(1), rank=1)
    lab.see()
    with pytest.raises(VolumeBusy, match="expected it to be free"):
        lab.backend.attach(volume.id, other.id)


def test_scripts_do_not_travel_with_every_look(lab: Lab) -> None:
    """A look at 256 nodes with 200 KB of script each would be 50 MB."""
    lab.node(lab.volume())
    (raw,) = lab.backend._nodes_by('name != "x"', "observe", "x")
    assert all("value" not in item for item in raw["metadata"]["items"])
