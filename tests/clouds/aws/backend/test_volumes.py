"""The life of a volume on EBS: made once, ours or not touched."""

from __future__ import annotations

import pytest

from airflow_rankvol.backends.base import Guard, Selector
from airflow_rankvol.engine.calls import patiently
from airflow_rankvol.errors import (
    BackendError,
    FinalError,
    NotOurs,
    NotReady,
    QuotaExceeded,
    RetryableError,
    Throttled,
    VolumeConflict,
)
from airflow_rankvol.records import VolumeState
from tests.clouds.aws.backend.kit import OTHER_ZONE, ZONE, Lab


def test_a_volume_is_what_was_asked_for(lab: Lab) -> None:
    made = lab.volume(rank=3, size="10.2GB", type="gp3", iops=4000, throughput=500, tags={"team": "etl"})
    (raw,) = lab.double.state()["volumes"].values()
    assert (raw["Size"], raw["VolumeType"], raw["Iops"], raw["Throughput"]) == (11, "gp3", 4000, 500)
    assert raw["Encrypted"]
    seen = lab.seen_volume(made)
    assert (seen.name, seen.zone, seen.state, seen.tags, seen.blank) == (
        f"data-{lab.key}-3", ZONE, VolumeState.AVAILABLE, lab.group.tags(rank=3), True
    )  # fmt: skip
    described = lab.double.boto3("ec2").describe_volumes(VolumeIds=[made.id])["Volumes"][0]
    assert {"Key": "team", "Value": "etl"} in described["Tags"]


def test_the_type_is_sent_although_none_was_named(lab: Lab) -> None:
    lab.volume()
    (call,) = lab.double.calls("CreateVolume")
    assert call["params"]["VolumeType"] == "gp3"


def test_creating_twice_makes_one_and_asks_once(lab: Lab) -> None:
    first = lab.backend.create_volume(lab.request())
    assert lab.backend.create_volume(lab.request()).id == first.id
    assert lab.count("CreateVolume") == 1


@pytest.mark.parametrize("settled", [True, False], ids=["listed", "not listed yet"])
def test_a_lost_answer_makes_no_second_volume(lab: Lab, settled: bool) -> None:
    """The volume is found by its tag, or given back for its token where no listing shows it yet."""
    lab.double.fault("lose", "CreateVolume", when="after")
    with pytest.raises(RetryableError, match="no answer"):
        lab.backend.create_volume(lab.request())
    if settled:
        lab.settle()
    lab.backend.create_volume(lab.request())
    assert len(lab.double.state()["volumes"]) == 1


def test_another_process_finds_it_by_its_tag(lab: Lab) -> None:
    made = lab.volume()
    assert lab.process().create_volume(lab.request(token="of a later try")).id == made.id
    assert lab.count("CreateVolume") == 1


def test_a_listing_serves_for_all_volumes_of_a_group(lab: Lab) -> None:
    """No describe for each volume."""
    lab.see()
    before = lab.count("DescribeVolumes")
    for rank in range(8):
        lab.backend.create_volume(lab.request(rank))
    assert lab.count("DescribeVolumes") == before


def test_a_new_volume_is_observed_before_ec2_lists_it(lab: Lab) -> None:
    lab.double.settings(visible_s=20.0)
    made = lab.backend.create_volume(lab.request())
    assert [(volume.id, volume.state) for volume in lab.see().volumes] == [(made.id, VolumeState.CREATING)]
    assert lab.process().observe(lab.group).volumes == ()
    lab.settle(21)
    assert lab.seen_volume(made).state is VolumeState.AVAILABLE


def test_a_volume_that_somebody_deleted_is_made_again(lab: Lab) -> None:
    first = lab.volume()
    lab.double.boto3("ec2").delete_volume(VolumeId=first.id)
    lab.settle(61)  # before that, its absence may be the listing's fault
    assert lab.see().volumes == ()
    request = lab.request()
    with pytest.raises(NotReady, match="token was used before"):  # burned, but that cannot be told yet
        lab.backend.create_volume(request)
    assert patiently(lab.backend, lab.backend.create_volume, request).id != first.id
    lab.settle()
    assert [volume.state for volume in lab.see().volumes] == [VolumeState.AVAILABLE]


