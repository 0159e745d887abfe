"""One job file on this machine, on EC2 and on Compute Engine: only connection and node template differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.gcp_ground import GcpGround
from tests.airflow.grounds import AwsGround, Ground, LocalGround
from tests.airflow.harness import DagBench
from tests.clouds.nodes.host import why_not

NODES: dict[str, dict[str, Any]] = {
    "local": {},
    "aws": {"machine_type": "m7i.large"},
    "gcp": {"machine_type": "n2-standard-2"},
}


def run_on(ground: Ground, folder: Path) -> dict[str, Any]:
    """Run the example on a cloud; return what the tasks returned, and see that nothing stays."""
    bench = DagBench(folder, f"anywhere_{ground.name}", ground)
    dag = bench.example("primes_anywhere")
    run = bench.run(dag, {"node": NODES[ground.name], "nodes": 2, "limit": 10_000})
    assert run.state == "success", ground.name
    assert bench.without_nodes(dag).volumes == ()
    bench.check_left()
    ranks = [run.xcom(f"run_rank[{rank}]")["output"] for rank in range(2)]
    return {"ranks": ranks, "gather": run.xcom("gather")}


@pytest.fixture
def folder(dags_folder: Path) -> Iterator[Path]:
    """The DAGs folder, with the file that travels with the job."""
    source = Path(__file__).parents[2] / "dags/include/primes.py"
    copied = dags_folder / "include" / source.name
    copied.parent.mkdir(exist_ok=True)
    copied.write_text(source.read_text())
    yield dags_folder
    copied.unlink()
    for path in dags_folder.glob("anywhere_*.py"):
        path.unlink()


@pytest.mark.skipif(bool(why_not()), reason=why_not() or "nodes run here")
def test_one_job_file_gives_the_same_everywhere(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    results = {}
    for name, place in (("local", tmp_path), ("aws", "_ec2"), ("gcp", "_gce")):
        double = request.getfixturevalue(place) if isinstance(place, str) else None
        with pytest.MonkeyPatch.context() as patch:
            grounds = {"aws": AwsGround, "gcp": GcpGround}
            ground = LocalGround(tmp_path, patch) if double is None else grounds[name](double, patch)
            results[name] = run_on(ground, folder)
    local = results["local"]
    assert local["gather"]["primes"] == 1229  # below ten thousand: any table of primes says so
    assert local["gather"] | {"sha256": ""} == {"files": 2, "primes": 1229, "largest": 9973, "sha256": ""}
    assert local["ranks"] == [{"rank": 0, "primes": 669}, {"rank": 1, "primes": 560}]
    assert results == dict.fromkeys(results, local)
