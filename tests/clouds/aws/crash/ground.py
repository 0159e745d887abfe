"""AWS for the crash test."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from typing import Any

from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends._aws_memory import Memory
from airflow_rankvol.backends._aws_rate import Limiter
from airflow_rankvol.backends.aws import AwsBackend
from tests.clouds.aws.backend.kit import SETTLED_S, ZONE, console_of, settings
from tests.clouds.aws.client import Double
from tests.clouds.aws.conftest import AMI_PARAMETER
from tests.clouds.common.clocks import AnyClock
from tests.clouds.common.crash.disks import finished, ids_of
from tests.clouds.common.crash.ground import OWNER, Ground

_ANSWERED_S = 60


def end(view: dict[str, Any], user_data: bytes) -> str | None:
    """Return the console of a node that has done its work, or None while it waits for its volumes."""
    script = gzip.decompress(user_data).decode()
    attached = {
        mapping["Ebs"]["VolumeId"] for mapping in view["BlockDeviceMappings"] if mapping["Ebs"]["Status"] == "attached"
    }
    ids = ids_of(script)
    return console_of(finished(script, ids)) if attached.issuperset(ids) else None


class AwsGround(Ground):
    """EC2's double. Ids are never used again."""

    double = Double
    zone, machine_type = ZONE, "m7i.large"
    ending = f"{__name__}:end"
    kinds = ("volumes", "instances")
    size = "1GB"
    #: EC2's listings show by then what was done last.
    noticed_s = 5.0

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def warm(self, double: Any) -> None:
        clients = Clients(_patient(double))
        clients.get("ec2"), clients.get("ssm")
        self._made = clients._clients

    def prepare(self, double: Any) -> None:
        """As it is by default."""

    def connect(self, double: Any, clock: AnyClock) -> Clients:
        clients = Clients(_patient(double), Limiter(now=clock.seconds, sleep=clock.sleep))
        clients._clients.update(self._made)
        return clients

    def backend(self, connection: Any, clock: AnyClock, poll_s: float) -> AwsBackend:
        backend = AwsBackend(connection, poll_interval_s=poll_s, clock=clock, memory=Memory(clock.seconds))
        backend.concurrency = 1  # the order of the calls must not change
        return backend

    def strangers(self, double: Any) -> None:
        ec2, ssm = self._made["ec2"], self._made["ssm"]
        named = [{"Name": f"data-volume-{rank}"} for rank in range(2)]
        other = {"rankvol:owner": "somebody", "rankvol:key": "0a1b2c3d", "rankvol:rank": "0", "rankvol:attempt": "0"}
        for tags in (*named, {"Name": "data-volume-0", **other}, {"Name": "rankvol", "rankvol:owner": OWNER}):
            ec2.create_volume(
                AvailabilityZone=ZONE, Size=1, VolumeType="gp3", TagSpecifications=_specified("volume", tags)
            )
        image = ssm.get_parameter(Name=AMI_PARAMETER)["Parameter"]["Value"]
        ec2.run_instances(
            ImageId=image, InstanceType="m7i.large", MinCount=1, MaxCount=1,
            TagSpecifications=_specified("instance", {"Name": "rankvol-0a1b2c3d-r0-a1", **other}),
        )  # fmt: skip
        double.advance(SETTLED_S)

    def is_left(self, node: dict[str, Any]) -> bool:
        return bool(node["State"]["Name"] != "terminated")

    def made(self, double: Any) -> Iterable[tuple[str, str]]:
        for call in double.calls():
            if call["action"] in ("CreateVolume", "RunInstances"):
                tags = {tag["Key"]: tag["Value"] for tag in call["params"]["TagSpecifications"][0]["Tags"]}
                yield from ((tags["Name"], made) for made in call["made"])


def _patient(double: Double) -> Any:
    return settings(double, config_kwargs={"retries": {"total_max_attempts": 1}, "read_timeout": _ANSWERED_S})


def _specified(kind: str, tags: dict[str, str]) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": name, "Value": value} for name, value in tags.items()]}]


GROUND = AwsGround()
