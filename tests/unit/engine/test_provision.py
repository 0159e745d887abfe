"""Every volume of a plan, or none: whichever call fails, before or after it took effect."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Any

import pytest

from airflow_rankvol.backends.base import VolumeRequest
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.errors import (
    AuthDenied,
    BackendError,
    FinalError,
    LeakError,
    NoCapacity,
    NotReady,
    QuotaExceeded,
    Throttled,
    VolumeConflict,
)
from airflow_rankvol.records import Volume, VolumeState
from airflow_rankvol.testing import FakeBackend, SimulatedCrash, Timings, hangs

from .engine_kit import Rig, a_plan, a_rig

NODES = 4


def test_every_rank_gets_its_volume_with_all_tags_and_available() -> None:
    backend = FakeBackend()
    rig = a_rig(NODES, backend=backend)
    assert [slot.rank for slot in rig.slots] == list(range(NODES))
    names = [slot.volumes[0].name for slot in rig.slots]
    assert names == [volume.name for volume in rig.plan.volumes()]
    for rank, name in enumerate(names):
        disk = backend.volumes[name]
        assert disk.state(backend.clock.now()) is VolumeState.AVAILABLE
        assert disk.tags is not None
        assert (disk.tags.owner, disk.tags.run, disk.tags.rank) == ("me", "run-1", rank)
        assert (disk.tags.reclaim, disk.tags.scope, disk.tags.collected) == ("delete", "run", "")
        assert disk.tags.expiry == "2026-01-02T00:00:00.000+00:00"


@pytest.mark.parametrize(("create_s", "pauses_s"), [(2, [3]), (8, [3, 6]), (25, [3, 6, 10, 10])])
def test_new_volumes_are_looked_at_soon_and_then_less_often(create_s: float, pauses_s: list[float]) -> None:
    """The pauses double, up to the poll interval."""
    backend = FakeBackend(timings=Timings(create_s=create_s))
    backend.poll_interval_s = 10.0
    begun = backend.clock.now()
    a_rig(NODES, backend=backend)
    assert backend.count("observe") == 1 + len(pauses_s)
    assert (backend.clock.now() - begun).total_seconds() == pytest.approx(sum(pauses_s))


def test_creating_again_returns_the_same_volumes_and_creates_none() -> None:
    backend = FakeBackend()
    rig = a_rig(NODES, backend=backend)
    first = [slot.volumes for slot in rig.slots]
    assert [slot.volumes for slot in rig.create(generation=2)] == first
    assert backend.count("create_volume") == NODES


def test_what_an_earlier_try_left_half_done_is_completed() -> None:
    backend = FakeBackend()
    backend.faults.fail("create_volume", SimulatedCrash(), when="after", call=2)
    rig = a_rig(NODES, backend=backend, created=False)
    with pytest.raises(SimulatedCrash):
        rig.create()
    assert len(backend.volumes) == 2
    backend.revive()
    rig.create(generation=2)
    assert len(backend.volumes) == NODES


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("k", range(1, NODES + 1))
@pytest.mark.parametrize("timings", [Timings(), Timings(lag_s=5)], ids=["at once", "seen late"])
def test_when_one_volume_cannot_be_had_none_is_left(k: int, when: Any, timings: Timings) -> None:
    backend = FakeBackend(timings=timings)
    backend.faults.fail("create_volume", QuotaExceeded, call=k, when=when)
    rig = a_rig(NODES, backend=backend, created=False)
    with pytest.raises(QuotaExceeded):
        rig.create()
    backend.clock.sleep(60)
    # What was made, whose answer was lost for good, and what is not listed yet: only its expiry can end that.
    unknowable = 1 if timings.lag_s and when == "after" else 0
    assert len(backend.volumes) == unknowable
    backend.faults.clear()
    assert len(rig.create(generation=2)) == NODES


@pytest.mark.parametrize("k", range(1, NODES + 1))
def test_volumes_that_were_there_before_survive_a_failed_creation(k: int) -> None:
    backend = FakeBackend()
    one = a_rig(2, backend=backend, volume_template={"scope": "dag"})
    assert len(one.slots) == 2
    backend.faults.fail("create_volume", QuotaExceeded, call=2 + (k % 2) + 1)
    wider = Rig(backend, a_plan(NODES, run="run-2", volume_template={"scope": "dag"}))
    with pytest.raises(QuotaExceeded):
        wider.create()
    assert sorted(backend.volumes) == sorted(slot.volumes[0].name for slot in one.slots)


@pytest.mark.parametrize("error", [Throttled, NoCapacity])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("verb", ["create_volume", "observe", "tag_volumes"])
def test_a_lost_answer_or_a_throttled_call_is_repeated_without_a_second_volume(
    verb: str, when: Any, error: type[BackendError]
) -> None:
    backend = FakeBackend()
    for call in (1, 3):
        backend.faults.fail(verb, error, call=call, when=when)
    rig = a_rig(NODES, backend=backend)
    assert len(rig.slots) == len(backend.volumes) == NODES


def test_a_volume_that_goes_into_an_error_state_fails_the_creation_and_all_go() -> None:
    backend = FakeBackend(timings=Timings(create_s=30))
    rig = a_rig(NODES, backend=backend, created=False)
    broken: list[str] = []

    def break_one(_seconds: float) -> None:
        if not broken:
            disk = list(backend._world.disks.values())[1]
            disk.broken = True
            broken.append(disk.name)

    backend.clock.on_sleep = break_one  # type: ignore[attr-defined]
    with pytest.raises(BackendError, match="error state"):
        rig.create()
    assert backend.is_empty


@pytest.mark.parametrize(
    ("template", "error", "step"),
    [
        ({"kms_key": "alias/none"}, FinalError, "expected kms_key 'alias/none' to be an enabled, symmetric key"),
        ({}, BackendError, "somebody deleted it, or it is encrypted with the account's default key"),
    ],
)
def test_a_volume_that_vanishes_while_it_is_created_says_why_it_may_have(
    template: dict[str, str], error: type[BackendError], step: str
) -> None:
    """As EBS has it with a key that cannot be used: the creation is accepted, and then there is no volume."""
    backend = FakeBackend(timings=Timings(create_s=30))
    rig = a_rig(NODES, backend=backend, created=False, volume_template=template)

    def vanish(_seconds: float) -> None:
        disks = backend._world.disks
        if len(disks) == NODES:
            del disks[list(disks)[1]]

    backend.clock.on_sleep = vanish  # type: ignore[attr-defined]
    with pytest.raises(error, match=re.escape(step)) as caught:
        rig.create()
    assert type(caught.value) is error
    assert re.search(r"fake create_volume volume \S+-1 \(vol-\S+\): the cloud accepted its creation", str(caught.value))
    assert backend.is_empty


def test_a_volume_of_before_that_goes_meanwhile_says_nothing_of_the_key() -> None:
    """Its creation was long over: the next try makes it anew."""
    backend = FakeBackend(timings=Timings(create_s=30))
    template = {"scope": "dag", "kms_key": "alias/k"}
    a_rig(1, backend=backend, volume_template=template).teardown()
    rig = Rig(backend, a_plan(2, run="run-2", volume_template=template))
    old = next(iter(backend._world.disks))

    def go(_seconds: float) -> None:
        if len(backend._world.disks) == 2:
            del backend._world.disks[old]

    backend.clock.on_sleep = go  # type: ignore[attr-defined]
    with pytest.raises(NotReady, match=f"not available after 120 s: {old}$"):
        rig.create()
    assert backend.is_empty


def test_a_volume_that_is_not_available_in_time_is_named_and_all_go() -> None:
    backend = FakeBackend(timings=Timings(create_s=1000))
    rig = a_rig(2, backend=backend, created=False)
    with pytest.raises(NotReady, match="not available after 120 s: vol-"):
        rig.create()
    backend.clock.sleep(1000)
    assert backend.is_empty


def test_what_cannot_be_rolled_back_is_named_as_a_leak_with_the_cause() -> None:
    backend = FakeBackend()
    backend.faults.fail("create_volume", QuotaExceeded, call=3)
    rig = a_rig(NODES, backend=backend, created=False)
    left = [volume.name for volume in rig.plan.volumes()][1]
    backend.faults.fail("delete_volume", AuthDenied, times=math.inf, resource=left)
    with pytest.raises(LeakError) as caught:
        rig.create()
    assert list(backend.volumes) == [left]
    assert len(caught.value.resources) == 1
    assert left in caught.value.resources[0]
    assert isinstance(caught.value.__cause__, QuotaExceeded)
    assert "rankvol reap" in str(caught.value)


def test_a_name_that_is_somebody_elses_is_a_conflict_and_stays_untouched() -> None:
    backend = FakeBackend()
    plan = a_plan(NODES)
    taken = [volume.name for volume in plan.volumes()][2]
    backend.add_volume(taken, files=["precious"])
    with pytest.raises(VolumeConflict, match="the name is taken"):
        Rig(backend, plan).create()
    assert list(backend.volumes) == [taken]
    assert backend.volumes[taken].files == {"precious"}


@pytest.mark.parametrize("scope", ["run", "dag", "global"])
def test_a_volume_that_is_too_small_is_refused_with_both_sizes(scope: str) -> None:
    backend = FakeBackend()
    a_rig(1, backend=backend, volume_template={"scope": scope, "size": "10GB"})
    larger = Rig(backend, a_plan(1, volume_template={"scope": scope, "size": "20GB"}))
    with pytest.raises(VolumeConflict, match="found 10 GiB, expected at least 20 GiB for rank 0"):
        larger.create()
    assert len(backend.volumes) == 1


def test_dag_scope_finds_the_volumes_of_the_run_before() -> None:
    backend = FakeBackend()
    one = a_rig(2, backend=backend, volume_template={"scope": "dag"})
    two = a_rig(2, backend=backend, run="run-2", volume_template={"scope": "dag"})
    assert [slot.volumes for slot in two.slots] == [slot.volumes for slot in one.slots]
    assert not two.slots[0].volumes[0].adopted
    assert all(disk.tags and disk.tags.expiry == "" for disk in backend.volumes.values())


@pytest.mark.parametrize("scope", ["dag", "global"])
def test_a_volume_that_a_live_node_of_another_run_holds_is_a_conflict(scope: str) -> None:
    backend = FakeBackend(endings={("rank", 1): hangs()})
    one = a_rig(2, backend=backend, volume_template={"scope": scope})
    work = one.begin(1)
    one.launch(work)
    one.until_attached(work)
    two = Rig(backend, a_plan(3, run="run-2", volume_template={"scope": scope}))
    with pytest.raises(VolumeConflict, match="a live node of another run; neither was touched"):
        two.create()
    assert len(backend.volumes) == 2
    assert one.step(work) is None


def test_the_next_run_waits_for_a_volume_that_is_still_being_detached() -> None:
    backend = FakeBackend(timings=Timings(detach_s=20))
    one = a_rig(1, backend=backend, volume_template={"scope": "dag"})
    one.run_rank(0)
    one.teardown()
    two = a_rig(1, backend=backend, run="run-2", volume_template={"scope": "dag"})
    assert two.run_rank(0).error is None


def test_a_volume_that_is_being_deleted_is_waited_for_and_made_again() -> None:
    backend = FakeBackend(timings=Timings(delete_s=30))
    rig = a_rig(2, backend=backend)
    old = [slot.volumes[0].id for slot in rig.slots]
    backend.faults.fail("delete_volume", SimulatedCrash(), when="after", call=1)
    rig.backend.tag_volumes(old, {"rankvol:collected": rig.group.key})
    with pytest.raises(SimulatedCrash):
        rig.teardown()
    backend.revive()
    rig.create(generation=2)
    assert rig.slots[0].volumes[0].id != old[0]
    assert rig.slots[1].volumes[0].id == old[1]


def test_creating_again_makes_what_was_collected_uncollected() -> None:
    backend = FakeBackend()
    rig = a_rig(2, backend=backend)
    for rank in range(2):
        rig.run_rank(rank)
    assert rig.gather().error is None
    rig.create(generation=2)
    assert [disk.tags.collected for disk in backend.volumes.values() if disk.tags] == ["", ""]


def test_two_runs_and_two_groups_of_one_dag_never_meet() -> None:
    backend = FakeBackend()
    rigs = [a_rig(2, backend=backend, run=run) for run in ("run-1", "run-2")]
    ids = [slot.volumes[0].id for rig in rigs for slot in rig.slots]
    assert len(set(ids)) == 4


def test_creating_n_volumes_costs_n_creations_and_few_other_calls() -> None:
    backend = FakeBackend()
    a_rig(100, backend=backend)
    assert backend.count("create_volume") == 100
    assert len(backend.calls) < 110


def test_a_try_that_hung_does_not_roll_back_what_a_later_try_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker was cut off; meanwhile the next try took the volumes, and ranks compute on them."""
    rig = a_rig(2, created=False)

    def hangs_meanwhile(*_args: Any) -> None:
        monkeypatch.undo()
        rig.create(generation=2)
        assert rig.run_rank(0).error is None
        raise SystemExit("the supervisor ends this try")

    monkeypatch.setattr("airflow_rankvol.engine.provision._verify_available", hangs_meanwhile)
    with pytest.raises(SystemExit):
        rig.create(generation=1)
    assert len(rig.backend.volumes) == 2


