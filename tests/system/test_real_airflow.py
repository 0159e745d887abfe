"""Rank jobs under a real scheduler, triggerer and API server."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.stack import Stack

DAGS = {
    "deferred": """
        with DAG("deferred", schedule=None) as dag:
            rank_job("job", nodes=6, volumes=["data-${NODE_RANK}:/data"], volume_template={"size": "32MB"},
                commands=["echo $NODE_RANK > $VOLUME_PATH/x; sleep 1; cp $VOLUME_PATH/x $RANKVOL_RESULT"],
                gather=["cat $RANKS_PATH/*/data/x | paste -sd+ | bc > $RANKVOL_RESULT || "
                        "cat $RANKS_PATH/*/data/x | awk '{s+=$1} END {print s}' > $RANKVOL_RESULT"])
    """,
    "failing": """
        with DAG("failing", schedule=None) as dag:
            rank_job("job", nodes=2, volumes=["data-${NODE_RANK}:/data"],
                volume_template={"size": "32MB", "reclaim": "delete_always"},
                commands=['if [ "$NODE_RANK" = 1 ]; then echo "out of rhubarb"; exit 7; fi'])
    """,
    "retried": """
        with DAG("retried", schedule=None) as dag:
            rank_job("job", nodes=2, volumes=["data-${NODE_RANK}:/data"], volume_template={"size": "32MB"},
                commands=["if [ ! -e $VOLUME_PATH/once ]; then touch $VOLUME_PATH/once; echo no custard; exit 9; fi"],
                rank_args={"retries": 1, "retry_delay": timedelta(seconds=1)})
    """,
    "gang": """
        with DAG("gang", schedule=None) as dag:
            rank_job("job", nodes=20, volumes=["data-${NODE_RANK}:/data"], volume_template={"size": "32MB"},
                rendezvous=True, deferrable=False, rank_args={"pool": "two_slots"},
                commands=['[ "$(echo "$NODES_IPS" | sort -u | wc -l)" = 20 ]', "echo $NODE_RANK > $RANKVOL_RESULT"])
    """,
    "alive": """
        with DAG("alive", schedule=None) as dag:
            rank_job("job", nodes=2, volumes=["data-${NODE_RANK}:/data"],
                volume_template={"size": "32MB", "expiry": "1s"}, env={"FLAG": "FLAG_FILE"},
                commands=["until [ -e $FLAG ]; do sleep 0.1; done"])
    """,
    "talking": """
        with DAG("talking", schedule=None) as dag:
            rank_job("job", nodes=1, volumes=["data-${NODE_RANK}:/data"], volume_template={"size": "32MB"},
                env={"FLAG": "FLAG_FILE.talk", "KEY": "{{ var.value.my_api_key }}"},
                commands=["echo connecting with $KEY", "until [ -e $FLAG ]; do sleep 0.1; done", "echo goodbye $KEY"])
    """,
    "timed_out": """
        with DAG("timed_out", schedule=None, dagrun_timeout=timedelta(seconds=30)) as dag:
            for name, command in {"cut": "sleep 600", "half": "[ $NODE_RANK = 0 ] || sleep 600"}.items():
                rank_job(name, nodes=2, volumes=["data-${NODE_RANK}:/data"], volume_template={"size": "32MB"},
                    commands=[command])
    """,
    "writer": """
        with DAG("writer", schedule=None) as dag:
            rank_job("job", nodes=2, volumes=["data-${NODE_RANK}:/data"], volume_template={"size": "32MB"},
                commands=["echo $NODE_RANK > $VOLUME_PATH/part"], destination="FLAG_FILE.files", collect=["part"])
    """,
    "reader": """
        with DAG("reader", schedule=Asset("file://FLAG_FILE.files")) as dag:
            @task
            def read(triggering_asset_events=None):
                (events,) = triggering_asset_events.values()
                return [event.extra for event in events]
            read()
    """,
    "reaper": """
        with DAG("reaper", schedule=None) as dag:
            ReapRankVolumes(task_id="reap", dag_filter="{{ dag_run.conf['of'] }}")
    """,
}
SECRET = "rhubarb-and-custard"
HEAD = """\
from datetime import timedelta
from airflow.sdk import DAG, Asset, task
from airflow_rankvol import ReapRankVolumes, rank_job
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running Airflow with the DAGs above and the local backend in directory mode."""
    home = tmp_path_factory.mktemp("stack")
    dags = home / "dags"
    dags.mkdir()
    for name, body in DAGS.items():
        (dags / f"{name}.py").write_text(HEAD + textwrap.dedent(body).replace("FLAG_FILE", str(home / "flag")))
    stack = Stack(home, dags)
    extra = {"state_dir": str(home / "state"), "mode": "directory"}
    stack.env["AIRFLOW_CONN_RANKVOL_DEFAULT"] = json.dumps({"conn_type": "rankvol_local", "extra": extra})
    stack.env["AIRFLOW_VAR_MY_API_KEY"] = SECRET
    stack.start()
    try:
        stack.airflow("pools", "set", "two_slots", "2", "for the gang")
        first = ("talking", "deferred", "failing", "retried", "gang", "writer")
        stack.runs = {dag_id: stack.trigger(dag_id) for dag_id in first}
        yield stack
    finally:
        # What waits for them must not run on, whichever tests ran.
        for flag in ("flag", "flag.talk"):
            (home / flag).touch()
        stack.stop()


def leftovers(stack: Stack, *args: str) -> list[dict[str, Any]]:
    """Return what ``rankvol ls`` lists."""
    return list(json.loads(stack.command("rankvol", "ls", "--output", "json", *args).stdout))


def reaped(stack: Stack, dag_id: str) -> dict[str, int]:
    """Run the reaper for one DAG's leftovers; return what it counted, but for zeros."""
    run_id = stack.trigger("reaper", {"of": dag_id})
    assert stack.wait("reaper", run_id) == "success", stack.task_log("reaper", run_id, "reap")
    return {key: number for key, number in stack.xcom("reaper", run_id, "reap").items() if number}


