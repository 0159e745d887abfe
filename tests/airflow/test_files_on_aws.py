"""A large file to every rank and files of every rank to a bucket, in a real DAG run on nodes that really run."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.airflow.grounds import AwsGround
from tests.airflow.harness import DagBench
from tests.clouds.nodes.host import why_not

pytestmark = pytest.mark.slow


@pytest.fixture
def ground(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AwsGround:
    if why_not():
        pytest.skip(f"nodes of EC2's double cannot run here: {why_not()}")
    return AwsGround(request.getfixturevalue("_ec2"), monkeypatch)


def test_files_travel_through_buckets_in_both_directions(bench: DagBench, ground: AwsGround) -> None:
    s3 = ground.double.boto3("s3")
    for name in ("staged", "results"):
        s3.create_bucket(Bucket=name)
    ground.secret("makes a profile for nodes, too")
    source = bench.folder / f"{bench.prefix}.bin"
    source.write_bytes(os.urandom(100_000))
    fields: dict[str, Any] = {
        "files": {"model.bin": source.name},
        "commands": ["cp model.bin $VOLUME_PATH"],
        "nodes": 2,
    }
    node = {"machine_type": "m7i.large", **ground.secret_fields}
    try:
        refused = bench.run(bench.job(**fields, node=node))
        assert refused.states()["plan"] == "failed"
        assert "staging='s3://bucket/prefix'" in refused.log
        places = {"staging": "s3://staged/x", "destination": "s3://results/{{ run_id }}"}
        run = bench.run(bench.job(**fields, **places, node=node))
        assert run.state == "success", run.log
        copied = [f"{run.run_id}/rank=00{rank}/data/model.bin" for rank in range(2)]
        bodies = [s3.get_object(Bucket="results", Key=key)["Body"].read() for key in copied]
        assert bodies == [source.read_bytes()] * 2
        manifest = json.loads(s3.get_object(Bucket="results", Key=f"{run.run_id}/manifest.json")["Body"].read())
        assert [item["size"] for item in manifest["files"]] == [100_000] * 2
        assert run.xcom("gather")["bytes"] == 200_000
        assert len(s3.list_objects_v2(Bucket="staged")["Contents"]) == 1
    finally:
        source.unlink()
