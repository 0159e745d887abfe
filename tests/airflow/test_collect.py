"""Files of all ranks at a destination, in real DAG runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_rankvol.backends.local import LocalBackend
from tests.airflow.grounds import LocalGround
from tests.airflow.harness import DagBench

WRITE = ["mkdir -p $VOLUME_PATH/out", "echo $NODE_RANK >$VOLUME_PATH/out/part"]


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalGround:
    return LocalGround(tmp_path, monkeypatch)


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_without_gather_commands_the_result_says_what_was_copied(bench: DagBench, tmp_path: Path) -> None:
    dag = bench.job(nodes=2, commands=WRITE, destination=f"file://{tmp_path}/{{{{ run_id }}}}", collect="out/*")
    run = bench.run(dag)
    assert run.state == "success", run.log
    folder = tmp_path / run.run_id
    manifest = {"manifest": f"{folder}/manifest.json"}
    assert run.xcom("gather") == {"destination": str(folder), "files": 2, "bytes": 4, **manifest}
    copied = files(folder)
    assert json.loads(copied.pop("manifest.json"))["ranks"] == [0, 1]
    assert copied == {f"rank=00{rank}/data/out/part": f"{rank}\n" for rank in range(2)}
    assert bench.left(dag).volumes == ()


def test_a_copy_that_fails_keeps_the_volumes_and_a_cleared_gather_makes_up_for_it(
    bench: DagBench, tmp_path: Path
) -> None:
    """The teardown has run meanwhile; what was not copied is still there."""
    wall = tmp_path / "results"
    dag = bench.job(nodes=2, commands=WRITE, destination=str(wall / "run"), default_args={"retries": 0})
    wall.mkdir()
    (wall / "run").write_text("in the way")
    plan_only_sees = bench.run(dag)
    assert plan_only_sees.states()["plan"] == "failed"
    (wall / "run").unlink()
    # It comes in the way only after the plan has looked.
    blocked = bench.job(nodes=2, commands=[*WRITE, f"mkdir -p {wall}/run/rank=000; : >{wall}/run/rank=000/data"],
                        destination=str(wall / "run"), collect="out/*")  # fmt: skip
    run = bench.run(blocked)
    assert (run.state, run.states()["gather"]) == ("failed", "failed")
    assert f"could not be copied to {wall}/run" in run.log
    kept = bench.left(blocked).volumes
    assert len(kept) == 2
    (wall / "run/rank=000/data").unlink()
    bench.clear(run, "gather")
    again = bench.resume(run)
    assert again.state == "success", again.log
    assert set(files(wall / "run")) == {"manifest.json", *(f"rank=00{rank}/data/out/part" for rank in range(2))}
    assert bench.left(blocked).volumes == ()


def test_each_part_of_gather_has_its_manifest(bench: DagBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalBackend, "max_volumes", lambda _self, _template: 1)
    run = bench.run(bench.job(nodes=2, commands=WRITE, destination=str(tmp_path / "x"), collect=["out/*"]))
    assert run.state == "success", run.log
    manifests = [f"{tmp_path}/x/manifest-{part}.json" for part in range(2)]
    assert [item["manifest"] for item in run.xcom("gather")] == manifests
    ranks = [json.loads(Path(path).read_text())["ranks"] for path in manifests]
    assert ranks == [[0], [1]]


@pytest.mark.parametrize("deferrable", [True, False])
def test_of_several_parts_of_gather_one_may_have_all_that_is_looked_for(
    bench: DagBench, tmp_path: Path, deferrable: bool
) -> None:
    """The others' manifests are empty."""
    bench.ground.limit_gather(1)
    write = ["echo $NODE_RANK >$VOLUME_PATH/part", "[ $NODE_RANK = 1 ] || echo all >$VOLUME_PATH/summary"]
    where = tmp_path / "results"
    dag = bench.job(nodes=2, commands=write, destination=str(where), collect="summary", deferrable=deferrable)
    run = bench.run(dag)
    assert run.state == "success", run.log
    copied = files(where)
    manifests = [json.loads(copied.pop(f"manifest-{part}.json")) for part in (0, 1)]
    assert [(len(found["files"]), found["ranks"]) for found in manifests] == [(1, [0]), (0, [1])]
    assert copied == {"rank=000/data/summary": "all\n"}
    assert bench.left(dag).volumes == ()


@pytest.mark.parametrize("deferrable", [True, False])
def test_several_parts_of_gather_that_find_nothing_keep_the_volumes(
    bench: DagBench, tmp_path: Path, deferrable: bool
) -> None:
    bench.ground.limit_gather(1)
    dag = bench.job(nodes=2, commands=WRITE, destination=f"{tmp_path}/x", collect="nothing", deferrable=deferrable)
    run = bench.run(dag)
    assert (run.state, run.states()["gather"]) == ("failed", "failed")
    (line,) = [
        line for line in run.log.splitlines() if "collect matches no file on any volume" in line and "exit" in line
    ]
    assert "the results could not be copied" in line
    assert "(exit code 1)" in line
    assert [json.loads(text)["files"] for text in files(tmp_path / "x").values()] == [[], []]
    assert len(bench.left(dag).volumes) == 2
