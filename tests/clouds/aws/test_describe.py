"""What the double's Describe calls promise (API:DescribeVolumes, API:DescribeInstances, ec2ug/Using_Filtering)."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.clouds.aws.client import Double
from tests.clouds.aws.conftest import SETTLED_S, ZONE

Make = Callable[..., str]


def tagged(kind: str, **tags: str) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}]


def by(**filters: str | list[str]) -> list[dict[str, Any]]:
    return [
        {
            "Name": name.replace("tag__", "tag:").replace("__", ".").replace("_", "-"),
            "Values": [v] if isinstance(v, str) else v,
        }
        for name, v in filters.items()
    ]


def volumes(ec2: Any, **params: Any) -> list[str]:
    return [v["VolumeId"] for v in ec2.describe_volumes(**params)["Volumes"]]


def test_a_fresh_id_and_a_fresh_tag_are_unknown_for_a_moment(ec2: Any, double: Double, refuses: Any) -> None:
    double.settings(visible_s=5)
    volume_id = ec2.create_volume(AvailabilityZone=ZONE, Size=1, TagSpecifications=tagged("volume", k="v"))["VolumeId"]
    double.advance(4.9)
    with refuses("InvalidVolume.NotFound"):
        volumes(ec2, VolumeIds=[volume_id])
    with refuses("InvalidVolume.NotFound"):
        ec2.create_tags(Resources=[volume_id], Tags=[{"Key": "k", "Value": "w"}])
    assert volumes(ec2, Filters=by(tag__k="v")) == []
    double.advance(0.2)
    assert volumes(ec2, VolumeIds=[volume_id]) == volumes(ec2, Filters=by(tag__k="v")) == [volume_id]
    ec2.create_tags(Resources=[volume_id], Tags=[{"Key": "k", "Value": "w"}])
    assert volumes(ec2, Filters=by(tag__k="w")) == []
    assert volumes(ec2, Filters=by(tag__k="v")) == [volume_id]
    double.advance(5)
    assert volumes(ec2, Filters=by(tag__k="w")) == [volume_id]
    assert volumes(ec2, Filters=by(tag__k="v")) == []


def test_one_missing_id_fails_the_whole_call(ec2: Any, make_volume: Make, make_instance: Make, refuses: Any) -> None:
    with refuses("InvalidVolume.NotFound"):
        ec2.describe_volumes(VolumeIds=[make_volume(), "vol-0123456789abcdef0"])
    with refuses("InvalidInstanceID.NotFound"):
        ec2.describe_instances(InstanceIds=[make_instance(), "i-0123456789abcdef0"])
    with refuses("InvalidVolumeID.Malformed"):
        ec2.describe_volumes(VolumeIds=["vol_0123"])
    with refuses("InvalidInstanceID.Malformed"):
        ec2.describe_instances(InstanceIds=["vol-0123456789abcdef0"])


def test_an_unknown_id_of_what_moto_answers_fails_the_call(ec2: Any, ami: str, refuses: Any) -> None:
    calls: list[tuple[str, Callable[[], Any]]] = [
        ("InvalidAMIID.NotFound", lambda: ec2.describe_images(ImageIds=[ami, "ami-0123456789abcdef0"])),
        ("InvalidSubnetID.NotFound", lambda: ec2.describe_subnets(SubnetIds=["subnet-0123456789abcdef0"])),
        ("InvalidGroup.NotFound", lambda: ec2.describe_security_groups(GroupIds=["sg-0123456789abcdef0"])),
        ("InvalidKeyPair.NotFound", lambda: ec2.describe_key_pairs(KeyNames=["nobody"])),
        ("InvalidInstanceType", lambda: ec2.describe_instance_types(InstanceTypes=["m7i.large", "m99.large"])),
        ("InvalidParameterValue", lambda: ec2.describe_availability_zones(ZoneNames=["us-east-1z"])),
    ]
    for code, describe in calls:
        with refuses(code):
            describe()


def test_pages_are_as_large_as_asked_for(ec2: Any, double: Double) -> None:
    made = [ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"] for _ in range(12)]
    double.advance(SETTLED_S)
    pages = [p["Volumes"] for p in ec2.get_paginator("describe_volumes").paginate(PaginationConfig={"PageSize": 5})]
    assert [len(page) for page in pages] == [5, 5, 2]
    assert sorted(v["VolumeId"] for page in pages for v in page) == sorted(made)


def test_pages_of_instances_count_instances(ec2: Any, double: Double, ami: str) -> None:
    ec2.run_instances(ImageId=ami, InstanceType="m7i.large", MinCount=7, MaxCount=7)
    double.advance(SETTLED_S)
    first = ec2.describe_instances(MaxResults=5)
    assert [len(r["Instances"]) for r in first["Reservations"]] == [5]
    rest = ec2.describe_instances(MaxResults=5, NextToken=first["NextToken"])
    assert [len(r["Instances"]) for r in rest["Reservations"]] == [2]
    assert "NextToken" not in rest


@pytest.mark.parametrize("size", [4, 1001])
def test_a_page_has_5_to_1000_results(ec2: Any, refuses: Any, size: int) -> None:
    for describe in (ec2.describe_volumes, ec2.describe_instances):
        with refuses("InvalidParameterValue"):
            describe(MaxResults=size)


def test_pages_and_ids_exclude_each_other(ec2: Any, make_volume: Make, make_instance: Make, refuses: Any) -> None:
    with refuses("InvalidParameterCombination"):
        ec2.describe_volumes(VolumeIds=[make_volume()], MaxResults=5)
    with refuses("InvalidParameterCombination"):
        ec2.describe_instances(InstanceIds=[make_instance()], MaxResults=5)


def test_filters_find_what_they_name(ec2: Any, double: Double, make_volume: Make, make_instance: Make) -> None:
    one = make_volume(TagSpecifications=tagged("volume", a="1", b="x"))
    two = make_volume(TagSpecifications=tagged("volume", a="2", b="[x]*"), VolumeType="gp2")
    instance_id = make_instance(ClientToken="token", TagSpecifications=tagged("instance", a="1"))
    ec2.attach_volume(VolumeId=one, InstanceId=instance_id, Device="/dev/sdf")
    double.advance(SETTLED_S)
    for filters, found in (
        (by(tag__a="1"), [one]),
        (by(tag__a=["1", "2"]), [one, two]),
        (by(tag__a="1", tag__b="y"), []),
        (by(tag__b="*x*"), [one, two]),
        (by(tag__b="?x?"), [one]),  # "zero or one character"
        (by(tag__b="??x"), [one]),
        (by(tag__b="\\[x]\\*"), [two]),
        (by(tag__b="[x]\\*"), [two]),
        (by(tag_key="b"), [one, two]),
        (by(status="available"), [two]),
        (by(volume_type="gp2", tag_key="a"), [two]),
        (by(attachment__instance_id=instance_id, attachment__device="/dev/sdf"), [one]),
        (by(attachment__status="attached", tag_key="a"), [one]),
    ):
        assert sorted(volumes(ec2, Filters=filters)) == sorted(found), filters
    for filters in (by(client_token="token"), by(tag__a="1", instance_state_name=["pending", "running"])):
        [reservation] = ec2.describe_instances(Filters=filters)["Reservations"]
        assert [i["InstanceId"] for i in reservation["Instances"]] == [instance_id]


def test_filters_that_ec2_does_not_have_are_refused(ec2: Any, refuses: Any) -> None:
    for describe in (
        ec2.describe_volumes,
        ec2.describe_instances,
        ec2.describe_subnets,
        ec2.describe_images,
        ec2.describe_instance_type_offerings,
    ):
        with refuses("InvalidParameterValue"):
            describe(Filters=[{"Name": "colour", "Values": ["blue"]}])
    with refuses("InvalidParameterValue"):
        ec2.describe_volumes(Filters=[{"Name": "status", "Values": []}])
    with refuses("FilterLimitExceeded"):
        ec2.describe_volumes(Filters=[{"Name": "tag:a", "Values": [str(n) for n in range(201)]}])


def test_unknown_parameters_and_actions_are_refused(ec2: Any, double: Double, refuses: Any) -> None:
    def smuggle(params: dict[str, Any], **_: Any) -> None:
        params["body"]["Colour"] = "blue"

    ec2.meta.events.register("before-call.ec2.DescribeVolumes", smuggle)
    try:
        with refuses("UnknownParameter"):
            ec2.describe_volumes()
    finally:
        ec2.meta.events.unregister("before-call.ec2.DescribeVolumes", smuggle)


def test_describing_thousands_of_volumes_by_tag_is_fast(ec2: Any, double: Double) -> None:
    double.settings(bucket_scale=0, volume_quota=10_000)
    for n in range(1_000):
        ec2.create_volume(
            AvailabilityZone=ZONE,
            Size=1,
            TagSpecifications=tagged("volume", group=str(n // 250), rank=str(n), owner="me"),
        )
    double.advance(SETTLED_S)
    started = time.monotonic()
    assert len(volumes(ec2, Filters=by(tag__owner="me", tag__group="2"))) == 250
    assert len(volumes(ec2, Filters=by(tag__rank="789"))) == 1
    assert time.monotonic() - started < 2  # moto alone: 3 s, and four times that for twice as many
