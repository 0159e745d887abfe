"""Reports by Run Command: where they are read from, and what is read when something of it is lost."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from airflow_rankvol.backends._aws_run_command import RunCommand
from airflow_rankvol.backends._aws_staging import S3Staging
from airflow_rankvol.errors import AuthDenied, ConfigError, NotReady, RetryableError
from airflow_rankvol.records import Node
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.backend.kit import Lab, console_of, lab_on, report
from tests.clouds.aws.backend.test_check import plan
from tests.clouds.aws.client import Double

PROFILE = "job-node"
BY_SSM = {"report": "ssm", "instance_profile": PROFILE}
SMALL = console_of(report())
LARGE = console_of(report(output=random.Random(1).randbytes(9_000).hex()))


@cache
def client(double: Double, service: str) -> Any:
    """Return a client that all tests share: making one takes longer than such a test."""
    return double.boto3(service)


@pytest.fixture(autouse=True)
def _profile(lab: Lab) -> None:
    client(lab.double, "iam").create_instance_profile(InstanceProfileName=PROFILE)
    client(lab.double, "s3").create_bucket(Bucket="bucket")


class Played:
    """A node that runs, and whose part and agent's part the test plays."""

    def __init__(self, lab: Lab, **template: Any) -> None:
        self.lab = lab
        self.node: Node = lab.node(**{**BY_SSM, **template})
        lab.double("agent_register", instance=self.node.id)
        self._ssm = client(lab.double, "ssm")

    def send(self, **params: Any) -> str:
        """Send a command as the node does."""
        script = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}}
        wish = {"InstanceIds": [self.node.id], "Comment": self.node.name, **script, **params}
        command = str(self._ssm.send_command(**wish)["Command"]["CommandId"])
        self.lab.double("agent_messages", instance=self.node.id)
        return command

    def done(self, stdout: str = "", stderr: str = "", code: int = 0, **params: Any) -> str:
        command = self.send(**params)
        fields = {"stdout": stdout, "stderr": stderr, "code": code}
        self.lab.double("agent_reply", instance=self.node.id, command=command, **fields)
        return command

    def off(self, console: str = "") -> None:
        """End by itself, with that on the console."""
        self.lab.double("power_off", instance=self.node.id, console=console)
        self.lab.settle()
        self.lab.see()

    def read(self) -> str | None:
        """Read as the engine does: again, where there may be more in a moment."""
        try:
            return self.lab.backend.read_report(self.node.id)
        except NotReady:
            return self.lab.backend.read_report(self.node.id)


def test_the_report_is_read_from_the_commands_stderr(lab: Lab) -> None:
    played = Played(lab)
    played.done("hello\n", f"a warning of the agent's\n{SMALL}", code=3)
    played.off()
    assert '"exit_code": 0' in (played.read() or "")
    assert played.read() == played.read()
    assert lab.double.counts()["ssm:GetCommandInvocation"] == 1, "it is read once"
    assert lab.count("GetConsoleOutput") == 0
    assert lab.backend.log_text(played.node.id) == "hello\n"


def test_one_that_was_sent_twice_has_it_in_either(lab: Lab) -> None:
    played = Played(lab)
    played.done("", SMALL)
    played.done("", "this job has been started before; nothing is done twice")
    played.off()
    assert played.read()


def test_the_commands_of_others_do_not_count(lab: Lab) -> None:
    played = Played(lab)
    played.done("", SMALL, Comment="by hand")
    played.off()
    assert played.read() is None


def test_a_report_that_is_longer_than_what_ssm_shows_is_read_from_the_bucket(lab: Lab) -> None:
    played = Played(lab)
    where = {"OutputS3BucketName": "bucket", "OutputS3KeyPrefix": "runs"}
    command = played.done("", LARGE, 0, **where)
    key = f"runs/{command}/{played.node.id}/awsrunShellScript/0.awsrunShellScript/stderr"
    client(lab.double, "s3").put_object(Bucket="bucket", Key=key, Body=LARGE.encode())
    played.off()
    assert len(played.read() or "") > 20_000
    assert lab.count("GetConsoleOutput") == 0


@pytest.mark.parametrize("where", [{}, {"OutputS3BucketName": "bucket"}])
def test_without_the_bucket_or_the_object_the_console_has_it(lab: Lab, where: dict[str, str]) -> None:
    played = Played(lab)
    played.done("", LARGE, 0, **where)
    played.off(LARGE)
    assert len(played.read() or "") > 20_000


