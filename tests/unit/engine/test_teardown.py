"""The end of a group: what goes, what stays and why, and nothing is called deleted that is still there."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from airflow_rankvol.backends.base import Guard
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.engine.teardown import teardown
from airflow_rankvol.errors import AuthDenied, LeakError, Throttled, VolumeBusy
from airflow_rankvol.records import from_iso
from airflow_rankvol.testing import FakeBackend, SimulatedCrash, Timings, fails, hangs

from .engine_kit import Rig, a_gang, a_plan, a_rig, all_launched


def a_finished_rig(*, collected: bool = True, nodes: int = 2, **fields: Any) -> Rig:
    """Return a run whose ranks succeeded, and whose gather did when asked for."""
    backend = fields.pop("backend", None) or FakeBackend()
    if not collected:
        backend.endings[("gather", -1)] = fails()
    rig = a_rig(nodes, backend=backend, **fields)
    for rank in range(nodes):
        rig.run_rank(rank)
    assert (rig.gather().error is None) is collected
    return rig


@pytest.mark.parametrize(
    ("policy", "collected", "goes"),
    [
        ("delete", True, True),
        ("delete", False, False),
        ("delete_always", True, True),
        ("delete_always", False, True),
        ("retain", True, False),
        ("retain", False, False),
        ("snapshot", True, False),
        ("snapshot", False, False),
    ],
)
@pytest.mark.parametrize("scope", ["run", "dag", "global"])
def test_each_policy_keeps_or_deletes_as_it_says(policy: str, collected: bool, goes: bool, scope: str) -> None:
    rig = a_finished_rig(collected=collected, volume_template={"reclaim": policy, "scope": scope})
    report = rig.teardown()
    assert not rig.backend.nodes
    assert len(rig.backend.volumes) == (0 if goes else 2)
    assert len(report.deleted) == (2 if goes else 0)
    assert len(report.kept) == (0 if goes else 2)
    assert all(kept.reason and kept.name in rig.backend.volumes for kept in report.kept)


def test_the_policy_of_the_plan_wins_over_the_one_in_the_tags() -> None:
    rig = a_finished_rig(collected=False, volume_template={"reclaim": "retain"})
    rig.plan = a_plan(2, volume_template={"reclaim": "delete_always"})
    rig.teardown()
    assert rig.backend.is_empty


def test_without_a_plan_the_policy_in_the_tags_counts() -> None:
    rig = a_finished_rig(collected=False, volume_template={"reclaim": "delete_always"})
    teardown(rig.backend, rig.group, None)
    assert rig.backend.is_empty


def test_exactly_the_ranks_that_allow_missing_went_without_stay_and_are_named() -> None:
    backend = FakeBackend(endings={("rank", 1): fails()})
    rig = a_finished_rig(backend=backend, nodes=3, allow_missing=True)
    report = rig.teardown()
    (kept,) = report.kept
    assert (kept.rank, kept.reason) == (1, "its results were not collected")
    assert list(backend.volumes) == [kept.name]


def test_an_uncollected_volume_gets_its_whole_expiry_from_the_teardown_on() -> None:
    rig = a_finished_rig(collected=False, volume_template={"expiry": timedelta(hours=3)})
    rig.backend.clock.sleep(7200)
    report = rig.teardown()
    for kept in report.kept:
        expiry = from_iso(kept.expiry)
        assert expiry is not None
        assert timedelta(hours=2, minutes=59) < expiry - rig.backend.clock.now() <= timedelta(hours=3)
        tags = rig.backend.volumes[kept.name].tags
        assert tags is not None
        assert tags.expiry == kept.expiry


def test_a_teardown_can_be_repeated() -> None:
    rig = a_finished_rig()
    first, again = rig.teardown(), rig.teardown()
    assert len(first.deleted) == 2
    assert (again.deleted, again.kept) == ((), ())


def test_a_teardown_of_a_run_that_created_nothing_does_nothing() -> None:
    rig = a_rig(2, created=False)
    assert rig.teardown().to_dict() == {"deleted": [], "kept": [], "nodes": []}


def test_volumes_that_no_rank_could_use_yet_go_whatever_was_collected() -> None:
    backend = FakeBackend()
    backend.faults.fail("create_volume", SimulatedCrash(), when="after", call=2)
    rig = a_rig(3, backend=backend, created=False)
    with pytest.raises(SimulatedCrash):
        rig.create()
    backend.revive()
    assert len(backend.volumes) == 2
    assert len(rig.teardown().deleted) == 2
    assert backend.is_empty


def test_a_volume_that_no_rank_could_use_yet_goes_even_where_it_would_be_kept() -> None:
    """It holds nothing, and would be in the way of later runs, which may not format it."""
    backend = FakeBackend()
    backend.faults.fail("tag_volumes", SimulatedCrash())
    rig = a_rig(2, backend=backend, created=False, volume_template={"reclaim": "retain"})
    with pytest.raises(SimulatedCrash):
        rig.create()
    backend.revive()
    assert rig.teardown().kept == ()
    assert not backend.volumes


def test_nodes_are_ended_before_any_volume_is_touched() -> None:
    backend = FakeBackend(endings={("rank", rank): hangs() for rank in range(2)})
    rig = a_rig(2, backend=backend, volume_template={"reclaim": "delete_always"})
    works = [rig.begin(rank) for rank in range(2)]
    for work in works:
        rig.launch(work)
    rig.until_attached(*works)
    calls = len(backend.calls)
    rig.teardown()
    verbs = [call.verb for call in backend.calls[calls:] if call.verb.startswith("delete_")]
    assert verbs[:2] == ["delete_node"] * 2
    assert set(verbs[2:]) == {"delete_volume"}
    assert backend.is_empty


@pytest.mark.parametrize("hold", [False, True])
def test_nodes_that_ended_are_removed_too(hold: bool) -> None:
    rig = a_finished_rig(backend=FakeBackend(ended_nodes_hold_volumes=hold))
    assert rig.backend.nodes
    rig.teardown()
    rig.backend.clock.sleep(60)
    assert rig.backend.is_empty


def test_a_volume_that_a_backend_only_says_it_deletes_is_a_leak_by_name() -> None:
    rig = a_finished_rig()
    stuck = rig.slots[1].volumes[0].name
    rig.backend.faults.fail("delete_volume", when="ignored", resource=stuck, times=math.inf)
    with pytest.raises(LeakError) as caught:
        rig.teardown()
    assert list(rig.backend.volumes) == [stuck]
    assert stuck in str(caught.value)
    assert "after its deletion was accepted" in str(caught.value)
    assert len(caught.value.resources) == 1


def test_a_node_that_a_backend_only_says_it_ends_is_a_leak_by_name() -> None:
    backend = FakeBackend(endings={("rank", 0): hangs()})
    rig = a_rig(1, backend=backend, volume_template={"reclaim": "delete_always"})
    work = rig.begin(0)
    rig.launch(work)
    rig.until_attached(work)
    backend.faults.fail("delete_node", when="ignored", times=math.inf)
    with pytest.raises(LeakError) as caught:
        rig.teardown()
    assert work.node_name in str(caught.value)
    assert "still running after 600 s" in str(caught.value)
    assert len(caught.value.resources) == 2  # the volume is held by it


def test_one_volume_that_cannot_be_deleted_does_not_keep_the_others() -> None:
    rig = a_finished_rig(nodes=4)
    stuck = rig.slots[2].volumes[0].name
    rig.backend.faults.fail("delete_volume", AuthDenied, resource=stuck, times=math.inf)
    with pytest.raises(LeakError) as caught:
        rig.teardown()
    (left,) = rig.backend.volumes
    assert left == stuck
    assert left in caught.value.resources[0]
    rig.backend.faults.clear()
    assert rig.teardown().deleted == (left,)
    assert rig.backend.is_empty


@pytest.mark.parametrize("verb", ["observe", "delete_node", "delete_volume", "tag_volumes"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [Throttled, VolumeBusy])
def test_errors_that_may_pass_are_waited_out(verb: str, when: Any, error: Any) -> None:
    rig = a_finished_rig(backend=FakeBackend(endings={("rank", 1): fails()}), allow_missing=True)
    rig.backend.faults.clear()
    rig.backend.faults.fail(verb, error, when=when, times=4)
    report = rig.teardown()
    assert (len(report.deleted), len(report.kept)) == (1, 1)


def test_slow_nodes_and_slow_detachments_are_waited_for() -> None:
    timings = Timings(terminate_s=120, detach_s=60, delete_s=30)
    backend = FakeBackend(timings=timings, endings={("rank", 0): hangs()})
    rig = a_rig(1, backend=backend, volume_template={"reclaim": "delete_always"})
    work = rig.begin(0)
    rig.launch(work)
    rig.until_attached(work)
    rig.teardown()
    assert backend.is_empty


def test_a_node_that_is_listed_long_after_its_end_is_no_leak() -> None:
    rig = a_finished_rig(backend=FakeBackend(timings=Timings(linger_s=3600)))
    rig.teardown()
    assert rig.backend.is_empty


def test_volumes_and_nodes_of_another_run_are_never_touched() -> None:
    backend = FakeBackend(endings={("rank", 1): hangs()})
    other = a_rig(2, backend=backend, run="run-2")
    work = other.begin(1)
    other.launch(work)
    other.until_attached(work)
    rig = a_finished_rig(backend=FakeBackend(clock=backend.clock))
    rig.backend = backend
    rig.create()
    backend.tag_volumes([slot.volumes[0].id for slot in rig.slots], {"rankvol:collected": rig.group.key})
    rig.teardown()
    assert set(backend.volumes) == {slot.volumes[0].name for slot in other.slots}
    assert other.step(work) is None


def test_a_volume_of_the_same_name_without_our_tags_is_never_touched() -> None:
    backend = FakeBackend()
    plan = a_plan(2, volume_template={"reclaim": "delete_always"})
    taken = next(plan.volumes()).name
    backend.add_volume(taken)
    assert Rig(backend, plan).teardown().deleted == ()
    assert list(backend.volumes) == [taken]


def test_a_teardown_costs_one_deletion_each_and_few_other_calls() -> None:
    rig = a_finished_rig(nodes=50)
    calls = len(rig.backend.calls)
    rig.teardown()
    assert 50 <= rig.backend.count("delete_volume") < 60  # some were still being detached
    assert len(rig.backend.calls) - calls < 50 + 51 + 20


def test_what_an_earlier_gather_had_is_not_collected_once_a_later_one_failed() -> None:
    """A cleared gather, or a cleared rank, needs a gather of its own before any volume goes."""
    backend = FakeBackend(endings={("gather", -1, 2): fails(3)})
    rig = a_rig(2, backend=backend)
    for rank in range(2):
        assert rig.run_rank(rank).error is None
    assert rig.gather(1).error is None
    assert rig.gather(2).error is not None
    assert {kept.rank for kept in rig.teardown().kept} == {0, 1}


def test_a_rank_that_computes_again_is_not_collected_by_the_gather_before() -> None:
    rig = a_rig(2)
    for rank in range(2):
        assert rig.run_rank(rank).error is None
    assert rig.gather().error is None
    assert rig.run_rank(1, 2).error is None
    assert [kept.rank for kept in rig.teardown().kept] == [1]


def test_a_volume_is_not_collected_until_gathers_result_is_stored() -> None:
    """What the tag says does not count without it, neither for the teardown nor for the reaper later."""
    rig = a_finished_rig(collected=True)
    assert {kept.rank for kept in teardown(rig.backend, rig.group, rig.plan, collected=()).kept} == {0, 1}
    rig.reap(RunState.ENDED)
    assert len(rig.backend.volumes) == 2
    rig.backend.clock.sleep(25 * 3600)
    rig.reap(RunState.ENDED)
    assert rig.backend.is_empty


def test_a_mark_that_cannot_be_set_is_named_and_everything_else_is_done() -> None:
    backend = FakeBackend(endings={("rank", 1): fails()})
    rig = a_finished_rig(backend=backend, nodes=3, allow_missing=True)
    backend.faults.fail("tag_volumes", AuthDenied, times=math.inf)
    with pytest.raises(LeakError, match="could not be marked as kept"):
        rig.teardown()
    assert (len(backend.volumes), len(backend.nodes)) == (1, 0)


def test_a_gang_that_runs_again_is_not_collected_by_the_gather_before() -> None:
    rig = a_gang(2, backend=FakeBackend())
    rig.until_end(*all_launched(rig))
    assert rig.gather().error is None
    for node in rig.observe().nodes:
        rig.backend.delete_node(node.id, Guard(owner=rig.group.owner, key=rig.group.key))
    rig.backend.clock.sleep(60)
    assert rig.launch(rig.begin(0, 2)) is None
    assert {volume.tags.collected for volume in rig.observe().volumes if volume.tags} == {""}


@pytest.mark.parametrize(("before", "after"), [("delete", "retain"), ("delete_always", "delete")])
def test_the_reaper_reads_the_policy_that_the_job_had_at_its_end(before: str, after: str) -> None:
    """The user changes the policy and clears tasks; the volumes were made under the old one."""
    rig = a_finished_rig(collected=False, volume_template={"reclaim": before})
    changed = Rig(rig.backend, a_plan(2, volume_template={"reclaim": after}))
    assert len(changed.teardown().kept) == 2
    changed.reap(RunState.ENDED)
    assert len(rig.backend.volumes) == 2
    rig.backend.clock.sleep(25 * 3600)
    changed.reap(RunState.ENDED)
    assert len(rig.backend.volumes) == (2 if after == "retain" else 0)


def test_creating_again_lets_volumes_carry_the_policy_that_the_job_has_now() -> None:
    rig = a_rig(2)
    changed = Rig(rig.backend, a_plan(2, volume_template={"reclaim": "retain"}))
    changed.create(generation=2)
    assert {(disk.tags.reclaim, disk.tags.expiry) for disk in rig.backend.volumes.values() if disk.tags} == {
        ("retain", "")
    }


@pytest.mark.parametrize("scope", ["run", "dag"])
def test_what_could_not_be_asked_keeps_its_mark_for_the_next_try(scope: str) -> None:
    rig = a_finished_rig(volume_template={"scope": scope, "reclaim": "delete"})
    first = teardown(rig.backend, rig.group, rig.plan, collected=(), sure=False)
    assert (len(first.kept), first.deleted) == (2, ())
    assert len(teardown(rig.backend, rig.group, rig.plan, collected=(0, 1)).deleted) == 2
