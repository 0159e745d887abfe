"""The double's rules about volumes (API:CreateVolume, API:DeleteVolume, ebsug/ebs-volume-types, idem, csi)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clouds.aws.conftest import OTHER_ZONE, SETTLED_S, ZONE


def state_of(ec2: Any, volume_id: str) -> str:
    return str(ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]["State"])


@pytest.mark.parametrize(
    "params",
    [
        {"VolumeType": "gp3", "Size": 1},
        {"VolumeType": "gp3", "Size": 65_536},
        {"VolumeType": "gp3", "Size": 1, "Iops": 3_000},
        {"VolumeType": "gp3", "Size": 160, "Iops": 80_000, "Throughput": 2_000},
        {"VolumeType": "gp3", "Size": 100, "Iops": 4_000, "Throughput": 1_000},
        {"VolumeType": "gp2", "Size": 16_384},
        {"VolumeType": "io1", "Size": 4, "Iops": 200},
        {"VolumeType": "io2", "Size": 256, "Iops": 256_000},
        {"VolumeType": "st1", "Size": 125},
        {"VolumeType": "sc1", "Size": 16_384},
    ],
    ids=str,
)
def test_each_type_takes_what_it_can_be(ec2: Any, double: Any, params: dict[str, Any]) -> None:
    double.settings(storage_quota_gib=100_000)
    made = ec2.create_volume(AvailabilityZone=ZONE, **params)
    assert params.items() <= made.items()


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"VolumeType": "gp9"}, "UnknownVolumeType"),
        ({"VolumeType": "gp3", "Size": 0}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Size": 65_537}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Iops": 2_999}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Size": 1_000, "Iops": 80_001}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Size": 7, "Iops": 3_501}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Throughput": 124}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Size": 1_000, "Iops": 80_000, "Throughput": 2_001}, "InvalidParameterValue"),
        ({"VolumeType": "gp3", "Throughput": 751}, "InvalidParameterValue"),
        ({"VolumeType": "gp2", "Size": 16_385}, "InvalidParameterValue"),
        ({"VolumeType": "gp2", "Iops": 3_000}, "InvalidParameterCombination"),
        ({"VolumeType": "gp2", "Throughput": 125}, "InvalidParameterCombination"),
        ({"VolumeType": "io1", "Size": 4}, "MissingParameter"),
        ({"VolumeType": "io1", "Size": 3, "Iops": 100}, "InvalidParameterValue"),
        ({"VolumeType": "io1", "Size": 4, "Iops": 201}, "InvalidParameterValue"),
        ({"VolumeType": "io2", "Size": 4, "Iops": 4_001}, "InvalidParameterValue"),
        ({"VolumeType": "io2", "Size": 4, "Iops": 100, "Throughput": 125}, "InvalidParameterCombination"),
        ({"VolumeType": "st1", "Size": 124}, "InvalidParameterValue"),
        ({"VolumeType": "sc1", "Size": 16_385}, "InvalidParameterValue"),
        ({"VolumeType": "sc1", "Size": 125, "Iops": 100}, "InvalidParameterCombination"),
    ],
    ids=str,
)
def test_each_type_refuses_what_it_cannot_be(ec2: Any, refuses: Any, params: dict[str, Any], code: str) -> None:
    with refuses(code):
        ec2.create_volume(**{"AvailabilityZone": ZONE, "Size": 1, **params})
    assert ec2.describe_volumes()["Volumes"] == []


def test_a_volume_without_a_type_is_gp2(ec2: Any) -> None:
    assert ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeType"] == "gp2"


def test_a_zone_has_to_exist(ec2: Any, refuses: Any) -> None:
    with refuses("InvalidZone.NotFound"):
        ec2.create_volume(AvailabilityZone="us-east-1z", Size=1)
    with refuses("MissingParameter"):
        ec2.create_volume(Size=1)


def test_a_volume_becomes_available_and_goes_in_time(ec2: Any, double: Any, refuses: Any) -> None:
    made = ec2.create_volume(AvailabilityZone=ZONE, Size=1, VolumeType="gp3")
    volume_id = made["VolumeId"]
    assert made["State"] == "creating"
    double.advance(0.025)
    assert state_of(ec2, volume_id) == "creating"
    with refuses("IncorrectState"):
        ec2.delete_volume(VolumeId=volume_id)
    double.advance(0.03)
    assert state_of(ec2, volume_id) == "available"
    ec2.delete_volume(VolumeId=volume_id)
    double.advance(0.025)
    assert state_of(ec2, volume_id) == "deleting"
    double.advance(SETTLED_S)
    with refuses("InvalidVolume.NotFound"):
        state_of(ec2, volume_id)
    with refuses("InvalidVolume.NotFound"):
        ec2.delete_volume(VolumeId=volume_id)


def test_a_token_makes_the_same_call_one_call(ec2: Any, double: Any) -> None:
    params = {"AvailabilityZone": ZONE, "Size": 1, "VolumeType": "gp3", "ClientToken": "t" * 64}
    first = ec2.create_volume(**params)
    double.advance(SETTLED_S)
    again = ec2.create_volume(**params)
    assert again["VolumeId"] == first["VolumeId"]
    assert again["State"] == "available"
    assert len(ec2.describe_volumes()["Volumes"]) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"Size": 2},
        {"AvailabilityZone": OTHER_ZONE},
        {"VolumeType": "gp2"},
        {"TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "k", "Value": "v"}]}]},
    ],
    ids=str,
)
def test_a_token_with_other_parameters_is_a_mismatch(ec2: Any, refuses: Any, change: dict[str, Any]) -> None:
    params = {"AvailabilityZone": ZONE, "Size": 1, "VolumeType": "gp3", "ClientToken": "t"}
    ec2.create_volume(**params)
    with refuses("IdempotentParameterMismatch"):
        ec2.create_volume(**{**params, **change})


def test_the_token_of_a_deleted_volume_is_burned_for_half_a_day(ec2: Any, double: Any, refuses: Any) -> None:
    params = {"AvailabilityZone": ZONE, "Size": 1, "VolumeType": "gp3", "ClientToken": "t"}
    volume_id = ec2.create_volume(**params)["VolumeId"]
    double.advance(SETTLED_S)
    ec2.delete_volume(VolumeId=volume_id)
    with refuses("IdempotentParameterMismatch"):
        ec2.create_volume(**params)
    double.advance(11 * 3600)
    with refuses("IdempotentParameterMismatch"):
        ec2.create_volume(**params)
    double.advance(2 * 3600)
    assert ec2.create_volume(**params)["VolumeId"] != volume_id


def test_the_token_of_a_volume_that_failed_later_is_burned(ec2: Any, double: Any, refuses: Any) -> None:
    params = {"AvailabilityZone": ZONE, "Size": 1, "Encrypted": True, "KmsKeyId": "alias/none", "ClientToken": "t"}
    volume_id = ec2.create_volume(**params)["VolumeId"]
    double.advance(0.035)
    with refuses("InvalidVolume.NotFound"):
        state_of(ec2, volume_id)
    with refuses("IdempotentParameterMismatch"):
        ec2.create_volume(**params)


def test_a_token_has_at_most_64_characters(ec2: Any, refuses: Any) -> None:
    with refuses("InvalidParameterValue"):
        ec2.create_volume(AvailabilityZone=ZONE, Size=1, ClientToken="t" * 65)


def test_at_the_quota_even_a_known_token_fails(ec2: Any, double: Any, refuses: Any) -> None:
    double.settings(storage_quota_gib=2)
    params = {"AvailabilityZone": ZONE, "Size": 2, "VolumeType": "gp3", "ClientToken": "t"}
    ec2.create_volume(**params)
    with refuses("VolumeLimitExceeded"):
        ec2.create_volume(**params)


def test_encryption_is_with_the_key_asked_for(ec2: Any, double: Any, refuses: Any) -> None:
    key = double.boto3("kms").create_key()["KeyMetadata"]
    made = ec2.create_volume(AvailabilityZone=ZONE, Size=1, Encrypted=True, KmsKeyId=key["KeyId"])
    double.advance(SETTLED_S)
    assert made["Encrypted"] is True
    assert made["KmsKeyId"] == key["Arn"]
    assert state_of(ec2, made["VolumeId"]) == "available"
    with refuses("InvalidParameterDependency"):
        ec2.create_volume(AvailabilityZone=ZONE, Size=1, KmsKeyId=key["KeyId"])
    double.boto3("kms").disable_key(KeyId=key["KeyId"])
    other = ec2.create_volume(AvailabilityZone=ZONE, Size=1, Encrypted=True, KmsKeyId=key["KeyId"])["VolumeId"]
    double.advance(SETTLED_S)
    with refuses("InvalidVolume.NotFound"):
        state_of(ec2, other)


def test_a_volume_is_no_smaller_than_its_snapshot(ec2: Any, double: Any, make_volume: Any, refuses: Any) -> None:
    snapshot_id = ec2.create_snapshot(VolumeId=make_volume(Size=3))["SnapshotId"]
    double.advance(0.025)
    with refuses("IncorrectState"):
        ec2.create_volume(AvailabilityZone=ZONE, SnapshotId=snapshot_id)
    double.advance(SETTLED_S)
    assert ec2.create_volume(AvailabilityZone=ZONE, SnapshotId=snapshot_id)["Size"] == 3
    assert ec2.create_volume(AvailabilityZone=ZONE, SnapshotId=snapshot_id, Size=4)["SnapshotId"] == snapshot_id
    with refuses("InvalidParameterValue"):
        ec2.create_volume(AvailabilityZone=ZONE, SnapshotId=snapshot_id, Size=2)
    with refuses("InvalidSnapshot.NotFound"):
        ec2.create_volume(AvailabilityZone=ZONE, SnapshotId="snap-0123456789abcdef0")
    with refuses("MissingParameter"):
        ec2.create_volume(AvailabilityZone=ZONE)


def test_a_dry_run_creates_nothing(ec2: Any, double: Any, refuses: Any) -> None:
    with refuses("DryRunOperation"):
        ec2.create_volume(AvailabilityZone=ZONE, Size=1, DryRun=True)
    assert double.state()["volumes"] == {}