def test_creating_again_gives_volumes_their_whole_expiry() -> None:
    rig = a_rig(2, volume_template={"expiry": "1h"})
    rig.backend.clock.sleep(3000)
    changed = Rig(rig.backend, a_plan(2, volume_template={"expiry": "7d"}))
    changed.create(generation=2)
    rig.backend.clock.sleep(86_400)
    assert rig.reap(RunState.UNKNOWN) == ([], {})


class SomeZonesAreFull(FakeBackend):
    """A cloud with zones, some of them without room for volumes."""

    full: frozenset[str] = frozenset()

    def create_volume(self, request: VolumeRequest) -> Volume:
        if request.zone in self.full:
            raise NoCapacity(f"no room in {request.zone}", backend="fake", verb="create_volume", resource=request.name)
        return super().create_volume(request)


@pytest.mark.parametrize(("full", "expected"), [("", "abca"), ("b", "acca"), ("c", "abaa"), ("ab", "cccc")])
def test_where_a_zone_has_no_room_its_ranks_go_to_the_jobs_next_zone(full: str, expected: str) -> None:
    """Nothing of what it had made there stays, the other ranks' volumes do, and nobody waits."""
    backend = SomeZonesAreFull()
    backend.full = frozenset(full)
    started = backend.clock.now()
    rig = a_rig(NODES, backend=backend, node={"zones": ["a", "b", "c"]})
    by_rank = [slot.zone for slot in rig.slots]
    assert by_rank == [*expected]
    assert [backend.volumes[slot.volumes[0].name].zone for slot in rig.slots] == by_rank
    assert len(backend.volumes) == NODES
    assert backend.count("create_volume") == NODES  # those that were refused are not counted
    assert backend.clock.now() - started < timedelta(seconds=10)


