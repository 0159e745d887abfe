"""A gang fails as one, names its culprit, and is restarted as one."""

from __future__ import annotations

import math
import re

import pytest

from airflow_rankvol.backends.base import Guard
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import AuthDenied, NoCapacity, RankFailed
from airflow_rankvol.testing import (
    Ending,
    FakeBackend,
    Timings,
    fails,
    hangs,
    is_lost,
    succeeds,
)

from .engine_kit import Rig, a_gang, all_launched


def kill(rig: Rig, work: Work) -> None:
    node = rig.backend.nodes[work.node_name]
    rig.backend.delete_node(node.id, Guard(owner=rig.group.owner, key=rig.group.key))
    rig.backend.clock.sleep(60)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_one_failing_rank_ends_the_gang_and_every_other_rank_names_it(backend: FakeBackend, first: int) -> None:
    backend.endings = {("rank", rank): hangs() for rank in range(3)}
    backend.endings[("rank", 1)] = fails(9)
    rig = a_gang(backend=backend)
    works = all_launched(rig)
    outcomes = rig.until_end(*works[first:], *works[:first])
    by_rank = {outcome.result.rank: outcome for outcome in outcomes}
    assert by_rank[1].result.exit_code == 9
    for rank in (0, 2):
        assert isinstance(by_rank[rank].error, RankFailed)
        assert "rank 1 ended with exit code 9" in str(by_rank[rank].error), rank
        assert by_rank[rank].result.exit_code is None
    backend.clock.sleep(60)
    assert all(node.phase == "ended" for node in backend.nodes.values())


def test_a_rank_whose_task_starts_after_the_gang_failed_names_the_culprit_and_launches_nothing(
    backend: FakeBackend,
) -> None:
    backend.endings = {("rank", rank): hangs() for rank in range(3)}
    backend.endings[("rank", 2)] = fails(9)
    rig = a_gang(backend=backend)
    assert "rank 2 ended with exit code 9" in str(rig.run_rank(0).error)
    backend.clock.sleep(60)
    launches = backend.count("create_node")
    late = rig.run_rank(1)
    assert "rank 2 ended with exit code 9" in str(late.error)
    assert backend.count("create_node") == launches
    assert rig.run_rank(2).result.exit_code == 9


def test_the_retries_of_a_failed_gang_restart_it_as_one(backend: FakeBackend) -> None:
    backend.endings = {("rank", rank, 1): hangs() for rank in range(3)}
    backend.endings[("rank", 1, 1)] = fails(9)
    rig = a_gang(backend=backend)
    rig.until_end(*all_launched(rig))
    outcomes = [rig.run_rank(rank, try_number=2) for rank in (2, 0, 1)]
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert {outcome.result.attempt for outcome in outcomes} == {2}
    assert all({"attempt-1", "attempt-2"} <= disk.files for disk in backend.volumes.values())


def test_a_rank_that_is_still_on_its_first_try_joins_the_restarted_gang(backend: FakeBackend) -> None:
    backend.endings[("rank", 0, 1)] = fails(9)
    rig = a_gang(backend=backend)
    assert rig.run_rank(0).error is not None
    assert rig.run_rank(0, try_number=2).error is None
    late = [rig.run_rank(rank) for rank in (1, 2)]
    assert [(outcome.error, outcome.result.attempt) for outcome in late] == [(None, 2)] * 2


def test_a_rank_that_waits_for_the_old_gang_gives_way_and_its_retry_joins_the_new_one(
    backend: FakeBackend,
) -> None:
    backend.endings = {("rank", rank, 1): hangs() for rank in range(3)}
    backend.endings[("rank", 0, 1)] = fails(9)
    rig = a_gang(backend=backend)
    works = all_launched(rig)
    rig.until_end(works[0])
    again = rig.begin(0, try_number=2)
    assert again.attempt == 2
    assert rig.launch(again) is None
    stale = rig.step(works[1])
    assert stale is not None
    assert stale.error is not None
    assert rig.begin(1, try_number=2).attempt == 2
    assert [rig.run_rank(rank, try_number=2).error for rank in range(3)] == [None] * 3


def test_a_retry_of_a_rank_whose_worker_died_goes_on_with_the_gang_that_runs(backend: FakeBackend) -> None:
    backend.endings = {("rank", rank): succeeds(after_s=600) for rank in range(3)}
    rig = a_gang(backend=backend)
    works = all_launched(rig)
    rig.until_attached(*works)
    outcome = rig.run_rank(0, try_number=2)
    assert (outcome.error, outcome.result.attempt) == (None, 1)
    assert [outcome.error for outcome in rig.until_end(*works)] == [None] * 3


