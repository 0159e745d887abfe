"""What a cloud's backend tests are written with: short words for requests, on the double's clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from airflow_rankvol.backends.base import Guard, NodeRequest, VolumeRequest
from airflow_rankvol.records import Attachment, Group, Node, Observation, Volume
from airflow_rankvol.spec.templates import NodeTemplate, VolumeTemplate
from tests.clouds.common.client import Process
from tests.unit.engine.engine_kit import Rig, a_plan

D = TypeVar("D", bound=Process)
C = TypeVar("C")
B = TypeVar("B", bound=Any)

#: Longer than any state of a double takes by default.
SETTLED_S = 1.0
KEY = "0a1b2c3d"


@dataclass
class BackendLab(ABC, Generic[D, C, B]):
    """A backend and one group on it.

    Args:
        connection: what the backend does its calls with.
    """

    #: The double's name for what has volumes and nodes.
    service: ClassVar[str]
    zone: ClassVar[str]
    machine_type: ClassVar[str]
    #: How long it takes until what was made is there, after the call; 0 where that waits for it.
    made_s: ClassVar[float]

    double: D
    connection: C
    owner: str = "lab"
    run: str = "run-1"
    key: str = KEY
    backend: B = field(init=False)

    def __post_init__(self) -> None:
        self.backend = self.process()

    @abstractmethod
    def process(self) -> B:
        """Return the backend as another process has it: it has seen nothing yet."""

    @property
    def group(self) -> Group:
        return Group(self.owner, "dag", self.run, "group", self.key, f"{self.key[:-1]}d", "9f9f9f9f")

    @property
    def guard(self) -> Guard:
        return Guard(self.owner, self.key)

    def other(self) -> Self:
        """Another run's group."""
        return replace(self, run="run-2", key="ffffffff")

    def request(self, rank: int = 0, zone: str | None = "", **template: Any) -> VolumeRequest:
        """Return the request for a rank's volume; in the lab's zone unless told otherwise."""
        name = template.pop("name", f"data-{self.key}-{rank}")
        token = template.pop("token", f"token-{rank}")
        made = VolumeTemplate.model_validate({"size": "10GB", **template})
        return VolumeRequest(name, self.zone if zone == "" else zone, made, self.group.tags(rank=rank), token)

    def volume(self, rank: int = 0, zone: str | None = "", **template: Any) -> Volume:
        """Create the volume of a rank, which is there then."""
        made: Volume = self.backend.create_volume(self.request(rank, zone, **template))
        self._come_up()
        return made

    def node_request(self, *volumes: Volume, rank: int = 0, attempt: int = 1, **template: Any) -> NodeRequest:
        read_only = template.pop("read_only", False)
        attachments = tuple(Attachment(v.id, v.name, "/data", rank, read_only=read_only) for v in volumes)
        name = f"rankvol-{self.key}-r{rank}-a{attempt}"
        return NodeRequest(
            name,
            template.pop("zone", None),
            NodeTemplate.model_validate({"machine_type": self.machine_type, **template}),
            self.group.tags(rank=rank, attempt=attempt, role="rank"),
            attachments,
            "#!/bin/bash\ntrue\n",
            3600.0,
            f"token {name}",
        )

    def node(self, *volumes: Volume, **fields: Any) -> Node:
        """Launch the node of a rank, which runs then."""
        made: Node = self.backend.create_node(self.node_request(*volumes, **fields))
        self._come_up()
        return made

    def _come_up(self) -> None:
        if self.made_s:
            self.settle(self.made_s)

    def settle(self, seconds: float = SETTLED_S) -> None:
        self.double.advance(seconds)

    def see(self) -> Observation:
        found: Observation = self.backend.observe(self.group)
        return found

    def seen_volume(self, volume: Volume) -> Volume:
        found = self.see().volume(volume.id)
        assert found is not None, f"{volume.label} is not listed"
        return found

    def seen_node(self, node: Node) -> Node:
        found = self.see().node(node.id)
        assert found is not None, f"{node.label} is not listed"
        return found

    def count(self, action: str) -> int:
        """Return how many calls of one action there were."""
        return self.double.counts().get(f"{self.service}:{action}", 0)

    def rig(self, nodes: int = 3, **job: Any) -> Rig:
        """Return a run of a job on this backend, whose stages the test calls."""
        node = NodeTemplate(machine_type=self.machine_type, zones=(self.zone,))
        return Rig(cast("Any", self.backend), a_plan(nodes, owner=self.owner, **{"node": node, "gather": [], **job}))
