"""A gather in parts, and what another try has left behind that was split in another way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_rankvol.engine.loop import launch
from airflow_rankvol.engine.step import advance
from airflow_rankvol.engine.work import Work
from airflow_rankvol.testing import FakeBackend, hangs

from .engine_kit import Rig, a_plan, a_rig

ONE_EACH, ALL_ON_ONE = 1, None


def a_finished_rig(backend: FakeBackend) -> Rig:
    """Return a run of two ranks that have finished."""
    rig = a_rig(2, backend=backend, allow_missing=True)  # else the fake takes each part for the whole
    for rank in range(2):
        rig.run_rank(rank)
    return rig


def begun(rig: Rig, attempt: int, limit: int | None) -> list[Work]:
    """Launch every part of a try, each with its volumes."""
    works = rig.gather_work(attempt).in_parts(limit)
    for work in works:
        assert launch(rig.backend, work, rig._launcher(work)) is None
    rig.until_attached(*works)
    return works


@pytest.mark.parametrize(("before", "now"), [(ONE_EACH, ALL_ON_ONE), (ALL_ON_ONE, ONE_EACH)])
def test_a_try_ends_the_nodes_of_the_one_before_however_that_was_split(
    backend: FakeBackend, before: int | None, now: int | None
) -> None:
    """Its worker died, and the job's gather_node takes another number of volumes since."""
    backend.endings |= {("gather", -1, 1): hangs(), ("gather", -2, 1): hangs()}
    rig = a_finished_rig(backend)
    old = begun(rig, 1, before)
    at = backend.clock.now()
    for work in rig.gather_work(2).in_parts(now):
        assert rig.run(work).error is None
    assert (backend.clock.now() - at).total_seconds() < 120
    assert not any(work.node_name in backend.nodes and not backend.nodes[work.node_name].stop_at for work in old)


@pytest.mark.parametrize("attempt", [2, 3], ids=["its own try", "a later one"])
@pytest.mark.parametrize(("running", "other"), [(ONE_EACH, ALL_ON_ONE), (ALL_ON_ONE, ONE_EACH), (ONE_EACH, ONE_EACH)])
def test_no_part_ends_a_node_of_its_own_try_or_of_a_later_one(
    backend: FakeBackend, attempt: int, running: int | None, other: int | None
) -> None:
    backend.endings |= {("gather", -1): hangs(), ("gather", -2): hangs()}
    rig = a_finished_rig(backend)
    works = begun(rig, attempt, running)
    deleted = backend.count("delete_node")
    for work in rig.gather_work(2).in_parts(other):
        advance(backend, work, rig.observe(), rig._launcher(work))
        rig.step(replace(work, attempt=attempt))
    assert backend.count("delete_node") == deleted
    assert all(not backend.nodes[work.node_name].stop_at for work in works)


@pytest.mark.parametrize(("running", "other"), [(ONE_EACH, ALL_ON_ONE), (ALL_ON_ONE, ONE_EACH), (ONE_EACH, ONE_EACH)])
def test_a_gather_of_a_deleted_run_ends_no_node_of_the_run_with_its_id(
    backend: FakeBackend, running: int | None, other: int | None
) -> None:
    """Its worker hung while it was about to launch, and has not heard yet that the run is gone."""
    backend.endings |= {("gather", -1): hangs(), ("gather", -2): hangs()}
    rig = a_finished_rig(backend)
    olds = rig.gather_work().in_parts(other)
    backend.clock.sleep(60)
    again = Rig(backend, a_plan(2, allow_missing=True))
    again.create()
    works = begun(again, 1, running)
    deleted = backend.count("delete_node")
    for work in olds:
        advance(backend, work, rig.observe(), rig._launcher(work))
    assert backend.count("delete_node") == deleted
    assert all(not backend.nodes[work.node_name].stop_at for work in works)
