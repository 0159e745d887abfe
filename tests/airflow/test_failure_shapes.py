"""What happens when something fails, each shape in a real DAG run."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from airflow_rankvol.engine.teardown import TeardownReport
from airflow_rankvol.records import from_iso
from tests.airflow.harness import DagBench, Run

COUNT = "echo try >> $VOLUME_PATH/tries"
GATHER_TRIES = "cat $RANKS_PATH/*/data/tries | wc -l > $RANKVOL_RESULT"
FAIL_RANK_1 = f'{COUNT}; if [ "$NODE_RANK" = 1 ]; then echo "no space for rhubarb"; exit 7; fi'


def kept_ranks(bench: DagBench, run: Run) -> list[int]:
    """Return the ranks whose volumes stay, after checking that no node does."""
    left = bench.without_nodes(run.dag)
    return sorted(volume.tags.rank for volume in left.volumes if volume.tags)


def test_a_failed_rank_fails_alone_and_is_mended_by_clearing_only_it(bench: DagBench) -> None:
    """One rank fails: its siblings finish, all volumes stay until expiry; fixed and cleared, only it computes."""
    dag = bench.job(nodes=3, commands=[FAIL_RANK_1], gather=[GATHER_TRIES])
    run = bench.run(dag)

    assert run.state == "failed"
    assert run.states() == {
        "plan": "success",
        "create_volumes": "success",
        "run_rank[0]": "success",
        "run_rank[1]": "failed",
        "run_rank[2]": "success",
        "gather": "failed",
        "done": "upstream_failed",
        "delete_volumes": "success",
    }
    failed = run.xcom("run_rank[1]")
    assert failed["exit_code"] == 7
    assert "no space for rhubarb" in failed["log_tail"]
    assert kept_ranks(bench, run) == [0, 1, 2]
    for volume in bench.left(dag).volumes:
        assert volume.tags
        expiry = from_iso(volume.tags.expiry)
        assert expiry is not None
        assert timedelta(hours=23) < expiry - datetime.now(UTC) < timedelta(hours=25)
    assert len(run.xcom("delete_volumes")["kept"]) == 3

    fixed = bench.job(dag_id=dag.dag_id, nodes=3, commands=[COUNT], gather=[GATHER_TRIES])
    bench.clear(run, "run_rank[1]")
    mended = bench.resume(run, fixed)

    assert mended.state == "success"
    assert mended.xcom("gather") == 4  # rank 1 tried twice, on the same volume; the others once
    assert kept_ranks(bench, mended) == []


def test_a_failed_rank_logs_its_exit_code_and_the_tail_of_its_log(bench: DagBench) -> None:
    """The reason is in the task's log at ERROR, not only in its XCom."""
    run = bench.run(bench.job(nodes=2, commands=[FAIL_RANK_1]))
    errors = run.log[run.log.index("[error ") :]
    assert "exit code 7" in errors
    assert "no space for rhubarb" in errors
    assert kept_ranks(bench, run) == [0, 1]


def test_a_failed_gather_keeps_the_volumes_and_is_mended_by_clearing_it(bench: DagBench) -> None:
    """Gather fails: the run fails, every volume stays; fixed and cleared, no rank computes again."""
    dag = bench.job(commands=[COUNT], gather=["exit 3"])
    run = bench.run(dag)
    assert run.state == "failed"
    assert run.states()["gather"] == "failed"
    assert kept_ranks(bench, run) == [0, 1]

    bench.clear(run, "gather")
    mended = bench.resume(run, bench.job(dag_id=dag.dag_id, commands=[COUNT], gather=[GATHER_TRIES]))
    assert mended.state == "success"
    assert mended.xcom("gather") == 2
    assert kept_ranks(bench, mended) == []


def test_delete_always_deletes_everything_after_a_failure(bench: DagBench) -> None:
    """With reclaim=delete_always a failed run leaves nothing."""
    template = {"size": "32MB", "reclaim": "delete_always"}
    run = bench.run(bench.job(commands=[FAIL_RANK_1], volume_template=template))
    assert run.state == "failed"
    assert kept_ranks(bench, run) == []


