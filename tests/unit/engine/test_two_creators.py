"""Two runs want the same volumes at once, in any order: no result goes, nothing is left, and nobody is locked out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest

from airflow_rankvol.backends.base import Guard, VolumeRequest
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.engine.teardown import teardown
from airflow_rankvol.errors import AuthDenied, LeakError, NoCapacity, QuotaExceeded, VolumeConflict
from airflow_rankvol.records import Volume
from airflow_rankvol.spec.templates import NodeTemplate
from airflow_rankvol.testing import FakeBackend, SimulatedCrash

from .engine_kit import Rig, a_plan

RANKS = 3
SCOPES = pytest.mark.parametrize("scope", ["dag", "global"])


def a_run(backend: FakeBackend, run: str, scope: str) -> Rig:
    return Rig(backend, a_plan(RANKS, run=run, volume_template={"scope": scope}))


def right_before(backend: FakeBackend, verb: str, happens: Callable[[], object]) -> None:
    """Let something happen between now and the next call of a verb, as late as can be."""
    real = getattr(backend, verb)

    def after_that(*args: Any, **kwargs: Any) -> Any:
        setattr(backend, verb, real)
        happens()
        return real(*args, **kwargs)

    setattr(backend, verb, after_that)


def remove(backend: FakeBackend, *disks: Any) -> None:
    """Delete volumes, as somebody else does."""
    for disk in disks:
        backend.delete_volume(disk.id, Guard(owner=disk.tags.owner, key=disk.tags.key))


def fail_to_create(rig: Rig) -> None:
    """Let a run get all of its volumes but the last one."""
    rig.backend.faults.fail("create_volume", QuotaExceeded, call=rig.backend.count("create_volume") + RANKS)
    with pytest.raises(QuotaExceeded):
        rig.create()


def kill_before_the_first_mark(rig: Rig) -> None:
    """Let the process that creates a run's volumes die once they are made: no rank is given one."""
    rig.backend.faults.fail("tag_volumes", SimulatedCrash())
    with pytest.raises(SimulatedCrash):
        rig.create()
    rig.backend.revive()


def check_computes(rig: Rig) -> None:
    """Compute on every rank: its volume is there, and one that is blank may be formatted."""
    for slot in rig.slots:
        disk = rig.backend.volumes[slot.volumes[0].name]
        assert disk.id == slot.volumes[0].id
        is_blank = not disk.marked
        work = rig.begin(slot.rank)
        assert rig.run(work).error is None
        assert disk.record
        (node,) = [node for node in rig.observe().nodes if node.tags and node.tags.rank == slot.rank]
        (attachment,) = rig.backend.nodes[node.name].request.attachments
        assert attachment.may_format or not is_blank


def check_refuses(rig: Rig) -> None:
    """Try to get volumes that another run has made and given to no rank."""
    with pytest.raises(VolumeConflict, match=r"no rank was given it yet, .* only that run may format it"):
        provision(rig.backend, rig.plan, generation=1)


@SCOPES
def test_what_is_rolled_back_no_other_run_gets_while_it_goes(scope: str) -> None:
    backend = FakeBackend()
    failing, quick = a_run(backend, "a", scope), a_run(backend, "b", scope)
    right_before(backend, "tag_volumes", partial(check_refuses, quick))
    fail_to_create(failing)
    assert backend.is_empty
    quick.create()
    check_computes(quick)
    assert failing.teardown().deleted == ()


@SCOPES
def test_what_a_teardown_deletes_no_other_run_gets_while_it_goes(scope: str) -> None:
    backend = FakeBackend()
    killed, quick = a_run(backend, "a", scope), a_run(backend, "b", scope)
    kill_before_the_first_mark(killed)
    right_before(backend, "tag_volumes", partial(check_refuses, quick))
    assert len(killed.teardown().deleted) == RANKS
    quick.create()
    check_computes(quick)
    assert killed.teardown().deleted == ()


