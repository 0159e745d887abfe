"""What OpenLineage hears of a rank job in a real DAG run, by Airflow's own provider for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.grounds import LocalGround
from tests.airflow.harness import DagBench
from tests.clouds.nodes.layers import Layer

# Not among the packages of development: each process of each test would import it.
PROVIDER = Layer("openlineage", Path(__file__).with_name("openlineage.txt").read_text(encoding="utf-8"))
RUN = """\
import importlib.util, sys
spec = importlib.util.spec_from_file_location("lineage_dag", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.exit(module.dag.test().state != "success")
"""


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalGround:
    return LocalGround(tmp_path, monkeypatch)


def heard(bench: DagBench, dag: Any, events: Path) -> list[dict[str, Any]]:
    """Run a DAG where the provider is installed, and return its events, the earliest first."""
    path = os.pathsep.join([str(PROVIDER.place / "lib"), str(Path(__file__).parents[2])])
    transport = {"type": "file", "log_file_path": str(events), "append": True}
    env = {**os.environ, "PYTHONPATH": path, "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport)}
    command = [sys.executable, "-c", RUN, str(bench.folder / f"{dag.dag_id}.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]


def test_a_job_tells_its_group_its_ranks_and_where_the_result_is(bench: DagBench, tmp_path: Path) -> None:
    if why := PROVIDER.why_not():
        pytest.skip(why)
    dag = bench.job(
        nodes=2, commands=["echo $NODE_RANK >$VOLUME_PATH/part"], destination=f"{tmp_path}/x", collect="part"
    )
    events = heard(bench, dag, tmp_path / "events.json")
    begun = {
        (event["job"]["name"].removeprefix(f"{dag.dag_id}.job."), facet["group"].get("rank")): facet["group"]
        for event in events
        if event["eventType"] == "START" and (facet := event["run"]["facets"].get("rankvol"))
    }
    assert {name for name, _ in begun} == {"plan", "create_volumes", "run_rank", "gather", "done", "delete_volumes"}
    assert {(fact["group"], fact.get("nodes", 2)) for fact in begun.values()} == {("job", 2)}
    for rank in (0, 1):
        (volume,) = begun["run_rank", rank]["volumes"]
        assert volume["name"].endswith(f"-{rank}")
    (done,) = [e for e in events if e["eventType"] == "COMPLETE" and e["job"]["name"] == f"{dag.dag_id}.job.done"]
    (output,) = done["outputs"]
    assert (output["namespace"], output["name"]) == ("file", f"{tmp_path}/x")
    assert output["outputFacets"]["outputStatistics"]["fileCount"] == 2
    assert done["run"]["facets"]["rankvol"]["group"]["ranks"] == [0, 1]


def test_a_destination_has_the_name_that_openlineage_gives_such_places() -> None:
    """https://openlineage.io/docs/spec/naming"""
    if why := PROVIDER.why_not():
        pytest.skip(why)
    names = {
        "s3://bucket/a/b/": ["s3://bucket", "a/b"],
        "gs://bucket": ["gs://bucket", "/"],
        "file:///srv/x": ["file", "/srv/x"],
        "/srv/x": ["file", "/srv/x"],
    }
    code = (
        "import json, sys; from airflow_rankvol._lineage import lineage_of; "
        "outputs = [lineage_of({}, place).outputs[0] for place in sys.argv[1:]]; "
        "print(json.dumps([[output.namespace, output.name] for output in outputs]))"
    )
    env = {**os.environ, "PYTHONPATH": str(PROVIDER.place / "lib")}
    done = subprocess.run([sys.executable, "-c", code, *names], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == list(names.values())