def test_leftovers_past_their_expiry_go_with_the_next_run(bench: DagBench) -> None:
    """The next run's plan removes expired leftovers of its DAG, and only those."""
    dag = bench.job(commands=[FAIL_RANK_1])
    first = bench.run(dag)
    volumes = {volume.tags.rank: volume for volume in bench.left(dag).volumes if volume.tags}
    bench.backend().tag_volumes([volumes[0].id], {"rankvol:expiry": "2020-01-01T00:00:00+00:00"})

    fixed = bench.job(dag_id=dag.dag_id, commands=[COUNT])
    second = bench.run(fixed)
    assert second.state == "success"
    assert kept_ranks(bench, first) == [1]


def test_two_jobs_with_the_same_volume_name_in_one_dag_do_not_meet(bench: DagBench) -> None:
    """Each group has volumes of its own, although the names in the DAG are the same."""
    dag = bench.write(
        """
        with DAG(DAG_ID, schedule=None) as dag:
            for name in ("east", "west"):
                rank_job(
                    name,
                    nodes=2,
                    volumes=["data-${NODE_RANK}:/data"],
                    volume_template=VolumeTemplate(size="32MB"),
                    commands=["[ ! -e $VOLUME_PATH/who ]", "echo %s > $VOLUME_PATH/who" % name],
                    gather=["cat $RANKS_PATH/*/data/who | tr '\\\\n' ' ' | sed 's/.*/\\"&\\"/' > $RANKVOL_RESULT"],
                )
        """
    )
    one, two = bench.start(dag), bench.start(dag)
    runs = bench.drive(one, two)
    assert [run.state for run in runs] == ["success", "success"]
    for run in runs:
        assert run.xcom("east.gather") == "east east "
        assert run.xcom("west.gather") == "west west "
    assert bench.left(dag).volumes == ()


def test_overlapping_runs_have_volumes_of_their_own(bench: DagBench) -> None:
    """Two runs of one DAG, their tasks interleaved, never see each other's files."""
    dag = bench.job(commands=[COUNT], gather=[GATHER_TRIES])
    one, two = bench.drive(bench.start(dag), bench.start(dag))
    assert (one.state, two.state) == ("success", "success")
    assert (one.xcom("gather"), two.xcom("gather")) == (2, 2)
    ids = [v["id"] for run in (one, two) for rank in (0, 1) for v in run.xcom(f"run_rank[{rank}]")["volumes"]]
    assert len(set(ids)) == 4
    assert kept_ranks(bench, one) == []


def test_a_node_past_its_lifetime_is_ended_and_its_volume_kept(bench: DagBench) -> None:
    """The lifetime caps a node that hangs; the message says what to do."""
    run = bench.run(bench.job(nodes=1, commands=["sleep 600"], node={"lifetime": "1s"}))
    assert run.states()["run_rank[0]"] == "failed"
    assert "outlived its lifetime of 1 s" in run.log
    assert kept_ranks(bench, run) == [0]


def test_a_node_that_never_boots_fails_its_rank(bench: DagBench) -> None:
    """After boot_timeout the node is removed, the rank fails and says so, and the volume stays."""
    bench.ground.never_boot()
    run = bench.run(bench.job(nodes=1, node={"boot_timeout": "1s"}))
    assert run.states()["run_rank[0]"] == "failed"
    assert re.search("did not come up (with its volumes )?within 1 s", run.log)
    assert kept_ranks(bench, run) == [0]