@SCOPES
def test_of_two_runs_that_make_the_same_group_the_slower_one_has_made_none_of_it(scope: str) -> None:
    """The quicker one has made but one volume, which EC2 does not list yet."""
    backend = FakeBackend()
    quick, slow = a_run(backend, "a", scope), a_run(backend, "b", scope)

    def another_run() -> None:
        backend.faults.fail("create_volume", SimulatedCrash(), call=backend.count("create_volume") + 2)
        with pytest.raises(SimulatedCrash):
            quick.create()
        backend.revive()

    right_before(backend, "create_volume", another_run)
    check_refuses(slow)
    assert [disk.tags.run for disk in backend.volumes.values() if disk.tags] == ["a"]
    quick.create(generation=2)
    check_computes(quick)


@SCOPES
def test_a_run_whose_volumes_go_before_it_claims_them_fails_and_the_next_one_has_its_own(scope: str) -> None:
    backend = FakeBackend()
    earlier, late = a_run(backend, "a", scope), a_run(backend, "b", scope)
    earlier.create()
    earlier.teardown()
    assert len(backend.volumes) == RANKS

    right_before(backend, "tag_volumes", lambda: remove(backend, *backend.volumes.values()))
    with pytest.raises(VolumeConflict, match="it is gone, or being deleted"):
        provision(backend, late.plan, generation=1)
    backend.clock.sleep(60)
    assert backend.is_empty
    late.create(generation=2)
    check_computes(late)


@SCOPES
def test_what_a_killed_run_has_made_goes_by_name_and_then_the_next_one_has_its_own(scope: str) -> None:
    """Its teardown was killed, too."""
    backend = FakeBackend()
    killed, next_one = a_run(backend, "a", scope), a_run(backend, "b", scope)
    kill_before_the_first_mark(killed)
    check_refuses(next_one)
    assert len(backend.volumes) == RANKS
    next_one.reap(RunState.ENDED, names=frozenset(backend.volumes))
    assert backend.is_empty
    next_one.create()
    check_computes(next_one)


@SCOPES
def test_a_roll_back_removes_the_others_although_one_is_gone(scope: str) -> None:
    """Somebody has removed it by hand."""
    backend = FakeBackend()
    rig = a_run(backend, "a", scope)

    def somebody_removes_one() -> None:
        remove(backend, *list(backend.volumes.values())[:1])
        backend.clock.sleep(60)

    right_before(backend, "tag_volumes", somebody_removes_one)
    fail_to_create(rig)
    assert backend.is_empty


@SCOPES
def test_a_teardown_deletes_the_others_although_one_cannot_be_taken(scope: str) -> None:
    backend = FakeBackend()
    killed = a_run(backend, "a", scope)
    kill_before_the_first_mark(killed)
    ids = [disk.id for disk in backend.volumes.values()]
    tag_volumes = backend.tag_volumes

    def refused(volume_ids: Sequence[str], tags: Mapping[str, str], *, held_by: str | None = None) -> frozenset[str]:
        if ids[1] in volume_ids:
            raise AuthDenied("no right to tag it")
        return tag_volumes(volume_ids, tags, held_by=held_by)

    backend.tag_volumes = refused  # type: ignore[method-assign]
    with pytest.raises(LeakError) as caught:
        killed.teardown()
    assert len(caught.value.resources) == 1
    assert [disk.id for disk in backend.volumes.values()] == [ids[1]]


@SCOPES
@pytest.mark.parametrize("reclaim", ["delete", "delete_always"])
def test_a_teardown_takes_nothing_from_the_run_that_has_claimed_it(scope: str, reclaim: str) -> None:
    """What was made of a snapshot is not blank: another run may use it although no rank was given it."""
    backend = FakeBackend()
    template = {"scope": scope, "snapshot": "snap-1", "reclaim": reclaim}
    killed, quick = (Rig(backend, a_plan(RANKS, run=run, volume_template=template)) for run in ("a", "b"))
    kill_before_the_first_mark(killed)
    tag_volumes = backend.tag_volumes

    def between(volume_ids: Sequence[str], tags: Mapping[str, str], *, held_by: str | None = None) -> frozenset[str]:
        if "rankvol:attempt" in tags:
            backend.tag_volumes = tag_volumes  # type: ignore[method-assign]
            assert killed.teardown().deleted == ()
        return tag_volumes(volume_ids, tags, held_by=held_by)

    backend.tag_volumes = between  # type: ignore[method-assign]
    quick.create()
    assert {disk.tags.used_by for disk in backend.volumes.values() if disk.tags} == {quick.group.key}
    assert len(backend.volumes) == RANKS