def test_a_burned_token_makes_one_new_volume_only(lab: Lab) -> None:
    first = lab.volume()
    lab.backend.delete_volume(first.id, lab.guard)
    lab.settle()
    for _ in range(2):
        with pytest.raises(NotReady):
            lab.backend.create_volume(lab.request())
        lab.settle(25)
    made = {patiently(lab.backend, lab.backend.create_volume, lab.request()).id for _ in range(3)}
    assert len(made) == 1


@pytest.mark.parametrize("name", ["data", "data-0a1b2c3d-0"])
def test_a_name_of_somebody_else_is_a_conflict(lab: Lab, name: str) -> None:
    lab.foreign_volume(name)
    with pytest.raises(VolumeConflict, match="name is taken"):
        lab.backend.create_volume(lab.request(name=name))


def test_a_name_of_another_key_is_a_conflict(lab: Lab) -> None:
    lab.volume(name="data-0")
    with pytest.raises(VolumeConflict, match="data-0"):
        lab.other().backend.create_volume(lab.other().request(name="data-0"))


def test_a_volume_at_the_quota_is_taken_where_it_exists(lab: Lab) -> None:
    """EC2 may refuse the same token at the quota although its volume exists."""
    made = lab.volume()
    process = lab.process()
    process.observe(lab.other().group)
    process.memory.looked_up([f"key:{lab.key}"])  # as if its listing had lagged behind
    lab.double.fault("error", "CreateVolume", code="VolumeLimitExceeded", status=400)
    assert process.create_volume(lab.request()).id == made.id


def test_the_quota_is_named(lab: Lab) -> None:
    lab.double.settings(volume_quota=1)
    lab.volume(0)
    with pytest.raises(QuotaExceeded, match="Service Quotas"):
        lab.backend.create_volume(lab.request(1))


def test_without_a_zone_all_of_a_group_lands_in_one(lab: Lab) -> None:
    made = [lab.process().create_volume(lab.request(rank, None)) for rank in range(3)]
    assert len({volume.zone for volume in made}) == 1


def test_deleting_is_verified_by_absence(lab: Lab) -> None:
    made = lab.volume()
    lab.backend.delete_volume(made.id, lab.guard)
    lab.settle()
    lab.backend.delete_volume(made.id, lab.guard)
    assert lab.see().volumes == ()
    assert lab.count("DeleteVolume") == 1


def test_a_volume_that_ec2_does_not_know_yet_is_not_taken_for_gone(lab: Lab) -> None:
    """Right after its creation EC2 may answer NotFound; rolling back must not pass over it."""
    lab.double.settings(visible_s=20.0)
    made = lab.backend.create_volume(lab.request())
    with pytest.raises(NotReady):
        lab.backend.delete_volume(made.id, lab.guard)
    lab.settle(21)
    lab.backend.delete_volume(made.id, lab.guard)
    lab.settle()
    assert lab.double.state()["volumes"] == {} or lab.see().volumes == ()


@pytest.mark.parametrize(
    "guard", [Guard("somebody", "0a1b2c3d"), Guard("lab", "another"), Guard("", "", "data-1")], ids=repr
)
@pytest.mark.parametrize("known", [True, False])
def test_a_foreign_volume_is_not_deleted(lab: Lab, guard: Guard, known: bool) -> None:
    made = lab.volume()
    with pytest.raises(NotOurs, match="not touched"):
        (lab.backend if known else lab.process()).delete_volume(made.id, guard)
    assert lab.count("DeleteVolume") == 0


def test_an_adopted_volume_goes_by_its_id_whoever_else_has_its_name(lab: Lab) -> None:
    first, second = lab.foreign_volume("dataset"), lab.foreign_volume("dataset", OTHER_ZONE)
    with pytest.raises(NotOurs, match="not touched"):
        lab.backend.delete_volume(first, Guard(lab.owner, lab.key, adopted_name="data"))
    lab.backend.delete_volume(first, Guard(lab.owner, lab.key, adopted_name="dataset"))
    lab.settle()
    assert list(lab.double.state()["volumes"]) == [second]