def test_where_no_zone_has_room_it_is_tried_for_a_while_and_nothing_stays() -> None:
    backend = SomeZonesAreFull()
    backend.full = frozenset("ab")
    started = backend.clock.now()
    rig = a_rig(NODES, backend=backend, created=False, node={"zones": ["a", "b"]})
    with pytest.raises(NoCapacity, match="no room in"):
        rig.create()
    assert backend.volumes == {}
    assert backend.clock.now() - started >= timedelta(seconds=120)


def test_ranks_with_a_volume_stay_in_its_zone_however_full() -> None:
    """A dag-scoped volume holds what earlier runs left; only what is new goes elsewhere."""
    backend = SomeZonesAreFull()
    fields: dict[str, Any] = {
        "node": {"zones": ["a", "b"]},
        "volumes": [
            {"name": "kept-${NODE_RANK}", "path": "/kept", "scope": "dag"},
            "new-${NODE_RANK}:/new",
        ],
    }
    first = a_rig(2, backend=backend, **fields)
    assert [slot.zone for slot in first.slots] == ["a", "b"]
    backend.full = frozenset("b")
    second = a_rig(2, backend=backend, created=False, run="run-2", **fields)
    with pytest.raises(NoCapacity):
        second.create()
    assert len(backend.volumes) == 4
