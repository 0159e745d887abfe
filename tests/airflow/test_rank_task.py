"""``@rank_task`` in real DAG runs: a function's source runs on every rank's node."""

from __future__ import annotations

import math
import textwrap
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.log import mask_secret

from airflow_rankvol.errors import ConfigError
from tests.airflow.grounds import LocalGround
from tests.airflow.harness import DagBench
from tests.unit.test_rank_task_node import write_wheel

FIELDS = 'volumes=["data-${NODE_RANK}:/data"], volume_template={"size": "32MB"}'


def dag_of(bench: DagBench, function: str, *, fields: str = "nodes=2", call: str = "job()", around: str = "") -> Any:
    """Write a DAG with one ``@rank_task``; ``around`` stands before it in the file."""
    body = "\n".join(
        [
            "import math",
            "from airflow.sdk import task",
            "from airflow_rankvol import rank_task",
            textwrap.dedent(around),
            f"@rank_task({FIELDS}, {fields})",
            textwrap.dedent(function).strip(),
            "with DAG(DAG_ID, schedule=None) as dag:",
            f"    {call}",
            "",
        ]
    )
    return bench.write(body)


def nothing_left(bench: DagBench, dag: Any) -> bool:
    left = bench.left(dag)
    return left.volumes == () and left.nodes == ()


def test_a_function_runs_on_every_ranks_node_and_gather_lists_what_they_return(bench: DagBench) -> None:
    """With the values around it, a module of the file, a template and another task's result; without Airflow."""
    dag = dag_of(
        bench,
        """
        def job(rank: int, nodes: int, volume: str, day, numbers, limit=LIMIT):
            import os
            with open(os.path.join(volume, "mine"), "w") as file:
                file.write(f"{{{rank}}}")
            own = sorted(name for name in os.environ if name.startswith("AIRFLOW"))
            return [rank, nodes, day, numbers, limit, math.floor(2.5), open(f"{volume}/mine").read(), own]
        """,
        around="""
        LIMIT = {"a": (1, None)}
        @task
        def given():
            return {"n": [1, "{{ ds }}"]}
        """,
        call="job('{{ dag.dag_id }}', numbers=given())",
    )
    mask_secret("image")  # a word of what calls the function on the node, which is nobody's secret there
    mask_secret("python3")  # and one of the command that runs that
    run = bench.run(dag)
    assert run.state == "success", run.log
    given = {"n": [1, "{{ ds }}"]}
    assert run.xcom("gather") == [
        [rank, 2, dag.dag_id, given, {"a": [1, None]}, 2, f"{{{rank}}}", []] for rank in range(2)
    ]
    assert nothing_left(bench, run.dag)


def test_a_functions_failure_fails_its_rank_with_the_traceback_and_a_retry_finds_its_files(bench: DagBench) -> None:
    dag = dag_of(
        bench,
        """
        def job(rank, volume):
            import os
            if rank == 1 and not os.path.exists(f"{volume}/seen"):
                open(f"{volume}/seen", "w").close()
                raise LookupError(f"no luck on {rank}")
            return os.listdir(volume).count("seen")
        """,
        fields="nodes=2, rank_args={'retries': 1, 'retry_delay': 0}",
    )
    run = bench.run(dag)
    assert run.state == "success", run.log
    assert 'raise LookupError(f"no luck on {rank}")' in run.log
    assert "LookupError: no luck on 1" in run.log
    assert run.xcom("gather") == [0, 1]
    assert run.xcom("run_rank[1]")["attempt"] == 2
    assert nothing_left(bench, run.dag)


