"""What a rank has finished stays until it is collected or has expired, whoever comes to reap it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from airflow_rankvol.backends.base import Guard, Selector
from airflow_rankvol.engine.reap import RunState, reap, survey
from airflow_rankvol.errors import AuthDenied
from airflow_rankvol.testing import Ending, FakeBackend, SimulatedCrash, fails, hangs, is_lost, succeeds

from .engine_kit import Rig, a_rig
from .test_reap import DAY_S, names


def a_half_finished_rig(**fields: Any) -> Rig:
    """Return a run of three ranks that ended without a teardown: one finished, one still computes, one never began."""
    rig = a_rig(3, backend=FakeBackend(endings={("rank", 1): hangs()}), **fields)
    for rank in (0, 1):
        rig.launch(rig.begin(rank))
    rig.until_end(rig.work(0))
    return rig


def test_what_a_rank_finished_stays_until_its_expiry_however_often_it_is_reaped() -> None:
    rig = a_half_finished_rig()
    for _ in range(2):
        rig.reap(RunState.ENDED)
        assert not rig.backend.nodes
        assert set(rig.backend.volumes) == {rig.slots[0].volumes[0].name}
    rig.backend.clock.sleep(DAY_S + 1)
    rig.reap(RunState.ENDED)
    assert rig.backend.is_empty


def test_every_volume_of_a_rank_that_finished_stays() -> None:
    """The record lies on the first alone."""
    rig = a_half_finished_rig(volumes=["in-${NODE_RANK}:/in", "out-${NODE_RANK}:/out"])
    for _ in range(2):
        rig.reap(RunState.ENDED)
        assert set(rig.backend.volumes) == {volume.name for volume in rig.slots[0].volumes}


def test_a_volume_that_cannot_be_looked_at_stays_and_hides_no_other() -> None:
    rig = a_half_finished_rig()
    rig.backend.faults.fail("holds_result", AuthDenied, resource=rig.slots[2].volumes[0].name, times=math.inf)
    rig.reap(RunState.ENDED)
    assert set(rig.backend.volumes) == {rig.slots[rank].volumes[0].name for rank in (0, 2)}


def test_what_a_rank_finished_stays_when_its_node_was_reaped_before() -> None:
    """Expired nodes go while the run is unknown; the user's word that it has ended comes later."""
    rig = a_half_finished_rig(node={"lifetime": "30m"})
    rig.backend.clock.sleep(7200)
    rig.reap(RunState.UNKNOWN)
    assert not rig.backend.nodes
    rig.reap(RunState.ENDED)
    assert set(rig.backend.volumes) == {rig.slots[0].volumes[0].name}


@pytest.mark.parametrize("ending", [fails(3), is_lost()], ids=["failed", "lost"])
def test_what_failed_goes_with_its_run_unless_the_teardown_kept_it(ending: Ending) -> None:
    for torn_down in (False, True):
        rig = a_rig(1, backend=FakeBackend(endings={("rank", 0): ending}))
        rig.run_rank(0)
        if torn_down:
            rig.teardown()
        rig.reap(RunState.ENDED)
        assert bool(rig.backend.volumes) is torn_down


@pytest.mark.parametrize("again", ["create", "rank 1"])
def test_what_a_rank_finished_stays_when_tasks_are_cleared_and_cut_off(again: str) -> None:
    """The first teardown has deleted the node that told of it."""
    backend = FakeBackend(endings={("rank", 1, 1): fails(), ("rank", 1, 2): hangs()})
    rig = a_rig(2, backend=backend)
    for rank in range(2):
        rig.run_rank(rank)
    rig.teardown()
    if again == "create":
        rig.create(generation=2)
    else:
        rig.launch(rig.begin(1, 2))
    rig.reap(RunState.ENDED)
    assert rig.slots[0].volumes[0].name in backend.volumes


def test_a_teardown_that_is_cut_off_has_marked_what_stays() -> None:
    backend = FakeBackend(endings={("rank", 0): fails()})
    rig = a_rig(1, backend=backend)
    rig.run_rank(0)
    backend.faults.fail("delete_node", SimulatedCrash(), when="after")
    with pytest.raises(SimulatedCrash):
        rig.teardown()
    backend.revive()
    rig.reap(RunState.ENDED)
    assert set(backend.volumes) == names(rig)


@pytest.mark.parametrize("when", ["before the nodes go", "while they go"])
def test_a_rank_that_ends_while_it_is_being_reaped_keeps_its_volume(when: str) -> None:
    rig = a_rig(2, backend=FakeBackend(endings={("rank", 0): succeeds(after_s=60)}))
    work = rig.begin(0)
    rig.launch(work)
    rig.until_attached(work)
    selector = Selector(owner="me")
    findings = survey(rig.backend, selector, lambda _dag, _run: RunState.ENDED)
    assert [finding.remove for finding in findings] == [True, True, True]
    if when == "before the nodes go":
        rig.backend.clock.sleep(90)
    else:
        delete_node = rig.backend.delete_node

        def slowly(node_id: str, guard: Guard) -> None:
            rig.backend.clock.sleep(90)
            delete_node(node_id, guard)

        rig.backend.delete_node = slowly  # type: ignore[method-assign]
    reap(rig.backend, selector, findings)
    assert set(rig.backend.volumes) == {rig.slots[0].volumes[0].name}
    assert not rig.backend.nodes


def test_every_volume_stays_of_a_rank_whose_record_lies_on_one_of_them() -> None:
    """The others' own marks may be missing: their disk was full, or not writable any more."""
    rig = a_half_finished_rig(volumes=["in-${NODE_RANK}:/in", "out-${NODE_RANK}:/out"])
    rig.backend.volumes[rig.slots[0].volumes[1].name].marked = False
    for _ in range(2):
        rig.reap(RunState.ENDED)
        assert set(rig.backend.volumes) == {volume.name for volume in rig.slots[0].volumes}
