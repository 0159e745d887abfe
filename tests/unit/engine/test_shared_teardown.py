"""The end of a group whose volumes outlive runs: they go only by the run that has them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_rankvol.backends.base import Guard
from airflow_rankvol.engine.teardown import TeardownReport, teardown
from airflow_rankvol.engine.work import group_of
from airflow_rankvol.errors import AuthDenied, QuotaExceeded, VolumeConflict
from airflow_rankvol.records import Slot, Volume
from airflow_rankvol.testing import FakeBackend, SimulatedCrash, hangs

from .engine_kit import Rig, a_plan, a_rig
from .test_teardown import a_finished_rig


@pytest.mark.parametrize("policy", ["delete", "delete_always", "retain", "snapshot", None])
def test_adopted_volumes_stay_whatever_the_policy(policy: str | None) -> None:
    backend = FakeBackend()
    backend.add_volume("data-volume-0")
    rig = a_finished_rig(backend=backend, volume_template={"scope": "global", "reclaim": policy})
    report = rig.teardown()
    assert "data-volume-0" in backend.volumes
    assert ("data-volume-0", "adopted, not made by this run") in [(kept.name, kept.reason) for kept in report.kept]


@pytest.mark.parametrize(("collected", "goes"), [((0, 1), True), ((1,), False), ((), False)])
def test_an_adopted_volume_goes_only_by_its_exact_name_and_after_its_results_were_collected(
    collected: tuple[int, ...], goes: bool
) -> None:
    backend = FakeBackend()
    for name in ("data-volume-0", "data-volume-01", "xdata-volume-0"):
        backend.add_volume(name)
    template = {"scope": "global", "reclaim": "delete", "delete_adopted": True}
    rig = a_finished_rig(backend=backend, volume_template=template)
    report = teardown(backend, rig.group, rig.plan, collected=collected, slots=rig.slots)
    assert ("data-volume-0" in report.deleted) is goes
    assert {"data-volume-01", "xdata-volume-0"} <= set(backend.volumes)
    assert ("data-volume-0" not in backend.volumes) is goes


DELETED = {"scope": "global", "reclaim": "delete_always", "delete_adopted": True}


def an_adopting_rig(*, created: bool = True) -> Rig:
    backend = FakeBackend()
    backend.add_volume("data-volume-0")
    return a_rig(1, backend=backend, created=created, volume_template=DELETED)


def replace_it(rig: Rig) -> Volume:
    """Delete a volume and make another one of its name, as somebody does by hand."""
    (volume,) = rig.observe().volumes
    rig.backend.delete_volume(volume.id, Guard(rig.group.owner, rig.group.key, adopted_name=volume.name))
    rig.backend.clock.sleep(60)
    assert rig.observe().volumes == ()
    rig.backend.add_volume(volume.name)
    (other,) = rig.observe().volumes
    return other


def test_what_got_an_adopted_volumes_name_is_not_deleted_in_its_place() -> None:
    """Nor when the teardown is run again."""
    rig = an_adopting_rig()
    (adopted,) = rig.observe().volumes
    other = replace_it(rig)
    for _ in range(2):
        report = rig.teardown()
        (kept,) = report.kept
        assert (report.deleted, kept.id) == ((), other.id)
        assert f"this run has adopted {adopted.id}, made at 20" in kept.reason
    assert rig.observe().volumes == (other,)


def test_slots_of_an_earlier_version_delete_nothing_adopted_and_say_so() -> None:
    """They do not tell when it was made."""
    rig = an_adopting_rig()
    old = [
        Slot.from_dict(
            {**raw, "volumes": [{k: v for k, v in each.items() if k != "created_at"} for each in raw["volumes"]]}
        )
        for raw in (slot.to_dict() for slot in rig.slots)
    ]
    report = teardown(rig.backend, rig.group, rig.plan, collected=[0], slots=old)
    assert report.deleted == ()
    assert "an earlier version did not note when that was made. If it is, delete it by hand" in report.kept[0].reason


def test_what_got_the_name_of_a_volume_that_this_run_has_made_is_not_deleted_in_its_place() -> None:
    rig = a_rig(1, volume_template=DELETED)
    replace_it(rig)
    report = rig.teardown()
    assert (report.deleted, [kept.reason for kept in report.kept]) == (
        (),
        ["it has the name, but this run has not adopted it"],
    )


def test_a_run_that_got_no_volumes_deletes_nothing_of_their_names() -> None:
    rig = an_adopting_rig(created=False)
    rig.backend.faults.fail("observe", AuthDenied, call=1)
    with pytest.raises(AuthDenied):
        rig.create()
    report = rig.teardown()
    assert [kept.reason for kept in report.kept] == ["it has the name, but this run has not adopted it"]
    assert "data-volume-0" in rig.backend.volumes


def test_an_adopted_volume_goes_and_another_one_that_has_got_its_name_stays_beside_it() -> None:
    rig = an_adopting_rig()
    other = rig.backend.add_volume("data-volume-0")
    report = rig.teardown()
    assert (report.deleted, [kept.id for kept in report.kept]) == (("data-volume-0",), [other.id])
    assert [volume.id for volume in rig.observe().volumes] == [other.id]


def test_without_the_slots_adopted_volumes_stay_and_are_named() -> None:
    """As where the tasks were wired by hand without them."""
    rig = an_adopting_rig()
    report = teardown(rig.backend, rig.group, rig.plan, collected=[0])
    (kept,) = report.kept
    assert (report.deleted, kept.name) == ((), "data-volume-0")
    assert "nothing tells which volume this run has adopted" in kept.reason
    assert "slots of CreateRankVolumes" in kept.reason
    assert len(rig.teardown().deleted) == 1


def test_a_kept_volume_that_another_run_uses_is_no_leak_and_neither_is_touched() -> None:
    template = {"scope": "dag", "reclaim": "delete_always"}
    user = Rig(FakeBackend(endings={("rank", 0): hangs()}), a_plan(2, run="run-2", volume_template=template))
    user.create()
    work = user.begin(0)
    assert user.launch(work) is None
    user.until_attached(work)
    ended = Rig(user.backend, a_plan(2, run="run-1", volume_template=template))
    report = ended.teardown()
    assert [(kept.rank, kept.reason.split("-")[0]) for kept in report.kept] == [
        (0, "in use by node"),
        (1, "handed out to run run"),
    ]
    assert [str(node.state) for node in user.observe().nodes] == ["running"]
    assert report.deleted == ()


@pytest.mark.parametrize("scope", ["dag", "global"])
def test_an_earlier_run_neither_collects_nor_deletes_what_a_later_run_computes_on(scope: str) -> None:
    """Two overlapping runs: volumes that outlive runs belong to the one that got them last."""
    template = {"scope": scope, "reclaim": "delete", "delete_adopted": scope == "global"}
    backend = FakeBackend()
    earlier, later = (Rig(backend, a_plan(2, run=run, volume_template=template)) for run in ("run-1", "run-2"))
    for rig in (earlier, later):
        rig.create()
        for rank in range(2):
            assert rig.run_rank(rank).error is None
    earlier.gather()
    assert {kept.reason for kept in earlier.teardown().kept} == {"handed out to run run-2 of DAG dag last"}
    assert later.gather().error is None
    assert len(teardown(backend, later.group, later.plan, collected=(0, 1), slots=later.slots).deleted) == 2
    assert not backend.volumes


def test_a_global_volume_is_not_the_own_of_another_dag_with_the_same_run_id() -> None:
    """One schedule gives all DAGs the same run ids."""
    template = {"scope": "global"}
    maker = a_rig(1, backend=FakeBackend(), dag="x", run="scheduled__1", volume_template=template)
    deleting = {**template, "reclaim": "delete_always"}
    other = a_rig(1, backend=maker.backend, dag="y", run="scheduled__1", volume_template=deleting)
    assert other.slots[0].volumes[0].adopted
    assert other.teardown().deleted == ()
    assert list(maker.backend.volumes) == ["data-volume-0"]


def test_a_volume_that_outlives_its_run_is_given_back_at_its_end() -> None:
    rig = a_finished_rig(volume_template={"scope": "dag"})
    assert {disk.tags.used_by for disk in rig.backend.volumes.values() if disk.tags} == {rig.group.key}
    rig.teardown()
    tags = [disk.tags for disk in rig.backend.volumes.values() if disk.tags]
    assert {(found.used_by, found.used_dag, found.used_run) for found in tags} == {("", "", "")}


def test_a_run_that_was_never_handed_a_shared_volume_does_not_delete_it() -> None:
    """Its create failed; its teardown runs all the same."""
    backend = FakeBackend()
    a_rig(1, backend=backend, dag="x", volume_template={"scope": "global"}).teardown()
    deleting = {"scope": "global", "reclaim": "delete_always", "delete_adopted": True}
    other = Rig(backend, a_plan(2, dag="y", volume_template=deleting))
    backend.faults.fail("create_volume", QuotaExceeded)
    with pytest.raises(QuotaExceeded):
        other.create()
    assert [kept.reason for kept in other.teardown().kept] == ["not handed out to this run"]
    assert list(backend.volumes) == ["data-volume-0"]


def test_a_run_that_got_nothing_does_not_delete_what_another_one_is_creating() -> None:
    backend = FakeBackend()
    template = {"scope": "dag", "reclaim": "delete_always"}
    maker = Rig(backend, a_plan(2, run="a", volume_template=template))
    backend.faults.fail("tag_volumes", SimulatedCrash())
    with pytest.raises(SimulatedCrash):
        maker.create()
    backend.revive()
    assert Rig(backend, a_plan(2, run="b", volume_template=template)).teardown().deleted == ()
    assert len(maker.teardown().deleted) == 2


GLOBAL = {"scope": "global"}


def test_volumes_that_only_other_dags_have_are_none_of_a_teardowns_affair() -> None:
    """In global scope a look shows those of all the owner's DAGs."""
    others = a_rig(2, dag="other", volumes=["theirs-${NODE_RANK}:/data"], volume_template=GLOBAL)
    held = others.begin(0)
    others.backend.endings[("rank", 0)] = hangs()
    assert others.launch(held) is None
    others.until_attached(held)
    others.backend.endings.clear()
    rig = a_finished_rig(nodes=1, backend=others.backend, volume_template={**GLOBAL, "reclaim": "retain"})
    assert {volume.name for volume in rig.observe().volumes} == {"data-volume-0", "theirs-0", "theirs-1"}
    assert [kept.name for kept in rig.teardown().kept] == ["data-volume-0"]
    assert {"theirs-0", "theirs-1"} <= set(rig.backend.volumes)
    assert [node.state for node in others.observe().nodes] == ["running"]


