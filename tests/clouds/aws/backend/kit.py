"""What the backend's tests are written with: the double's clock as everybody's, and short words for requests."""

from __future__ import annotations

import gzip
import re
from dataclasses import dataclass, field
from typing import Any, cast

from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends._aws_memory import Memory
from airflow_rankvol.backends._aws_rate import Limiter
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.backends.base import Guard, NodeRequest, VolumeRequest
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.records import Attachment, Group, Node, Observation, Volume
from airflow_rankvol.spec.templates import NodeTemplate, VolumeTemplate
from tests.clouds.aws.client import AIRFLOW_KEY, Double
from tests.clouds.common.clocks import DoubleClock
from tests.clouds.common.reports import lines_of, report
from tests.unit.engine.engine_kit import Rig, a_plan

__all__ = ["KEY", "OTHER_ZONE", "SETTLED_S", "ZONE", "DoubleClock", "Lab", "console_of", "lab_on", "report", "settings",
           "succeed"]  # fmt: skip

ZONE, OTHER_ZONE = "us-east-1a", "us-east-1b"
#: Longer than any state of the double takes by default.
SETTLED_S = 1.0
KEY = "0a1b2c3d"


def settings(double: Double, **extra: Any) -> Settings:
    """Return the connection that leads to the double; it does not retry, so that each fault is seen."""
    once = {"retries": {"total_max_attempts": 1}, "read_timeout": 2}
    return Settings(
        "aws_test", "aws", {**double.connection_extra(), "config_kwargs": once, **extra}, AIRFLOW_KEY, "testing"
    )


@dataclass
class Lab:
    """A backend and one group on it."""

    double: Double
    clients: Clients
    owner: str = "lab"
    run: str = "run-1"
    key: str = KEY
    backend: AwsBackend = field(init=False)

    def __post_init__(self) -> None:
        self.backend = self.process()

    def process(self) -> AwsBackend:
        """Return the backend as another process has it: it has seen nothing yet."""
        clock = DoubleClock(self.double)
        return AwsBackend(self.clients, poll_interval_s=5.0, clock=clock, memory=Memory(clock.seconds))

    @property
    def group(self) -> Group:
        return Group(self.owner, "dag", self.run, "group", self.key, f"{self.key[:-1]}d", "9f9f9f9f")

    @property
    def guard(self) -> Guard:
        return Guard(self.owner, self.key)

    def other(self) -> Lab:
        """Another run's group."""
        return Lab(self.double, self.clients, self.owner, "run-2", "ffffffff")

    def request(self, rank: int = 0, zone: str | None = ZONE, **template: Any) -> VolumeRequest:
        name = template.pop("name", f"data-{self.key}-{rank}")
        made = VolumeTemplate.model_validate({"size": "10GB", **template})
        return VolumeRequest(name, zone, made, self.group.tags(rank=rank), f"token-{rank}")

    def volume(self, rank: int = 0, zone: str | None = ZONE, **template: Any) -> Volume:
        """Create the volume of a rank, and let it become available."""
        made = self.backend.create_volume(self.request(rank, zone, **template))
        self.settle()
        return made

    def node_request(self, *volumes: Volume, rank: int = 0, attempt: int = 1, **template: Any) -> NodeRequest:
        attachments = tuple(Attachment(volume.id, volume.name, "/data", rank) for volume in volumes)
        name = f"rankvol-{self.key}-r{rank}-a{attempt}"
        return NodeRequest(
            name,
            template.pop("zone", None),
            NodeTemplate.model_validate({"machine_type": "m7i.large", **template}),
            self.group.tags(rank=rank, attempt=attempt, role="rank"),
            attachments,
            "#!/bin/bash\ntrue\n",
            3600.0,
            f"token {name}",
        )

    def node(self, *volumes: Volume, **fields: Any) -> Node:
        """Launch the node of a rank, and let it come up."""
        made = self.backend.create_node(self.node_request(*volumes, **fields))
        self.settle()
        return made

    def settle(self, seconds: float = SETTLED_S) -> None:
        self.double.advance(seconds)

    def see(self) -> Observation:
        return self.backend.observe(self.group)

    def seen_volume(self, volume: Volume) -> Volume:
        found = self.see().volume(volume.id)
        assert found is not None, f"{volume.label} is not listed"
        return found

    def seen_node(self, node: Node) -> Node:
        found = self.see().node(node.id)
        assert found is not None, f"{node.label} is not listed"
        return found

    def attached(self, volume: Volume, node: Node) -> None:
        """Attach as the engine does: on what was just observed."""
        self.see()
        self.backend.attach(volume.id, node.id)
        self.settle()

    def count(self, action: str) -> int:
        """Return how many calls of an EC2 action there were."""
        return self.double.counts().get(f"ec2:{action}", 0)

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

    def rig(self, nodes: int = 3, **job: Any) -> Rig:
        """Return a run of a job on this backend, whose stages the test calls."""
        fields = {"node": NodeTemplate(machine_type="m7i.large", zones=(ZONE,)), "gather": [], **job}
        return Rig(cast("Any", self.backend), a_plan(nodes, owner=self.owner, **fields))


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
