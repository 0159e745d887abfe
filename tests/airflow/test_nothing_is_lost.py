"""Results that a careless order of events could lose, each in a real DAG run."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.reap import RunState, survey
from airflow_rankvol.hooks import get_owner
from tests.airflow.harness import DagBench
from tests.airflow.test_failure_shapes import COUNT, FAIL_RANK_1, GATHER_TRIES, kept_ranks


@pytest.mark.parametrize("gather", [[], [GATHER_TRIES]])
def test_a_rank_whose_result_cannot_be_read_is_no_success_and_computes_again(
    bench: DagBench, gather: list[str]
) -> None:
    """Neither gather nor a retry takes it for done, although its commands ended with 0."""
    bad = 'if [ "$NODE_RANK" = 1 ]; then echo rows: 7 > $RANKVOL_RESULT; fi'
    dag = bench.job(commands=[COUNT, bad], gather=gather)
    run = bench.run(dag)
    assert run.states()["run_rank[1]"] == "failed"
    assert run.states()["gather"] == "failed"
    assert run.xcom("run_rank[1]")["exit_code"] == 1
    assert kept_ranks(bench, run) == [0, 1]

    bench.clear(run, "run_rank[1]", downstream=False)
    again = bench.resume(run)
    assert again.xcom("run_rank[1]")["reused"] is False
    assert "rows: 7" in again.log


def test_a_partial_gather_never_replaces_one_that_had_more(bench: DagBench) -> None:
    """allow_missing went without rank 1; mended, rank 1 alone is not the whole: the others' volumes are gone."""
    fields: dict[str, Any] = {"nodes": 3, "gather": [GATHER_TRIES], "allow_missing": True}
    dag = bench.job(commands=[FAIL_RANK_1], **fields)
    run = bench.run(dag)
    assert run.xcom("gather") == 2
    assert kept_ranks(bench, run) == [1]

    bench.clear(run, "plan", "create_volumes", "run_rank[1]", "gather", "delete_volumes", downstream=False)
    again = bench.resume(run, bench.job(dag_id=dag.dag_id, commands=[COUNT], **fields))
    assert again.states()["gather"] == "failed"
    assert "Clear the whole task group" in again.log
    assert 1 in kept_ranks(bench, again)


def test_a_record_of_an_earlier_attempt_does_not_count_for_a_rank_that_failed(
    bench: DagBench,
) -> None:
    """A rank that succeeded once, and whose cleared attempt never booted, is missing whatever its volume holds."""
    node = {"boot_timeout": bench.ground.boot_timeout}
    fields: dict[str, Any] = {"commands": [COUNT], "node": node, "allow_missing": True}
    dag = bench.job(gather=["exit 3"], **fields)
    run = bench.run(dag)
    assert run.states()["run_rank[1]"] == "success"

    bench.ground.never_boot(rank=1)
    bench.clear(run, "run_rank[1]")
    again = bench.resume(run, bench.job(dag_id=dag.dag_id, gather=[GATHER_TRIES], **fields))
    assert again.states()["run_rank[1]"] == "failed"
    assert again.xcom("gather") == 1
    assert kept_ranks(bench, again) == [1]


def test_when_airflow_cannot_say_whether_a_run_lives_nothing_of_it_goes(
    bench: DagBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An API that fails for a moment must not let the next run's plan delete a live run's volumes."""
    dag = bench.job(commands=[FAIL_RANK_1])
    first = bench.run(dag)
    ids = [volume.id for volume in bench.left(dag).volumes]
    bench.backend().tag_volumes(ids, {"rankvol:expiry": "2020-01-01T00:00:00+00:00"})

    def unavailable(_dag_id: str, _run_id: str) -> str:
        detail = {"status_code": 503, "message": "try again"}
        raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail))

    with monkeypatch.context() as patched:
        patched.setattr(RuntimeTaskInstance, "get_dagrun_state", staticmethod(unavailable))
        second = bench.run(bench.job(dag_id=dag.dag_id, commands=[COUNT]))
    assert second.state == "success"
    assert "could not tell whether run" in second.log
    assert kept_ranks(bench, first) == [0, 1]


@pytest.mark.parametrize("gather", [[], [GATHER_TRIES]])
def test_what_gather_could_not_store_is_not_collected(
    bench: DagBench, monkeypatch: pytest.MonkeyPatch, gather: list[str]
) -> None:
    """Neither the teardown nor the reaper after it deletes a volume; cleared, gather has all of them."""
    push = RuntimeTaskInstance.xcom_push

    def failing(self: RuntimeTaskInstance, key: str, value: Any) -> None:
        if self.task_id.endswith("gather") and key == "return_value":
            raise RuntimeError("the database is full")
        push(self, key, value)

    with monkeypatch.context() as patched:
        patched.setattr(RuntimeTaskInstance, "xcom_push", failing)
        run = bench.run(bench.job(commands=[COUNT], gather=gather))
    assert run.states()["gather"] == "failed"
    assert kept_ranks(bench, run) == [0, 1]
    selector = Selector(owner=get_owner("rankvol_default", bench.backend()), dag=run.dag.dag_id)
    assert not any(f.remove for f in survey(bench.backend(), selector, lambda _dag, _run: RunState.ENDED))

    bench.clear(run, "gather")
    assert bench.resume(run).state == "success"
    assert kept_ranks(bench, run) == []


def test_a_volume_that_outlives_runs_serves_one_live_run_at_a_time(bench: DagBench) -> None:
    """The later of two overlapping runs fails before it touches anything; after the other's end it has the volume."""
    template = {"size": "32MB", "scope": "dag", "reclaim": "delete"}
    dag = bench.job(commands=[COUNT], volume_template=template)
    first, second = bench.drive(bench.start(dag), bench.start(dag))
    assert {first.state, second.state} == {"success", "failed"}, (first.states(), second.states())
    assert "which lives" in first.log + second.log
    assert kept_ranks(bench, first) == []
    assert bench.run(dag).state == "success"
