"""The double's rules about tags (ec2ug/Using_Tags, API:CreateTags, ec2ug/work-with-tags-in-IMDS)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.clouds.aws.conftest import SETTLED_S, ZONE

Make = Callable[..., str]


def pairs(*tags: tuple[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags]


def tags_of(ec2: Any, volume_id: str) -> dict[str, str]:
    found = ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0].get("Tags", [])
    return {tag["Key"]: tag["Value"] for tag in found}


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        (pairs(("aws:x", "1")), "InvalidParameterValue"),
        (pairs(("AWS:x", "1")), "InvalidParameterValue"),
        (pairs(("", "1")), "InvalidParameterValue"),
        (pairs(("k" * 129, "1")), "InvalidParameterValue"),
        (pairs(("k", "v" * 257)), "InvalidParameterValue"),
        (pairs(("k", "1"), ("k", "2")), "InvalidParameterValue"),
        (pairs(*((str(n), "") for n in range(51))), "TagLimitExceeded"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_tag_has_bounds(ec2: Any, make_volume: Make, refuses: Any, tags: list[dict[str, str]], code: str) -> None:
    with refuses(code):
        make_volume(TagSpecifications=[{"ResourceType": "volume", "Tags": tags}])
    volume_id = make_volume()
    with refuses(code):
        ec2.create_tags(Resources=[volume_id], Tags=tags)
    assert tags_of(ec2, volume_id) == {}


def test_the_longest_and_most_tags_are_taken(ec2: Any, make_volume: Make) -> None:
    tags = pairs(("k" * 128, "v" * 256), *((str(n), "") for n in range(49)))
    assert len(tags_of(ec2, make_volume(TagSpecifications=[{"ResourceType": "volume", "Tags": tags}]))) == 50


def test_tags_in_the_creating_call_are_for_what_it_creates(ec2: Any, make_volume: Make, refuses: Any) -> None:
    tags = pairs(("k", "v"))
    with refuses("InvalidParameterValue"):
        make_volume(TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])
    with refuses("InvalidParameterValue"):
        make_volume(TagSpecifications=[{"ResourceType": "volume", "Tags": tags}] * 2)
    with refuses("MissingParameter"):
        make_volume(TagSpecifications=[{"ResourceType": "volume", "Tags": []}])


def test_one_call_tags_up_to_a_thousand_resources(ec2: Any, double: Any, make_volume: Make, refuses: Any) -> None:
    double.settings(bucket_scale=0)
    ids = [ec2.create_volume(AvailabilityZone=ZONE, Size=1)["VolumeId"] for _ in range(20)]
    double.advance(SETTLED_S)
    ec2.create_tags(Resources=ids, Tags=pairs(("k", "v")))
    double.advance(SETTLED_S)
    assert len(ec2.describe_volumes(Filters=[{"Name": "tag:k", "Values": ["v"]}])["Volumes"]) == 20
    with refuses("InvalidParameterValue"):
        ec2.create_tags(Resources=ids * 51, Tags=pairs(("k", "v")))


@pytest.mark.parametrize(
    ("unknown", "code"),
    [
        ("vol-0123456789abcdef0", "InvalidVolume.NotFound"),
        ("i-0123456789abcdef0", "InvalidInstanceID.NotFound"),
        ("snap-0123456789abcdef0", "InvalidSnapshot.NotFound"),
        ("sheep-1", "InvalidID"),
    ],
)
def test_one_unknown_resource_fails_the_whole_call(
    ec2: Any, double: Any, make_volume: Make, refuses: Any, unknown: str, code: str
) -> None:
    volume_id = make_volume()
    with refuses(code):
        ec2.create_tags(Resources=[volume_id, unknown], Tags=pairs(("k", "v")))
    double.advance(SETTLED_S)
    assert tags_of(ec2, volume_id) == {}


def test_tags_are_replaced_and_deleted(ec2: Any, double: Any, make_volume: Make) -> None:
    volume_id = make_volume(TagSpecifications=[{"ResourceType": "volume", "Tags": pairs(("a", "1"), ("b", "1"))}])
    ec2.create_tags(Resources=[volume_id], Tags=pairs(("a", "2"), ("c", "")))
    double.advance(SETTLED_S)
    assert tags_of(ec2, volume_id) == {"a": "2", "b": "1", "c": ""}
    ec2.delete_tags(Resources=[volume_id], Tags=[{"Key": "a", "Value": "1"}, {"Key": "b"}])
    double.advance(SETTLED_S)
    assert tags_of(ec2, volume_id) == {"a": "2", "c": ""}
    found = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [volume_id]}])["Tags"]
    assert {(t["ResourceType"], t["Key"]) for t in found} == {("volume", "a"), ("volume", "c")}
    ec2.delete_tags(Resources=[volume_id])
    double.advance(SETTLED_S)
    assert tags_of(ec2, volume_id) == {}


@pytest.mark.parametrize("key", ["a b", "a/b", ".", "_index", "ä"])
def test_keys_that_the_metadata_service_cannot_show_are_refused_where_it_shows_tags(
    ec2: Any, make_instance: Make, refuses: Any, key: str
) -> None:
    enabled = {"MetadataOptions": {"InstanceMetadataTags": "enabled"}}
    tags = [{"ResourceType": "instance", "Tags": pairs((key, "v"))}]
    assert make_instance(TagSpecifications=tags)
    with refuses("InvalidParameterValue"):
        make_instance(TagSpecifications=tags, **enabled)
    instance_id = make_instance(**enabled)
    with refuses("InvalidParameterValue"):
        ec2.create_tags(Resources=[instance_id], Tags=pairs((key, "v")))
