"""What the backend's tests are written with: the double's clock as everybody's, and short words for requests."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, cast

from airflow_rankvol.backends._gcp_calls import RATES
from airflow_rankvol.backends._gcp_connection import Session
from airflow_rankvol.backends._gcp_memory import Memory
from airflow_rankvol.backends._rate import RateLimiter
from airflow_rankvol.backends.base import Guard, NodeRequest, VolumeRequest
from airflow_rankvol.backends.gcp import GcpBackend
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.records import Attachment, Group, Node, Observation, Volume
from airflow_rankvol.spec.templates import NodeTemplate, VolumeTemplate
from tests.clouds.common import reports
from tests.clouds.common.clocks import DoubleClock
from tests.clouds.common.reports import report
from tests.clouds.gcp.client import OTHER_ZONE, ZONE, Double
from tests.unit.engine.engine_kit import Rig, a_plan

__all__ = ["KEY", "OTHER_ZONE", "ZONE", "DoubleClock", "Lab", "lab_on", "report", "settings", "succeed"]

#: Longer than any state of the double takes by default.
SETTLED_S = 1.0
KEY = "0a1b2c3d"


def settings(double: Double, **extra: Any) -> Settings:
    """Return the connection that leads to the double; it does not retry, so that each fault is seen."""
    return Settings("gcp_test", "google_cloud_platform", {**double.connection_extra(), "zone": ZONE, **extra})


@dataclass
class Lab:
    """A backend and one group on it."""

    double: Double
    session: Session
    owner: str = "lab"
    run: str = "run-1"
    key: str = KEY
    backend: GcpBackend = field(init=False)

    def __post_init__(self) -> None:
        self.backend = self.process()

    def process(self) -> GcpBackend:
        """Return the backend as another process has it: it has seen nothing yet."""
        clock = DoubleClock(self.double)
        return GcpBackend(self.session, poll_interval_s=5.0, clock=clock, memory=Memory(clock.seconds))

    @property
    def group(self) -> Group:
        return Group(self.owner, "dag", self.run, "group", self.key, f"{self.key[:-1]}d", "9f9f9f9f")

    @property
    def guard(self) -> Guard:
        return Guard(self.owner, self.key)

    def other(self) -> Lab:
        """Another run's group."""
        return Lab(self.double, self.session, self.owner, "run-2", "ffffffff")

    def request(self, rank: int = 0, zone: str | None = ZONE, **template: Any) -> VolumeRequest:
        name = template.pop("name", f"data-{self.key}-{rank}")
        token = template.pop("token", f"token-{rank}")
        made = VolumeTemplate.model_validate({"size": "10GB", **template})
        return VolumeRequest(name, zone, made, self.group.tags(rank=rank), token)

    def volume(self, rank: int = 0, zone: str | None = ZONE, **template: Any) -> Volume:
        """Create the volume of a rank."""
        return self.backend.create_volume(self.request(rank, zone, **template))

    def node_request(self, *volumes: Volume, rank: int = 0, attempt: int = 1, **template: Any) -> NodeRequest:
        read_only = template.pop("read_only", False)
        attachments = tuple(Attachment(v.id, v.name, "/data", rank, read_only=read_only) for v in volumes)
        name = f"rankvol-{self.key}-r{rank}-a{attempt}"
        return NodeRequest(
            name,
            template.pop("zone", None),
            NodeTemplate.model_validate({"machine_type": "n2-standard-2", **template}),
            self.group.tags(rank=rank, attempt=attempt, role="rank"),
            attachments,
            "#!/bin/bash\ntrue\n",
            3600.0,
            f"token {name}",
        )

    def node(self, *volumes: Volume, **fields: Any) -> Node:
        """Launch the node of a rank, which runs then."""
        return self.backend.create_node(self.node_request(*volumes, **fields))

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

    def count(self, action: str) -> int:
        """Return how many calls of a method of Compute Engine's there were."""
        return self.double.counts().get(f"compute:{action}", 0)

    def disk(self, volume: Volume) -> dict[str, Any]:
        """Return a disk as it really is."""
        found: dict[str, Any] = self.double.state()["disks"][volume.id]
        return found

    def foreign_disk(self, name: str, zone: str = ZONE, **body: Any) -> str:
        """Create a disk as somebody does by hand, and return its id."""
        self.double.rest().post(f"zones/{zone}/disks", {"name": name, "sizeGb": "10", **body})
        self.settle()
        return f"{zone}/{name}"

    def rig(self, nodes: int = 3, **job: Any) -> Rig:
        """Return a run of a job on this backend, whose stages the test calls."""
        fields = {"node": NodeTemplate(machine_type="n2-standard-2", zones=(ZONE,)), "gather": [], **job}
        return Rig(cast("Any", self.backend), a_plan(nodes, owner=self.owner, **fields))


def lab_on(double: Double, **extra: Any) -> Lab:
    """Return a lab whose rate is that of the double's clock."""
    clock = DoubleClock(double)
    limiter = RateLimiter(RATES, now=clock.seconds, sleep=clock.sleep)
    return Lab(double, Session(settings(double, **extra), limiter))


def lines_of(found: dict[str, Any]) -> str:
    """Return a report as a node writes it to its guest attributes and its serial port."""
    return "\n".join(reports.lines_of(found))


def succeed(_view: dict[str, Any], script: bytes) -> dict[str, Any]:
    """Stand in for a node's commands, inside the double: what a rank that succeeds reports."""
    rank = re.search(r"\bRV_RANK=(-?\d+)", script.decode())
    assert rank is not None
    lines = lines_of(report(int(rank[1])))
    return {"console": lines, "attributes": {"rankvol/report-0": lines}}