def test_a_command_that_never_came_to_its_end_leaves_the_console(lab: Lab) -> None:
    played = Played(lab)
    played.send()
    played.off(SMALL)
    assert played.read()


def test_a_node_whose_agent_never_registered_tells_so_on_the_console(lab: Lab) -> None:
    played = Played(lab)
    played.off(console_of(report(exit_code=125)))
    assert '"exit_code": 125' in (played.read() or "")


def test_without_the_right_to_read_it_the_console_has_it_or_the_right_is_named(lab: Lab) -> None:
    there, lost = Played(lab), Played(lab, rank=1)
    for played, console in ((there, SMALL), (lost, "")):
        played.done("", SMALL)
        played.off(console)
    lab.double("deny", actions=["ssm:GetCommandInvocation"])
    assert there.read()
    with pytest.raises(AuthDenied, match="ssm:GetCommandInvocation"):
        lost.read()


def test_a_report_that_is_nowhere_is_none_so_that_the_volume_decides(lab: Lab) -> None:
    played = Played(lab)
    played.done("", SMALL[: len(SMALL) // 2])
    played.off()
    assert played.read() is None


def test_a_node_that_reports_on_its_console_costs_no_call_to_ssm(lab: Lab) -> None:
    node = lab.node()
    lab.double("power_off", instance=node.id, console=SMALL)
    lab.settle()
    lab.see()
    assert lab.backend.read_report(node.id)
    assert not [name for name in lab.double.counts() if name.startswith("ssm:List")]


def test_a_job_that_says_all_of_it_is_fine(lab: Lab) -> None:
    fields = {**BY_SSM, "report_output": "s3://bucket/runs", "report_log_group": "/rankvol/jobs"}
    lab.backend.check(plan(node=fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"report_output": "s3://nowhere-at-all"}, "there is no bucket 'nowhere-at-all'"),
        ({"report_output": "s3:/bucket"}, "expected 's3://bucket/prefix'"),
        ({"lifetime": "72h"}, "72 hours.*at most 48"),
    ],
)
def test_what_cannot_work_is_refused(lab: Lab, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lab.backend.check(plan(node={**BY_SSM, **fields}))


def test_a_gather_node_is_looked_at_too(lab: Lab) -> None:
    with pytest.raises(ConfigError, match=r"gather_node\.instance_profile"):
        lab.backend.check(plan(gather=["true"], gather_node={"report": "ssm"}))


@pytest.mark.parametrize("action", ["ListCommandInvocations", "GetCommandInvocation"])
def test_a_missing_right_is_told_before_anything_is_created(lab: Lab, action: str) -> None:
    lab.double("deny", actions=[f"ssm:{action}"])
    with pytest.raises(AuthDenied, match=f"ssm:{action}"):
        lab.backend.check(plan(node=BY_SSM))


SIGNING_IN = [
    ({"profile_name": "no-such-profile"}, ConfigError, "no-such-profile"),
    ({"role_arn": "arn:aws:iam::123456789012:role/x"}, RetryableError, "Could not connect.*127.0.0.1:9"),
]


@pytest.mark.parametrize(("extra", "kind", "message"), SIGNING_IN, ids=["profile", "sts"])
def test_a_client_that_cannot_be_made_is_an_error_of_ours(
    double: Double, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], kind: type[Exception], message: str
) -> None:
    """Signing in may fail with each service's first call: a wrong profile, an STS that cannot be reached."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    ec2 = lab_on(double, **extra).backend.ec2
    template = NodeTemplate.model_validate({**BY_SSM, "report_output": "s3://bucket"})
    place, node = "s3://bucket/x", "i-00000000000000000"
    uses: tuple[Callable[[], object], ...] = (
        lambda: RunCommand(ec2).check(template, "node"),
        lambda: RunCommand(ec2).report(node, "name"),
        lambda: S3Staging(ec2).check_place(place),
        lambda: S3Staging(ec2).stage(place, "key", b"", 60.0),
    )
    for use in uses:
        with pytest.raises(kind, match=message):
            use()


def test_a_bucket_that_only_the_nodes_may_see_is_fine(lab: Lab) -> None:
    lab.double("deny", actions=["s3:*"])
    lab.backend.check(plan(node={**BY_SSM, "report_output": "s3://bucket"}))
