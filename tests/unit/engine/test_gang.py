"""Nodes that start together: launched by whoever comes first; released, failed and restarted as one."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations

import pytest

from airflow_rankvol.engine.views import free_mounts
from airflow_rankvol.errors import DeadlineExceeded, NoCapacity, RankFailed, Throttled
from airflow_rankvol.records import NodeState, VolumeState
from airflow_rankvol.spec.templates import NodeTemplate
from airflow_rankvol.testing import (
    FakeBackend,
    SimulatedCrash,
    never_boots,
)

from .engine_kit import a_gang, all_launched


def test_twenty_ranks_of_which_one_steps_at_a_time_do_not_deadlock(backend: FakeBackend) -> None:
    rig = a_gang(20, backend=backend)
    assert [rig.run_rank(rank).error for rank in range(20)] == [None] * 20
    assert len(backend.nodes) == 20
    started = {node.started_at for node in backend.nodes.values()}
    assert len(started) == 1


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_whichever_rank_comes_first_launches_all_and_the_others_adopt(order: tuple[int, ...]) -> None:
    backend = FakeBackend()
    rig = a_gang(backend=backend)
    assert [rig.run_rank(rank).error for rank in order] == [None] * 3
    assert len(backend.nodes) == 3


def test_every_node_learns_the_same_about_its_peers_in_rank_order(backend: FakeBackend) -> None:
    rig = a_gang(backend=backend)
    for rank in range(3):
        rig.run_rank(rank)
    messages = {tuple(node.message.items()) for node in backend.nodes.values()}
    assert len(messages) == 1
    message = dict(messages.pop())
    addresses = {node.request.tags.rank: node.address for node in backend.nodes.values()}
    assert message["NODES_IPS"].split("\n") == [addresses[rank] for rank in range(3)]
    assert message["MASTER_ADDR"] == message["MASTER_NODE_IP"] == addresses[0]
    assert 20000 <= int(message["MASTER_PORT"]) < 30000


def test_nothing_starts_before_every_node_is_up(backend: FakeBackend) -> None:
    backend.endings[("rank", 2)] = never_boots()
    rig = a_gang(backend=backend, node=NodeTemplate(boot_timeout=timedelta(minutes=3)))
    outcomes = rig.until_end(*all_launched(rig))
    assert all(isinstance(outcome.error, DeadlineExceeded | RankFailed) for outcome in outcomes)
    assert "not up: rank 2" in " ".join(str(outcome.error) for outcome in outcomes)
    assert not any(node.started_at for node in backend.nodes.values())
    backend.clock.sleep(60)
    assert all(node.phase == "ended" for node in backend.nodes.values())


def test_a_process_that_dies_between_two_launches_is_continued_by_any_other_rank(
    backend: FakeBackend,
) -> None:
    rig = a_gang(4, backend=backend)
    backend.faults.fail("create_node", SimulatedCrash(), when="after", resource="-r1-")
    with pytest.raises(SimulatedCrash):
        rig.run_rank(0)
    backend.revive()
    assert len(backend.nodes) == 2
    outcomes = [rig.run_rank(rank) for rank in (3, 0, 1, 2)]
    assert [outcome.error for outcome in outcomes] == [None] * 4
    assert {outcome.result.attempt for outcome in outcomes} == {1}


def test_a_zone_that_is_full_for_a_while_delays_the_gang_and_does_not_break_it() -> None:
    backend = FakeBackend()
    rig = a_gang(4, backend=backend)
    backend.faults.fail("create_node", NoCapacity, resource="-r2-", times=20)
    assert [rig.run_rank(rank).error for rank in range(4)] == [None] * 4


@pytest.mark.parametrize("when", ["before", "midway", "after"])
def test_a_release_that_reached_only_some_nodes_is_repeated_by_a_rank_that_was_told(
    backend: FakeBackend, when: str
) -> None:
    rig = a_gang(4, backend=backend)
    backend.faults.fail("tell_nodes", Throttled, when=when, times=3)  # type: ignore[arg-type]
    assert rig.run_rank(0).error is None
    assert all(node.told_at for node in backend.nodes.values())


def test_a_gang_that_was_ready_while_nobody_looked_is_still_released() -> None:
    backend = FakeBackend(attach_at_launch=True)
    rig = a_gang(backend=backend)
    works = all_launched(rig)
    backend.clock.sleep(1200)
    assert [outcome.error for outcome in rig.until_end(*works)] == [None] * 3


def test_ranks_that_look_at_once_attach_each_its_own_volume() -> None:
    backend = FakeBackend()
    rig = a_gang(4, backend=backend)
    works = all_launched(rig)
    while any(node.state is not NodeState.RUNNING for node in rig.observe().nodes):
        backend.clock.sleep(1)
    seen = rig.observe()
    assert all(volume.state is VolumeState.AVAILABLE for volume in seen.volumes)
    wanted = [free_mounts(work, seen) for work in works]
    assert [[volume for volume, _ in mounts] for mounts in wanted] == [list(work.volume_ids) for work in works]
    # A rank whose volume is where it belongs sees to those whose tasks may not run.
    volume, node = wanted[0][0]
    backend.attach(volume, node.id)
    backend.clock.sleep(60)
    assert [volume for volume, _ in free_mounts(works[0], rig.observe())] == [work.volume_ids[0] for work in works[1:]]
