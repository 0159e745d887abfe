"""What a rank job does when all goes well, in real DAG runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.log import mask_secret

from tests.airflow.harness import DagBench, Run

RESULT = "echo '{\"rank\": '$NODE_RANK', \"of\": '$NODES_NUM'}' > $RANKVOL_RESULT"


def _nothing_left(bench: DagBench, run: Run) -> bool:
    left = bench.left(run.dag)
    return left.volumes == () and left.nodes == ()


def test_n_comes_from_a_param_and_ranks_are_named_in_the_ui(bench: DagBench) -> None:
    """The trigger form's number decides how many ranks run; each is labelled with its rank and volume."""
    dag = bench.job(
        dag_args="params={'n': Param(2, type='integer', minimum=1)}", nodes="{{ params.n }}", commands=[RESULT]
    )
    run = bench.run(dag, {"n": 3})
    assert run.state == "success"
    slots = run.xcom("create_volumes")
    assert run.labels() == {
        f"run_rank[{rank}]": f"rank {rank} · {slots[rank]['volumes'][0]['name']}" for rank in range(3)
    }
    assert run.xcom("gather") == [{"rank": rank, "of": 3} for rank in range(3)]
    assert _nothing_left(bench, run)


def test_xcoms_have_the_documented_shape(bench: DagBench) -> None:
    """Slots from plan and create, and a rank's result, carry exactly the documented fields."""
    run = bench.run(bench.job(nodes=1, commands=["echo hello", RESULT]))
    (slot,) = run.xcom("plan")
    assert set(slot) == {"rank", "nodes", "zone", "volumes"}
    assert set(slot["volumes"][0]) == {"name", "path", "size_gib", "type"}
    (slot,) = run.xcom("create_volumes")
    assert set(slot["volumes"][0]) == {"name", "path", "size_gib", "type", "id", "adopted"}
    result = run.xcom("run_rank[0]")
    assert set(result) == {
        "rank",
        "exit_code",
        "output",
        "log_tail",
        "volumes",
        "node_id",
        "attempt",
        "started_at",
        "finished_at",
        "reused",
        "events",
    }
    assert (result["rank"], result["exit_code"], result["attempt"], result["reused"]) == (0, 0, 1, False)
    assert "hello" in result["log_tail"]
    times = [result["events"][name] for name in ("create", "launch", "attach", "run", "finish")]
    assert all(times)
    assert times == sorted(times)


def _comparable(result: dict[str, Any]) -> dict[str, Any]:
    hidden = ("node_id", "started_at", "finished_at", "events", "volumes")
    return {key: value for key, value in result.items() if key not in hidden}


@pytest.mark.parametrize("commands", [[RESULT], ["echo bad luck; exit 4"], ["echo nonsense > $RANKVOL_RESULT"]])
def test_deferred_and_not_deferred_give_the_same_results_and_states(bench: DagBench, commands: list[str]) -> None:
    """deferrable changes where the waiting happens, and nothing else."""
    runs = {
        deferrable: bench.run(bench.job(commands=commands, gather=["echo 1 > $RANKVOL_RESULT"], deferrable=deferrable))
        for deferrable in (True, False)
    }
    assert runs[True].states() == runs[False].states()
    for rank in (0, 1):
        task = f"run_rank[{rank}]"
        assert _comparable(runs[True].xcom(task)) == _comparable(runs[False].xcom(task))
    assert runs[True].xcom("gather") == runs[False].xcom("gather")
    assert len({len(bench.left(run.dag).volumes) for run in runs.values()}) == 1


@pytest.mark.parametrize("ground", ["local"], indirect=True)  # clouds refuse such a file
@pytest.mark.parametrize("deferrable", [True, False])
def test_a_key_that_a_node_prints_slowly_is_masked_line_by_line(bench: DagBench, deferrable: bool) -> None:
    mask_secret("-----BEGIN KEY-----\nrhubarb-and-custard\nelderflower-cordial")
    key = "data:,-----BEGIN KEY-----%0Arhubarb-and-custard%0Aelderflower-cordial%0Aafter it%0A"
    commands = ['while read -r line; do echo "says $line"; sleep 0.3; done < key.txt']  # several looks at the log
    run = bench.run(bench.job(nodes=1, files={"key.txt": key}, commands=commands, deferrable=deferrable))
    assert "says after it" in run.log
    assert run.log.count("says ***") == 3
    assert "rhubarb-and" not in run.log
    assert "elderflower" not in run.log


