"""Scripted faults, request buckets, rights and records of the double."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError

from tests.clouds.aws.client import Double
from tests.clouds.aws.conftest import ZONE

Make = Callable[..., str]
VOLUME = {"AvailabilityZone": ZONE, "Size": 1, "VolumeType": "gp3"}


def count(double: Double) -> int:
    return len(double.state()["volumes"])


def test_the_nth_call_is_throttled(ec2: Any, double: Double, refuses: Any) -> None:
    double.fault("throttle", "CreateVolume", nth=2, times=2)
    ec2.create_volume(**VOLUME)
    for _ in range(2):
        with refuses("RequestLimitExceeded"):
            ec2.create_volume(**VOLUME)
    ec2.create_volume(**VOLUME)
    assert count(double) == 2


@pytest.mark.parametrize(("when", "left"), [("before", 0), ("after", 1)])
def test_a_call_fails_before_or_after_its_effect(ec2: Any, double: Double, refuses: Any, when: str, left: int) -> None:
    double.fault("error", "CreateVolume", when=when, code="InternalError", status=500)
    with refuses("InternalError"):
        ec2.create_volume(**VOLUME)
    assert count(double) == left


@pytest.mark.parametrize(("when", "left"), [("before", 0), ("after", 1)])
def test_an_answer_is_lost_before_or_after_the_effect(ec2: Any, double: Double, when: str, left: int) -> None:
    double.fault("lose", "CreateVolume", when=when)
    with pytest.raises(ConnectionClosedError):
        ec2.create_volume(**VOLUME)
    assert count(double) == left


def test_a_client_that_repeats_a_lost_call_with_its_token_makes_one_volume(double: Double) -> None:
    double.fault("lose", "CreateVolume", when="after", times=2)
    ec2 = double.boto3("ec2", retries={"total_max_attempts": 4, "mode": "standard"})
    made = ec2.create_volume(**VOLUME)["VolumeId"]
    assert list(double.state()["volumes"]) == [made]
    assert double.counts()["ec2:CreateVolume"] == 3


@pytest.mark.parametrize(("when", "left"), [("before", 0), ("after", 1)])
def test_a_call_hangs_until_it_is_released(ec2: Any, double: Double, when: str, left: int) -> None:
    double.fault("hang", "CreateVolume", when=when)
    answered: list[Any] = []
    caller = threading.Thread(target=lambda: answered.append(ec2.create_volume(**VOLUME)))
    caller.start()
    held = double.wait_held()
    assert (held["action"], held["when"], held["params"]["Size"]) == ("CreateVolume", when, 1)
    assert count(double) == left
    assert not answered
    assert double.release() == 1
    caller.join(10)
    assert answered
    assert count(double) == 1


def test_a_hanging_call_can_be_dropped(ec2: Any, double: Double) -> None:
    double.fault("hang", "CreateVolume", when="before")

    def drop() -> None:
        double.wait_held()
        double.release(answer=False)

    dropper = threading.Thread(target=drop)
    dropper.start()
    with pytest.raises(ConnectionClosedError):
        ec2.create_volume(**VOLUME)
    dropper.join(10)
    assert count(double) == 0


def test_a_fault_can_be_for_one_resource(ec2: Any, double: Double, make_volume: Make, refuses: Any) -> None:
    one, other = make_volume(), make_volume()
    double.fault("error", "D*Volume", resource=one, times=-1)
    ec2.delete_volume(VolumeId=other)
    for _ in range(2):
        with refuses("InternalError"):
            ec2.delete_volume(VolumeId=one)
    [rule] = double("faults")
    assert (rule["seen"], rule["struck"]) == (2, 2)
    double("clear_faults")
    ec2.delete_volume(VolumeId=one)


def test_other_services_fail_in_their_own_words(double: Double) -> None:
    secrets = double.boto3("secretsmanager")
    double.fault("throttle", "GetSecretValue", service="secretsmanager")
    with pytest.raises(ClientError, match="ThrottlingException"):
        secrets.get_secret_value(SecretId="x")
    s3 = double.boto3("s3")
    double.fault("throttle", "PutObject", service="s3")
    s3.create_bucket(Bucket="bucket")
    with pytest.raises(ClientError, match="SlowDown"):
        s3.put_object(Bucket="bucket", Key="k", Body=b"x")


@pytest.mark.parametrize(
    ("action", "capacity", "refill"),
    [("CreateVolume", 100, 5), ("AttachVolume", 50, 5), ("CreateTags", 100, 10), ("RunInstances", 5, 2)],
)
def test_each_action_has_a_bucket(ec2: Any, double: Double, action: str, capacity: int, refill: int) -> None:
    """throttle; the figures are CLOUD_FACTS'."""
    calls: dict[str, Callable[[], Any]] = {
        "CreateVolume": lambda: ec2.create_volume(AvailabilityZone="nowhere"),
        "AttachVolume": lambda: ec2.attach_volume(VolumeId="vol-0", InstanceId="i-0", Device="x"),
        "CreateTags": lambda: ec2.create_tags(Resources=["vol-0"], Tags=[{"Key": "k"}]),
        "RunInstances": lambda: ec2.run_instances(MinCount=1, MaxCount=1),
    }

    def throttled() -> int:
        codes = []
        for _ in range(capacity + 1):
            with pytest.raises(ClientError) as caught:
                calls[action]()
            codes.append(caught.value.response["Error"]["Code"])
        return codes.count("RequestLimitExceeded")

    assert throttled() == 1
    double.advance(1)
    assert throttled() == capacity + 1 - refill
    double.settings(bucket_scale=0)
    assert throttled() == 0


