"""What only Compute Engine can do to a run."""

from __future__ import annotations

import pytest

from tests.airflow.gcp_ground import GcpGround
from tests.airflow.harness import DagBench
from tests.airflow.test_failure_shapes import kept_ranks


@pytest.mark.parametrize("ground", ["gcp"], indirect=True)
def test_a_rank_whose_report_is_lost_goes_on_from_its_record(bench: DagBench, ground: GcpGround) -> None:
    """Once it has stopped, its serial port cannot be read either: its retry finds that all was done."""
    fault = ground.double.fault
    fault("error", "instances.getGuestAttributes", code="notFound", message="none", status=404, times=2)
    # While it is stopping it could, for a moment.
    fault("error", "instances.getSerialPortOutput", code="resourceNotReady", message="off", status=400, times=-1)
    commands = ["echo try >> $VOLUME_PATH/tries; wc -l < $VOLUME_PATH/tries > $RANKVOL_RESULT"]
    run = bench.run(bench.job(nodes=1, commands=commands, rank_args={"retries": 1, "retry_delay": 0}))
    assert run.state == "success", run.log
    result = run.xcom("run_rank[0]")
    assert (result["attempt"], result["reused"], result["output"]) == (2, True, 1)
    assert kept_ranks(bench, run) == []