def test_a_deferred_job_runs_to_its_end_and_leaves_nothing(stack: Stack) -> None:
    """Ranks end in the triggerer, gather resumes in a worker, the teardown deletes everything."""
    run_id = stack.runs["deferred"]
    assert stack.wait("deferred", run_id) == "success", stack.states("deferred", run_id)
    assert stack.xcom("deferred", run_id, "job.gather") == 15
    result = stack.xcom("deferred", run_id, "job.run_rank", 5)
    assert (result["rank"], result["exit_code"], result["output"]) == (5, 0, 5)
    assert leftovers(stack, "--dag", "deferred") == []


def test_a_rank_that_fails_in_the_triggerer_logs_why_and_has_a_result(stack: Stack) -> None:
    """The exit code and the log's tail stand in the task's log, and the result is its XCom."""
    run_id = stack.runs["failing"]
    assert stack.wait("failing", run_id) == "failed"
    states = stack.states("failing", run_id)
    assert states["job.run_rank[0]"] == "success"
    assert states["job.run_rank[1]"] == "failed"
    assert states["job.delete_volumes"] == "success"
    assert stack.xcom("failing", run_id, "job.run_rank", 1)["exit_code"] == 7
    log = stack.task_log("failing", run_id, "job.run_rank")
    assert "exit code 7" in log
    assert "out of rhubarb" in log
    assert leftovers(stack, "--dag", "failing") == []


def test_a_rank_that_fails_in_the_triggerer_is_retried_with_its_files(stack: Stack) -> None:
    """A failure that ends in the trigger honours retries, on the same volume; the first try's log says why."""
    run_id = stack.runs["retried"]
    assert stack.wait("retried", run_id) == "success", stack.states("retried", run_id)
    assert [stack.xcom("retried", run_id, "job.run_rank", rank)["attempt"] for rank in (0, 1)] == [2, 2]
    first = stack.task_log("retried", run_id, "job.run_rank", "1")
    assert first.count("no custard") >= 2  # of each rank
    assert first.count("exit code 9") >= 2
    assert "exit code 9" not in stack.task_log("retried", run_id, "job.run_rank", "2")
    assert leftovers(stack, "--dag", "retried") == []


