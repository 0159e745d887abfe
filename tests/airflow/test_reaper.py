"""The example DAG `rankvol_reaper` in real runs: what it takes, and what it never touches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.api.common.mark_tasks import set_dag_run_state_to_failed
from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import delete, select

from airflow_rankvol import cli
from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.teardown import TeardownReport
from airflow_rankvol.records import Observation
from tests.airflow.grounds import LocalGround
from tests.airflow.harness import DagBench, Run, _dag_run, _scheduled
from tests.airflow.test_failure_shapes import COUNT, FAIL_RANK_1, GATHER_TRIES, kept_ranks

EXPIRED = {"rankvol:expiry": "2020-01-01T00:00:00+00:00"}
NOTHING = {"removed": 0, "failed": 0, "to_remove": 0, "kept": 0, "live": 0}


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalGround:
    return LocalGround(tmp_path, monkeypatch)


def left_behind(bench: DagBench, **fields: Any) -> Run:
    """Run a job to its good end whose teardown ends the nodes and deletes no volume."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("airflow_rankvol.engine.teardown.delete_volumes", lambda *_args, **_kwargs: [])
        run = bench.run(bench.job(commands=[COUNT], **fields))
    assert run.state == "success", run.log
    return run


def reap(bench: DagBench, conf: dict[str, Any] | None = None) -> Run:
    return bench.run(bench.example("rankvol_reaper"), conf)


def counts(run: Run) -> dict[str, int]:
    """Return what the reaper counted, after checking that it ended well."""
    assert run.state == "success", run.log
    found = run.xcom("reap")
    assert isinstance(found, dict)
    return found


def expire(bench: DagBench, dag: Any, *ranks: int) -> None:
    volumes = [volume for volume in bench.left(dag).volumes if volume.tags and volume.tags.rank in (ranks or (0, 1))]
    bench.backend().tag_volumes([volume.id for volume in volumes], EXPIRED)


