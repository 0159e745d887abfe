"""What the backend's tests are written with: the double's clock as everybody's, and short words for requests."""

from __future__ import annotations

import gzip
import re
from typing import Any

from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends._aws_memory import Memory
from airflow_rankvol.backends._aws_rate import Limiter
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.records import Node, Volume
from tests.clouds.aws.client import AIRFLOW_KEY, Double
from tests.clouds.common.clocks import DoubleClock
from tests.clouds.common.lab import KEY, SETTLED_S, BackendLab
from tests.clouds.common.reports import lines_of, report

__all__ = ["KEY", "OTHER_ZONE", "SETTLED_S", "ZONE", "DoubleClock", "Lab", "console_of", "lab_on", "report", "settings",
           "succeed"]  # fmt: skip

ZONE, OTHER_ZONE = "us-east-1a", "us-east-1b"


def settings(double: Double, **extra: Any) -> Settings:
    """Return the connection that leads to the double; it does not retry, so that each fault is seen."""
    once = {"retries": {"total_max_attempts": 1}, "read_timeout": 2}
    return Settings(
        "aws_test", "aws", {**double.connection_extra(), "config_kwargs": once, **extra}, AIRFLOW_KEY, "testing"
    )


class Lab(BackendLab[Double, Clients, AwsBackend]):
    """On EC2."""

    service, zone, machine_type, made_s = "ec2", ZONE, "m7i.large", SETTLED_S

    def process(self) -> AwsBackend:
        clock = DoubleClock(self.double)
        return AwsBackend(self.clients, poll_interval_s=5.0, clock=clock, memory=Memory(clock.seconds))

    @property
    def clients(self) -> Clients:
        return self.connection

    def attached(self, volume: Volume, node: Node) -> None:
        """Attach as the engine does: on what was just observed."""
        self.see()
        self.backend.attach(volume.id, node.id)
        self.settle()

    def foreign_volume(self, name: str, zone: str = ZONE, **tags: str) -> str:
        """Create a volume as somebody does by hand."""
        wanted = [{"Key": key, "Value": value} for key, value in {"Name": name, **tags}.items()]
        specification = [{"ResourceType": "volume", "Tags": wanted}]
        made = self.double.boto3("ec2").create_volume(
            AvailabilityZone=zone, Size=1, VolumeType="gp3", TagSpecifications=specification
        )
        self.settle()
        return str(made["VolumeId"])

    def image_with_disk(self, **ebs: Any) -> str:
        """Register an image with a data disk, which stays when its machine ends unless it says otherwise."""
        made = self.double.boto3("ec2").register_image(
            Name="with-a-disk",
            Architecture="x86_64",
            RootDeviceName="/dev/xvda",
            BlockDeviceMappings=[
                {"DeviceName": "/dev/sdb", "Ebs": {"VolumeSize": 5, "DeleteOnTermination": False, **ebs}},
                {"DeviceName": "/dev/sdc", "VirtualName": "ephemeral0"},
            ],
        )
        return str(made["ImageId"])


def lab_on(double: Double, **extra: Any) -> Lab:
    """Return a lab whose rate is that of the double's clock."""
    clock = DoubleClock(double)
    limiter = Limiter(now=clock.seconds, sleep=clock.sleep)
    return Lab(double, Clients(settings(double, **extra), limiter))


def console_of(found: dict[str, Any]) -> str:
    """Return what a node's serial console shows at its end (engine/platform_ec2.sh)."""
    return "[    0.0] Linux\r\n" + "\r\n".join(lines_of(found)) + "\r\n[   99.0] reboot: Power down\r\n"


def succeed(_view: dict[str, Any], user_data: bytes) -> str:
    """Stand in for a node's commands, inside the double: what the console of a rank that succeeds shows."""
    script = gzip.decompress(user_data).decode()
    rank = re.search(r"\bRV_RANK=(-?\d+)", script)
    assert rank is not None
    return console_of(report(int(rank[1])))
