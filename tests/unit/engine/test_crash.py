"""A process may die after any call; what follows it cleans up, or goes on, and loses and leaks nothing."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.testing import FakeBackend, SimulatedCrash, Timings, fails, succeeds

from .engine_kit import Rig, a_plan, a_rig

NODES = 2
DAY_S = 86_400
# As few polls as each state needs to be seen: every one of them is a point to crash at.
QUICK = Timings(create_s=1, boot_s=2, attach_s=1, detach_s=1, terminate_s=2, delete_s=1)
BACKENDS: dict[str, dict[str, Any]] = {
    "attach by call": {"timings": QUICK},
    "ended nodes hold volumes": {"timings": QUICK, "attach_at_launch": True, "ended_nodes_hold_volumes": True},
    "listed long after its end": {"timings": replace(QUICK, linger_s=3600)},
}
HARDEST = {name: BACKENDS[name] for name in ("ended nodes hold volumes", "listed long after its end")}
ENDINGS = {("rank", 0): succeeds(after_s=1), ("rank", 1): succeeds(after_s=1), ("gather", -1): succeeds(after_s=1)}
JOBS: dict[str, dict[str, Any]] = {
    "alone": {},
    "gang": {"rendezvous": True},
    "allow missing": {"allow_missing": True},
    "delete always": {"volume_template": {"reclaim": "delete_always"}},
}


def a_backend(
    kind: dict[str, Any], endings: dict[Any, Any] = ENDINGS, *, crash_after: int | None = None
) -> FakeBackend:
    backend = FakeBackend(endings=endings, crash_after=crash_after, **kind)
    backend.poll_interval_s = 3.0
    return backend


def whole_way(rig: Rig, try_number: int = 1) -> None:
    """Do what the tasks of one run do, each in its own process, with one rank that may fail."""
    random.seed(0)  # the jitter of retries must not move the calls
    rig.create(try_number)
    for rank in range(NODES):
        rig.run_rank(rank, try_number)
    rig.gather(try_number)
    rig.teardown()


def a_way(backend: FakeBackend, job: dict[str, Any]) -> Rig:
    return Rig(backend, a_plan(NODES, **job))


def crash_points(kind: dict[str, Any], job: dict[str, Any], endings: dict[Any, Any] = ENDINGS) -> int:
    backend = a_backend(kind, endings)
    whole_way(a_way(backend, job))
    return len(backend.calls)


@pytest.mark.parametrize(
    ("job", "failing"),
    [("alone", False), ("gang", False), ("alone", True), ("gang", True), ("allow missing", True),
     ("delete always", True)],
)  # fmt: skip
@pytest.mark.parametrize("kind", BACKENDS.values(), ids=BACKENDS.keys())
def test_after_a_crash_at_any_call_the_teardown_leaves_nothing_unnamed_and_the_reaper_nothing_at_all(
    kind: dict[str, Any], job: str, failing: bool
) -> None:
    fields = JOBS[job]
    endings = ENDINGS | {("rank", 1): fails(after_s=1)} if failing else ENDINGS
    calls = crash_points(kind, fields, endings)
    for k in range(1, calls + 1):
        backend = a_backend(kind, endings, crash_after=k)
        rig = a_way(backend, fields)
        with pytest.raises(SimulatedCrash):
            whole_way(rig)
        backend.revive()
        report = rig.teardown()
        backend.clock.sleep(60)
        assert not backend.nodes, k
        assert set(backend.volumes) == {kept.name for kept in report.kept}, k
        assert all(kept.expiry for kept in report.kept), k
        if job == "delete always":
            assert not report.kept, k
        backend.clock.sleep(2 * DAY_S)
        rig.reap(RunState.UNKNOWN)
        assert backend.is_empty, k


@pytest.mark.parametrize("job", [JOBS["alone"], JOBS["gang"]], ids=["alone", "gang"])
@pytest.mark.parametrize("kind", HARDEST.values(), ids=HARDEST.keys())
def test_without_any_teardown_the_reaper_alone_removes_everything_once_it_has_expired(
    kind: dict[str, Any], job: dict[str, Any]
) -> None:
    for k in range(1, crash_points(kind, job) + 1):
        backend = a_backend(kind, crash_after=k)
        rig = a_way(backend, job)
        with pytest.raises(SimulatedCrash):
            whole_way(rig)
        backend.revive()
        assert rig.reap(RunState.LIVE) == ([], {}), k
        backend.clock.sleep(3 * DAY_S)
        rig.reap(RunState.UNKNOWN)
        backend.clock.sleep(60)
        assert backend.is_empty, k


@pytest.mark.parametrize("job", [JOBS["alone"], JOBS["gang"]], ids=["alone", "gang"])
@pytest.mark.parametrize("kind", HARDEST.values(), ids=HARDEST.keys())
def test_a_run_from_the_begin_after_a_crash_at_any_call_succeeds_and_leaves_nothing(
    kind: dict[str, Any], job: dict[str, Any]
) -> None:
    for k in range(1, crash_points(kind, job) + 1):
        backend = a_backend(kind, crash_after=k)
        rig = a_way(backend, job)
        with pytest.raises(SimulatedCrash):
            whole_way(rig)
        backend.revive()
        rig.create(2)
        assert [rig.run_rank(rank, 2).error for rank in range(NODES)] == [None] * NODES, k
        assert rig.gather(2).error is None, k
        assert not rig.teardown().kept, k
        backend.clock.sleep(60)
        assert backend.is_empty, k


@pytest.mark.parametrize("kind", BACKENDS.values(), ids=BACKENDS.keys())
@pytest.mark.parametrize("gang", [False, True], ids=["alone", "gang"])
def test_a_triggerer_that_dies_at_any_call_is_followed_by_one_that_ends_with_the_same_result(
    kind: dict[str, Any], gang: bool
) -> None:
    k = 0
    while True:
        k += 1
        backend = a_backend(kind)
        rig = a_rig(NODES, backend=backend, rendezvous=gang)
        works = [rig.begin(rank) for rank in range(NODES)]
        for work in works:
            rig.launch(work)
        backend.revive(crash_after=k)
        try:
            rig.until_end(*works)
        except SimulatedCrash:
            backend.revive()
        else:
            assert k > 5
            return
        assert [outcome.error for outcome in rig.until_end(*works)] == [None] * NODES, k


@pytest.mark.parametrize("kind", BACKENDS.values(), ids=BACKENDS.keys())
def test_a_gather_that_dies_at_any_call_is_followed_by_one_that_gathers_all(kind: dict[str, Any]) -> None:
    k = 0
    while True:
        k += 1
        backend = a_backend(kind)
        rig = a_rig(NODES, backend=backend)
        for rank in range(NODES):
            rig.run_rank(rank)
        backend.revive(crash_after=k)
        try:
            rig.gather()
        except SimulatedCrash:
            backend.revive()
        else:
            assert k > 5
            return
        assert rig.gather(2).result.output == [{"rank": 0}, {"rank": 1}], k
        assert len(rig.teardown().deleted) == NODES, k


@pytest.mark.parametrize("kind", BACKENDS.values(), ids=BACKENDS.keys())
def test_no_crash_ever_makes_a_finished_rank_compute_again(kind: dict[str, Any]) -> None:
    for k in range(1, crash_points(kind, {}) + 1):
        backend = a_backend(kind, crash_after=k)
        rig = a_way(backend, {})
        with pytest.raises(SimulatedCrash):
            whole_way(rig)
        backend.revive()
        finished = {disk.name for disk in backend.volumes.values() if disk.record and not disk.gone_at}
        rig.create(2)
        for rank in range(NODES):
            outcome = rig.run_rank(rank, 2)
            assert outcome.result.reused or rig.slots[rank].volumes[0].name not in finished, k
