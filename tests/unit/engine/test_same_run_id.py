"""A run that was deleted in Airflow, and another one with its id: what the first one's nodes did is not its doing."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_rankvol.errors import RankFailed
from airflow_rankvol.testing import FakeBackend, fails, hangs, succeeds
from tests.unit.engine.engine_kit import Rig, a_gang, a_plan, a_rig, all_launched


def again(rig: Rig, **job: Any) -> Rig:
    """Return the run that has the same id, begun anew: every task is at its first try."""
    other = Rig(rig.backend, a_plan(len(rig.slots), **job))
    other.create()
    return other


def test_a_failure_is_not_the_next_runs() -> None:
    backend = FakeBackend(endings={("rank", 0): fails(3)})
    first = a_rig(1, backend=backend)
    assert isinstance(first.run_rank(0).error, RankFailed)
    backend.endings[("rank", 0)] = succeeds()
    second = again(first, commands=["mended"])
    outcome = second.run_rank(0)
    assert outcome.error is None
    assert backend.count("create_node") == 2


def test_another_jobs_results_are_not_returned_nor_gathered() -> None:
    """The volumes were kept, the commands are others: all is computed, and gathered, once more."""
    backend = FakeBackend()
    first = a_rig(2, backend=backend)
    before = {first.run_rank(rank).result.node_id for rank in range(2)} | {first.gather().result.node_id}
    second = again(first, commands=["other"])
    outcomes = [second.run_rank(rank) for rank in range(2)]
    gathered = second.gather()
    assert [outcome.error for outcome in (*outcomes, gathered)] == [None, None, None]
    assert not before & {outcome.result.node_id for outcome in (*outcomes, gathered)}
    assert not any(outcome.result.reused for outcome in outcomes)


def test_the_same_job_still_finds_its_completion_record() -> None:
    """That says what it is a result of: the same run id, group, rank and digest."""
    first = a_rig(1, backend=FakeBackend())
    first.run_rank(0)
    assert again(first).run_rank(0).result.reused


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_node_that_still_runs_goes_before_the_new_one_comes(attempt: int) -> None:
    """Also one of a later attempt than the new run has reached."""
    backend = FakeBackend(endings={("rank", 0): hangs()})
    first = a_rig(1, backend=backend)
    old = first.work(0, attempt)
    first.launch(old)
    first.until_attached(old)
    backend.endings[("rank", 0)] = succeeds()
    outcome = again(first, commands=["other"]).run_rank(0)
    assert outcome.error is None
    assert old.node_name not in backend.nodes or backend.nodes[old.node_name].stop_at


def test_who_still_waits_for_the_old_node_leaves_the_new_one_alone() -> None:
    """A trigger that nobody has told of its run's end ends by itself."""
    backend = FakeBackend(endings={("rank", 0): hangs()})
    first = a_rig(1, backend=backend)
    old = first.begin(0)
    first.launch(old)
    first.until_attached(old)
    second = again(first)
    new = second.begin(0)
    second.launch(new)
    (outcome,) = first.until_end(old)
    assert outcome.error is not None
    assert new.node_name in backend.nodes
    assert not backend.nodes[new.node_name].stop_at


def test_a_gang_starts_anew_as_one() -> None:
    backend = FakeBackend(endings={("rank", 1): fails(4)})
    first = a_gang(3, backend=backend)
    assert any(outcome.error for outcome in first.until_end(*all_launched(first)))
    backend.endings.clear()
    second = again(first, rendezvous=True)
    works = all_launched(second)
    assert {work.attempt for work in works} == {1}
    assert [outcome.error for outcome in second.until_end(*works)] == [None] * 3
