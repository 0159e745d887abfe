"""`rankvol plan` of YAML and DAG files: what a run would make, told without a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from airflow_rankvol.cli import main
from airflow_rankvol.plan import RunIdentity, make_plan
from airflow_rankvol.spec.job import RankJob
from tests.unit.cli_kit import OWNER, Cloud, install, rows

DAG_HEAD = "from airflow.sdk import DAG, TaskGroup\nfrom airflow_rankvol import rank_job\n"


@pytest.fixture(autouse=True)
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """The cloud behind the default connection; a plan asks it for nothing but its owner."""
    return install(monkeypatch)


YAML_JOB = {
    "nodes": 3,
    "volumes": ["data-${NODE_RANK}:/data", {"name": "tmp-${NODE_RANK}", "path": "/scratch", "size": "1TB"}],
    "volume_template": {"size": "100GB", "type": "gp3"},
    "node": {"zones": ["a", "b"]},
    "commands": ["echo"],
    "group_id": "shards",
}

DAG_FILE = """
from airflow.sdk import DAG, Param
from airflow_rankvol import rank_job

print("a DAG file may print what it likes")
with DAG("flights", params={"nodes": Param(2, type="integer"), "part": Param("all", type="string")}) as dag:
    rank_job("extract", commands="x", nodes="{{ params.nodes }}",
             volumes="{{ params.part }}-${{ node_rank }}:/d")
    rank_job("train", commands="x", nodes=1, volumes="model-${NODE_RANK}:/data")
