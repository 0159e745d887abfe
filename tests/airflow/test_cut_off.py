"""Runs whose process is killed, or whose end Airflow does not wait for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_rankvol import cli
from airflow_rankvol.records import NodeState
from tests.airflow.harness import DagBench, Run
from tests.airflow.test_failure_shapes import kept_ranks


@contextmanager
def worker(folder: Path, run: Run, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """Go on with a run in another process, which is killed at the end if it still runs."""
    command = [sys.executable, str(Path(__file__).with_name("worker.py")), run.dag.fileloc, run.run_id, *args]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_a_killed_create_had_made_is_deleted(bench: DagBench, tmp_path: Path) -> None:
    """Create's process is killed after two of three volumes: the teardown finds them by tag and removes them."""
    dag = bench.job(nodes=3)
    run = bench.start(dag)
    with worker(tmp_path, run, "die-in-create") as process:
        assert process.wait() == -signal.SIGKILL, (tmp_path / "worker.log").read_text()
    assert kept_ranks(bench, run) == [0, 1]

    bench.fail_running(run)
    mended = bench.resume(run)
    assert mended.state == "failed"
    assert mended.states()["delete_volumes"] == "success"
    assert kept_ranks(bench, mended) == []


def test_a_run_that_timed_out_leaves_nothing_after_reap(bench: DagBench, tmp_path: Path) -> None:
    """Its node runs on and its teardown is skipped: reap ends the one and deletes what is left of the other's work."""
    dag = bench.job(commands=["sleep 600"])
    run = bench.start(dag)
    with worker(tmp_path, run) as process:
        while not any(node.state is NodeState.RUNNING for node in bench.left(dag).nodes):
            assert process.poll() is None, (tmp_path / "worker.log").read_text()
            time.sleep(0.2)
    bench.time_out(run)
    assert cli.main(["reap"]) == 3
    assert cli.main(["reap", "--yes"]) == 0
    if not bench.ground.looks_inside:  # what may hold a result stays until it expires, or is named
        assert kept_ranks(bench, run) == [0, 1]
        names = [f"--name={volume.name}" for volume in bench.left(dag).volumes]
        assert cli.main(["reap", "--yes", *names]) == 0
    assert cli.main(["reap", "--yes"]) == 0
    assert kept_ranks(bench, run) == []