def test_a_deferred_ranks_log_shows_what_its_node_prints_while_it_runs_and_no_secret(stack: Stack) -> None:
    """As the UI gets it; the Variable was read in the worker, and the log is written by the triggerer."""
    run_id = stack.runs["talking"]

    def shown() -> list[str]:
        path = f"/api/v2/dags/talking/dagRuns/{run_id}/taskInstances/job.run_rank/logs/1?map_index=0&full_content=true"
        found = stack.get(path)
        return [str(line["event"]) for line in found["content"]] if found else []

    deadline = time.monotonic() + 90
    while "connecting with ***" not in shown():
        assert time.monotonic() < deadline, "\n".join(shown())
        time.sleep(0.3)
    assert stack.states("talking", run_id)["job.run_rank[0]"] == "deferred"
    Path(f"{stack.home / 'flag'}.talk").touch()
    assert stack.wait("talking", run_id) == "success", stack.states("talking", run_id)
    lines = shown()
    (begin,) = [at for at, line in enumerate(lines) if line.startswith("::group::Output of rank 0 (rankvol-")]
    group = lines[begin : lines.index("::endgroup::", begin)]
    assert group[-2:] == ["connecting with ***", "goodbye ***"]
    assert stack.xcom("talking", run_id, "job.run_rank", 0)["log_tail"] == "connecting with ***\ngoodbye ***\n"
    files = [path for path in (stack.home / "logs").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if SECRET in path.read_text(errors="replace")] == []


def test_a_dag_runs_when_another_dags_job_has_copied_its_files(stack: Stack) -> None:
    """It is scheduled by the destination's asset; the event says what is there."""
    run_id = stack.runs["writer"]
    assert stack.wait("writer", run_id) == "success", stack.states("writer", run_id)
    deadline, runs = time.monotonic() + 90, list[dict[str, Any]]()
    while not runs:
        assert time.monotonic() < deadline, stack.logs()
        runs = (stack.get("/api/v2/dags/reader/dagRuns") or {"dag_runs": []})["dag_runs"]
    (read,) = runs
    assert read["run_type"] == "asset_triggered"
    assert stack.wait("reader", read["dag_run_id"]) == "success", stack.states("reader", read["dag_run_id"])
    where = f"{stack.home}/flag.files"
    facts = {"dag": "writer", "run": run_id, "group": "job", "destination": where, "ranks": [0, 1]}
    assert stack.xcom("reader", read["dag_run_id"], "read") == [{**facts, "files": 2, "bytes": 4}]


def test_twenty_nodes_meet_through_two_worker_slots(stack: Stack) -> None:
    """A rendezvous of 20 that holds worker slots cannot deadlock on a pool of two."""
    run_id = stack.runs["gang"]
    assert stack.wait("gang", run_id, timeout_s=240) == "success", stack.states("gang", run_id)
    assert stack.xcom("gang", run_id, "job.gather") == list(range(20))
    assert leftovers(stack, "--dag", "gang") == []


def test_nothing_of_a_live_run_is_ever_removed(stack: Stack) -> None:
    """Even past its expiry: reap asks Airflow, and the run goes on to its end."""
    run_id = stack.trigger("alive")
    deadline = time.monotonic() + 90
    while len(leftovers(stack, "--dag", "alive")) < 4:
        assert time.monotonic() < deadline, stack.states("alive", run_id)
    assert stack.command("rankvol", "reap", "--yes", "--dag", "alive").returncode == 0
    assert reaped(stack, "alive") == {"live": 4}
    assert len(leftovers(stack, "--dag", "alive")) == 4
    (stack.home / "flag").touch()
    assert stack.wait("alive", run_id) == "success", stack.states("alive", run_id)
    assert leftovers(stack, "--dag", "alive") == []


def test_after_a_dagrun_timeout_reap_leaves_only_what_a_rank_had_finished(stack: Stack) -> None:
    """Airflow skips the teardown then. Of a group that was cut off as a whole nothing stays."""
    run_id = stack.trigger("timed_out")
    assert stack.wait("timed_out", run_id) == "failed"
    assert stack.states("timed_out", run_id)["cut.delete_volumes"] != "success"
    assert len(leftovers(stack, "--dag", "timed_out")) >= 4

    assert stack.command("rankvol", "reap", check=False).returncode == 3
    removed = reaped(stack, "timed_out")
    assert removed == {"removed": removed["removed"], "kept": 1}
    assert stack.command("rankvol", "reap", "--yes").returncode == 0
    (row,) = leftovers(stack, "--dag", "timed_out")
    assert (row["kind"], row["group"], row["rank"], row["action"]) == ("volume", "half", 0, "keep")
    stack.delete("timed_out", run_id)
    assert reaped(stack, "timed_out") == {"kept": 1}  # nobody knows that run any more, and it has not expired

    assert stack.command("rankvol", "reap", "--yes", "--name", row["name"]).returncode == 0
    assert stack.command("rankvol", "ls").stdout.strip() == "none"
    assert list((stack.home / "state" / "volumes").iterdir()) == []
    assert list((stack.home / "state" / "nodes").iterdir()) == []