"""


@pytest.fixture
def job_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_job.yaml"
    path.write_text(yaml.safe_dump(YAML_JOB))
    return path


@pytest.fixture
def dag_file(tmp_path: Path) -> Path:
    path = tmp_path / "flights.py"
    path.write_text(DAG_FILE)
    return path


def test_plan_of_a_yaml_job_is_the_plan_that_its_run_makes(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], job_file: Path
) -> None:
    assert main(["plan", str(job_file), "--dag-id", "etl", "--run-id", "r1", "-o", "json"]) == 0
    (found,) = rows(capsys)
    expected = make_plan(RankJob.model_validate(YAML_JOB), RunIdentity(OWNER, "etl", "r1", "shards"))
    assert found["key"] == expected.key
    assert [slot["zone"] for slot in found["slots"]] == ["a", "b", "a"]
    volumes = [volume for slot in found["slots"] for volume in slot["volumes"]]
    assert [v["name"] for v in volumes] == [v.name for v in expected.volumes()]
    assert [v["size_gib"] for v in volumes[:2]] == [100, 1024]
    assert cloud.backend.calls == []


def test_plan_tables_name_every_volume(capsys: pytest.CaptureFixture[str], job_file: Path) -> None:
    assert main(["plan", str(job_file)]) == 0
    out = capsys.readouterr().out
    assert "group shards of DAG my_job, run sample_run" in out
    assert out.count("/scratch") == 3


def test_nodes_replaces_the_jobs_own_number(capsys: pytest.CaptureFixture[str], job_file: Path, dag_file: Path) -> None:
    for path in (job_file, dag_file):
        assert main(["plan", str(path), "--nodes", "5", "-o", "json"]) == 0
        assert {len(plan["slots"]) for plan in rows(capsys)} == {5}


def test_plan_of_a_dag_file_renders_its_params(capsys: pytest.CaptureFixture[str], dag_file: Path) -> None:
    assert main(["plan", str(dag_file), "-o", "json"]) == 0
    extract, train = rows(capsys)
    assert [extract["group"], train["group"]] == ["extract", "train"]
    assert [extract["nodes"], train["nodes"]] == [2, 1]
    assert extract["slots"][1]["volumes"][0]["name"] == f"all-{extract['key']}-1"
    # A Param of type string stays one, even where its text reads like a number.
    arguments = ["--group", "extract", "--param", "nodes=4", "--param", "part=p1"]
    assert main(["plan", str(dag_file), "-o", "json", *arguments]) == 0
    (extract,) = rows(capsys)
    assert extract["slots"][3]["volumes"][0]["name"] == f"p1-{extract['key']}-3"


def test_what_a_dag_file_prints_does_not_spoil_the_answer(capsys: pytest.CaptureFixture[str], dag_file: Path) -> None:
    assert main(["plan", str(dag_file), "-o", "json"]) == 0
    answer = capsys.readouterr()
    json.loads(answer.out)
    assert "a DAG file may print" in answer.err


def test_plan_knows_the_task_group_around_a_group(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "nested.py"
    path.write_text(
        DAG_HEAD + "with DAG('nested'), TaskGroup('outer'):\n"
        "    rank_job('inner', volumes='d-${NODE_RANK}:/d', commands='x')\n"
    )
    assert main(["plan", str(path), "-o", "json"]) == 0
    assert [plan["group"] for plan in rows(capsys)] == ["outer.inner"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--param", "nodes=many"], "'many' is not of type 'integer'"),
        (["--param", "noodles=3"], "one of DAG flights's Params: nodes, part"),
        (["--param", "nodes"], "expected KEY=VALUE"),
        (["--param", "nodes=0"], "nodes: 0 was found; 1 to 1024 are allowed"),
        (["--nodes", "1025"], "nodes: 1025 was found; 1 to 1024 are allowed"),
        (["--group", "extrakt"], "no group 'extrakt'; found: extract, train"),
        (["--dag-id", "flight"], "no DAG 'flight' was found in it; it has: flights"),
    ],
)
def test_a_wrong_choice_in_a_dag_file_is_explained(
    capsys: pytest.CaptureFixture[str], dag_file: Path, arguments: list[str], message: str
) -> None:
    assert main(["plan", str(dag_file), *arguments]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert message in answer.err
    assert "Traceback" not in answer.err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("job.yaml", "nodes: 2\nvolumes: ['data:/data']\n", "volumes.0.name: volume name 'data' has no rank"),
        ("job.yaml", "nods: 2\nvolumes: ['d-${NODE_RANK}:/d']\n", "did you mean 'nodes'?"),
        ("job.yaml", "- nodes\n", "found list; expected one mapping"),
        ("job.yaml", "nodes: [\n", "not YAML"),
        ("job.toml", "", "found '.toml'; expected"),
        ("dag.py", "x = 1\n", "no DAG was found in it"),
        ("dag.py", "from airflow.sdk import DAG\nDAG('empty')\n", "no DAG was found in it"),
        ("dag.py", "from airflow.sdk import DAG\nwith DAG('idle') as dag: pass\n", "no rank_job and no"),
        ("dag.py", "import no_such_module_anywhere\n", "No module named 'no_such_module_anywhere'"),
    ],
)
def test_a_file_that_cannot_be_planned_is_explained(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str, text: str, message: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert main(["plan", str(path)]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert message in answer.err


def test_a_missing_file_is_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["plan", str(tmp_path / "none.yaml")]) == 2
    assert "there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize("expression", ["{{ ti.xcom_pull(task_ids='count') }}", "{{ dag_run.queued_at }}"])
def test_a_template_that_needs_a_run_is_named_with_its_field(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, expression: str
) -> None:
    path = tmp_path / "needy.py"
    path.write_text(
        DAG_HEAD + "with DAG('needy'):\n"
        f"    rank_job('ranks', nodes={expression!r}, volumes='d-${{NODE_RANK}}:/d', commands='x')\n"
    )
    assert main(["plan", str(path)]) == 2
    error = capsys.readouterr().err
    assert "task ranks.plan of DAG needy: nodes:" in error
    assert "cannot be rendered outside a run" in error
    # Given on the command line, the field need not be rendered.
    assert main(["plan", str(path), "--nodes", "2"]) == 0


def test_plan_works_without_the_connection_and_says_whose_names_it_shows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job.json"
    path.write_text(json.dumps({**YAML_JOB, "conn_id": "far_away"}))
    monkeypatch.setenv("AIRFLOW__RANKVOL__OWNER", "prod")
    assert main(["plan", str(path), "-o", "json"]) == 0
    answer = capsys.readouterr()
    assert json.loads(answer.out)[0]["owner"] == "prod"
    assert "connection 'far_away' is not defined" in answer.err


def test_plan_finds_a_missing_file_of_the_job(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "files.py"
    path.write_text(
        DAG_HEAD + "with DAG('files'):\n"
        "    files = {'etl.py': 'include/etl.py'}\n"
        "    rank_job('ranks', volumes='d-${NODE_RANK}:/d', commands='x', files=files)\n"
    )
    assert main(["plan", str(path)]) == 2
    assert f"files.etl.py: there is no {tmp_path}/include/etl.py" in capsys.readouterr().err


def test_a_dag_file_may_import_its_neighbours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "shared_number_of_nodes.py").write_text("NODES = 7\n")
    path = tmp_path / "neighbourly.py"
    path.write_text(
        DAG_HEAD + "from shared_number_of_nodes import NODES\n"
        "with DAG('near'): rank_job('ranks', nodes=NODES, volumes='d-${NODE_RANK}:/d', commands='x')\n"
    )
    before = list(sys.path)
    assert main(["plan", str(path), "-o", "json"]) == 0
    assert [plan["nodes"] for plan in rows(capsys)] == [7]
    assert sys.path == before