def test_a_retry_finds_the_requirements_on_its_volume_and_they_are_no_result(bench: DagBench) -> None:
    """The node's own Python installs them, once; on clouds a wheel gets there as a user's would, among the files."""
    wheel = write_wheel(bench.folder)
    dag = dag_of(
        bench,
        """
        def job(rank, volume):
            import os
            import rankvol_tiny
            if not os.path.exists(f"{volume}/seen"):
                open(f"{volume}/seen", "w").close()
                raise SystemExit(3)
            return [rankvol_tiny.NAME, rankvol_tiny.__file__.startswith(f"{volume}/.rankvol/")]
        """,
        fields=f"nodes=1, requirements=['./{wheel.name}'], files={{{wheel.name!r}: {wheel.name!r}}}, "
        "env={'UV_OFFLINE': 1, 'PIP_NO_INDEX': 1}, rank_args={'retries': 1, 'retry_delay': 0}, "
        "gather=['find $RANKS_PATH -type f -not -path \"*/.rankvol/*\" | wc -l > $RANKVOL_RESULT']",
    )
    run = bench.run(dag)
    assert run.state == "success", run.log
    assert f"requirements: installing ./{wheel.name}" in run.log
    tail = run.xcom("run_rank[0]")["log_tail"]
    assert "requirements: found on the volume" in tail
    assert "installing" not in tail
    assert run.xcom("run_rank[0]")["output"] == ["tiny", True]
    assert run.xcom("gather") == 1
    assert nothing_left(bench, run.dag)


class TestOnThisMachine:
    """What every backend does alike is seen on the quickest."""

    @pytest.fixture
    def ground(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalGround:
        return LocalGround(tmp_path, monkeypatch)

    def test_what_is_no_json_fails_its_rank_by_number_and_type(self, bench: DagBench) -> None:
        dag = dag_of(bench, "def job(rank):\n    return {'rows': {1, 2}} if rank == 1 else rank")
        run = bench.run(dag)
        assert run.state == "failed"
        assert (run.xcom("run_rank[0]")["output"], run.xcom("run_rank[1]")["exit_code"]) == (0, 1)
        assert "rank 1: job() returned set at ['rows']" in run.xcom("run_rank[1]")["log_tail"]
        assert [volume.tags.rank for volume in bench.left(dag).volumes if volume.tags] == [0, 1]

    def test_it_takes_rank_jobs_fields_and_its_files_can_be_imported(self, bench: DagBench) -> None:
        (bench.folder / "rank_task_helper.txt").write_text("def twice(n):\n    return 2 * n\n")
        dag = dag_of(
            bench,
            """
            def job(rank):
                import os
                from helper import twice
                return twice(rank + int(os.environ["MORE"]))
            """,
            fields="nodes=2, deferrable=False, files={'helper.py': 'rank_task_helper.txt'}, "
            "env={'MORE': '{{ 2 + 3 }}'}, "
            "gather=['cat $RANKS_PATH/*/data/.rankvol/*/log | wc -c > $RANKVOL_RESULT'], group_id='mine'",
        )
        run = bench.run(dag)
        assert run.state == "success", run.log
        assert [run.xcom(f"run_rank[{rank}]")["output"] for rank in range(2)] == [10, 12]
        assert run.xcom("mine.gather") == 0

    def test_a_dag_file_with_a_function_that_cannot_be_shipped_is_not_loaded(self, bench: DagBench) -> None:
        with pytest.raises(ConfigError, match=r"uses 'LOCK' .*_thread\.lock"):
            dag_of(
                bench, "def job(rank):\n    return LOCK.locked()", around="import threading\nLOCK = threading.Lock()"
            )

    def test_the_example_comes_close_to_pi(self, bench: DagBench) -> None:
        run = bench.run(bench.example("pi_by_rank"), {"nodes": 2, "points": 40_001, "seed": 3, "size": "32MB"})
        assert run.state == "success", run.log
        result = run.xcom("estimate")
        assert result["points"] == 40_001
        assert abs(result["pi"] - math.pi) < 4 * result["give_or_take"]
        assert [run.xcom(f"throw.run_rank[{rank}]")["output"]["points"] for rank in range(2)] == [20_000, 20_001]
