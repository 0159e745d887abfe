"""Gathering: what is read, what is missing, and what counts as collected from then on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_rankvol.engine.step import advance, stop_own
from airflow_rankvol.engine.views import own_node
from airflow_rankvol.errors import (
    GatherFailed,
    GatherIncomplete,
    NoCapacity,
    Throttled,
)
from airflow_rankvol.testing import (
    FakeBackend,
    fails,
    hangs,
)

from .engine_kit import a_rig


def test_gather_reads_every_rank_and_marks_the_volumes_it_has_collected(backend: FakeBackend) -> None:
    rig = a_rig(backend=backend)
    for rank in range(3):
        rig.run_rank(rank)
    outcome = rig.gather()
    assert outcome.error is None
    assert outcome.result.output == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
    assert {disk.tags.collected for disk in backend.volumes.values() if disk.tags} == {rig.group.key}


def test_gather_names_the_ranks_without_a_record_and_collects_nothing(backend: FakeBackend) -> None:
    backend.endings[("rank", 1)] = fails()
    rig = a_rig(backend=backend)
    for rank in range(3):
        rig.run_rank(rank)
    outcome = rig.gather()
    assert isinstance(outcome.error, GatherIncomplete)
    assert outcome.error.missing == (1,)
    assert "no completion record of rank 1" in str(outcome.error)
    assert {disk.tags.collected for disk in backend.volumes.values() if disk.tags} == {""}


def test_gather_names_a_rank_whose_volume_is_gone(backend: FakeBackend) -> None:
    rig = a_rig(backend=backend)
    for rank in range(3):
        rig.run_rank(rank)
    del backend._world.disks[rig.slots[2].volumes[0].id]
    outcome = rig.gather()
    assert isinstance(outcome.error, GatherIncomplete)
    assert outcome.error.missing == (2,)


def test_with_allow_missing_gather_goes_on_and_only_the_others_count_as_collected(
    backend: FakeBackend,
) -> None:
    backend.endings[("rank", 1)] = fails()
    rig = a_rig(backend=backend, allow_missing=True)
    for rank in range(3):
        rig.run_rank(rank)
    outcome = rig.gather()
    assert outcome.error is None
    assert outcome.report is not None
    assert (outcome.report.collected, outcome.report.missing) == ((0, 2), (1,))
    tags = {disk.tags.rank: disk.tags.collected for disk in backend.volumes.values() if disk.tags}
    assert tags == {0: rig.group.key, 1: "", 2: rig.group.key}


def test_a_failing_gather_collects_nothing(backend: FakeBackend) -> None:
    backend.endings[("gather", -1)] = fails(2, log_tail="merge failed")
    rig = a_rig(2, backend=backend)
    for rank in range(2):
        rig.run_rank(rank)
    outcome = rig.gather()
    assert isinstance(outcome.error, GatherFailed)
    assert (outcome.error.exit_code, outcome.error.log_tail) == (2, "merge failed")
    assert {disk.tags.collected for disk in backend.volumes.values() if disk.tags} == {""}


def test_gather_ends_a_ranks_node_that_nobody_watches_any_more(backend: FakeBackend) -> None:
    backend.endings[("rank", 1)] = hangs()
    rig = a_rig(backend=backend, allow_missing=True)
    work = rig.begin(1)
    rig.launch(work)
    rig.until_attached(work)
    for rank in (0, 2):
        rig.run_rank(rank)
    outcome = rig.gather()
    assert outcome.error is None
    assert outcome.report is not None
    assert outcome.report.missing == (1,)


@pytest.mark.parametrize("when", ["before", "after", "midway"])
def test_collected_tags_are_set_again_when_the_call_failed(when: str) -> None:
    backend = FakeBackend()
    rig = a_rig(backend=backend)
    for rank in range(3):
        rig.run_rank(rank)
    backend.faults.fail("tag_volumes", Throttled, when=when, times=3)  # type: ignore[arg-type]
    assert rig.gather().error is None
    assert {disk.tags.collected for disk in backend.volumes.values() if disk.tags} == {rig.group.key}


def test_adopted_volumes_are_never_tagged() -> None:
    backend = FakeBackend()
    for rank in range(2):
        backend.add_volume(f"data-volume-{rank}")
    rig = a_rig(2, backend=backend, volume_template={"scope": "global"})
    for rank in range(2):
        rig.run_rank(rank)
    assert rig.gather().error is None
    assert [disk.tags for disk in backend.volumes.values()] == [None, None]


def test_only_a_volume_that_this_run_created_blank_may_be_formatted() -> None:
    backend = FakeBackend()
    backend.add_volume("data-volume-0")
    rig = a_rig(2, backend=backend, volume_template={"scope": "global"})
    for rank in range(2):
        rig.run_rank(rank)
    attachments = {node.request.tags.rank: node.request.attachments for node in backend.nodes.values()}
    assert {rank: item[0].may_format for rank, item in attachments.items()} == {0: False, 1: True}


def test_a_second_run_of_dag_scope_may_not_format_what_the_first_one_made() -> None:
    backend = FakeBackend()
    scoped: dict[str, Any] = {"volume_template": {"scope": "dag"}}
    one = a_rig(2, backend=backend, **scoped)
    one.run_rank(0)
    other = a_rig(2, backend=backend, run="run-2", **scoped)
    outcome = other.run_rank(0)
    assert (outcome.error, outcome.result.reused) == (None, False)
    node = backend.nodes[other.begin(0).node_name]
    assert not node.request.attachments[0].may_format


def test_a_rank_that_runs_again_ends_a_gather_that_nobody_watches_and_that_holds_its_volume(
    backend: FakeBackend,
) -> None:
    backend.endings[("gather", -1)] = hangs()
    rig = a_rig(2, backend=backend)
    for rank in range(2):
        rig.run_rank(rank)
    gather = rig.gather_work()
    rig.launch(gather)
    rig.until_attached(gather)
    assert rig.run_rank(1, try_number=2).error is None


@pytest.mark.parametrize("gone", [True, False])
def test_a_gather_that_waits_leaves_a_rank_alone_that_was_cleared_since(backend: FakeBackend, gone: bool) -> None:
    """Clearing a rank clears gather, too, but its trigger goes on for a moment, and so may its node."""
    backend.endings[("gather", -1)] = hangs()
    rig = a_rig(2, backend=backend)
    for rank in range(2):
        rig.run_rank(rank)
    gather = rig.gather_work()
    rig.launch(gather)
    backend.clock.sleep(5)
    if gone:
        stop_own(backend, gather)
        backend.clock.sleep(60)
    work = rig.start(1, try_number=2)
    deleted = backend.count("delete_node")
    outcome = rig.step(gather)
    assert outcome is not None or not gone
    assert backend.count("delete_node") == deleted
    assert own_node(work, rig.observe())


@pytest.mark.parametrize("roomy", [False, True], ids=["still without room", "room at last"])
def test_a_gather_that_is_still_launching_leaves_a_rank_alone_that_was_cleared_since(
    backend: FakeBackend, roomy: bool
) -> None:
    backend.endings |= {("gather", -1): hangs(), ("rank", 1, 2): hangs()}
    rig = a_rig(2, backend=backend)
    for rank in range(2):
        rig.run_rank(rank)
    gather = rig.gather_work()
    backend.faults.fail("create_node", NoCapacity)
    before = backend.count("create_node")
    while backend.count("create_node") == before:
        advance(backend, gather, rig.observe(), rig._launcher(gather))
        backend.clock.sleep(1)
    backend.clock.sleep(30)
    work = rig.start(1, try_number=2)
    if roomy:
        launched = replace(gather, slots=gather.slots[:1])  # what it asked for before rank 1 had its volume
        assert rig.launch(launched) is None
    deleted = backend.count("delete_node")
    for _ in range(20):
        advance(backend, gather, rig.observe(), rig._launcher(gather))
        backend.clock.sleep(1)
    assert backend.count("delete_node") == deleted
    assert own_node(work, rig.observe())
    assert rig.step(work) is None
