"""Files on their way to nodes that really run, and results on their way from them, with the double's S3."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest

from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.rehearsal import check_scripts, stage
from airflow_rankvol.engine.staging import sha256
from airflow_rankvol.engine.step import Outcome, run
from airflow_rankvol.engine.work import Work
from tests.clouds.aws.client import Double
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