def test_tags_are_set_by_one_call_and_others_stay(lab: Lab) -> None:
    volumes = [lab.volume(rank) for rank in range(3)]
    ids = [volume.id for volume in volumes]
    lab.backend.tag_volumes([*ids, "vol-0123456789abcdef0"], {"rankvol:collected": lab.key})
    lab.settle()
    assert {volume.tags for volume in lab.see().volumes} == {
        lab.group.tags(rank=rank, collected=lab.key) for rank in range(3)
    }
    assert lab.count("CreateTags") == 1


def test_a_volume_that_is_gone_does_not_keep_the_others_from_their_tags(lab: Lab) -> None:
    first, second = lab.volume(0), lab.volume(1)
    lab.see()
    lab.double.boto3("ec2").delete_volume(VolumeId=first.id)
    lab.settle()
    lab.backend.tag_volumes([first.id, second.id], {"rankvol:collected": "x"})  # the memory still has both
    lab.settle()
    tags = lab.process().observe(lab.group).volume(second.id)
    assert tags is not None
    assert tags.tags == lab.group.tags(rank=1, collected="x")


def test_a_volume_that_is_not_known_yet_is_not_left_without_its_tags(lab: Lab) -> None:
    lab.double.settings(visible_s=20.0)
    made = lab.backend.create_volume(lab.request())
    with pytest.raises(NotReady):
        lab.backend.tag_volumes([made.id], {"rankvol:collected": "x"})


def test_a_foreign_volume_is_not_tagged(lab: Lab) -> None:
    foreign, ours = lab.foreign_volume("dataset"), lab.volume()
    with pytest.raises(NotOurs, match="never tagged"):
        lab.backend.tag_volumes([ours.id, foreign], {"rankvol:collected": "x"})
    assert lab.count("CreateTags") == 0


def test_list_owned_selects_by_owner_dag_and_run(lab: Lab) -> None:
    lab.volume()
    lab.other().volume()
    selectors = [Selector("lab"), Selector("lab", run="run-2"), Selector("lab", "x"), Selector("nobody")]
    names = [{volume.name for volume in lab.backend.list_owned(selector).volumes} for selector in selectors]
    assert names == [{"data-0a1b2c3d-0", "data-ffffffff-0"}, {"data-ffffffff-0"}, set(), set()]


def test_a_key_that_cannot_be_used_is_named_and_nothing_stays(lab: Lab) -> None:
    """EBS accepts the creation and drops the volume. Once the key is right, the next try makes it."""
    kms = lab.double.boto3("kms")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    kms.disable_key(KeyId=key)
    volumes = [
        {"name": "a-${NODE_RANK}", "path": "/a", "size": "1GB"},
        {"name": "b-${NODE_RANK}", "path": "/b", "size": "1GB", "kms_key": key},
    ]
    rig = lab.rig(2, volumes=volumes)
    lab.backend.check(rig.plan)
    with pytest.raises(FinalError, match=rf"volume \S+ \(vol-\w+\) \(and 1 more\): .*expected kms_key '{key}' to be"):
        rig.create()
    lab.settle(60)
    assert lab.double.state()["volumes"] == {}
    kms.enable_key(KeyId=key)
    assert len(rig.create(generation=2)) == 2
    assert len(lab.double.state()["volumes"]) == 4


def test_a_volume_from_a_snapshot_is_not_blank(lab: Lab) -> None:
    """Only blank volumes may ever be formatted."""
    ec2 = lab.double.boto3("ec2")
    snapshot = ec2.create_snapshot(VolumeId=lab.volume().id)["SnapshotId"]
    lab.settle()
    assert not lab.seen_volume(lab.volume(1, snapshot=snapshot)).blank


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"kind": "throttle"}, Throttled),
        ({"kind": "error"}, RetryableError),
        ({"kind": "lose"}, RetryableError),
        ({"kind": "error", "code": "SomethingNew", "status": 400}, FinalError),
        ({"kind": "error", "code": "SomethingNew", "status": 503}, RetryableError),
    ],
    ids=str,
)
def test_every_answer_becomes_an_error_of_ours(
    lab: Lab, fault: dict[str, object], expected: type[BackendError]
) -> None:
    lab.double.fault(action="DescribeVolumes", **fault)  # type: ignore[arg-type]  # the kind is among them
    with pytest.raises(BackendError) as caught:
        lab.see()
    assert type(caught.value) is expected
    assert caught.value.verb == "observe"