def test_collected_and_expired_leftovers_go_and_are_reported(bench: DagBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run whose teardown did nothing leaves nothing after the reaper, and the asset's event says how much went."""
    with monkeypatch.context() as patched:
        patched.setattr("airflow_rankvol.operators.teardown", lambda *_a, **_k: TeardownReport((), (), ()))
        collected = bench.run(bench.job(commands=[COUNT]))
    failed = bench.run(bench.job(commands=[FAIL_RANK_1]))
    expire(bench, failed.dag, 1)
    nodes = len(bench.left(collected.dag).nodes)
    assert nodes >= 2

    listed = reap(bench, {"only_list": True})
    assert counts(listed) == {**NOTHING, "to_remove": nodes + 3, "kept": 1}
    assert len(bench.left(collected.dag).volumes) == 2

    reaper = reap(bench)
    expected = {**NOTHING, "removed": nodes + 3, "kept": 1}
    assert counts(reaper) == expected
    assert bench.left(collected.dag) == Observation()
    assert kept_ranks(bench, failed) == [0]
    (stays,) = bench.left(failed.dag).volumes
    assert any(stays.name in line and failed.run_id in line for line in reaper.log.splitlines())
    assert "its run has ended and its results were collected" in reaper.log
    assert events(reaper.run_id) == [expected]


def events(run_id: str) -> list[dict[str, Any]]:
    """Return what the events of a run say."""
    with create_session() as session:
        query = (
            select(AssetEvent.extra)
            .join(AssetModel, AssetModel.id == AssetEvent.asset_id)
            .where(AssetModel.name == "rankvol://reaped", AssetEvent.source_run_id == run_id)
        )
        return [dict(extra) for extra in session.scalars(query)]


@pytest.mark.parametrize("template", [{"reclaim": "retain"}, {"scope": "dag"}], ids=["retain", "dag-scope"])
def test_a_volume_that_is_to_outlive_its_run_stays(bench: DagBench, template: dict[str, str]) -> None:
    """Not even an expiry that somebody has put on it takes one that goes only when named."""
    run = bench.run(bench.job(commands=[COUNT], volume_template={"size": "32MB", **template}))
    expire(bench, run.dag)
    reaper = reap(bench)
    assert counts(reaper) == {**NOTHING, "kept": 2}
    assert "goes only when named" in reaper.log
    assert kept_ranks(bench, run) == [0, 1]


def test_nothing_of_a_live_run_goes_even_past_its_expiry(bench: DagBench) -> None:
    """A run that somebody cleared a rank of lives again: it finds the other's result, and mends its own."""
    dag = bench.job(commands=[FAIL_RANK_1], gather=[GATHER_TRIES])
    run = bench.run(dag)
    expire(bench, dag)
    bench.clear(run, "run_rank[1]")
    assert counts(reap(bench)) == {**NOTHING, "live": 2}
    fixed = bench.job(dag_id=dag.dag_id, commands=[COUNT], gather=[GATHER_TRIES])
    mended = bench.resume(run, fixed)
    assert mended.xcom("gather") == 3
    assert kept_ranks(bench, mended) == []


def test_of_runs_that_airflow_does_not_know_only_what_has_expired_goes(bench: DagBench) -> None:
    """After a reset of Airflow's database every run is unknown, whether it had ended or not."""
    run = left_behind(bench)
    with create_session() as session:
        session.execute(delete(DagRun).where(DagRun.dag_id == run.dag.dag_id))
    assert counts(reap(bench)) == {**NOTHING, "kept": 2}
    expire(bench, run.dag, 1)
    assert counts(reap(bench)) == {**NOTHING, "removed": 1, "kept": 1}
    assert kept_ranks(bench, run) == [0]


def test_another_owners_volumes_are_neither_seen_nor_touched(bench: DagBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two installations may share a cloud; each reaps its own."""
    with monkeypatch.context() as patched:
        patched.setenv("AIRFLOW__RANKVOL__OWNER", "somebody-else")
        run = left_behind(bench)
        expire(bench, run.dag)
        assert kept_ranks(bench, run) == [0, 1]
    assert counts(reap(bench)) == NOTHING
    theirs = bench.backend().list_owned(Selector(owner="somebody-else"))
    assert len(theirs.volumes) == 2


def test_a_run_lives_as_long_as_its_teardown_is_pending(bench: DagBench) -> None:
    """Neither a run marked as failed before its teardown, nor one whose teardown still runs, is interfered with."""
    run = left_behind(bench)
    bench.clear(run, "delete_volumes", downstream=False)
    with create_session() as session:
        set_dag_run_state_to_failed(dag=_scheduled(run.dag), run_id=run.run_id, commit=True, session=session)
    assert run.states()["delete_volumes"] == "None"
    assert counts(reap(bench)) == {**NOTHING, "live": 2}

    for busy in (TaskInstanceState.QUEUED, TaskInstanceState.RUNNING, TaskInstanceState.DEFERRED):
        put(run, DagRunState.FAILED, busy)
        reaper = reap(bench)
        assert counts(reaper) == {**NOTHING, "live": 2}
        assert "has ended, but not its tasks job.delete_volumes" in reaper.log
        assert cli.main(["reap", "--yes"]) == 0
    assert kept_ranks(bench, run) == [0, 1]

    # Nor by the plan of the next run, which removes what has expired.
    ids = [volume.id for volume in bench.left(run.dag).volumes]
    bench.backend().tag_volumes(ids, {"rankvol:expiry": "2020-01-01T00:00:00+00:00"})
    assert bench.run(run.dag).state == "success"
    assert kept_ranks(bench, run) == [0, 1]

    put(run, DagRunState.FAILED, TaskInstanceState.SKIPPED)
    assert counts(reap(bench)) == {**NOTHING, "removed": 2}
    assert kept_ranks(bench, run) == []


def put(run: Run, state: DagRunState, teardown: TaskInstanceState) -> None:
    """Put a run and its teardown into states that a scheduler may leave them in for a while."""
    with create_session() as session:
        _dag_run(run, session).state = state
        for ti in DagRun.fetch_task_instances(run.dag.dag_id, run.run_id, session=session):
            if ti.task_id == "job.delete_volumes":
                ti.state = teardown


def test_what_cannot_be_removed_or_looked_into_fails_the_task_after_the_rest_is_done(
    bench: DagBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One volume may not be deleted, one connection is wrong: both are named, and everything else went."""
    run = left_behind(bench, nodes=3)
    monkeypatch.setenv("AIRFLOW__RANKVOL__CONN_IDS", "nowhere, rankvol_default")
    bench.ground.fail_delete(1)
    reaper = reap(bench)
    assert reaper.state == "failed"
    assert kept_ranks(bench, run) == [1]
    (stays,) = bench.left(run.dag).volumes
    for text in (stays.name, "you may not delete this", "connection 'nowhere' is not defined", "removed: 2, failed: 1"):
        assert text in reaper.log
    assert events(reaper.run_id) == []


def test_older_than_leaves_what_is_younger(bench: DagBench) -> None:
    run = left_behind(bench)
    assert counts(reap(bench, {"older_than": "1h"})) == {**NOTHING, "kept": 2}
    assert kept_ranks(bench, run) == [0, 1]


def test_the_reaper_runs_every_hour_one_at_a_time_and_makes_up_for_nothing(bench: DagBench) -> None:
    dag = bench.example("rankvol_reaper")
    assert (dag.schedule, dag.catchup, dag.max_active_runs) == ("7 * * * *", False, 1)
