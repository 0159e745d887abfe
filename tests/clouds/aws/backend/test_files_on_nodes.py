"""Files on their way to nodes that really run, and results on their way from them, with the double's S3."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.loop import run
from airflow_rankvol.engine.rehearsal import check_scripts, stage
from airflow_rankvol.engine.staging import sha256
from airflow_rankvol.engine.step import Outcome, mark_collected
from airflow_rankvol.engine.work import Work
from tests.clouds.aws.client import NODE_KEY, Double
from tests.clouds.nodes import packages
from tests.clouds.nodes.host import why_not
from tests.contract.aws_lab import PROFILE, aws_backend, running_double
from tests.unit.engine.engine_kit import Rig, a_plan

LARGE = os.urandom(300_000)
FILES = {"in/model.bin": LARGE, "small.sh": b"echo from a small file\n"}


@pytest.fixture(scope="module")
def _double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    if why_not() or packages.why_no_aws_cli():
        pytest.skip(f"nodes of EC2's double cannot run here: {why_not() or packages.why_no_aws_cli()}")
    with running_double(tmp_path_factory.mktemp("ec2")) as double:
        yield double


@pytest.fixture
def double(_double: Double) -> Double:
    _double.reset()
    _double.boto3("iam").create_instance_profile(InstanceProfileName=PROFILE)
    _double.boto3("s3").create_bucket(Bucket="bucket")
    return _double


@pytest.fixture
def backend(double: Double) -> AwsBackend:
    return aws_backend(double)


class Job:
    """A job on the double, from its plan to its end."""

    def __init__(self, backend: AwsBackend, nodes: int = 2, files: dict[str, bytes] | None = None, **job: Any) -> None:
        node = {"machine_type": "m7i.large", "zones": "us-east-1a", "lifetime": "5m", **job.pop("node", {})}
        fields = {"volume_template": {"size": "1GB"}, "node": node, "gather": [], **job}
        fields["files"] = {name: name for name in files or {}}
        self.backend, self.files = backend, files or {}
        self.rig = Rig(cast("Any", backend), a_plan(nodes, owner="lab", **fields))

    def create(self) -> None:
        """Do what the tasks plan and create_volumes do."""
        plan = self.rig.plan
        self.backend.check(plan)
        stage(self.backend, plan, check_scripts(self.backend, plan, self.files))
        self.rig.create()

    def run(self, work: Work) -> Outcome:
        launcher = Launcher(self.rig.plan.job, self.files, tuple(self.rig.slots), "ec2", stager=self.backend.stager)
        if work.rank >= 0:
            launcher = replace(launcher, slots=work.slots)
        return run(self.backend, work, launcher)

    def end(self) -> None:
        self.rig.teardown()


def test_a_large_file_reaches_every_rank_through_s3_and_is_stored_once(backend: AwsBackend, double: Double) -> None:
    commands = ["sh small.sh", "sha256sum <in/model.bin"]
    job = Job(backend, files=FILES, commands=commands, staging="s3://bucket/staged")
    job.create()
    for rank in range(2):
        outcome = job.run(job.rig.work(rank))
        assert outcome.error is None
        assert outcome.result.log_tail == f"from a small file\n{sha256(LARGE)}  -\n"
    counts = double.counts()
    assert counts["s3:PutObject"] == 1
    assert counts["s3:GetObject"] == 2
    job.end()


@pytest.mark.slow
def test_a_file_that_is_gone_meanwhile_fails_the_rank_by_its_name(backend: AwsBackend, double: Double) -> None:
    """The URL that the process remembers leads nowhere; what the node says has no signature in it."""
    job = Job(backend, 1, files=FILES, commands=["true"], staging="s3://bucket/staged")
    job.create()
    launcher = Launcher(job.rig.plan.job, job.files, tuple(job.rig.slots), "ec2", stager=backend.stager)
    launcher.requests(job.rig.work(0), job.rig.observe())
    s3 = double.boto3("s3")
    (stored,) = s3.list_objects_v2(Bucket="bucket")["Contents"]
    s3.delete_object(Bucket="bucket", Key=stored["Key"])
    error = str(job.run(job.rig.work(0)).error)
    assert "model.bin could not be fetched from http" in error
    assert sha256(LARGE) in error
    assert "Signature" not in error
    job.end()


def gathered(job: Job) -> Outcome:
    """Run all ranks, then gather, as their tasks do."""
    for rank in range(job.rig.plan.job.nodes):
        outcome = job.run(job.rig.work(rank))
        assert outcome.error is None, outcome.result.log_tail
    outcome = job.run(job.rig.gather_work())
    if outcome.error is None and outcome.report:
        mark_collected(job.backend, job.rig.gather_work(), outcome.report.collected)
    return outcome


WRITES = ["mkdir $VOLUME_PATH/out", "head -c $((NODE_RANK * 1000)) /dev/zero >$VOLUME_PATH/out/part"]


def test_the_ranks_files_reach_a_bucket_by_the_gather_nodes_profile(backend: AwsBackend, double: Double) -> None:
    node = {"instance_profile": PROFILE}
    job = Job(backend, commands=WRITES, node=node, destination="s3://bucket/results", collect="out/**")
    job.create()
    outcome = gathered(job)
    assert outcome.error is None
    manifest = {"manifest": "s3://bucket/results/manifest.json"}
    assert outcome.result.output == {"destination": "s3://bucket/results", "files": 2, "bytes": 1000, **manifest}
    objects = double.boto3("s3").list_objects_v2(Bucket="bucket")["Contents"]
    assert {item["Key"]: item["Size"] for item in objects if item["Size"] in (0, 1000)} == {
        "results/rank=000/data_volume/out/part": 0,
        "results/rank=001/data_volume/out/part": 1000,
    }
    assert {call["access_key"] for call in double.calls("PutObject")} == {NODE_KEY}
    job.end()
    assert double.state()["volumes"] == {}


@pytest.mark.slow
def test_a_profile_that_may_not_write_fails_gather_and_keeps_the_volumes(backend: AwsBackend, double: Double) -> None:
    job = Job(backend, 1, commands=WRITES, node={"instance_profile": PROFILE}, destination="s3://bucket/results")
    job.create()
    double("deny", actions=["s3:PutObject"])
    error = str(gathered(job).error)
    assert "could not be copied to s3://bucket/results" in error
    assert "AccessDenied" in error
    job.end()
    # The node's boot disk goes with it, a moment later.
    kept = double.wait(lambda state: len(state["volumes"]) == 1)["volumes"]
    assert [volume["Size"] for volume in kept.values()] == [1]
