"""Nodes that start together: launched by whoever comes first; released, failed and restarted as one."""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import permutations

import pytest

from airflow_rankvol.backends.base import Guard
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import AuthDenied, DeadlineExceeded, NoCapacity, RankFailed, Throttled
from airflow_rankvol.spec.templates import NodeTemplate
from airflow_rankvol.testing import (
    Ending,
    FakeBackend,
    SimulatedCrash,
    Timings,
    fails,
    hangs,
    is_lost,
    never_boots,
    succeeds,
)

from .engine_kit import Rig, a_rig

BACKENDS = {
    "attach by call": {},
    "attach at launch": {"attach_at_launch": True},
    "ended nodes hold volumes": {"attach_at_launch": True, "ended_nodes_hold_volumes": True},
    "seen late, listed long": {"timings": Timings(lag_s=7, linger_s=3600)},
    "seen late with its volume": {"attach_at_launch": True, "timings": Timings(lag_s=7)},
}


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS.keys())
def backend(request: pytest.FixtureRequest) -> FakeBackend:
    return FakeBackend(**request.param)


def a_gang(nodes: int = 3, *, backend: FakeBackend, **job: object) -> Rig:
    short = {"node": NodeTemplate(lifetime=timedelta(minutes=30)), **job}
    return a_rig(nodes, backend=backend, rendezvous=True, **short)


def kill(rig: Rig, work: Work) -> None:
    node = rig.backend.nodes[work.node_name]
    rig.backend.delete_node(node.id, Guard(owner=rig.group.owner, key=rig.group.key))
    rig.backend.clock.sleep(60)


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
    outcomes = rig.until_end(*_launched(rig))
    assert all(isinstance(outcome.error, DeadlineExceeded | RankFailed) for outcome in outcomes)
    assert "not up: rank 2" in " ".join(str(outcome.error) for outcome in outcomes)
    assert not any(node.started_at for node in backend.nodes.values())
    backend.clock.sleep(60)
    assert all(node.phase == "ended" for node in backend.nodes.values())


def _launched(rig: Rig) -> list[Work]:
    works = [rig.begin(rank) for rank in range(rig.plan.job.nodes)]
    for work in works:
        assert rig.launch(work) is None
    return works


def test_a_process_that_dies_between_two_launches_is_continued_by_any_other_rank(
    backend: FakeBackend,
) -> None:
    rig = a_gang(4, backend=backend)
    backend.faults.fail("create_node", SimulatedCrash(), when="after", call=2)
    with pytest.raises(SimulatedCrash):
        rig.run_rank(0)
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
    works = _launched(rig)
    backend.clock.sleep(1200)
    assert [outcome.error for outcome in rig.until_end(*works)] == [None] * 3


@pytest.mark.parametrize("first", [0, 1, 2])
def test_one_failing_rank_ends_the_gang_and_every_other_rank_names_it(
    backend: FakeBackend, first: int
) -> None:
    backend.endings = {("rank", rank): hangs() for rank in range(3)}
    backend.endings[("rank", 1)] = fails(9)
    rig = a_gang(backend=backend)
    works = _launched(rig)
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
    rig.until_end(*_launched(rig))
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
    works = _launched(rig)
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
    works = _launched(rig)
    rig.until_attached(*works)
    outcome = rig.run_rank(0, try_number=2)
    assert (outcome.error, outcome.result.attempt) == (None, 1)
    assert [outcome.error for outcome in rig.until_end(*works)] == [None] * 3


def test_a_lost_node_breaks_the_gang_and_is_named(backend: FakeBackend) -> None:
    backend.endings = {("rank", rank): hangs() for rank in range(3)}
    backend.endings[("rank", 2)] = is_lost()
    rig = a_gang(backend=backend)
    outcomes = rig.until_end(*_launched(rig))
    assert "rank 2 was lost" in str(outcomes[0].error)
    assert all(outcome.error for outcome in outcomes)


def test_a_node_that_a_user_killed_while_it_ran_breaks_the_gang(backend: FakeBackend) -> None:
    backend.endings = {("rank", rank): hangs() for rank in range(3)}
    rig = a_gang(backend=backend)
    works = _launched(rig)
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
    works = _launched(rig)
    kill(rig, works[1])
    assert rig.step(works[0]) is None
    assert rig.run_rank(1, try_number=2).error is None
    assert [outcome.error for outcome in rig.until_end(works[0], works[2])] == [None] * 2


def test_a_rank_that_finished_keeps_its_success_when_a_peer_fails_later(backend: FakeBackend) -> None:
    backend.endings = {("rank", 0): succeeds(after_s=5), ("rank", 1): fails(9, after_s=60)}
    rig = a_gang(2, backend=backend)
    outcomes = rig.until_end(*_launched(rig))
    assert [outcome.result.exit_code for outcome in outcomes] == [0, 9]


def test_a_rank_that_writes_no_json_fails_the_gang_and_the_retry_computes_again() -> None:
    backend = FakeBackend(endings={("rank", 1, 1): Ending(0, output="no json")})
    rig = a_gang(backend=backend)
    outcomes = rig.until_end(*_launched(rig))
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
    assert [outcome.error is None for outcome in rig.until_end(*_launched(rig))] == [True, False]
    assert rig.run_rank(1, try_number=2).error is None
    outcome = rig.gather()
    assert outcome.error is None
    assert outcome.result.output == [{"rank": 0}, {"rank": 1}]


def test_a_gang_ends_where_its_nodes_cannot_be_ended_and_says_so() -> None:
    backend = FakeBackend(endings={("rank", rank): hangs() for rank in range(3)} | {("rank", 0): fails(9)})
    rig = a_gang(backend=backend)
    works = _launched(rig)
    backend.faults.fail("delete_node", AuthDenied, times=math.inf)
    outcomes = rig.until_end(*works)
    assert outcomes[0].result.exit_code == 9
    assert all("could not be ended" in outcome.error.__notes__[0] for outcome in outcomes if outcome.error)
