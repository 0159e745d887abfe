"""The life of a volume, the same on every backend."""

from __future__ import annotations

import pytest

from airflow_rankvol.backends.base import Guard, Selector
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.errors import NotOurs, VolumeBusy, VolumeConflict
from airflow_rankvol.records import VolumeState
from tests.contract.support import Lab, until
from tests.unit.engine.engine_kit import a_plan


def test_a_created_volume_is_observed_with_its_tags(lab: Lab) -> None:
    volume = lab.volume(rank=3)
    (seen,) = lab.see().volumes
    assert (seen.id, seen.name, seen.tags) == (volume.id, "data-3", lab.group.tags(rank=3))
    assert seen.blank


def test_creating_a_volume_twice_gives_the_same_volume(lab: Lab) -> None:
    assert lab.volume().id == lab.volume().id
    assert len(lab.see().volumes) == 1


def test_a_name_of_another_key_is_a_conflict(lab: Lab) -> None:
    lab.volume()
    with pytest.raises(VolumeConflict, match="data-0"):
        lab.other().volume()


def test_deleting_an_absent_volume_succeeds(lab: Lab) -> None:
    volume = lab.volume()
    lab.backend.delete_volume(volume.id, lab.guard)
    lab.backend.delete_volume(volume.id, lab.guard)
    until(lambda: lab.see().volume(volume.id) is None, "it is still listed")


def test_a_foreign_volume_is_not_deleted(lab: Lab) -> None:
    volume = lab.volume()
    for guard in (Guard("somebody", lab.key), Guard(lab.owner, "another"), Guard("", "", "data-1")):
        with pytest.raises(NotOurs, match="not touched"):
            lab.backend.delete_volume(volume.id, guard)
    assert lab.see().volume(volume.id)


def test_an_exact_name_deletes_what_is_of_our_owner_and_nothing_of_another_one(lab: Lab) -> None:
    volume = lab.volume()
    with pytest.raises(NotOurs, match=r"found owner 'lab'.*not touched"):
        lab.backend.delete_volume(volume.id, Guard("somebody", lab.key, adopted_name="data-0"))
    assert lab.see().volume(volume.id)
    lab.backend.delete_volume(volume.id, Guard(lab.owner, "another", adopted_name="data-0"))
    until(lambda: lab.see().volume(volume.id) is None, "it is still listed")


def test_another_owners_volume_is_not_adopted(lab: Lab) -> None:
    volume = lab.volume()
    until(lambda: lab.see().volume(volume.id) is not None, "it is never listed")
    before = lab.see().volumes
    plan = a_plan(1, owner="somebody", volumes=["data-${NODE_RANK}:/data"], volume_template={"scope": "global"})
    with pytest.raises(VolumeConflict, match=f"{volume.id}.*it is owner 'lab'.*expected.*not touched.*Rename"):
        provision(lab.backend, plan, generation=1)
    assert lab.see().volumes == before


def test_an_attached_volume_is_not_deleted(lab: Lab) -> None:
    volume = lab.volume()
    node = lab.node(volume, commands="sleep 60")
    with pytest.raises(VolumeBusy):
        lab.backend.delete_volume(volume.id, lab.guard)
    lab.backend.delete_node(node.id, lab.guard)


def test_tags_are_set_others_stay_and_what_is_gone_is_told(lab: Lab) -> None:
    volumes = [lab.volume(rank) for rank in range(2)]
    ids = [volume.id for volume in volumes]
    absent = ids[0][:-1] + ("e" if ids[0].endswith("f") else "f")
    assert lab.backend.tag_volumes([*ids, absent], {"rankvol:collected": lab.key}) == {absent}
    assert lab.backend.tag_volumes(ids, {"rankvol:collected": lab.key}) == frozenset()
    wanted = [lab.group.tags(rank=rank, collected=lab.key) for rank in range(2)]
    # A cloud may show them a moment later, and in any order.
    until(lambda: sorted((v.tags for v in lab.see().volumes if v.tags), key=lambda t: t.rank) == wanted, "other tags")


def test_a_claim_of_a_volume_that_is_gone_or_on_its_way_is_a_conflict(lab: Lab) -> None:
    volume = lab.volume()
    until(lambda: lab.see().volume(volume.id) is not None, "it is never listed")
    lab.backend.delete_volume(volume.id, lab.guard)

    def goes() -> bool:
        seen = lab.see().volume(volume.id)
        return seen is None or seen.state is VolumeState.DELETING

    until(goes, "its deletion never shows")
    with pytest.raises(VolumeConflict, match="gone, or being deleted"):
        lab.backend.tag_volumes([volume.id], {"rankvol:used_by": lab.key}, held_by="")


def test_a_claim_of_a_volume_that_another_run_has_is_a_conflict(lab: Lab) -> None:
    volume = lab.volume()
    until(lambda: lab.see().volume(volume.id) is not None, "it is never listed")
    lab.backend.tag_volumes([volume.id], {"rankvol:used_by": lab.key}, held_by="")

    def user() -> str:
        seen = lab.see().volume(volume.id)
        return seen.tags.used_by if seen and seen.tags else ""

    until(lambda: user() == lab.key, "the claim does not show")
    with pytest.raises(VolumeConflict, match="another run"):
        lab.backend.tag_volumes([volume.id], {"rankvol:used_by": "another"}, held_by="")
    assert user() == lab.key


def test_list_owned_selects_by_owner_dag_and_run(lab: Lab) -> None:
    lab.volume()
    lab.other().volume(name="else")
    names = {
        selector: {volume.name for volume in lab.backend.list_owned(selector).volumes}
        for selector in (
            Selector("lab"),
            Selector("lab", run="run-2"),
            Selector("lab", "x"),
            Selector("nobody"),
        )
    }
    assert list(names.values()) == [{"data-0", "else-0"}, {"else-0"}, set(), set()]


def test_another_groups_volumes_are_not_observed(lab: Lab) -> None:
    lab.volume()
    assert lab.other().see().volumes == ()


def test_a_new_volume_is_available(lab: Lab) -> None:
    lab.volume()
    assert [volume.state for volume in lab.see().volumes] == [VolumeState.AVAILABLE]


def test_whether_a_volume_holds_a_result_can_be_told_from_outside_or_is_unknown(lab: Lab) -> None:
    volume = lab.volume()
    assert lab.backend.holds_result(volume.id, lab.key) in (False, None)
    assert lab.backend.holds_result("vol-absent", lab.key) in (False, None)