def test_a_lost_node_breaks_the_gang_and_is_named(backend: FakeBackend) -> None:
    backend.endings = {("rank", rank): hangs() for rank in range(3)}
    backend.endings[("rank", 2)] = is_lost()
    rig = a_gang(backend=backend)
    outcomes = rig.until_end(*all_launched(rig))
    assert "rank 2 was lost" in str(outcomes[0].error)
    assert all(outcome.error for outcome in outcomes)


def test_a_node_that_the_cloud_refused_after_its_launch_breaks_the_gang_and_its_peers_say_why(
    backend: FakeBackend,
) -> None:
    """Its peers were ended because of it, so none of them is the culprit, whatever its rank."""
    backend.endings = {("rank", rank): hangs() for rank in range(3)}
    backend.endings[("rank", 2)] = is_lost(reason="no room", error=NoCapacity)
    rig = a_gang(backend=backend)
    first, second, refused = rig.until_end(*all_launched(rig))
    assert type(refused.error) is NoCapacity
    for peer in (first, second):
        assert isinstance(peer.error, RankFailed)
        assert re.search(r"rank 2 was lost \(node .*: no room\)", str(peer.error))


def test_a_node_that_a_user_killed_while_it_ran_breaks_the_gang(backend: FakeBackend) -> None:
    backend.endings = {("rank", rank): hangs() for rank in range(3)}
    rig = a_gang(backend=backend)
    works = all_launched(rig)
    while not all(node.told_at for node in backend.nodes.values()):
        for work in works:
            assert rig.step(work) is None
        backend.clock.sleep(1)
    kill(rig, works[1])
    outcomes = rig.until_end(works[0], works[2])
    assert all(isinstance(outcome.error, RankFailed) for outcome in outcomes)
    assert "rank 1" in str(outcomes[0].error)


def test_a_node_that_was_killed_before_the_start_is_launched_again_by_its_retry() -> None:
    backend = FakeBackend(attach_at_launch=True)
    rig = a_gang(backend=backend)
    works = all_launched(rig)
    kill(rig, works[1])
    assert rig.step(works[0]) is None
    assert rig.run_rank(1, try_number=2).error is None
    assert [outcome.error for outcome in rig.until_end(works[0], works[2])] == [None] * 2


def test_a_rank_that_finished_keeps_its_success_when_a_peer_fails_later(backend: FakeBackend) -> None:
    backend.endings = {("rank", 0): succeeds(after_s=5), ("rank", 1): fails(9, after_s=60)}
    rig = a_gang(2, backend=backend)
    outcomes = rig.until_end(*all_launched(rig))
    assert [outcome.result.exit_code for outcome in outcomes] == [0, 9]


def test_a_rank_that_writes_no_json_fails_the_gang_and_the_retry_computes_again() -> None:
    backend = FakeBackend(endings={("rank", 1, 1): Ending(0, output="no json")})
    rig = a_gang(backend=backend)
    outcomes = rig.until_end(*all_launched(rig))
    assert "not JSON" in str(outcomes[1].error)
    backend.clock.sleep(60)
    again = rig.run_rank(1, try_number=2)
    assert (again.error, again.result.attempt) == (None, 2)


def test_gather_waits_for_the_ranks_that_a_restarted_gang_computes_again() -> None:
    backend = FakeBackend(
        endings={
            ("rank", 0, 1): succeeds(after_s=1),
            ("rank", 1, 1): fails(9, after_s=20),
            ("rank", 0, 2): succeeds(after_s=120),  # nobody watches it: its task has succeeded
        }
    )
    rig = a_gang(2, backend=backend)
    assert [outcome.error is None for outcome in rig.until_end(*all_launched(rig))] == [True, False]
    assert rig.run_rank(1, try_number=2).error is None
    outcome = rig.gather()
    assert outcome.error is None
    assert outcome.result.output == [{"rank": 0}, {"rank": 1}]


def test_a_gang_ends_where_its_nodes_cannot_be_ended_and_says_so() -> None:
    backend = FakeBackend(endings={("rank", rank): hangs() for rank in range(3)} | {("rank", 0): fails(9)})
    rig = a_gang(backend=backend)
    works = all_launched(rig)
    backend.faults.fail("delete_node", AuthDenied, times=math.inf)
    outcomes = rig.until_end(*works)
    assert outcomes[0].result.exit_code == 9
    assert all("could not be ended" in outcome.error.__notes__[0] for outcome in outcomes if outcome.error)


def test_a_group_that_is_cleared_after_its_teardown_starts_a_new_gang_though_the_old_one_is_still_listed() -> None:
    backend = FakeBackend(timings=Timings(linger_s=3600))
    rig = a_gang(backend=backend)
    for rank in range(3):
        rig.run_rank(rank)
    assert rig.gather().error is None
    rig.teardown()
    rig.create(generation=2)
    outcomes = [rig.run_rank(rank, try_number=2) for rank in range(3)]
    assert [(outcome.error, outcome.result.attempt) for outcome in outcomes] == [(None, 2)] * 3
    assert rig.gather(2).error is None
