"""The life of a volume on Compute Engine: made once, ours or not touched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_rankvol.backends.base import Guard, Selector
from airflow_rankvol.errors import (
    NotOurs,
    QuotaExceeded,
    RetryableError,
    VolumeConflict,
)
from airflow_rankvol.records import VolumeState
from tests.clouds.gcp.backend.kit import OTHER_ZONE, ZONE, Lab


def test_a_volume_is_what_was_asked_for(lab: Lab) -> None:
    key = "projects/rankvol-test/locations/us-central1/keyRings/ring/cryptoKeys/key"
    made = lab.volume(
        rank=3, size="10.2GB", type="hyperdisk-balanced", iops=4000, throughput=500, tags={"team": "etl"}, kms_key=key
    )
    raw = lab.disk(made)
    assert (raw["sizeGb"], raw["provisionedIops"], raw["provisionedThroughput"]) == ("11", "4000", "500")
    assert raw["type"].endswith("/diskTypes/hyperdisk-balanced")
    assert raw["diskEncryptionKey"]["kmsKeyName"].startswith(key)
    assert raw["labels"]["team"] == "etl"
    seen = lab.seen_volume(made)
    assert (seen.id, seen.name, seen.zone, seen.state, seen.tags, seen.blank) == (
        f"{ZONE}/data-{lab.key}-3", f"data-{lab.key}-3", ZONE, VolumeState.AVAILABLE, lab.group.tags(rank=3), True
    )  # fmt: skip


def test_the_type_is_balanced_unless_another_is_named(lab: Lab) -> None:
    assert lab.disk(lab.volume())["type"].endswith("/diskTypes/pd-balanced")


def test_what_is_provisioned_is_seen(lab: Lab) -> None:
    volume = lab.volume(type="hyperdisk-balanced", iops=4000, throughput=200)
    seen = lab.seen_volume(volume)
    assert (seen.iops, seen.throughput_mibps) == (4000, 200)
    assert (volume.iops, volume.throughput_mibps) == (4000, 200)


def test_what_create_returns_is_what_is_seen(lab: Lab) -> None:
    made = lab.volume()
    assert replace(lab.seen_volume(made), created_at=made.created_at) == made


def test_creating_twice_makes_one_and_asks_once(lab: Lab) -> None:
    assert lab.volume().id == lab.volume().id
    assert lab.count("disks.insert") == 1


@pytest.mark.parametrize("other_process", [False, True])
def test_a_lost_answer_makes_no_second_volume(lab: Lab, other_process: bool) -> None:
    lab.double.fault("lose", "disks.insert", when="after")
    with pytest.raises(RetryableError, match="no answer"):
        lab.volume()
    backend = lab.process() if other_process else lab.backend
    assert backend.create_volume(lab.request()).state is VolumeState.AVAILABLE
    assert len(lab.double.state()["disks"]) == 1


def test_another_wish_is_another_request_whatever_its_token(lab: Lab) -> None:
    """A run that was deleted and got its id again asks with the tokens of before."""
    made = lab.volume(size="10GB")
    lab.backend.delete_volume(made.id, lab.guard)
    lab.settle()
    lab.volume(size="20GB")
    assert lab.double.state()["disks"][made.id]["sizeGb"] == "20"
    first, second = lab.double.calls("disks.insert")
    assert first["token"] != second["token"]


def test_another_process_finds_it_by_its_name(lab: Lab) -> None:
    made = lab.volume()
    assert lab.process().create_volume(lab.request(token="of a later try")).id == made.id
    assert len(lab.double.state()["disks"]) == 1


def test_a_volume_that_somebody_deleted_is_made_again(lab: Lab) -> None:
    """The requestId of before is answered with the operation of before, which tells nothing of now."""
    first = lab.volume()
    lab.double.rest().delete(f"zones/{ZONE}/disks/{first.name}")
    lab.settle()
    assert lab.see().volumes == ()
    lab.volume()
    assert [volume.state for volume in lab.see().volumes] == [VolumeState.AVAILABLE]


def test_a_failure_of_before_is_not_repeated(lab: Lab) -> None:
    """A requestId whose operation has failed is answered with that failure for days."""
    lab.double("fail_later", action="disks.insert", code="INTERNAL_ERROR", times=1)
    with pytest.raises(RetryableError, match="INTERNAL_ERROR"):
        lab.volume()
    assert lab.volume().state is VolumeState.AVAILABLE


def test_a_failure_of_another_process_is_not_repeated(lab: Lab) -> None:
    lab.double("fail_later", action="disks.insert", code="INTERNAL_ERROR", times=1)
    with pytest.raises(RetryableError):
        lab.volume()
    assert lab.process().create_volume(lab.request()).state is VolumeState.AVAILABLE


@pytest.mark.parametrize("name", ["data", "data-0a1b2c3d-0"])
def test_a_name_of_somebody_else_is_a_conflict(lab: Lab, name: str) -> None:
    lab.foreign_disk(name)
    with pytest.raises(VolumeConflict, match="name is taken"):
        lab.volume(name=name)


def test_a_name_of_another_key_is_a_conflict(lab: Lab) -> None:
    lab.volume(name="data-0")
    with pytest.raises(VolumeConflict, match="data-0"):
        lab.other().volume(name="data-0")


@pytest.mark.parametrize("late", [True, False], ids=["by the operation", "at once"])
def test_the_quota_is_named(lab: Lab, late: bool) -> None:
    lab.double.settings(quotas={"SSD_TOTAL_GB": 15.0}, quota_late=late)
    lab.volume(0)
    with pytest.raises(QuotaExceeded, match="SSD_TOTAL_GB"):
        lab.volume(1)


def test_without_a_zone_it_lands_in_the_connections(lab: Lab) -> None:
    assert lab.volume(zone=None).zone == ZONE


def test_an_adopted_volume_goes_by_its_id_whoever_else_has_its_name(lab: Lab) -> None:
    first, second = lab.foreign_disk("dataset"), lab.foreign_disk("dataset", OTHER_ZONE)
    with pytest.raises(NotOurs, match="not touched"):
        lab.backend.delete_volume(first, Guard(lab.owner, lab.key, adopted_name="data"))
    lab.backend.delete_volume(first, Guard(lab.owner, lab.key, adopted_name="dataset"))
    lab.settle()
    assert list(lab.double.state()["disks"]) == [second]


def test_tags_are_set_and_others_stay(lab: Lab) -> None:
    ids = [lab.volume(rank).id for rank in range(3)]
    gone = lab.backend.tag_volumes([*ids, f"{ZONE}/gone"], {"rankvol:collected": lab.key})
    assert gone == {f"{ZONE}/gone"}
    assert {volume.tags for volume in lab.see().volumes} == {
        lab.group.tags(rank=rank, collected=lab.key) for rank in range(3)
    }
    assert lab.count("disks.setLabels") == 3


def test_tags_are_set_when_tag_volumes_returns(lab: Lab) -> None:
    """A volume whose mark failed late would pass for one that no rank has seen, and be deleted."""
    made = lab.volume()
    lab.double("fail_later", action="disks.setLabels", code="INTERNAL_ERROR")
    with pytest.raises(RetryableError, match="INTERNAL_ERROR"):
        lab.backend.tag_volumes([made.id], {"rankvol:attempt": "1"})


def test_a_volume_that_went_after_it_was_seen_is_told(lab: Lab) -> None:
    made, gone = lab.volume(0), lab.volume(1)
    process = lab.process()
    process.observe(lab.group)
    lab.double.rest().delete(f"zones/{ZONE}/disks/{gone.name}")
    lab.settle()
    assert process.tag_volumes([made.id, gone.id], {"rankvol:collected": "x"}) == {gone.id}


@pytest.mark.parametrize("plain", [False, True])
def test_a_volume_that_a_look_shows_is_not_gone_whatever_its_tagging_was_answered(lab: Lab, plain: bool) -> None:
    """Without its mark it would pass for one that no rank has had, and be deleted with its results."""
    made = lab.volume()
    lab.see()
    lab.double.fault("error", "disks.setLabels", status=404, code="notFound", message="nothing here", plain=plain)
    with pytest.raises(RetryableError, match=r"answered .*nothing here.*It is tried again"):
        lab.backend.tag_volumes([made.id], {"rankvol:attempt": "1"})
    assert lab.backend.tag_volumes([made.id], {"rankvol:attempt": "1"}) == frozenset()
    assert lab.disk(made)["labels"]["rankvol-attempt"] == "1"


def test_labels_of_others_survive_ours(lab: Lab) -> None:
    made = lab.volume()
    raw = lab.disk(made)
    lab.see()
    body = {"labels": {**raw["labels"], "cost": "42"}, "labelFingerprint": raw["labelFingerprint"]}
    lab.double.rest().post(f"zones/{ZONE}/disks/{made.name}/setLabels", body)
    lab.settle()
    lab.backend.tag_volumes([made.id], {"rankvol:collected": "x"})
    assert lab.disk(made)["labels"]["cost"] == "42"
    assert lab.disk(made)["labels"]["rankvol-collected"] == "x"


def test_a_long_run_id_comes_back_from_the_labels(lab: Lab) -> None:
    made = lab.volume()
    for run in ("manual__2026-11-23T20:00:00.123456+00:00", "Größe/" * 35, "x"):
        tags = {"rankvol:used_by": "abc", "rankvol:used_dag": f"dag of {run}", "rankvol:used_run": run}
        lab.backend.tag_volumes([made.id], tags)
        seen = lab.seen_volume(made).tags
        assert seen is not None
        assert (seen.used_run, seen.used_dag) == (run, f"dag of {run}")
        assert seen == lab.group.tags(rank=0, used_by="abc", used_dag=f"dag of {run}", used_run=run)


def claim(key: str) -> dict[str, str]:
    return {"rankvol:attempt": "1", "rankvol:used_by": key, "rankvol:used_dag": "dag", "rankvol:used_run": key}


def test_of_two_runs_that_claim_at_once_one_gets_all_and_the_other_none(lab: Lab) -> None:
    ids = [lab.volume(rank).id for rank in range(3)]
    first, second = lab.process(), lab.process()
    for process in (first, second):
        process.observe(lab.group)  # both have seen them free
    first.tag_volumes(ids, claim("first"), held_by="")
    with pytest.raises(VolumeConflict):
        second.tag_volumes(ids, claim("second"), held_by="")
    assert {volume.tags.used_by for volume in lab.see().volumes if volume.tags} == {"first"}


def test_half_a_claim_is_given_back(lab: Lab) -> None:
    ids = [lab.volume(rank).id for rank in range(3)]
    process = lab.process()
    process.observe(lab.group)
    lab.backend.tag_volumes(ids[2:], claim("other"))
    with pytest.raises(VolumeConflict):
        process.tag_volumes(ids, claim("mine"), held_by="")
    assert [volume.tags and volume.tags.used_by for volume in lab.see().volumes] == ["", "", "other"]
    assert [volume.tags and volume.tags.attempt for volume in lab.see().volumes] == [0, 0, 1]


def test_a_claim_of_volumes_of_which_one_has_gone_is_a_conflict_and_gives_back_the_others(lab: Lab) -> None:
    """This process still remembers it."""
    ids = [lab.volume(rank).id for rank in range(3)]
    process = lab.process()
    process.observe(lab.group)
    lab.double.rest().delete(f"zones/{ZONE}/disks/{ids[2].partition('/')[2]}")
    lab.settle()
    with pytest.raises(VolumeConflict, match="gone, or being deleted"):
        process.tag_volumes(ids, claim("mine"), held_by="")
    assert [volume.tags and volume.tags.used_by for volume in lab.see().volumes] == ["", ""]


def test_a_foreign_volume_is_not_tagged(lab: Lab) -> None:
    foreign, ours = lab.foreign_disk("dataset"), lab.volume()
    with pytest.raises(NotOurs, match="never tagged"):
        lab.backend.tag_volumes([ours.id, foreign], {"rankvol:collected": "x"})
    assert lab.count("disks.setLabels") == 0


def test_list_owned_selects_by_owner_dag_and_run(lab: Lab) -> None:
    lab.volume()
    lab.other().volume()
    selectors = [Selector("lab"), Selector("lab", run="run-2"), Selector("lab", "x"), Selector("nobody")]
    names = [{volume.name for volume in lab.backend.list_owned(selector).volumes} for selector in selectors]
    assert names == [{"data-0a1b2c3d-0", "data-ffffffff-0"}, {"data-ffffffff-0"}, set(), set()]


@pytest.mark.parametrize("source", [{"snapshot": "a-snapshot"}, {"image": "own-image"}], ids=str)
def test_a_volume_with_a_content_is_not_blank(lab: Lab, source: dict[str, Any]) -> None:
    """Only blank volumes may ever be formatted."""
    assert not lab.volume(size="20GB", **source).blank
    (seen,) = lab.see().volumes
    assert not seen.blank


def test_many_volumes_come_in_pages(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_rankvol.backends._gcp_calls.PAGE", 2)
    ids = {lab.volume(rank).id for rank in range(5)}
    assert {volume.id for volume in lab.see().volumes} == ids
    assert lab.count("disks.aggregatedList") == 3


def test_what_nodes_boot_from_takes_no_room_on_a_page_of_volumes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_rankvol.backends._gcp_calls.PAGE", 3)
    volumes = [lab.volume(rank) for rank in range(3)]
    for rank, volume in enumerate(volumes):
        lab.node(volume, rank=rank)
    assert len(lab.double.state()["disks"]) == 6
    assert {volume.id for volume in lab.see().volumes} == {volume.id for volume in volumes}
    assert lab.count("disks.aggregatedList") == 1


def test_an_observation_has_adopted_volumes_by_their_names_in_one_call(lab: Lab) -> None:
    names = tuple(f"shard-{rank}" for rank in range(12))
    lab.foreign_disk("shard-3")
    lab.foreign_disk("shard-33")
    group = lab.group.__class__.from_dict({**lab.group.to_dict(), "names": list(names)})
    assert [volume.name for volume in lab.backend.observe(group).volumes] == ["shard-3"]
    assert lab.count("disks.aggregatedList") == 2
