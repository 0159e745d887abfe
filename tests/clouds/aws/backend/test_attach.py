"""Attaching: to a running node of the zone, under a name that is free, once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from airflow_rankvol.backends._aws_places import DEVICES
from airflow_rankvol.errors import FinalError, NotReady, RetryableError, VolumeBusy
from airflow_rankvol.records import VolumeState
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.attachments import check_device
from tests.clouds.aws.backend.kit import OTHER_ZONE, ZONE, Lab


def test_a_volume_is_attached_by_one_call(lab: Lab) -> None:
    volume = lab.volume()
    node = lab.node(volume)
    lab.see()
    for _ in range(3):
        lab.backend.attach(volume.id, node.id)
    assert lab.seen_volume(volume).state in (VolumeState.ATTACHING, VolumeState.AVAILABLE)
    lab.settle()
    seen = lab.seen_volume(volume)
    assert (seen.state, seen.attached_to) == (VolumeState.ATTACHED, node.id)
    lab.backend.attach(volume.id, node.id)
    lab.process().attach(volume.id, node.id)
    assert lab.count("AttachVolume") == 1


def test_a_node_that_comes_up_takes_no_volume_yet(lab: Lab) -> None:
    volume = lab.volume()
    node = lab.backend.create_node(lab.node_request(volume))
    with pytest.raises(NotReady, match="pending"):
        lab.backend.attach(volume.id, node.id)
    assert lab.count("AttachVolume") == 0


def test_a_lost_answer_is_no_failure(lab: Lab) -> None:
    """EC2 says VolumeInUse to whoever asks again: by this very node it is."""
    volume = lab.volume()
    node = lab.node(volume)
    lab.see()
    lab.double.fault("lose", "AttachVolume", when="after")
    with pytest.raises(RetryableError):
        lab.backend.attach(volume.id, node.id)
    with pytest.raises(RetryableError):  # EC2 does not show it yet
        lab.backend.attach(volume.id, node.id)
    lab.settle()
    lab.backend.attach(volume.id, node.id)
    assert lab.seen_volume(volume).attached_to == node.id


def test_a_volume_that_another_node_holds_is_busy(lab: Lab) -> None:
    volume = lab.volume()
    first, second = lab.node(volume), lab.node(volume, attempt=2)
    lab.attached(volume, first)
    for backend in (lab.backend, lab.process()):
        with pytest.raises(VolumeBusy):
            backend.attach(volume.id, second.id)


def test_a_zone_mismatch_names_both_zones(lab: Lab) -> None:
    volume = lab.volume()
    node = lab.node(zone=OTHER_ZONE)
    lab.see()
    with pytest.raises(FinalError, match=r"zone us-east-1a, node i-\w+ in us-east-1b.*NodeTemplate\.zones"):
        lab.backend.attach(volume.id, node.id)


def test_an_images_data_disks_leave_fewer_places_for_volumes(lab: Lab) -> None:
    plain = NodeTemplate(machine_type="m7i.large", zones=(ZONE,))
    with_disk = NodeTemplate(machine_type="m7i.large", zones=(ZONE,), image=lab.image_with_disk())
    assert lab.backend.max_volumes(with_disk) == lab.backend.max_volumes(plain) - 1


def test_a_node_takes_no_more_volumes_than_there_are_device_names(lab: Lab) -> None:
    largest = NodeTemplate(machine_type="m7i.48xlarge", zones=(ZONE,))
    (info,) = lab.double.boto3("ec2").describe_instance_types(InstanceTypes=["m7i.48xlarge"])["InstanceTypes"]
    assert info["EbsInfo"]["MaximumEbsAttachments"] > 102
    for device in DEVICES:
        check_device(device)
    assert lab.backend.max_volumes(largest) == len(DEVICES) == 102  # /dev/xvd[a-c][a-z] and /dev/xvdd[a-x]


def test_many_at_once_get_names_of_their_own(lab: Lab) -> None:
    volumes = [lab.volume(rank) for rank in range(12)]
    node = lab.node(*volumes)
    lab.see()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda volume: lab.backend.attach(volume.id, node.id), volumes))
    lab.settle()
    assert {volume.attached_to for volume in lab.see().volumes} == {node.id}
    devices = {call["params"]["Device"] for call in lab.double.calls("AttachVolume")}
    assert len(devices) == len(volumes) == lab.count("AttachVolume")


def test_a_name_that_is_taken_is_not_tried_again(lab: Lab) -> None:
    """Somebody attached there, and the node's description does not show it yet: the next try takes the next name."""
    volume = lab.volume()
    node = lab.node(volume)
    lab.see()
    other = lab.foreign_volume("by hand")
    lab.double.boto3("ec2").attach_volume(VolumeId=other, InstanceId=node.id, Device="/dev/xvdba")
    with pytest.raises(NotReady, match="/dev/xvdba"):
        lab.backend.attach(volume.id, node.id)
    lab.backend.attach(volume.id, node.id)
    lab.backend.attach(volume.id, node.id)  # under way, and not asked for again
    devices = [call["params"]["Device"] for call in lab.double.calls("AttachVolume")]
    assert devices == ["/dev/xvdba", "/dev/xvdba", "/dev/xvdbb"]
    lab.settle()
    assert lab.seen_volume(volume).attached_to == node.id


def test_an_attached_volume_is_not_deleted(lab: Lab) -> None:
    volume = lab.volume()
    lab.attached(volume, lab.node(volume))
    with pytest.raises(VolumeBusy, match="attached"):
        lab.backend.delete_volume(volume.id, lab.guard)


def test_a_volume_that_hangs_shows_it(lab: Lab) -> None:
    """The engine waits for it, and gives up at the boot deadline."""
    volume = lab.volume()
    node = lab.node(volume)
    lab.double("stick", state="attaching")
    lab.attached(volume, node)
    assert lab.seen_volume(volume).state is VolumeState.ATTACHING
    lab.double("unstick")
    lab.settle()
    lab.double("stick", state="detaching")
    lab.double.boto3("ec2").detach_volume(VolumeId=volume.id, InstanceId=node.id)
    lab.settle()
    assert lab.seen_volume(volume).state is VolumeState.DETACHING
