"""Run Command of the double: who can be sent a command, what is refused, and what is shown of it when."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tests.clouds.aws.client import Double
from tests.clouds.aws.conftest import SETTLED_S

PROFILE = {"Name": "managed"}
SCRIPT = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}}


@cache
def client(double: Double, service: str) -> Any:
    """Return a client that all tests share: making one takes longer than such a test."""
    return double.boto3(service)


@pytest.fixture
def ssm(double: Double) -> Any:
    return client(double, "ssm")


@pytest.fixture
def managed(double: Double, make_instance: Callable[..., str]) -> str:
    """An instance whose agent has registered."""
    client(double, "iam").create_instance_profile(InstanceProfileName=PROFILE["Name"])
    instance_id = make_instance(IamInstanceProfile=PROFILE)
    assert double("agent_register", instance=instance_id) is True
    return instance_id


@pytest.fixture
def send(ssm: Any, double: Double, managed: str) -> Callable[..., str]:
    def make(**params: Any) -> str:
        command = ssm.send_command(InstanceIds=[managed], **{**SCRIPT, **params})["Command"]["CommandId"]
        double.advance(SETTLED_S)
        return str(command)

    return make


@pytest.fixture
def get(ssm: Any, managed: str) -> Callable[[str], dict[str, Any]]:
    def read(command: str) -> dict[str, Any]:
        found: dict[str, Any] = ssm.get_command_invocation(CommandId=command, InstanceId=managed)
        return found

    return read


def test_an_instance_is_unknown_until_its_agent_has_registered_and_once_it_has_ended(
    ssm: Any, ec2: Any, double: Double, make_instance: Callable[..., str], managed: str, refuses: Any
) -> None:
    plain = make_instance()
    assert double("agent_register", instance=plain) is False, "it has no profile"
    for instance_id in (plain, "i-00000000000000000"):
        with refuses("InvalidInstanceId"):
            ssm.send_command(InstanceIds=[instance_id], **SCRIPT)
    ssm.send_command(InstanceIds=[managed], **SCRIPT)
    ec2.terminate_instances(InstanceIds=[managed])
    double.advance(SETTLED_S)
    with refuses("InvalidInstanceId"):
        ssm.send_command(InstanceIds=[managed], **SCRIPT)


def test_an_agent_that_cannot_register_stays_unknown(
    ssm: Any, double: Double, make_instance: Callable[..., str], managed: str, refuses: Any
) -> None:
    double.settings(ssm_agents=False)
    other = make_instance(IamInstanceProfile=PROFILE)
    assert double("agent_register", instance=other) is False
    with refuses("InvalidInstanceId"):
        ssm.send_command(InstanceIds=[managed, other], **SCRIPT)


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"DocumentName": "AWS-RunBashScript"}, "InvalidDocument"),
        ({"Parameters": {}}, "InvalidParameters"),
        ({"Parameters": {"command": ["true"]}}, "InvalidParameters"),
        ({"Parameters": {"commands": ["true"], "executionTimeout": ["172801"]}}, "InvalidParameters"),
        ({"Parameters": {"commands": ["true"], "executionTimeout": ["0"]}}, "InvalidParameters"),
        ({"TimeoutSeconds": 29}, "ValidationException"),
        ({"Comment": "x" * 101}, "ValidationException"),
        ({"OutputS3BucketName": "b" * 64}, "ValidationException"),
        ({"MaxErrors": "some"}, "ValidationException"),
        (
            {"CloudWatchOutputConfig": {"CloudWatchOutputEnabled": True, "CloudWatchLogGroupName": "a b"}},
            "ValidationException",
        ),
    ],
)
def test_what_ssm_does_not_take_is_refused(double: Double, managed: str, params: Any, code: str) -> None:
    from botocore.exceptions import ClientError

    lax = double.boto3("ssm", parameter_validation=False)
    with pytest.raises(ClientError) as caught:
        lax.send_command(InstanceIds=[managed], **{**SCRIPT, **params})
    assert caught.value.response["Error"]["Code"] == code


def test_the_same_call_twice_is_two_commands(send: Callable[..., str]) -> None:
    assert send() != send()


def test_a_command_goes_from_pending_to_its_end_and_shows_its_output_only_then(
    double: Double, managed: str, send: Callable[..., str], get: Callable[..., Any]
) -> None:
    command = send(Comment="mine")
    seen = get(command)
    assert (seen["Status"], seen["ResponseCode"], seen["Comment"]) == ("Pending", -1, "mine")
    [message] = double("agent_messages", instance=managed)
    assert (message["command"], message["commands"], message["uploads"]) == (command, ["true"], {})
    assert double("agent_messages", instance=managed) == []
    assert (get(command)["Status"], get(command)["ResponseCode"]) == ("InProgress", -1)
    double("agent_reply", instance=managed, command=command, code=3, stdout="o" * 30_000, stderr="e" * 30_000)
    seen = get(command)
    assert (seen["Status"], seen["ResponseCode"]) == ("Failed", 3)
    assert (len(seen["StandardOutputContent"]), len(seen["StandardErrorContent"])) == (24_000, 8_000)
    assert seen["StandardErrorUrl"] == ""


def test_a_command_that_is_not_started_or_ended_in_time_has_timed_out_and_shows_nothing(
    double: Double, managed: str, send: Callable[..., str], get: Callable[..., Any]
) -> None:
    late = send(TimeoutSeconds=30)
    double.advance(31)
    assert (get(late)["Status"], get(late)["ResponseCode"]) == ("TimedOut", -1)
    assert double("agent_messages", instance=managed) == []
    slow = send(Parameters={"commands": ["true"], "executionTimeout": ["60"]}, TimeoutSeconds=30)
    double("agent_messages", instance=managed)
    double.advance(59)
    assert get(slow)["Status"] == "InProgress", "TimeoutSeconds is for the start alone"
    double.advance(5)
    double("agent_reply", instance=managed, command=slow, stdout="done")
    assert (get(slow)["Status"], get(slow)["StandardOutputContent"]) == ("TimedOut", "")


def test_a_fresh_command_is_unknown_for_a_moment(ssm: Any, double: Double, managed: str, refuses: Any) -> None:
    double.freeze()
    command = ssm.send_command(InstanceIds=[managed], **SCRIPT)["Command"]["CommandId"]
    assert ssm.list_command_invocations(InstanceId=managed)["CommandInvocations"] == []
    with refuses("InvocationDoesNotExist"):
        ssm.get_command_invocation(CommandId=command, InstanceId=managed)
    double.advance(SETTLED_S)
    assert ssm.get_command_invocation(CommandId=command, InstanceId=managed)["Status"] == "Pending"
    with refuses("InvocationDoesNotExist"):
        ssm.get_command_invocation(CommandId=command, InstanceId="i-00000000000000000")


def test_invocations_are_listed_by_instance_the_newest_first_in_pages(
    ssm: Any, managed: str, send: Callable[..., str]
) -> None:
    sent = [send() for _ in range(3)]
    pages = ssm.get_paginator("list_command_invocations").paginate(InstanceId=managed, PaginationConfig={"PageSize": 2})
    listed = [[item["CommandId"] for item in page["CommandInvocations"]] for page in pages]
    assert listed == [[sent[2], sent[1]], [sent[0]]]
    assert ssm.list_command_invocations(InstanceId="i-00000000000000000")["CommandInvocations"] == []


def test_output_is_named_below_bucket_and_prefix(
    double: Double, managed: str, send: Callable[..., str], get: Callable[..., Any]
) -> None:
    command = send(OutputS3BucketName="bucket", OutputS3KeyPrefix="some/where")
    key = f"some/where/{command}/{managed}/awsrunShellScript/0.awsrunShellScript/stderr"
    assert get(command)["StandardErrorUrl"] == f"https://s3.us-east-1.amazonaws.com/bucket/{key}"
    [message] = double("agent_messages", instance=managed)
    assert message["uploads"]["stderr"] == f"s3://bucket/{key}"


def test_moto_does_not_answer_for_run_command(ssm: Any, refuses: Any) -> None:
    with refuses("UnsupportedOperation"):
        ssm.list_commands()
