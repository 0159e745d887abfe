"""What only EC2 can do to a run."""

from __future__ import annotations

import pytest

from tests.airflow.grounds import AwsGround
from tests.airflow.harness import DagBench
from tests.airflow.test_failure_shapes import kept_ranks


@pytest.mark.parametrize("ground", ["aws"], indirect=True)
def test_a_node_that_runs_but_whose_system_never_boots_is_ended_at_its_boot_timeout(
    bench: DagBench, ground: AwsGround
) -> None:
    """EC2 calls it running and gives it its volume; nothing on it could arm a timer."""
    ground.double("never_boot")
    run = bench.run(bench.job(nodes=1, node={"boot_timeout": "2s"}))
    assert run.states()["run_rank[0]"] == "failed"
    assert "its system did not come up within 2 s" in run.log
    assert "impaired" in run.log
    assert kept_ranks(bench, run) == [0]


@pytest.mark.parametrize("ground", ["aws"], indirect=True)
def test_a_rank_whose_console_is_lost_goes_on_from_its_record(bench: DagBench, ground: AwsGround) -> None:
    """Without a report the attempt counts as failed; its retry finds that all was done, and computes nothing."""
    ground.double.fault("error", "GetConsoleOutput", code="InvalidInstanceID.NotFound", status=400, times=2)
    commands = ["echo try >> $VOLUME_PATH/tries; wc -l < $VOLUME_PATH/tries > $RANKVOL_RESULT"]
    run = bench.run(bench.job(nodes=1, commands=commands, rank_args={"retries": 1, "retry_delay": 0}))
    assert run.state == "success", run.log
    result = run.xcom("run_rank[0]")
    assert (result["attempt"], result["reused"], result["output"]) == (2, True, 1)
    assert kept_ranks(bench, run) == []


@pytest.mark.parametrize("ground", ["aws"], indirect=True)
def test_gather_lies_and_has_room_where_the_ranks_that_it_reads_are(bench: DagBench, ground: AwsGround) -> None:
    """A rank that failed counts neither for the zone of its node nor for what the node can hold."""
    bench.ground.limit_gather(2)
    run = bench.run(
        bench.job(
            nodes=3,
            commands=["[ $NODE_RANK != 0 ] || exit 3"],
            gather=['echo "\\"$(ls $RANKS_PATH | xargs)\\"" > $RANKVOL_RESULT'],
            allow_missing=True,
            volumes=[{"name": "data-${NODE_RANK}", "path": "/data"}],
            node={"zones": ["us-east-1a", "us-east-1b", "us-east-1b"]},
        )
    )
    assert run.state == "success", run.log
    assert run.xcom("gather") == "1 2"
    attached = [call for call in ground.double.calls() if call["action"] == "AttachVolume"]
    assert len(attached) == 3 + 2
    assert "going on without rank(s) 0, which did not succeed" in run.log
    assert kept_ranks(bench, run) == [0]