def test_all_spellings_of_the_rank_survive_jinja(bench: DagBench) -> None:
    """Five spellings and a format spec, side by side with real templates, mean the same rank in a real DAG."""
    names = [
        "a-${NODE_RANK}",
        "b-${DSTACK_NODE_RANK}",
        "c-${{ dstack.node_rank }}",
        "d-${{ dstack.job_num }}",
        "e-${{ node_rank }}",
    ]
    volumes: list[Any] = [f"{name}:/{name[0]}" for name in names]
    volumes.append({"name": "f-${{ node_rank:03d }}-of-${{ nodes_num }}", "path": "/f", "naming": "pattern"})
    run = bench.run(
        bench.job(
            nodes="{{ 1 + 1 }}",
            volumes=volumes,
            commands=[
                'echo "\\"${{ node_rank:03d }} $NODE_RANK ${DSTACK_NODE_RANK} {{ dag.dag_id }}\\"" > $RANKVOL_RESULT'
            ],
        )
    )
    assert run.state == "success"
    assert run.xcom("gather") == [f"00{rank} {rank} {rank} {run.dag.dag_id}" for rank in (0, 1)]
    for rank, slot in enumerate(run.xcom("plan")):
        *suffixed, patterned = [volume["name"] for volume in slot["volumes"]]
        assert [name.rpartition("-")[2] for name in suffixed] == [str(rank)] * 5
        assert patterned.startswith(f"f-00{rank}-of-2-")


def test_a_shell_length_expansion_gets_an_error_that_names_raw(bench: DagBench) -> None:
    """Jinja would take ${#x} for a comment; the error says how to write it, and the raw block works."""
    run = bench.run(bench.job(commands=["x=four; echo ${#x} > $RANKVOL_RESULT"]))
    assert run.states()["plan"] == "failed"
    assert "{% raw %}" in run.log
    run = bench.run(bench.job(nodes=1, commands=["x=four; echo {% raw %}${#x}{% endraw %} > $RANKVOL_RESULT"]))
    assert run.xcom("gather") == [4]


def test_files_env_and_secrets_reach_the_node_and_secrets_not_the_log(bench: DagBench) -> None:
    """files lie in the working directory, env is templated per rank, and a secret is read on the node only."""
    (bench.folder / "tool.sh").write_text('echo "{\\"shard\\": \\"$SHARD\\", \\"length\\": ${#TOKEN}}"\n')
    run = bench.run(
        bench.job(
            files={"bin/tool.sh": "tool.sh"},
            env={"SHARD": "{{ dag.dag_id }}/${{ node_rank }}"},
            secret_env={"TOKEN": bench.ground.secret("s3cr3t-rhubarb")},
            node=bench.ground.secret_fields,
            commands=["bash bin/tool.sh > $RANKVOL_RESULT"],
        )
    )
    assert run.state == "success"
    assert run.xcom("gather") == [{"shard": f"{run.dag.dag_id}/{rank}", "length": 14} for rank in (0, 1)]
    assert "s3cr3t-rhubarb" not in run.log
    assert "s3cr3t-rhubarb" not in json.dumps([run.xcom(f"run_rank[{rank}]") for rank in (0, 1)])


@pytest.mark.parametrize("nodes", [4, 20])
def test_a_rendezvous_runs_in_dag_test_without_a_deadlock(bench: DagBench, nodes: int) -> None:
    """dag.test() runs one task at a time; the first launches the whole gang, and all of it meet."""
    commands = [
        f'[ "$(echo "$NODES_IPS" | sort -u | wc -l)" = {nodes} ]',
        '[ "$(echo "$NODES_IPS" | sed -n $((NODE_RANK + 1))p)" = $NODE_IP ]',
        'echo \\"$MASTER_ADDR:$MASTER_PORT\\" > $RANKVOL_RESULT',
    ]
    run = bench.run(bench.job(nodes=nodes, rendezvous=True, commands=commands))
    assert run.state == "success", run.log
    assert len(set(run.xcom("gather"))) == 1
    assert _nothing_left(bench, run)


