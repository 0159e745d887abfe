"""One process of the double for the tests of a worker; as new, and with its clock stopped, for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from tests.clouds.aws.client import Double

ZONE, OTHER_ZONE = "us-east-1a", "us-east-1b"
AMI_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
# Longer than any state takes by default, the eventual consistency included.
SETTLED_S = 1.0


@pytest.fixture(scope="session")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    with Double(tmp_path_factory.mktemp("double")) as double:
        yield double


@pytest.fixture
def double(process: Double) -> Iterator[Double]:
    """The double with a clock that only ``advance`` moves; what it did wrong itself fails the test."""
    process.reset()
    process.freeze()
    yield process
    process.release(answer=False)
    assert process.bugs() == []


@pytest.fixture(scope="session")
def _client(process: Double) -> Any:
    return process.boto3("ec2")


@pytest.fixture
def ec2(double: Double, _client: Any) -> Any:
    """A client of boto3's that does not retry."""
    return _client


@pytest.fixture(scope="session")
def ami(process: Double) -> str:
    return str(process.boto3("ssm").get_parameter(Name=AMI_PARAMETER)["Parameter"]["Value"])


@pytest.fixture
def make_volume(ec2: Any, double: Double) -> Callable[..., str]:
    """Create a volume that is available; returns its id."""

    def make(**params: Any) -> str:
        made = ec2.create_volume(**{"AvailabilityZone": ZONE, "Size": 1, "VolumeType": "gp3", **params})
        double.advance(SETTLED_S)
        return str(made["VolumeId"])

    return make


@pytest.fixture
def start(ec2: Any, ami: str) -> Callable[..., str]:
    """Launch an instance that is pending; returns its id."""

    def make(**params: Any) -> str:
        wish = {"ImageId": ami, "InstanceType": "m7i.large", "MinCount": 1, "MaxCount": 1, **params}
        if not any(name in wish for name in ("SubnetId", "NetworkInterfaces", "Placement")):
            wish["Placement"] = {"AvailabilityZone": ZONE}
        return str(ec2.run_instances(**wish)["Instances"][0]["InstanceId"])

    return make


@pytest.fixture
def make_instance(start: Callable[..., str], double: Double) -> Callable[..., str]:
    """Launch an instance that runs; returns its id."""

    def make(**params: Any) -> str:
        made = start(**params)
        double.advance(SETTLED_S)
        return made

    return make


@pytest.fixture
def refuses() -> Callable[[str], AbstractContextManager[None]]:
    """Expect an error of EC2's by its code."""
    from botocore.exceptions import ClientError

    @contextmanager
    def expect(code: str) -> Iterator[None]:
        with pytest.raises(ClientError) as caught:
            yield
        assert caught.value.response["Error"]["Code"] == code, caught.value

    return expect
