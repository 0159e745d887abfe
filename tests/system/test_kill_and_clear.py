"""What people do to a running job in the UI, by the REST API that the UI uses, under real components."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.stack import Stack

pytestmark = pytest.mark.slow

DAG_ID = "held"
DAG_FILE = """\
    from airflow.sdk import DAG
    from airflow_rankvol import rank_job

    with DAG("held", schedule=None) as dag:
        rank_job("job", nodes=2, volumes=["data-${NODE_RANK}:/data"], volume_template={"size": "32MB"},
            deferrable=DEFERRABLE, env={"FLAG": "FLAG_FILE-{{ run_id }}"},
            commands=["echo try >> $VOLUME_PATH/tries", "until [ -e $FLAG-$NODE_RANK ]; do sleep 0.1; done",
                      "wc -l < $VOLUME_PATH/tries > $RANKVOL_RESULT"])
"""
RANK = "job.run_rank"
PATIENCE_S = 120.0


@pytest.fixture(scope="module", params=[True, False], ids=["deferred", "in a worker"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running Airflow with a job whose ranks end when they are let go."""
    home = tmp_path_factory.mktemp("stack")
    dags = home / "dags"
    dags.mkdir()
    source = textwrap.dedent(DAG_FILE).replace("FLAG_FILE", str(home / "go")).replace("DEFERRABLE", str(request.param))
    (dags / f"{DAG_ID}.py").write_text(source)
    stack = Stack(home, dags)
    extra = {"state_dir": str(home / "state"), "mode": "directory"}
    stack.env["AIRFLOW_CONN_RANKVOL_DEFAULT"] = json.dumps({"conn_type": "rankvol_local", "extra": extra})
    stack.start()
    stack.runs["waits"] = "deferred" if request.param else "running"
    try:
        yield stack
    finally:
        stack.stop()


def seen(stack: Stack, kind: str, run_id: str) -> dict[int, dict[str, Any]]:
    """Return what ``rankvol ls`` lists of a run, by rank."""
    rows = json.loads(stack.command("rankvol", "ls", "--output", "json", "--run", run_id).stdout)
    return {row["rank"]: row for row in rows if row["kind"] == kind}


def live(stack: Stack, run_id: str) -> dict[int, str]:
    """Return the names of the nodes that run, by rank."""
    return {rank: row["name"] for rank, row in seen(stack, "node", run_id).items() if row["state"] == "running"}


def until(done: Callable[[], bool], what: Callable[[], Any]) -> None:
    """Wait for something that Airflow does in its own time."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def begin(stack: Stack) -> str:
    """Start a run, and wait until both ranks' nodes run and their tasks wait."""
    run_id = stack.trigger(DAG_ID)
    waits = stack.runs["waits"]

    def waiting() -> bool:
        states = stack.states(DAG_ID, run_id)
        return [states.get(f"{RANK}[{rank}]") for rank in (0, 1)] == [waits, waits] and len(live(stack, run_id)) == 2

    until(waiting, lambda: (stack.states(DAG_ID, run_id), stack.logs()))
    return run_id


def let_go(stack: Stack, run_id: str, *ranks: int) -> None:
    for rank in ranks:
        Path(f"{stack.home / 'go'}-{run_id}-{rank}").touch()


def tries(stack: Stack, run_id: str) -> list[int]:
    return [stack.xcom(DAG_ID, run_id, RANK, rank)["output"] for rank in (0, 1)]


def test_a_rank_that_is_marked_failed_stops_its_node_and_clearing_it_goes_on_with_its_volume(stack: Stack) -> None:
    run_id = begin(stack)
    volumes = seen(stack, "volume", run_id)
    stack.set_state(DAG_ID, run_id, "failed", RANK, 0)
    until(lambda: 0 not in live(stack, run_id), lambda: (live(stack, run_id), stack.logs()))
    assert 1 in live(stack, run_id)
    assert {rank: row["id"] for rank, row in seen(stack, "volume", run_id).items()} == {
        rank: row["id"] for rank, row in volumes.items()
    }
    stack.clear(DAG_ID, run_id, RANK, 0)
    let_go(stack, run_id, 0, 1)
    assert stack.wait(DAG_ID, run_id) == "success", stack.states(DAG_ID, run_id)
    assert tries(stack, run_id) == [2, 1]
    assert seen(stack, "volume", run_id) | seen(stack, "node", run_id) == {}


def test_clearing_a_rank_that_waits_stops_its_node_and_runs_it_again_with_its_volume(stack: Stack) -> None:
    run_id = begin(stack)
    # SQLite gives the number of the last trigger to the next one, which the triggerer takes for the one that it has.
    later = begin(stack) if stack.runs["waits"] == "deferred" else ""
    before = live(stack, run_id)
    stack.clear(DAG_ID, run_id, RANK, 0)
    until(lambda: live(stack, run_id).get(0, before[0]) != before[0], lambda: (live(stack, run_id), stack.logs()))
    assert live(stack, run_id)[1] == before[1]
    let_go(stack, run_id, 0, 1)
    assert stack.wait(DAG_ID, run_id) == "success", stack.states(DAG_ID, run_id)
    assert tries(stack, run_id) == [2, 1]
    assert seen(stack, "volume", run_id) | seen(stack, "node", run_id) == {}
    if later:
        let_go(stack, later, 0, 1)
        assert stack.wait(DAG_ID, later) == "success", stack.states(DAG_ID, later)


def test_of_a_run_that_is_marked_failed_only_what_the_teardown_names_stays(stack: Stack) -> None:
    """No node runs on, and the volumes, whose results nobody has, stay until they expire."""
    run_id = begin(stack)
    volumes = seen(stack, "volume", run_id)
    stack.set_state(DAG_ID, run_id, "failed")
    until(lambda: not live(stack, run_id), lambda: (live(stack, run_id), stack.states(DAG_ID, run_id), stack.logs()))
    until(
        lambda: stack.states(DAG_ID, run_id)["job.delete_volumes"] not in ("None", "queued", "scheduled", "running"),
        lambda: (stack.states(DAG_ID, run_id), stack.logs()),
    )
    assert stack.states(DAG_ID, run_id)["job.delete_volumes"] == "success", stack.states(DAG_ID, run_id)
    kept = stack.xcom(DAG_ID, run_id, "job.delete_volumes")["kept"]
    assert [(item["rank"], item["reason"]) for item in kept] == [
        (rank, "its results were not collected") for rank in (0, 1)
    ]
    stack.command("rankvol", "reap", "--yes", "--run", run_id)
    left = seen(stack, "volume", run_id)
    assert (
        {row["id"] for row in left.values()} <= {item["id"] for item in kept} == {row["id"] for row in volumes.values()}
    )
    assert seen(stack, "node", run_id) == {}
    for row in left.values():
        stack.command("rankvol", "reap", "--yes", "--name", row["name"])
    assert seen(stack, "volume", run_id) == {}