@pytest.mark.parametrize("broken", [0, 2])
def test_all_or_nothing_when_a_volume_cannot_be_created(
    bench: DagBench, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """Volume k of N fails: create fails with the reason, and no volume is left even before the teardown."""
    bench.ground.fail_create(broken)
    nothing = TeardownReport((), (), ())
    monkeypatch.setattr("airflow_rankvol.operators.teardown", lambda *_args, **_kwargs: nothing)
    run = bench.run(bench.job(nodes=3))
    assert run.states()["create_volumes"] == "failed"
    assert "no room for volume" in run.log
    assert kept_ranks(bench, run) == []


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_retry_finds_the_files_of_the_attempt_before(bench: DagBench, deferrable: bool) -> None:
    """A rank that fails once succeeds on its retry, on the same volume."""
    commands = ["if [ -e $VOLUME_PATH/checkpoint ]; then exit 0; fi; touch $VOLUME_PATH/checkpoint; exit 9"]
    retries = {"retries": 1, "retry_delay": 0}
    run = bench.run(bench.job(commands=commands, deferrable=deferrable, rank_args=retries))
    assert run.state == "success"
    assert [run.xcom(f"run_rank[{rank}]")["attempt"] for rank in (0, 1)] == [2, 2]
    assert kept_ranks(bench, run) == []


def test_a_rank_that_succeeded_does_not_compute_again_when_cleared(bench: DagBench) -> None:
    """Its completion record is on its volume: the cleared rank returns it with reused=True."""
    dag = bench.job(commands=[COUNT, "echo $RANDOM > $RANKVOL_RESULT"], gather=["exit 3"])
    run = bench.run(dag)
    before = run.xcom("run_rank[0]")
    bench.clear(run, "run_rank[0]", downstream=False)
    again = bench.resume(run).xcom("run_rank[0]")
    assert again["reused"] is True
    assert again["output"] == before["output"]
    assert again["attempt"] == 2
    assert kept_ranks(bench, run) == [0, 1]


def test_a_teardown_that_cannot_delete_fails_the_run_and_names_what_stays(
    bench: DagBench,
) -> None:
    """One volume cannot be deleted: the others go, the run fails, and the message names that one."""
    bench.ground.fail_delete(1)
    run = bench.run(bench.job(nodes=3))
    assert run.states()["delete_volumes"] == "failed"
    assert run.state == "failed"
    (stays,) = bench.left(run.dag).volumes
    assert stays.name in run.log
    assert "you may not delete this" in run.log


@pytest.mark.parametrize("nodes", [0, 1025])
def test_too_few_and_too_many_nodes_are_refused_before_anything_exists(bench: DagBench, nodes: int) -> None:
    """0 and 1,025 nodes fail in plan with the limits in the message."""
    run = bench.run(bench.job(nodes="{{ dag_run.conf['nodes'] }}"), {"nodes": nodes})
    assert run.states()["plan"] == "failed"
    assert "1 to 1024" in run.log
    assert kept_ranks(bench, run) == []


def test_allow_missing_keeps_exactly_the_failed_ranks_volumes(bench: DagBench) -> None:
    """Gather goes on without the failed rank; its volume alone stays, and the teardown names it."""
    run = bench.run(bench.job(nodes=3, commands=[FAIL_RANK_1], gather=[GATHER_TRIES], allow_missing=True))
    assert run.xcom("gather") == 2
    assert kept_ranks(bench, run) == [1]
    (kept,) = run.xcom("delete_volumes")["kept"]
    assert kept["rank"] == 1
    assert kept["name"] in run.log


def test_a_dag_scoped_volume_keeps_its_files_for_the_next_run_which_computes_again(bench: DagBench) -> None:
    """The second run finds the first one's files, and is not fooled by its completion record."""
    template = {"size": "32MB", "scope": "dag"}
    dag = bench.job(nodes=1, volume_template=template, commands=[COUNT], gather=[GATHER_TRIES])
    first, second = bench.run(dag), bench.run(dag)
    assert (first.xcom("gather"), second.xcom("gather")) == (1, 2)
    assert second.xcom("run_rank[0]")["reused"] is False
    assert first.xcom("run_rank[0]")["volumes"][0]["id"] == second.xcom("run_rank[0]")["volumes"][0]["id"]
    assert kept_ranks(bench, second) == [0]


def test_a_rank_cleared_after_its_siblings_volumes_had_gone_says_to_clear_the_group(bench: DagBench) -> None:
    """The volumes were deleted after a success: clearing one rank cannot gather, and the message says what can."""
    dag = bench.job(commands=[COUNT], gather=[GATHER_TRIES])
    run = bench.run(dag)
    assert run.state == "success"
    bench.clear(run, "plan", "create_volumes", "run_rank[0]", "gather", "delete_volumes", downstream=False)
    again = bench.resume(run)
    assert again.states()["gather"] == "failed"
    assert "Clear the whole task group" in again.log
    assert 0 in kept_ranks(bench, again)


def test_a_failed_plan_creates_nothing_and_names_the_field(bench: DagBench) -> None:
    """A job that is not valid fails in plan, with the field, what was found and what is allowed."""
    run = bench.run(bench.job(volumes=["data:/data"]))
    assert run.states()["plan"] == "failed"
    assert "volumes.0.name" in run.log
    assert kept_ranks(bench, run) == []
