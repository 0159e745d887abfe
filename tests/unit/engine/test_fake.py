"""The fake cloud is as strict as a real one: what passes on it has a chance elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_rankvol.backends.base import Backend, Guard, Selector
from airflow_rankvol.engine.creation import request_of
from airflow_rankvol.errors import FinalError, NotOurs, NotReady, QuotaExceeded, VolumeBusy, VolumeConflict
from airflow_rankvol.records import NodeState, VolumeState
from airflow_rankvol.testing import FakeBackend, FakeClock, SimulatedCrash, Timings, hangs

from .engine_kit import Rig, a_plan, a_rig


def guard_of(rig: Rig) -> Guard:
    return Guard(owner=rig.group.owner, key=rig.group.key)


def test_it_is_a_backend() -> None:
    assert isinstance(FakeBackend(), Backend)


def test_its_clock_moves_only_when_somebody_sleeps_and_tells_the_test() -> None:
    seen: list[float] = []
    clock = FakeClock(on_sleep=seen.append)
    begin = clock.now()
    clock.sleep(90)
    assert ((clock.now() - begin).total_seconds(), seen, clock.slept_s) == (90, [90], 90)


def test_a_volume_is_creating_then_available_then_deleting_then_gone() -> None:
    backend = FakeBackend(timings=Timings(create_s=2, delete_s=1))
    rig = Rig(backend, a_plan(1))
    wanted = next(rig.plan.volumes())
    volume = backend.create_volume(request_of(rig.group, wanted, None, 1, backend))
    assert volume.state is VolumeState.CREATING
    backend.clock.sleep(2)
    assert rig.observe().volumes[0].state is VolumeState.AVAILABLE
    backend.delete_volume(volume.id, guard_of(rig))
    assert rig.observe().volumes[0].state is VolumeState.DELETING
    backend.clock.sleep(1)
    assert rig.observe().volumes == ()
    backend.delete_volume(volume.id, guard_of(rig))


def test_a_name_that_another_key_has_is_a_conflict() -> None:
    backend = FakeBackend()
    rig = Rig(backend, a_plan(1))
    request = request_of(rig.group, next(rig.plan.volumes()), None, 1, backend)
    first = backend.create_volume(request)
    assert backend.create_volume(request).id == first.id
    with pytest.raises(VolumeConflict):
        backend.create_volume(replace(request, tags=request.tags.with_(key="other")))


def test_a_node_must_run_before_a_volume_can_be_attached_and_holds_it_alone() -> None:
    rig = a_rig(2, backend=FakeBackend(endings={("rank", 0): hangs(), ("rank", 1): hangs()}))
    backend, works = rig.backend, [rig.work(rank) for rank in range(2)]
    for work in works:
        rig.launch(work)
    nodes = [backend.nodes[work.node_name].id for work in works]
    volume = works[0].volume_ids[0]
    with pytest.raises(NotReady):
        backend.attach(volume, nodes[0])
    backend.clock.sleep(10)
    backend.attach(volume, nodes[0])
    backend.attach(volume, nodes[0])
    with pytest.raises(VolumeBusy):
        backend.attach(volume, nodes[1])
    with pytest.raises(VolumeBusy):
        backend.delete_volume(volume, guard_of(rig))
    backend.delete_node(nodes[0], guard_of(rig))
    backend.clock.sleep(backend.timings.terminate_s)
    assert rig.observe().volume(volume).state is VolumeState.DETACHING  # type: ignore[union-attr]
    backend.clock.sleep(2)
    backend.attach(volume, nodes[1])


def test_a_volume_in_another_zone_cannot_be_attached() -> None:
    backend = FakeBackend()
    disk = backend.add_volume("v", zone="a")
    machine = backend.add_node("n", a_rig(1, backend=backend).group.tags())
    machine.request = replace(machine.request, zone="b")
    with pytest.raises(FinalError, match="zone a"):
        backend.attach(disk.id, machine.id)


def test_ending_a_node_takes_time_and_then_frees_its_volumes() -> None:
    rig = a_rig(1, backend=FakeBackend(endings={("rank", 0): hangs()}))
    work = rig.begin(0)
    rig.launch(work)
    rig.until_attached(work)
    rig.backend.delete_node(rig.observe().nodes[0].id, guard_of(rig))
    assert rig.observe().nodes[0].state is NodeState.RUNNING
    rig.backend.clock.sleep(5)
    assert rig.observe().nodes == ()
    assert rig.observe().volumes[0].state is VolumeState.DETACHING
    rig.backend.clock.sleep(2)
    assert rig.observe().volumes[0].state is VolumeState.AVAILABLE


def test_nothing_without_our_tags_is_destroyed_or_tagged() -> None:
    rig = a_rig(1)
    stranger = Guard(owner="you", key=rig.group.key)
    disk = rig.backend.add_volume("theirs")
    with pytest.raises(NotOurs):
        rig.backend.delete_volume(disk.id, guard_of(rig))
    with pytest.raises(NotOurs):
        rig.backend.delete_volume(rig.slots[0].volumes[0].id, stranger)
    with pytest.raises(NotOurs):
        rig.backend.tag_volumes([disk.id], {"rankvol:expiry": ""})
    rig.launch(rig.begin(0))
    with pytest.raises(NotOurs):
        rig.backend.delete_node(rig.observe().nodes[0].id, stranger)
    assert len(rig.backend.volumes) == 2


def test_what_is_new_is_seen_late_where_the_test_wants_that() -> None:
    backend = FakeBackend(timings=Timings(lag_s=5))
    rig = Rig(backend, a_plan(1))
    backend.create_volume(request_of(rig.group, next(rig.plan.volumes()), None, 1, backend))
    selector = Selector(owner="me")
    assert (rig.observe().volumes, backend.list_owned(selector).volumes) == ((), ())
    backend.clock.sleep(5)
    assert len(rig.observe().volumes) == len(backend.list_owned(selector).volumes) == 1


def test_a_fault_strikes_the_call_it_is_meant_for_before_or_after_its_effect() -> None:
    backend = FakeBackend()
    rig = Rig(backend, a_plan(3))
    requests = [request_of(rig.group, wanted, None, 1, backend) for wanted in rig.plan.volumes()]
    backend.faults.fail("create_volume", QuotaExceeded, call=2)
    backend.faults.fail("create_volume", QuotaExceeded, resource=requests[2].name, when="after")
    backend.create_volume(requests[0])
    for request in requests[1:]:
        with pytest.raises(QuotaExceeded) as caught:
            backend.create_volume(request)
        assert (caught.value.verb, caught.value.resource) == ("create_volume", request.name)
    assert set(backend.volumes) == {requests[0].name, requests[2].name}
    assert [call.resource for call in backend.calls] == [request.name for request in requests]


def test_after_a_crash_the_dead_process_calls_nothing_until_another_takes_over() -> None:
    backend = FakeBackend(crash_after=2)
    rig = Rig(backend, a_plan(3))
    requests = [request_of(rig.group, wanted, None, 1, backend) for wanted in rig.plan.volumes()]
    backend.create_volume(requests[0])
    for request in requests[1:]:
        with pytest.raises(SimulatedCrash):
            backend.create_volume(request)
    assert set(backend.volumes) == {requests[0].name, requests[1].name}
    backend.revive()
    backend.create_volume(requests[2])
    assert len(backend.volumes) == 3
