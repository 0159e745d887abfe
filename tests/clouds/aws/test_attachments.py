"""The double's rules about attaching (API:AttachVolume, API:DetachVolume, ebsug/device_naming, ec2ug/volume_limits)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.clouds.aws.conftest import OTHER_ZONE, SETTLED_S

Make = Callable[..., str]


def volume(ec2: Any, volume_id: str) -> dict[str, Any]:
    found: dict[str, Any] = ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]
    return found


def devices(ec2: Any, instance_id: str) -> list[str]:
    mapped = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]["BlockDeviceMappings"]
    return [disk["DeviceName"] for disk in mapped]


def state_of(ec2: Any, instance_id: str) -> str:
    found = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]["State"]["Name"]
    return str(found)


def test_attaching_and_detaching_take_time(ec2: Any, double: Any, make_volume: Make, make_instance: Make) -> None:
    volume_id, instance_id = make_volume(), make_instance()
    made = ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    assert made["State"] == "attaching"
    double.advance(0.025)
    assert volume(ec2, volume_id)["State"] == "in-use"
    assert volume(ec2, volume_id)["Attachments"][0]["State"] == "attaching"
    double.advance(SETTLED_S)
    [attached] = volume(ec2, volume_id)["Attachments"]
    assert (attached["State"], attached["InstanceId"], attached["DeleteOnTermination"]) == (
        "attached",
        instance_id,
        False,
    )
    assert ec2.detach_volume(VolumeId=volume_id)["State"] == "detaching"
    double.advance(0.025)
    assert volume(ec2, volume_id)["State"] == "in-use"
    double.advance(SETTLED_S)
    assert volume(ec2, volume_id)["State"] == "available"
    assert volume(ec2, volume_id)["Attachments"] == []


def test_volume_and_instance_are_in_one_zone(ec2: Any, make_volume: Make, make_instance: Make, refuses: Any) -> None:
    volume_id, instance_id = make_volume(AvailabilityZone=OTHER_ZONE), make_instance()
    with refuses("InvalidVolume.ZoneMismatch"):
        ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")


def test_the_instance_has_to_run(ec2: Any, double: Any, make_volume: Make, start: Make, refuses: Any) -> None:
    volume_id = make_volume()
    instance_id = start()
    double.advance(0.03)  # it is known by now, and pending
    with refuses("IncorrectState"):
        ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    double.advance(SETTLED_S)
    ec2.terminate_instances(InstanceIds=[instance_id])
    for _ in ("shutting-down", "terminated"):
        with refuses("IncorrectState"):
            ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
        double.advance(SETTLED_S)


def test_the_volume_has_to_be_available(ec2: Any, double: Any, make_instance: Make, refuses: Any) -> None:
    instance_id = make_instance()
    volume_id = ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    double.advance(0.025)
    with refuses("IncorrectState"):
        ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")


def test_a_volume_is_attached_once(ec2: Any, make_volume: Make, make_instance: Make, refuses: Any) -> None:
    volume_id, one, other = make_volume(), make_instance(), make_instance()
    ec2.attach_volume(VolumeId=volume_id, InstanceId=one, Device="/dev/sdf")
    for instance_id in (one, other):
        with refuses("VolumeInUse"):
            ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdg")
    with refuses("VolumeInUse"):
        ec2.delete_volume(VolumeId=volume_id)


def test_a_device_name_is_taken_before_describe_shows_it(
    ec2: Any, double: Any, make_volume: Make, make_instance: Make, refuses: Any
) -> None:
    instance_id, one, other = make_instance(), make_volume(), make_volume()
    ec2.attach_volume(VolumeId=one, InstanceId=instance_id, Device="/dev/sdf")
    for shown in (["/dev/xvda"], ["/dev/xvda", "/dev/sdf"]):
        assert devices(ec2, instance_id) == shown
        for device in ("/dev/sdf", "/dev/xvda"):
            with refuses("InvalidParameterValue"):
                ec2.attach_volume(VolumeId=other, InstanceId=instance_id, Device=device)
        double.advance(SETTLED_S)


def test_describe_shows_an_attachment_a_moment_after_it_has_changed(
    ec2: Any, double: Any, make_volume: Make, make_instance: Make, refuses: Any
) -> None:
    volume_id, instance_id, other = make_volume(), make_instance(), make_instance()
    double.settings(visible_s=5, attach_s=2, detach_s=2)
    double.advance(5)

    there = [{"Name": "attachment.instance-id", "Values": [instance_id]}, {"Name": "volume-id", "Values": [volume_id]}]

    def free() -> bool:
        found = volume(ec2, volume_id)
        seen = [found["State"] == "available", not found["Attachments"], devices(ec2, instance_id) == ["/dev/xvda"]]
        assert {*seen, not ec2.describe_volumes(Filters=there)["Volumes"]} == {seen[0]}
        return bool(seen[0])

    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    double.advance(4.9)
    assert free()
    with refuses("VolumeInUse"):
        ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdg")
    with refuses("VolumeInUse"):
        ec2.delete_volume(VolumeId=volume_id)
    double.advance(0.2)
    assert not free()
    assert volume(ec2, volume_id)["Attachments"][0]["State"] == "attaching"
    double.advance(2)
    assert volume(ec2, volume_id)["Attachments"][0]["State"] == "attached"
    ec2.detach_volume(VolumeId=volume_id)
    double.advance(4.9)
    assert volume(ec2, volume_id)["Attachments"][0]["State"] == "attached"
    double.advance(0.2)
    assert volume(ec2, volume_id)["Attachments"][0]["State"] == "detaching"
    ec2.attach_volume(VolumeId=volume_id, InstanceId=other, Device="/dev/sdf")
    assert not free()
    double.advance(2)
    assert free()


def test_describe_shows_states_a_moment_after_they_have_changed(
    ec2: Any, double: Any, make_volume: Make, make_instance: Make
) -> None:
    volume_id, instance_id = make_volume(), make_instance()
    double.settings(visible_s=5, shut_down_s=2, delete_volume_s=7)
    double.advance(5)
    running = [{"Name": "instance-state-name", "Values": ["running"]}]
    ec2.terminate_instances(InstanceIds=[instance_id])
    ec2.delete_volume(VolumeId=volume_id)
    double.advance(4.9)
    assert state_of(ec2, instance_id) == "running"
    assert volume(ec2, volume_id)["State"] == "available"
    assert len(ec2.describe_instances(Filters=running)["Reservations"]) == 1
    assert len(ec2.describe_instance_status()["InstanceStatuses"]) == 1
    double.advance(0.2)
    assert state_of(ec2, instance_id) == "shutting-down"
    assert volume(ec2, volume_id)["State"] == "deleting"
    assert ec2.describe_instances(Filters=running)["Reservations"] == []
    assert ec2.describe_instance_status()["InstanceStatuses"] == []
    double.advance(2)
    assert state_of(ec2, instance_id) == "terminated"


@pytest.mark.parametrize(
    "device", ["foo", "/dev/nvme1n1", "/dev/sdaa", "/dev/xvddy", "/dev/xvddz", "/dev/xvdea", "/dev/sdf1", "sdf"]
)
def test_a_device_name_has_ec2s_form(
    ec2: Any, make_volume: Make, make_instance: Make, refuses: Any, device: str
) -> None:
    volume_id, instance_id = make_volume(), make_instance()
    with refuses("InvalidParameterValue"):
        ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device=device)


@pytest.mark.parametrize("device", ["/dev/sdz", "/dev/xvdz", "/dev/xvdaz", "/dev/xvdcy", "/dev/xvddx"])
def test_the_last_name_of_each_series_is_taken(ec2: Any, make_volume: Make, make_instance: Make, device: str) -> None:
    volume_id, instance_id = make_volume(), make_instance()
    assert ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device=device)["Device"] == device


@pytest.mark.parametrize(("kind", "limit"), [("m7i.large", 32), ("g5.xlarge", 25)])
def test_an_instance_takes_as_many_volumes_as_its_type_says(
    ec2: Any, double: Any, make_volume: Make, make_instance: Make, refuses: Any, kind: str, limit: int
) -> None:
    info = ec2.describe_instance_types(InstanceTypes=[kind])["InstanceTypes"][0]["EbsInfo"]
    assert info["MaximumEbsAttachments"] == limit
    assert info["AttachmentLimitType"] == {"m7i.large": "dedicated", "g5.xlarge": "shared"}[kind]
    instance_id = make_instance(InstanceType=kind)
    names = [f"/dev/xvd{a}{b}" for a in "bc" for b in "abcdefghijklmnopqrstuvwxyz"]
    double.settings(bucket_scale=10)
    for device in names[: limit - 1]:  # the root volume counts
        volume_id = make_volume()
        ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device=device)
    volume_id = make_volume()
    with refuses("AttachmentLimitExceeded"):
        ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device=names[limit])


def test_detaching_names_what_is_attached(ec2: Any, make_volume: Make, make_instance: Make, refuses: Any) -> None:
    volume_id, one, other = make_volume(), make_instance(), make_instance()
    with refuses("IncorrectState"):
        ec2.detach_volume(VolumeId=volume_id)
    ec2.attach_volume(VolumeId=volume_id, InstanceId=one, Device="/dev/sdf")
    with refuses("InvalidAttachment.NotFound"):
        ec2.detach_volume(VolumeId=volume_id, InstanceId=other)
    with refuses("InvalidInstanceID.NotFound"):
        ec2.detach_volume(VolumeId=volume_id, InstanceId="i-0123456789abcdef0")
    ec2.detach_volume(VolumeId=volume_id, InstanceId=one)
    with refuses("IncorrectState"):
        ec2.detach_volume(VolumeId=volume_id, InstanceId=one)


def test_the_root_volume_stays(ec2: Any, make_instance: Make, refuses: Any) -> None:
    instance_id = make_instance()
    [root] = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance_id]}])["Volumes"]
    with refuses("OperationNotPermitted"):
        ec2.detach_volume(VolumeId=root["VolumeId"], InstanceId=instance_id)


def test_termination_detaches_and_deletes_only_what_goes_with_the_instance(
    ec2: Any, double: Any, make_volume: Make, make_instance: Make, refuses: Any
) -> None:
    volume_id, instance_id = make_volume(), make_instance()
    [root] = ec2.describe_volumes(Filters=[{"Name": "attachment.instance-id", "Values": [instance_id]}])["Volumes"]
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    double.advance(SETTLED_S)
    ec2.terminate_instances(InstanceIds=[instance_id])
    double.advance(0.04)
    assert volume(ec2, volume_id)["State"] == "in-use"
    with refuses("VolumeInUse"):
        ec2.delete_volume(VolumeId=volume_id)
    double.advance(SETTLED_S)
    assert volume(ec2, volume_id)["State"] == "available"
    with refuses("InvalidVolume.NotFound"):
        volume(ec2, root["VolumeId"])


@pytest.mark.parametrize("state", ["attaching", "detaching"])
def test_a_volume_can_hang(ec2: Any, double: Any, make_volume: Make, make_instance: Make, state: str) -> None:
    volume_id, instance_id = make_volume(), make_instance()
    double("stick", state=state, volume=volume_id)
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    double.advance(SETTLED_S)
    if state == "detaching":
        ec2.detach_volume(VolumeId=volume_id)
    double.advance(3600)
    assert volume(ec2, volume_id)["Attachments"][0]["State"] == state
    assert double("unstick", volume=volume_id) == 1
    double.advance(SETTLED_S)
    assert volume(ec2, volume_id)["State"] == {"attaching": "in-use", "detaching": "available"}[state]


def test_a_root_volume_never_hangs(ec2: Any, double: Any, make_volume: Make, make_instance: Make) -> None:
    double("stick", state="attaching")
    volume_id, instance_id = make_volume(), make_instance()
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    double.advance(SETTLED_S)
    assert volume(ec2, volume_id)["Attachments"][0]["State"] == "attaching"
    double("unstick")
    double("stick", state="detaching")
    ec2.terminate_instances(InstanceIds=[instance_id])
    double.advance(SETTLED_S)
    assert len(ec2.describe_volumes()["Volumes"]) == 1


def test_force_frees_a_volume_that_hangs(ec2: Any, double: Any, make_volume: Make, make_instance: Make) -> None:
    volume_id, instance_id = make_volume(), make_instance()
    double("stick", state="detaching")
    ec2.attach_volume(VolumeId=volume_id, InstanceId=instance_id, Device="/dev/sdf")
    double.advance(SETTLED_S)
    ec2.detach_volume(VolumeId=volume_id)
    double.advance(SETTLED_S)
    assert volume(ec2, volume_id)["State"] == "in-use"
    ec2.detach_volume(VolumeId=volume_id, Force=True)
    double.advance(SETTLED_S)
    assert volume(ec2, volume_id)["State"] == "available"


def test_a_disk_of_the_image_stays_unless_the_launch_says_otherwise(ec2: Any, double: Any, make_instance: Make) -> None:
    disk = {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 5, "VolumeType": "gp2", "DeleteOnTermination": False}}
    root = {"Architecture": "x86_64", "RootDeviceName": "/dev/xvda"}
    image = ec2.register_image(Name="with-a-disk", BlockDeviceMappings=[disk], **root)["ImageId"]
    [described] = ec2.describe_images(ImageIds=[image])["Images"]
    assert (described["RootDeviceName"], described["BlockDeviceMappings"][1]) == ("/dev/xvda", disk)
    other = {"DeviceName": "/dev/sdb", "Ebs": {"DeleteOnTermination": True}}
    made = [make_instance(ImageId=image, BlockDeviceMappings=mappings) for mappings in ([], [other])]
    assert sorted(v["Size"] for v in ec2.describe_volumes()["Volumes"]) == [5, 5, 8, 8]
    ec2.terminate_instances(InstanceIds=made)
    double.advance(SETTLED_S)
    [kept] = ec2.describe_volumes()["Volumes"]
    assert (kept["Size"], kept["VolumeType"], kept["State"]) == (5, "gp2", "available")
