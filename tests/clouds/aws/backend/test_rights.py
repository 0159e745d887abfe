"""The policy that users get, held against the calls that the double recorded.

That it lacks none is asserted by every double at its end (tests/clouds/aws/client.py), after whatever its tests did.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends._aws_rate import Limiter
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.loop import Watch, launch
from airflow_rankvol.engine.rehearsal import check_scripts, stage
from airflow_rankvol.engine.step import mark_collected
from airflow_rankvol.errors import AuthDenied
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.backend.kit import ZONE, DoubleClock, Lab, settings, succeed
from tests.clouds.aws.backend.test_run_command import SMALL
from tests.clouds.aws.client import Double
from tests.clouds.aws.policy import allowed, needed

SUCCEED = f"{succeed.__module__}:{succeed.__name__}"
KEY = "AKIATESTINGPOLICY000"
FILES = {"model.bin": os.urandom(50_000)}


@pytest.fixture
def lab(double: Double) -> Lab:
    """A lab whose calls can be told from those of all others."""
    clock = DoubleClock(double)
    found = settings(double)
    mine = Settings(found.conn_id, found.conn_type, found.extra, KEY, "testing")
    return Lab(double, Clients(mine, Limiter(now=clock.seconds, sleep=clock.sleep)))


def fittings(lab: Lab) -> dict[str, Any]:
    """Make what an account has that a job may name; return the node template's fields."""
    lab.double.boto3("s3").create_bucket(Bucket="bucket")
    lab.double.boto3("iam").create_instance_profile(InstanceProfileName="job-node")
    group = lab.double.boto3("ec2").describe_security_groups()["SecurityGroups"][0]["GroupId"]
    return {"zones": (ZONE,), "security_groups": (group,), "instance_profile": "job-node"}


def whole_life(lab: Lab) -> None:
    """Do everything that a job can do on AWS: plan, create, run, lose a node, gather nothing, delete, be refused."""
    template = NodeTemplate.model_validate({**fittings(lab), "boot_timeout": "5m"})
    snapshot = lab.double.boto3("ec2").create_snapshot(VolumeId=lab.foreign_volume("by hand"))["SnapshotId"]
    lab.settle()
    fields = {"node": template, "files": {name: name for name in FILES}, "staging": "s3://bucket/prefix"}
    rig = lab.rig(2, **fields, volume_template={"size": "10GB", "snapshot": snapshot})
    lab.backend.check(rig.plan)
    stage(rig.backend, rig.plan, check_scripts(rig.backend, rig.plan, FILES))
    rig.create()
    lab.double("never_boot")
    works = [rig.begin(rank) for rank in range(2)]
    for rank, work in enumerate(works):
        launcher = Launcher(rig.plan.job, FILES, (rig.slots[rank],), "ec2", stager=lab.backend.stager)
        assert launch(rig.backend, work, launcher) is None
    rig.until_attached(*works)
    lab.settle(6 * 60)
    ended = [Watch(rig.backend, work).step(rig.observe()) for work in works]
    assert sum(outcome is not None for outcome in ended) == 1  # its node never booted
    mark_collected(rig.backend, rig.gather_work(), range(2))
    assert len(rig.teardown().deleted) == 2
    report_by_ssm(lab, template)
    lab.double("deny", actions=["ec2:CreateVolume"])
    with pytest.raises(AuthDenied):
        lab.backend.check(rig.plan)
    lab.double("deny", actions=[])


def report_by_ssm(lab: Lab, template: NodeTemplate) -> None:
    node = lab.node(rank=8, report="ssm", **template.model_dump(exclude_unset=True, exclude={"boot_timeout"}))
    lab.double("agent_register", instance=node.id)
    script = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}}
    sent = lab.double.boto3("ssm").send_command(InstanceIds=[node.id], Comment=node.name, **script)
    lab.double("agent_messages", instance=node.id)
    lab.double("agent_reply", instance=node.id, command=sent["Command"]["CommandId"], stdout="", stderr=SMALL, code=0)
    lab.double("power_off", instance=node.id)
    lab.settle()
    lab.see()
    assert lab.backend.read_report(node.id)


def test_the_policy_names_no_action_that_no_job_calls_and_lacks_none(lab: Lab) -> None:
    whole_life(lab)
    assert needed(lab.double.actions(KEY)) == allowed()


def test_a_double_whose_clients_call_more_than_the_policy_allows_says_so(tmp_path: Any) -> None:
    from tests.clouds.aws.backend.kit import lab_on

    double = Double(tmp_path / "double").start()
    lab_on(double).clients.get("ec2").describe_vpcs()
    with pytest.raises(AssertionError, match=r"aws-policy\.json lacks ec2:DescribeVpcs"):
        double.stop()
