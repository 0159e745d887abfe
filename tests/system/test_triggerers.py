"""What becomes of ranks that wait in a triggerer when it ends, dies, hangs or is told to wait too long."""

from __future__ import annotations

import json
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.stack import Stack

pytestmark = pytest.mark.slow

DAG_FILE = """\
    from airflow.sdk import DAG
    from airflow_rankvol import rank_job

    for dag_id, lifetime in (("held", "1h"), ("short", "8s")):
        with DAG(dag_id, schedule=None) as dag:
            rank_job("job", nodes=3, volumes=["data-${NODE_RANK}:/data"], volume_template={"size": "32MB"},
                node={"lifetime": lifetime}, env={"FLAG": "FLAG_FILE-{{ run_id }}"},
                commands=["echo try >> $VOLUME_PATH/tries", "until [ -e $FLAG-$NODE_RANK ]; do sleep 0.1; done",
                          "wc -l < $VOLUME_PATH/tries > $RANKVOL_RESULT"])
        globals()[dag_id] = dag
"""
RANK = "job.run_rank"
RANKS = range(3)
PATIENCE_S = 120.0


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A running Airflow that takes a triggerer for dead soon, with a job whose ranks wait to be let go."""
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "held.py").write_text(textwrap.dedent(DAG_FILE).replace("FLAG_FILE", str(tmp_path / "go")))
    stack = Stack(tmp_path, dags)
    extra = {"state_dir": str(tmp_path / "state"), "mode": "directory"}
    stack.env["AIRFLOW_CONN_RANKVOL_DEFAULT"] = json.dumps({"conn_type": "rankvol_local", "extra": extra})
    # https://airflow.apache.org/docs/apache-airflow/stable/configurations-ref.html#triggerer
    stack.env["AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC"] = "1"
    stack.env["AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD"] = "6"
    stack.start()
    try:
        yield stack
    finally:
        stack.stop()


def nodes(stack: Stack, run_id: str) -> dict[int, str]:
    """Return the ids of the nodes that run, by rank."""
    rows = json.loads(stack.command("rankvol", "ls", "--output", "json", "--run", run_id).stdout)
    return {row["rank"]: row["id"] for row in rows if row["kind"] == "node" and row["state"] == "running"}


def until(done: Callable[[], bool], what: Callable[[], Any]) -> None:
    """Wait for something that Airflow does in its own time."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.3)


def holders(stack: Stack, run_id: str) -> set[int]:
    """Return the numbers of the triggerers that Airflow says have the ranks' triggers; 0 for none."""
    path = f"/api/v2/dags/held/dagRuns/{run_id}/taskInstances?task_id={RANK}"
    return {
        (ti["triggerer_job"] or {"id": 0})["id"] for ti in (stack.get(path) or {"task_instances": []})["task_instances"]
    }


def begin(stack: Stack) -> tuple[str, dict[int, str], int]:
    """Start a run, wait until a triggerer has all of its ranks; return it, its nodes, and the triggerer's number."""
    run_id = stack.trigger("held")

    def waiting() -> bool:
        states = stack.states("held", run_id)
        return all(states.get(f"{RANK}[{rank}]") == "deferred" for rank in RANKS) and len(nodes(stack, run_id)) == 3

    until(waiting, lambda: (stack.states("held", run_id), stack.logs()))
    until(lambda: len(holders(stack, run_id) - {0}) == 1, lambda: (holders(stack, run_id), stack.logs()))
    return run_id, nodes(stack, run_id), holders(stack, run_id).pop()


def taken_from(stack: Stack, run_id: str, triggerer: int) -> None:
    """Wait until another triggerer has all ranks."""
    until(
        lambda: len(found := holders(stack, run_id)) == 1 and not found & {0, triggerer},
        lambda: (triggerer, holders(stack, run_id), stack.states("held", run_id), stack.logs()),
    )


def ends_well(stack: Stack, run_id: str) -> None:
    """Let the ranks go: each must have run once, and nothing may stay."""
    for rank in RANKS:
        Path(f"{stack.home / 'go'}-{run_id}-{rank}").touch()
    assert stack.wait("held", run_id) == "success", stack.states("held", run_id)
    assert [stack.xcom("held", run_id, RANK, rank)["output"] for rank in RANKS] == [1, 1, 1]
    assert json.loads(stack.command("rankvol", "ls", "--output", "json", "--run", run_id).stdout) == []


def test_ranks_wait_on_where_they_were_after_a_triggerer_restarts(stack: Stack) -> None:
    """A stopped triggerer cancels its triggers, which is no reason to stop a node."""
    run_id, before, triggerer = begin(stack)
    stack.end("triggerer", signal.SIGTERM)
    assert nodes(stack, run_id) == before
    stack.add_triggerer("triggerer")
    taken_from(stack, run_id, triggerer)
    assert nodes(stack, run_id) == before
    ends_well(stack, run_id)


def test_a_second_triggerer_takes_over_from_one_that_died(stack: Stack) -> None:
    run_id, before, triggerer = begin(stack)
    stack.add_triggerer("second")
    stack.end("triggerer", signal.SIGKILL)
    taken_from(stack, run_id, triggerer)
    assert nodes(stack, run_id) == before
    ends_well(stack, run_id)


def test_a_triggerer_that_hung_and_comes_back_disturbs_nothing(stack: Stack) -> None:
    """For a while two triggerers wait for each rank, and both see how it ends."""
    run_id, before, triggerer = begin(stack)
    stack.add_triggerer("second")
    stack.send("triggerer", signal.SIGSTOP)
    taken_from(stack, run_id, triggerer)
    stack.send("triggerer", signal.SIGCONT)
    word = "its node is left alone"
    until(
        lambda: stack.task_log("held", run_id, RANK).count(word) == len(RANKS),
        lambda: (nodes(stack, run_id), stack.logs()),
    )
    assert nodes(stack, run_id) == before
    ends_well(stack, run_id)


def test_a_rank_that_outlives_its_lifetime_fails_with_its_reason_and_keeps_its_volume(stack: Stack) -> None:
    run_id = stack.trigger("short")
    assert stack.wait("short", run_id) == "failed"
    states = stack.states("short", run_id)
    assert {rank: states[f"{RANK}[{rank}]"] for rank in RANKS} == dict.fromkeys(RANKS, "failed"), states
    assert nodes(stack, run_id) == {}
    assert "outlived its lifetime of 8 s" in stack.task_log("short", run_id, RANK)
    rows = json.loads(stack.command("rankvol", "ls", "--output", "json", "--run", run_id).stdout)
    assert sorted(row["rank"] for row in rows if row["kind"] == "volume") == [*RANKS]
