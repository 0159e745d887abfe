"""One rank's node from launch to result, through everything that can happen to it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from airflow_rankvol.backends.base import BY_ITSELF
from airflow_rankvol.engine.decide import Action, decide
from airflow_rankvol.engine.views import situation_of
from airflow_rankvol.errors import (
    DeadlineExceeded,
    NoCapacity,
    RankFailed,
    VolumeConflict,
)
from airflow_rankvol.records import RankResult, VolumeState
from airflow_rankvol.spec.templates import NodeTemplate
from airflow_rankvol.testing import (
    Ending,
    FakeBackend,
    fails,
    hangs,
    is_lost,
    never_boots,
    succeeds,
)

from .engine_kit import a_rig


def test_a_rank_that_succeeds_gives_its_output_and_its_times(backend: FakeBackend) -> None:
    backend.endings[("rank", 1)] = succeeds({"rows": 7}, log_tail="done")
    outcome = a_rig(backend=backend).run_rank(1)
    assert outcome.error is None
    result = outcome.result
    assert (result.rank, result.exit_code, result.output, result.log_tail) == (1, 0, {"rows": 7}, "done")
    assert (result.attempt, result.reused) == (1, False)
    assert list(result.events) == ["create", "launch", "attach", "run", "finish"]
    assert list(result.events.values()) == sorted(result.events.values())
    assert all(result.events.values())
    assert backend.volumes[result.volumes[0].name].files == {"attempt-1"}


def test_a_failing_command_gives_its_exit_code_and_the_end_of_its_log(backend: FakeBackend) -> None:
    backend.endings[("rank", 2)] = fails(3, log_tail="no such file")
    outcome = a_rig(backend=backend).run_rank(2)
    assert isinstance(outcome.error, RankFailed)
    assert (outcome.error.rank, outcome.error.exit_code, outcome.error.log_tail) == (2, 3, "no such file")
    assert "rank 2 of 3 ended with exit code 3" in str(outcome.error)
    assert (outcome.result.exit_code, outcome.result.log_tail) == (3, "no such file")


def test_the_other_ranks_do_not_notice_a_failed_one(backend: FakeBackend) -> None:
    backend.endings[("rank", 0)] = fails()
    rig = a_rig(backend=backend)
    outcomes = [rig.run_rank(rank) for rank in range(3)]
    assert [outcome.error is None for outcome in outcomes] == [False, True, True]


def test_a_lost_node_is_named_with_its_reason_and_keeps_its_volume(backend: FakeBackend) -> None:
    backend.endings[("rank", 0)] = is_lost(reason="reclaimed")
    outcome = a_rig(backend=backend).run_rank(0)
    assert isinstance(outcome.error, RankFailed)
    assert "ended without a report (reclaimed); its volume is kept" in str(outcome.error)
    assert outcome.result.exit_code is None
    assert len(backend.volumes) == 3


def test_a_node_that_the_cloud_refused_after_its_launch_fails_like_a_launch_that_is_refused(
    backend: FakeBackend,
) -> None:
    backend.endings[("rank", 0)] = is_lost(reason="no room", step="Name several machine types", error=NoCapacity)
    outcome = a_rig(backend=backend).run_rank(0)
    assert type(outcome.error) is NoCapacity
    assert str(outcome.error).endswith(
        "ended without a report (no room); its volume is kept. Name several machine types. A retry starts a fresh node "
        "with the same volume"
    )
    assert len(backend.volumes) == 3


def test_a_node_that_was_refused_is_no_node_that_outlived_its_lifetime_however_late_one_looks(
    backend: FakeBackend,
) -> None:
    backend.endings[("rank", 0)] = is_lost(reason="no room", error=NoCapacity)
    rig = a_rig(backend=backend)
    work = rig.begin(0)
    assert rig.launch(work) is None
    rig.until_attached(work)
    backend.clock.sleep(60)
    assert rig.observe().nodes[0].error is NoCapacity
    backend.clock.sleep(work.lifetime_s)
    (outcome,) = rig.until_end(work)
    assert type(outcome.error) is NoCapacity


def test_a_node_that_was_lost_for_a_reason_of_its_own_has_the_next_step_of_that(backend: FakeBackend) -> None:
    backend.endings[("rank", 0)] = is_lost(reason="reclaimed", step="Drop spot")
    outcome = a_rig(backend=backend).run_rank(0)
    assert isinstance(outcome.error, RankFailed)
    assert "(reclaimed); its volume is kept. Drop spot. A retry" in str(outcome.error)


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("reclaimed", "without a report (reclaimed)"),
        (BY_ITSELF, "outlived its lifetime"),
        ("", "outlived its lifetime"),
    ],
)
def test_a_node_that_was_lost_for_a_known_reason_has_not_outlived_its_lifetime_however_late_one_looks(
    backend: FakeBackend, reason: str, shown: str
) -> None:
    backend.endings[("rank", 0)] = is_lost(reason=reason)
    rig = a_rig(backend=backend)
    work = rig.begin(0)
    assert rig.launch(work) is None
    rig.until_attached(work)
    backend.clock.sleep(work.lifetime_s + 60)
    (outcome,) = rig.until_end(work)
    assert shown in str(outcome.error)


def test_a_node_that_never_boots_is_removed_after_the_boot_limit_with_its_volume_kept(
    backend: FakeBackend,
) -> None:
    backend.endings[("rank", 0)] = never_boots()
    rig = a_rig(backend=backend, node=NodeTemplate(boot_timeout=timedelta(minutes=3)))
    begin = backend.clock.now()
    outcome = rig.run_rank(0)
    assert isinstance(outcome.error, DeadlineExceeded)
    assert "within 180 s" in str(outcome.error)
    assert timedelta(minutes=3) < backend.clock.now() - begin < timedelta(minutes=4)
    backend.clock.sleep(60)
    assert not backend.nodes
    assert len(backend.volumes) == 3


@pytest.mark.parametrize("capped_by", ["the backend", "the engine"])
def test_a_node_past_its_lifetime_is_ended_and_its_volume_kept(backend: FakeBackend, capped_by: str) -> None:
    backend.endings[("rank", 0)] = hangs()
    rig = a_rig(backend=backend, node=NodeTemplate(lifetime=timedelta(minutes=10)))
    work = rig.begin(0)
    assert rig.launch(work) is None
    if capped_by == "the engine":
        object.__setattr__(backend.nodes[work.node_name].request, "lifetime_s", 1e9)
    (outcome,) = rig.until_end(work)
    assert isinstance(outcome.error, DeadlineExceeded)
    assert "lifetime of 600 s" in str(outcome.error)
    backend.clock.sleep(60)
    assert all(node.phase == "ended" for node in backend.nodes.values())
    assert len(backend.volumes) == 3


def test_a_result_is_taken_even_when_it_is_looked_at_long_after_every_deadline(backend: FakeBackend) -> None:
    rig = a_rig(backend=backend)
    work = rig.begin(0)
    rig.launch(work)
    rig.until_attached(work)
    backend.clock.sleep(timedelta(days=30).total_seconds())
    outcome = rig.step(work)
    assert outcome is not None
    assert outcome.error is None


def test_collecting_can_be_repeated_by_the_process_that_follows_a_dead_one(backend: FakeBackend) -> None:
    rig = a_rig(backend=backend)
    work = rig.begin(0)
    first = rig.run(work)
    backend.clock.sleep(600)
    again = rig.step(work)
    assert again is not None
    assert again.error is None
    assert _timeless(again.result) == _timeless(first.result)


def _timeless(result: RankResult) -> dict[str, object]:
    return {name: value for name, value in result.to_dict().items() if name != "events"}


def test_a_rank_waits_for_its_node_to_run_before_it_attaches() -> None:
    backend = FakeBackend()
    a_rig(backend=backend).run_rank(0)
    assert backend.count("attach") == 1


def test_a_retry_removes_the_older_attempt_first_and_finds_its_files(backend: FakeBackend) -> None:
    backend.endings[("rank", 0, 1)] = hangs()
    rig = a_rig(backend=backend)
    old = rig.begin(0)
    rig.launch(old)
    rig.until_attached(old)
    backend.clock.sleep(30)
    outcome = rig.run_rank(0, try_number=2)
    assert outcome.error is None
    assert outcome.result.attempt == 2
    assert old.node_name not in backend.nodes or backend.nodes[old.node_name].stop_at
    assert backend.volumes[rig.slots[0].volumes[0].name].files == {"attempt-1", "attempt-2"}


def test_removing_an_older_attempt_asks_once_a_poll_and_not_more(backend: FakeBackend) -> None:
    backend.endings[("rank", 0, 1)] = hangs()
    rig = a_rig(backend=backend)
    rig.launch(rig.begin(0))
    rig.run_rank(0, try_number=2)
    assert backend.count("delete_node") < 15


def test_an_older_attempt_gives_way_to_a_newer_one_and_touches_nothing(backend: FakeBackend) -> None:
    rig = a_rig(backend=backend)
    old, new = rig.work(0, attempt=1), rig.work(0, attempt=2)
    rig.launch(new)
    backend.clock.sleep(10)
    calls = len(backend.calls)
    outcome = rig.run(old)
    assert isinstance(outcome.error, RankFailed)
    assert "gave way to a newer attempt" in str(outcome.error)
    assert {call.verb for call in backend.calls[calls:]} == {"observe"}
    (later,) = rig.until_end(new)
    assert later.error is None


def test_a_retry_after_success_returns_the_record_without_computing_again(backend: FakeBackend) -> None:
    backend.endings[("rank", 0, 1)] = succeeds({"rows": 1})
    backend.endings[("rank", 0, 2)] = fails()
    rig = a_rig(backend=backend)
    rig.run_rank(0)
    again = rig.run_rank(0, try_number=2)
    assert again.error is None
    assert (again.result.output, again.result.reused, again.result.attempt) == ({"rows": 1}, True, 2)
    assert backend.volumes[rig.slots[0].volumes[0].name].files == {"attempt-1"}


def test_a_retry_with_other_commands_computes_again(backend: FakeBackend) -> None:
    rig = a_rig(backend=backend)
    rig.run_rank(0)
    rig.plan = type(rig.plan)(
        rig.plan.identity, rig.plan.job.model_copy(update={"commands": ("other",)}), rig.plan.slots
    )
    assert not rig.run_rank(0, try_number=2).result.reused


def test_a_node_that_exists_already_is_adopted_and_not_launched_again(backend: FakeBackend) -> None:
    rig = a_rig(backend=backend)
    work = rig.begin(0)
    rig.launch(work)
    rig.launch(work)
    assert rig.run(work).error is None
    assert len([name for name in backend.nodes if "-r0-" in name]) == 1


def test_the_trigger_calls_a_node_that_is_gone_lost(backend: FakeBackend) -> None:
    rig = a_rig(backend=backend)
    outcome = rig.step(rig.begin(0))
    assert outcome is not None
    assert isinstance(outcome.error, RankFailed)
    assert "is gone before it reported" in str(outcome.error)


def test_a_missing_volume_is_named_with_the_next_step(backend: FakeBackend) -> None:
    rig = a_rig(backend=backend)
    gone = rig.slots[1].volumes[0]
    del backend._world.disks[gone.id]
    outcome = rig.run_rank(1)
    assert isinstance(outcome.error, RankFailed)
    assert gone.name in str(outcome.error)
    assert "Clear create_volumes" in str(outcome.error)
    assert not backend.nodes


def test_a_broken_volume_is_named() -> None:
    backend = FakeBackend()
    rig = a_rig(backend=backend)
    broken = rig.slots[1].volumes[0].name
    backend.volumes[broken].broken = True
    outcome = rig.run_rank(1)
    assert broken in str(outcome.error)
    assert "error state" in str(outcome.error)


def test_a_volume_that_a_live_node_of_another_run_holds_is_a_conflict_and_stays_there() -> None:
    backend = FakeBackend()
    scoped: dict[str, Any] = {"volume_template": {"scope": "dag"}}
    one, other = a_rig(backend=backend, **scoped), a_rig(backend=backend, run="run-2", **scoped)
    backend.endings[("rank", 0)] = hangs()
    work = one.begin(0)
    one.launch(work)
    one.until_attached(work)
    outcome = other.run_rank(0)
    assert isinstance(outcome.error, VolumeConflict)
    assert "a node of another run; it was not touched" in str(outcome.error)
    assert one.observe().volume(one.slots[0].volumes[0].id).state is VolumeState.ATTACHED  # type: ignore[union-attr]


@pytest.mark.parametrize("tagged", [True, False], ids=["made", "adopted and never tagged"])
@pytest.mark.parametrize(
    ("holder", "ago_s", "action"),
    [
        ("i-unlisted", 0, Action.WAIT),
        ("i-unlisted", 59, Action.WAIT),
        ("i-unlisted", 61, Action.FAIL_CONFLICT),
        ("a-zone/rankvol-KEY-11111111-r0-a1", 3600, Action.WAIT),
        ("a-zone/rankvol-99999999-11111111-r0-a1", 3600, Action.FAIL_CONFLICT),
    ],
)
def test_a_node_that_is_not_listed_yet_is_no_other_runs(
    holder: str, ago_s: float, action: Action, tagged: bool
) -> None:
    """In a gang a peer's task launches it, between two lists of one look, or before EC2 shows it."""
    rig = a_rig(1, volume_template={"scope": "dag"})
    work, seen, now = rig.begin(0), rig.observe(), rig.backend.clock.now()
    (volume,) = seen.volumes
    held = replace(
        volume,
        tags=volume.tags if tagged else None,
        state=VolumeState.ATTACHED,
        attached_to=holder.replace("KEY", rig.group.key),
        attached_at=now - timedelta(seconds=ago_s),
    )
    found = situation_of(work, replace(seen, volumes=(held,)), now, may_launch=True)
    assert decide(found) is action


def test_a_result_that_is_not_json_fails_the_rank_and_shows_what_was_written(backend: FakeBackend) -> None:
    backend.endings[("rank", 0)] = Ending(0, output="rows: 7", log_tail="wrote it")
    outcome = a_rig(backend=backend).run_rank(0)
    assert isinstance(outcome.error, RankFailed)
    assert "$RANKVOL_RESULT is not JSON" in str(outcome.error)
    assert "'rows: 7'" in str(outcome.error)
    assert (outcome.result.exit_code, outcome.result.log_tail) == (1, "wrote it")


@pytest.mark.parametrize("raw", ['{"exit_co', "null", "[]", "{}", '{"exit_code": 0, "output_b64": "&"}'])
def test_a_report_that_is_cut_off_fails_the_rank_by_name(raw: str) -> None:
    backend = FakeBackend(endings={("rank", 0): Ending(raw_report=raw)})
    outcome = a_rig(backend=backend).run_rank(0)
    assert isinstance(outcome.error, RankFailed)
    assert "rank 0" in str(outcome.error)
    assert "cannot be read" in str(outcome.error)
