"""Jobs that Run Command runs, on nodes that really run: each sends a command to itself, and an agent carries it out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.errors import RankFailed
from tests.clouds.aws.backend.test_files_on_nodes import Job
from tests.clouds.aws.client import NODE_KEY, Double
from tests.clouds.nodes import packages
from tests.clouds.nodes.host import why_not
from tests.contract.aws_lab import PROFILE, aws_backend, running_double

BY_SSM = {"report": "ssm", "instance_profile": PROFILE}
# Without its agent nobody says what became of a command. (The brackets keep grep from finding itself.)
KILL_AGENT = "kill -KILL $(grep -laz 'amazon/ss[m]/agent' /proc/[0-9]*/cmdline | cut -d/ -f3)"
QUICK = {"RV_SSM_PAUSE": "0.2", "RV_SSM_TICK": "0.1", "RV_PROBE_PAUSE": "0.01"}


@pytest.fixture(scope="module")
def _double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    if why_not() or packages.why_no_aws_cli():
        pytest.skip(f"nodes of EC2's double cannot run here: {why_not() or packages.why_no_aws_cli()}")
    with running_double(tmp_path_factory.mktemp("ec2")) as double:
        yield double


@pytest.fixture
def double(_double: Double) -> Double:
    _double.reset()
    _double.settings(node_environment=QUICK)
    _double.boto3("iam").create_instance_profile(InstanceProfileName=PROFILE)
    _double.boto3("s3").create_bucket(Bucket="bucket")
    return _double


@pytest.fixture
def backend(double: Double) -> AwsBackend:
    return aws_backend(double)


def job(backend: AwsBackend, *commands: str, **node: Any) -> Job:
    made = Job(backend, 1, commands=list(commands), node={**BY_SSM, **node})
    made.create()
    return made


def only_node(double: Double) -> str:
    (instance_id,) = double.state()["instances"]
    return str(instance_id)


def invocations(double: Double, node: str) -> list[dict[str, Any]]:
    """Return what Run Command knows of a node's commands."""
    ssm = double.boto3("ssm")
    listed = ssm.list_command_invocations(InstanceId=node)["CommandInvocations"]
    return [ssm.get_command_invocation(CommandId=item["CommandId"], InstanceId=node) for item in listed]


def test_a_job_runs_by_run_command_and_its_output_is_kept(backend: AwsBackend, double: Double) -> None:
    keeps = {"report_output": "s3://bucket/runs", "report_log_group": "/rankvol/jobs"}
    double.boto3("logs").create_log_group(logGroupName="/rankvol/jobs")
    made = job(backend, "echo hello from $NODE_RANK", "echo '[1, 2]' >$RANKVOL_RESULT; df $VOLUME_PATH", **keeps)
    outcome = made.run(made.rig.work(0))
    assert outcome.error is None
    assert outcome.result.output == [1, 2]
    assert outcome.result.log_tail.startswith("hello from 0\n")
    [seen] = invocations(double, outcome.result.node_id)
    assert (seen["Status"], seen["ResponseCode"], seen["Comment"]) == ("Success", 0, made.rig.work(0).node_name)
    assert "\nhello from 0\n" in seen["StandardOutputContent"]
    s3 = double.boto3("s3")
    stored = {item["Key"]: item for item in s3.list_objects_v2(Bucket="bucket", Prefix="runs/")["Contents"]}
    [key] = [key for key in stored if key.endswith("/stdout")]
    assert key.startswith(f"runs/{seen['Comment']}/{seen['CommandId']}/")
    assert s3.get_object(Bucket="bucket", Key=key)["Body"].read().decode() == seen["StandardOutputContent"]
    logs = double.boto3("logs")
    stream = f"{seen['CommandId']}/{outcome.result.node_id}/aws-runShellScript/stdout"
    events = logs.get_log_events(logGroupName="/rankvol/jobs", logStreamName=stream)["events"]
    assert "hello from 0" in [event["message"] for event in events]
    assert {call["access_key"] for call in double.calls("SendCommand")} == {NODE_KEY}
    assert double.counts().get("ec2:GetConsoleOutput", 0) == 0
    made.end()


def test_a_failing_job_comes_back_with_its_code_and_the_logs_end(backend: AwsBackend, double: Double) -> None:
    made = job(backend, "echo before", "exit 7")
    outcome = made.run(made.rig.work(0))
    assert isinstance(outcome.error, RankFailed)
    assert (outcome.result.exit_code, outcome.result.log_tail) == (7, "before\n")
    [seen] = invocations(double, outcome.result.node_id)
    assert (seen["Status"], seen["ResponseCode"]) == ("Failed", 7)
    assert double.counts().get("ec2:GetConsoleOutput", 0) == 0
    made.end()


def test_a_command_whose_answer_is_lost_is_sent_again_and_the_job_runs_once(
    backend: AwsBackend, double: Double
) -> None:
    double.fault("lose", "SendCommand", service="ssm", when="after", times=1)
    made = job(backend, "echo ran | tee -a $VOLUME_PATH/runs", "cat $VOLUME_PATH/runs | wc -l >$RANKVOL_RESULT")
    outcome = made.run(made.rig.work(0))
    assert outcome.error is None
    assert (outcome.result.output, outcome.result.log_tail) == (1, "ran\n")
    seen = invocations(double, outcome.result.node_id)
    assert [item["Status"] for item in seen] == ["Success", "Success"]
    assert "nothing is done twice" in "".join(item["StandardErrorContent"] for item in seen)
    made.end()


@pytest.mark.slow
def test_a_rank_whose_report_is_lost_everywhere_is_judged_by_its_volume(backend: AwsBackend, double: Double) -> None:
    double.settings(node_environment={**QUICK, "RV_SSM_UPLOAD": "1"})
    double.fault("error", "GetConsoleOutput", code="InvalidInstanceID.NotFound", status=400, times=-1)
    made = job(backend, "echo ran >>$VOLUME_PATH/runs; wc -l <$VOLUME_PATH/runs >$RANKVOL_RESULT", KILL_AGENT)
    lost = made.run(made.rig.work(0))
    assert "report" in str(lost.error)
    [seen] = invocations(double, lost.result.node_id)
    assert (seen["Status"], seen["StandardErrorContent"]) == ("InProgress", "")
    double("clear_faults")
    again = made.run(made.rig.work(0).at_attempt(2))
    assert again.error is None
    assert (again.result.reused, again.result.output) == (True, 1)
    made.end()


@pytest.mark.slow
def test_a_node_whose_agent_never_registers_says_so_and_ends(backend: AwsBackend, double: Double) -> None:
    double.settings(ssm_agents=False, node_environment={**QUICK, "RV_SSM_WAIT": "1"})
    made = job(backend, "true")
    outcome = made.run(made.rig.work(0))
    assert "this node's SSM agent did not register within 1 s" in str(outcome.error)
    assert "InvalidInstanceId" in str(outcome.error)
    made.end()