@SCOPES
def test_a_run_that_loses_changes_nothing_of_what_it_does_not_get(scope: str) -> None:
    """Neither the policy by which the other one's teardown goes, even without a plan."""
    backend = FakeBackend()
    earlier, quick = a_run(backend, "a", scope), a_run(backend, "b", scope)
    earlier.create()
    check_computes(earlier)
    earlier.teardown()
    slow = Rig(backend, a_plan(RANKS, run="c", volume_template={"scope": scope, "reclaim": "delete_always"}))

    def another_run() -> None:
        quick.create()
        check_computes(quick)

    right_before(backend, "tag_volumes", another_run)
    with pytest.raises(VolumeConflict):
        provision(backend, slow.plan, generation=1)
    assert teardown(backend, quick.group, None, collected=[]).deleted == ()
    assert len(backend.volumes) == RANKS


@SCOPES
def test_create_does_not_succeed_with_volumes_that_go_before_they_are_marked(scope: str) -> None:
    """As when an earlier try, which hung, rolls back what it had made."""
    backend = FakeBackend()
    rig = a_run(backend, "a", scope)
    tag_volumes = backend.tag_volumes

    def late(volume_ids: Sequence[str], tags: Mapping[str, str], *, held_by: str | None = None) -> frozenset[str]:
        if "rankvol:attempt" in tags:
            backend.tag_volumes = tag_volumes  # type: ignore[method-assign]
            remove(backend, *backend.volumes.values())
        return tag_volumes(volume_ids, tags, held_by=held_by)

    backend.tag_volumes = late  # type: ignore[method-assign]
    with pytest.raises(VolumeConflict, match="it is gone, or being deleted"):
        provision(backend, rig.plan, generation=2)


class WithRoom(FakeBackend):
    """A cloud each of whose zones has room for so many volumes."""

    def __init__(self, **room: int) -> None:
        super().__init__()
        self._room = room

    def create_volume(self, request: VolumeRequest) -> Volume:
        there = [d for d in self._world.disks.values() if d.zone == request.zone and d.gone_at is None]
        if len([disk for disk in there if disk.name != request.name]) >= self._room[request.zone or ""]:
            self.faults.fail("create_volume", NoCapacity)
        return super().create_volume(request)


@pytest.mark.parametrize("scope", ["run", "dag", "global"])
def test_volumes_move_as_often_as_there_are_zones(scope: str) -> None:
    """What was made in a zone, and removed again for want of room beside it, is in nobody's way."""
    fields: dict[str, Any] = {
        "volumes": ["a-${NODE_RANK}:/a", "b-${NODE_RANK}:/b"],
        "volume_template": {"scope": scope},
    }
    zones = NodeTemplate(zones=("a", "b", "c"))
    backend = WithRoom(a=1, b=1, c=2)
    rig = Rig(backend, a_plan(1, node=zones, **fields))
    rig.create()
    assert {disk.zone for disk in backend.volumes.values()} == {"c"}

    backend = WithRoom(a=1, b=1, c=1)
    with pytest.raises(NoCapacity):
        Rig(backend, a_plan(1, node=zones, **fields)).create()
    assert backend.is_empty


def test_what_cannot_be_taken_is_named_as_a_leak() -> None:
    backend = FakeBackend()
    rig = a_run(backend, "a", "dag")
    backend.faults.fail("tag_volumes", AuthDenied, times=math.inf)
    with pytest.raises(LeakError) as caught:
        rig.create()
    assert len(caught.value.resources) == len(backend.volumes) == RANKS
    with pytest.raises(LeakError):
        rig.teardown()
    assert len(backend.volumes) == RANKS
