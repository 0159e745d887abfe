"""AWS for the crash test."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Iterable
from types import MappingProxyType
from typing import Any

from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends._aws_memory import Memory
from airflow_rankvol.backends._aws_rate import Limiter
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.records import Tags
from tests.clouds.aws.backend.kit import SETTLED_S, ZONE, console_of, settings
from tests.clouds.aws.client import Double
from tests.clouds.aws.conftest import AMI_PARAMETER
from tests.clouds.common.clocks import AnyClock
from tests.clouds.common.crash.disks import finished, ids_of
from tests.clouds.common.crash.ground import OWNER, Ground
from tests.clouds.common.crash.lives import Life

_ANSWERED_S = 60
_ID = re.compile(r"\b(?:vol|i)-[0-9a-f]{17}\b")


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
    makers = ("CreateVolume", "RunInstances")
    unseen = MappingProxyType({"visible_s": 20.0})

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
            if call["action"] in self.makers:
                yield from ((_tags(call)["Name"], made) for made in call["made"])

    def lives(self, double: Any) -> Iterable[Life]:
        there = double.state()["instances"]
        calls = double.calls("RunInstances")
        first = {made: call for call in reversed(calls) for made in call["made"]}
        for node_id, call in first.items():
            tags = Tags.from_dict(_tags(call))
            assert tags is not None
            yield Life(node_id, tags, call["at"], there[node_id]["EndedAt"] or math.inf)

    def tags(self, volume: dict[str, Any]) -> Tags | None:
        return Tags.from_dict(volume["Tags"])

    def changed(self, call: dict[str, Any]) -> set[str]:
        looks = call["action"].startswith(("Describe", "Get"))
        return set() if looks else set(_ID.findall(json.dumps(call["params"])))


def _tags(call: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in call["params"]["TagSpecifications"][0]["Tags"]}


def _patient(double: Double) -> Any:
    return settings(double, config_kwargs={"retries": {"total_max_attempts": 1}, "read_timeout": _ANSWERED_S})


def _specified(kind: str, tags: dict[str, str]) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": [{"Key": name, "Value": value} for name, value in tags.items()]}]


GROUND = AwsGround()