def test_describing_everything_has_a_smaller_bucket(ec2: Any, double: Double, refuses: Any) -> None:
    for _ in range(50):
        ec2.describe_volumes()
    with refuses("RequestLimitExceeded"):
        ec2.describe_volumes()
    for _ in range(100):
        ec2.describe_volumes(MaxResults=5)
    with refuses("RequestLimitExceeded"):
        ec2.describe_volumes(Filters=[{"Name": "status", "Values": ["available"]}])


def test_launches_draw_on_a_bucket_of_instances(ec2: Any, double: Double, ami: str, refuses: Any) -> None:
    wish = {"ImageId": ami, "InstanceType": "m7i.large"}
    ec2.run_instances(**wish, MinCount=999, MaxCount=999)
    with refuses("RequestLimitExceeded"):
        ec2.run_instances(**wish, MinCount=2, MaxCount=2)
    ec2.run_instances(**wish, MinCount=1, MaxCount=1)


def test_missing_rights_come_with_a_message_that_sts_decodes(ec2: Any, double: Double, refuses: Any) -> None:
    double("deny", actions=["ec2:Create*"])
    with pytest.raises(ClientError) as caught:
        ec2.create_volume(**VOLUME)
    error = caught.value.response["Error"]
    assert error["Code"] == "UnauthorizedOperation"
    encoded = error["Message"].partition("Encoded authorization failure message: ")[2]
    sts = double.boto3("sts")
    decoded = json.loads(sts.decode_authorization_message(EncodedMessage=encoded)["DecodedMessage"])
    assert decoded["allowed"] is False
    assert decoded["context"]["action"] == "ec2:CreateVolume"
    with pytest.raises(ClientError, match="InvalidAuthorizationMessageException"):
        sts.decode_authorization_message(EncodedMessage="nonsense")
    with refuses("UnauthorizedOperation"):
        ec2.create_volume(**VOLUME, DryRun=True)
    double("deny", actions=[])
    ec2.create_volume(**VOLUME)


@pytest.mark.parametrize(
    ("state", "codes"),
    [
        ("expired", ("RequestExpired", "ExpiredTokenException", "ExpiredToken")),
        ("invalid", ("AuthFailure", "UnrecognizedClientException", "InvalidClientTokenId")),
    ],
)
def test_credentials_can_be_no_good(ec2: Any, double: Double, state: str, codes: tuple[str, str, str]) -> None:
    double("credentials", state=state)
    calls = (ec2.describe_volumes, double.boto3("ssm").describe_parameters, double.boto3("sts").get_caller_identity)
    for call, code in zip(calls, codes, strict=True):
        with pytest.raises(ClientError) as caught:
            call()
        assert caught.value.response["Error"]["Code"] == code


def test_every_call_is_recorded(ec2: Any, double: Double, refuses: Any) -> None:
    made = ec2.create_volume(**VOLUME, ClientToken="token")
    with refuses("InvalidVolume.NotFound"):
        ec2.delete_volume(VolumeId="vol-0123456789abcdef0")
    double.boto3("s3").create_bucket(Bucket="bucket")
    create, delete, bucket = double.calls()
    assert (create["service"], create["action"], create["token"], create["status"]) == (
        "ec2",
        "CreateVolume",
        "token",
        200,
    )
    assert create["params"] == {**VOLUME, "ClientToken": "token"}
    assert create["made"] == [made["VolumeId"]]
    assert "Botocore" in create["agent"]
    assert (delete["code"], delete["status"]) == ("InvalidVolume.NotFound", 400)
    assert (bucket["service"], bucket["action"]) == ("s3", "CreateBucket")
    assert double.counts() == {"ec2:CreateVolume": 1, "ec2:DeleteVolume": 1, "s3:CreateBucket": 1}
    assert [c["action"] for c in double.calls(since=1)] == ["DeleteVolume", "CreateBucket"]


def test_calls_can_take_time(ec2: Any, double: Double) -> None:
    double.settings(latency_s={"CreateVolume": 0.2})
    started = time.monotonic()
    ec2.describe_volumes()
    fast = time.monotonic() - started
    ec2.create_volume(**VOLUME)
    assert time.monotonic() - started - fast >= 0.2


def test_what_a_test_asks_wrongly_is_told(double: Double) -> None:
    for verb, fields in (("sing", {}), ("settings", {"colour": 1}), ("fault", {"kind": "flood"})):
        with pytest.raises(ValueError, match=verb):
            double(verb, **fields)