@pytest.mark.parametrize("again", [{"nodes": 1}, {"volumes": ["renamed-${NODE_RANK}:/data"]}, None], ids=str)
@pytest.mark.parametrize(("reclaim", "stays"), [("delete_always", 0), ("retain", 2)])
def test_what_this_run_has_made_and_names_no_more_is_its_affair(
    again: dict[str, Any] | None, reclaim: str, stays: int
) -> None:
    """Its job was changed between two tries, or is not valid any more."""
    template = {**GLOBAL, "reclaim": reclaim}
    rig = a_rig(2, volume_template=template)
    plan = a_plan(**{"nodes": 2, "volume_template": template, **again}) if again else None
    group = group_of(plan) if plan else replace(rig.group, names=())
    report = teardown(rig.backend, group, plan)
    names = ["data-volume-0", "data-volume-1"]
    assert sorted(report.deleted) == names[stays:]
    assert sorted(kept.name for kept in report.kept) == names[:stays]
    assert sorted(rig.backend.volumes) == names[:stays]
    if stays:
        assert {disk.tags.used_by for disk in rig.backend.volumes.values() if disk.tags} == {""}


def test_a_teardown_leaves_another_owners_volume_that_was_refused_and_does_not_complain() -> None:
    backend = FakeBackend()
    theirs = a_rig(1, backend=backend, owner="somebody", volume_template={"scope": "global"})
    template = {"scope": "global", "reclaim": "delete_always", "delete_adopted": True}
    ours = a_rig(1, backend=backend, created=False, volume_template=template)
    with pytest.raises(VolumeConflict, match="it is owner 'somebody''s, of run run-1 of DAG dag"):
        ours.create()
    before = backend.volumes["data-volume-0"].tags
    assert ours.teardown() == TeardownReport((), (), ())
    assert backend.volumes["data-volume-0"].tags == before
    assert theirs.run_rank(0).error is None