def test_one_ranks_failure_ends_the_gang_and_retries_restart_it_as_one(bench: DagBench) -> None:
    """Rank 1 fails at first: every rank fails naming it, and on the retry all of them meet again."""
    commands = [
        'if [ "$NODE_RANK" = 1 ] && [ ! -e $VOLUME_PATH/second ]; then touch $VOLUME_PATH/second; exit 5; fi',
        '[ "$NODE_RANK" = 1 ] || [ -e $VOLUME_PATH/again ] || { touch $VOLUME_PATH/again; sleep 60; }',
        "echo 1 > $RANKVOL_RESULT",
    ]
    retries = {"retries": 2, "retry_delay": 0}
    run = bench.run(bench.job(nodes=3, rendezvous=True, commands=commands, rank_args=retries))
    assert run.state == "success", run.log
    assert "rank 1 ended with exit code 5" in run.log
    assert run.xcom("gather") == [1, 1, 1]
    assert _nothing_left(bench, run)


def test_without_any_connection_a_job_runs_on_this_machine(bench: DagBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """rankvol_default need not be defined."""
    if bench.ground.name != "local":
        pytest.skip("a job without a connection runs on this machine, whatever clouds there are")
    monkeypatch.delenv("AIRFLOW_CONN_RANKVOL_DEFAULT")
    run = bench.run(bench.job(commands=[RESULT]))
    assert run.state == "success"
    assert _nothing_left(bench, run)


def test_another_missing_connection_is_an_error(bench: DagBench) -> None:
    """A conn_id that is not defined fails in plan and says what to do."""
    run = bench.run(bench.job(conn_id="aws_prod"))
    assert run.states()["plan"] == "failed"
    assert "'aws_prod' is not defined" in run.log


def test_the_operators_can_be_wired_by_hand(bench: DagBench) -> None:
    """The five operators do the same without rank_job, outside of any task group."""
    dag = bench.write(
        """
        from airflow_rankvol import (
            CreateRankVolumes, DeleteRankVolumes, GatherRankResults, PlanRankVolumes, RunRank,
        )
        job = dict(
            nodes=2, volumes=["data-${NODE_RANK}:/data"], volume_template=VolumeTemplate(size="32MB"),
            commands=["echo $NODE_RANK > $RANKVOL_RESULT"], volume_group="by-hand",
        )
        with DAG(DAG_ID, schedule=None) as dag:
            plan = PlanRankVolumes(task_id="plan", **job)
            job["planned_on"] = plan.output["backend"]
            create = CreateRankVolumes(task_id="create", slots=plan.output, **job)
            ranks = RunRank.partial(task_id="rank", **job).expand(slot=create.output)
            gather = GatherRankResults(
                task_id="gather", slots=create.output, results=ranks.output, trigger_rule="all_done", **job
            )
            delete = DeleteRankVolumes(task_id="delete", slots=create.output, **job)
            plan.as_setup() >> create.as_setup() >> ranks >> gather >> delete
            delete.as_teardown(setups=[plan, create], on_failure_fail_dagrun=True)
        """
    )
    run = bench.run(dag)
    assert run.state == "success", run.log
    assert run.states()["rank[1]"] == "success"
    assert _nothing_left(bench, run)


@pytest.mark.parametrize("ground", ["local"], indirect=True)
def test_no_teardown_works_on_another_backend_than_plan_did(bench: DagBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody has changed the connection: it would find nothing there, and call everything deleted."""
    run = bench.run(bench.job(nodes=2, commands=["exit 3"]))
    assert len(bench.left(run.dag).volumes) == 2
    with monkeypatch.context() as changed:
        extra = {"region_name": "us-east-1", "owner": "team-a"}
        changed.setenv("AIRFLOW_CONN_RANKVOL_DEFAULT", json.dumps({"conn_type": "aws", "extra": extra}))
        bench.clear(run, "delete_volumes", downstream=False)
        failed = bench.resume(run)
    assert failed.states()["delete_volumes"] == "failed"
    assert "leads to aws us-east-1 now, but this run was planned on local /" in failed.log


@pytest.mark.parametrize("ground", ["local"], indirect=True)
@pytest.mark.parametrize("change", ["another backend", "another directory"])
def test_a_cleared_rank_is_not_planned_anew_elsewhere(
    bench: DagBench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    """It takes plan with it, and the other ranks' volumes would stay where nobody looks."""
    run = bench.run(bench.job(nodes=2, commands=["[ $NODE_RANK = 0 ]"]))
    with monkeypatch.context() as changed:
        elsewhere = {"conn_type": "rankvol_local", "extra": {"state_dir": str(tmp_path / "other")}}
        if change == "another backend":
            elsewhere = {"conn_type": "aws", "extra": {"region_name": "us-east-1", "owner": "team-a"}}
        changed.setenv("AIRFLOW_CONN_RANKVOL_DEFAULT", json.dumps(elsewhere))
        bench.clear(run, "run_rank[1]")
        failed = bench.resume(run)
    assert failed.states()["plan"] == "failed"
    assert "now, but this run was planned on local /" in failed.log
    assert len(bench.left(run.dag).volumes) == 2
    bench.clear(run, "plan")
    bench.resume(run)
    assert run.states()["plan"] == "success"


def test_adopted_volumes_go_only_when_the_dag_says_so_and_after_a_gather(bench: DagBench) -> None:
    """Global scope adopts what exists: never formatted, kept by default and after a failure; only that goes."""
    for rank in (0, 1):
        bench.ground.add_volume(f"lake-{rank}", "seen", f"from {rank}")
    volumes = ["lake-${NODE_RANK}:/lake"]
    commands = ["cat $VOLUME_PATH/seen"]
    template: dict[str, Any] = {"size": "32MB", "scope": "global"}

    kept = bench.run(bench.job(volumes=volumes, volume_template=template, commands=commands))
    assert kept.state == "success"
    assert "from 1" in kept.xcom("run_rank[1]")["log_tail"]
    assert [volume["adopted"] for slot in kept.xcom("create_volumes") for volume in slot["volumes"]] == [True, True]
    assert {item["name"] for item in kept.xcom("delete_volumes")["kept"]} == {"lake-0", "lake-1"}

    template["delete_adopted"] = True
    failed = bench.run(bench.job(volumes=volumes, volume_template=template, gather=["exit 3"]))
    assert {item["name"] for item in failed.xcom("delete_volumes")["kept"]} == {"lake-0", "lake-1"}

    gone = bench.run(bench.job(volumes=volumes, volume_template=template, gather=["true"]))
    assert gone.state == "success"
    assert gone.xcom("delete_volumes")["deleted"] == ["lake-0", "lake-1"]

    bench.ground.add_volume("lake-0", "seen", "by another one")
    bench.clear(gone, "delete_volumes", downstream=False)
    (other,) = bench.resume(gone).xcom("delete_volumes")["kept"]
    assert (other["name"], gone.xcom("delete_volumes")["deleted"]) == ("lake-0", [])
    gone = bench.run(bench.job(nodes=1, volumes=volumes, volume_template=template, gather=["true"]))
    assert gone.xcom("delete_volumes")["deleted"] == ["lake-0"]


@pytest.mark.parametrize("deferrable", [True, False])
def test_gather_splits_where_a_node_cannot_hold_all_volumes(bench: DagBench, deferrable: bool) -> None:
    """Each part is a node of its own, which sees its share; the result is the list of theirs."""
    bench.ground.limit_gather(2)
    gather = 'echo "{\\"$GATHER_PART/$GATHER_PARTS\\": \\"$(ls $RANKS_PATH | xargs)\\"}" > $RANKVOL_RESULT'
    run = bench.run(bench.job(nodes=5, commands=[RESULT], gather=[gather], deferrable=deferrable))
    assert run.state == "success", run.log
    assert run.xcom("gather") == [{"0/3": "0 1"}, {"1/3": "2 3"}, {"2/3": "4"}]
    assert _nothing_left(bench, run)


def test_one_failed_part_fails_gather_and_keeps_the_volumes(bench: DagBench) -> None:
    """What another part had read was not stored, so nothing is deleted; cleared, it gathers all."""
    bench.ground.limit_gather(1)
    first = bench.job(nodes=2, commands=[RESULT], gather=["[ $GATHER_PART = 0 ]"])
    run = bench.run(first)
    assert run.state == "failed"
    assert "part 1 of 2" in run.log
    assert len(bench.left(run.dag).volumes) == 2
    fixed = bench.job(first.dag_id, nodes=2, commands=[RESULT], gather=["true"])
    bench.clear(run, "gather")
    again = bench.resume(run, fixed)
    assert again.state == "success", again.log
    assert again.xcom("gather") == [None, None]
    assert _nothing_left(bench, again)
