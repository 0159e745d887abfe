"""Frozen records that travel between the layers, and their plain-dict wire forms.

Times are aware UTC datetimes inside and ISO 8601 strings on the wire; sizes are GiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from typing import Any, TypeVar

from airflow_rankvol.errors import BackendError
from airflow_rankvol.tags import TAG_PREFIX, Group, Tags

K = TypeVar("K")

__all__ = [
    "TAG_PREFIX",
    "Attachment",
    "Group",
    "Node",
    "NodeState",
    "Observation",
    "RankResult",
    "Role",
    "Slot",
    "SlotVolume",
    "Tags",
    "Volume",
    "VolumeState",
    "from_iso",
    "ranks_text",
    "to_iso",
    "utc_now",
]


class VolumeState(StrEnum):
    """Where a volume is in its life, on every backend."""

    CREATING = "creating"
    AVAILABLE = "available"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"
    DELETING = "deleting"
    ERROR = "error"


class NodeState(StrEnum):
    """Where a node is in its life; ENDED covers finished, powered off, killed and reclaimed."""

    PENDING = "pending"
    RUNNING = "running"
    ENDED = "ended"


class Role(StrEnum):
    """What a node is for."""

    RANK = "rank"
    GATHER = "gather"


def utc_now() -> datetime:
    """Return the current time, aware and in UTC."""
    return datetime.now(UTC)


def to_iso(moment: datetime | None) -> str:
    """Return an ISO 8601 string in UTC, or an empty string for None."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds") if moment else ""


def from_iso(text: str | None) -> datetime | None:
    """Return the aware datetime of an ISO 8601 string, or None for an empty one."""
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as a backend sees it now; ``tags`` is None for one that is not ours.

    ``iops`` and ``throughput_mibps`` (MiB/s) are what is provisioned, and may be billed; None where nobody said.
    ``attached_at`` is when ``attached_to`` was given it.
    """

    id: str
    name: str
    state: VolumeState
    size_gib: float
    type: str
    created_at: datetime
    tags: Tags | None = None
    zone: str | None = None
    attached_to: str | None = None
    blank: bool = False
    iops: int | None = None
    throughput_mibps: int | None = None
    attached_at: datetime | None = None

    @property
    def label(self) -> str:
        """Name and id, as messages show them."""
        return f"volume {self.name} ({self.id})"


@dataclass(frozen=True, slots=True)
class Node:
    """A node as a backend sees it now.

    ``ready`` says that it has mounted its volumes and waits for its peers (rendezvous only). ``exit_code``
    is None until it ended, and stays None when it was lost. ``reason`` says why it ended without a report, and ``step``
    what to do about that. ``error`` is what its launch would have raised had the cloud known at once that it cannot be,
    and None for one that was lost otherwise. ``trouble`` says why it has not come up although it runs: that is looked
    into only when its ``boot_timeout`` is over. ``gone`` says that nothing is left of it to delete, although the cloud
    may list it for a while yet, as EC2 does.
    """

    id: str
    name: str
    state: NodeState
    created_at: datetime
    tags: Tags | None = None
    zone: str | None = None
    address: str = ""
    ready: bool = False
    released: bool = False
    exit_code: int | None = None
    reason: str = ""
    step: str = ""
    error: type[BackendError] | None = None
    trouble: str = ""
    gone: bool = False

    @property
    def label(self) -> str:
        """Name and id, as messages show them."""
        return f"node {self.name} ({self.id})"


@dataclass(frozen=True)
class Observation:
    """Everything of one group (or of one owner) at one moment, from one batched read.

    Each of a thousand ranks looks its own things up in it, so that is done by index.
    """

    volumes: tuple[Volume, ...] = ()
    nodes: tuple[Node, ...] = ()

    def volume(self, volume_id: str | None) -> Volume | None:
        """Return the volume with that id, or None."""
        return self._volumes_by_id.get(volume_id)

    def node(self, node_id: str | None) -> Node | None:
        """Return the node with that id, or None."""
        return self._nodes_by_id.get(node_id)

    def rank_nodes(self, key: str, role: Role = Role.RANK) -> tuple[Node, ...]:
        """Return the nodes of one run's group in one role."""
        return self._nodes_by_role.get((key, role), ())

    def nodes_of(self, key: str, role: Role, rank: int) -> tuple[Node, ...]:
        """Return the nodes of one rank (or part of gather), whatever their attempt."""
        return self._nodes_by_rank.get((key, role, rank), ())

    @cached_property
    def holders(self) -> frozenset[str]:
        """The ids of all nodes that hold a volume."""
        return frozenset(volume.attached_to for volume in self.volumes if volume.attached_to)

    @cached_property
    def _volumes_by_id(self) -> dict[str | None, Volume]:
        return {volume.id: volume for volume in reversed(self.volumes)}

    @cached_property
    def _nodes_by_id(self) -> dict[str | None, Node]:
        return {node.id: node for node in reversed(self.nodes)}

    @cached_property
    def _nodes_by_role(self) -> dict[tuple[str, str], tuple[Node, ...]]:
        return _grouped(self.nodes, lambda tags: (tags.key, tags.role))

    @cached_property
    def _nodes_by_rank(self) -> dict[tuple[str, str, int], tuple[Node, ...]]:
        return _grouped(self.nodes, lambda tags: (tags.key, tags.role, tags.rank))


def _grouped(nodes: Iterable[Node], key_of: Callable[[Tags], K]) -> dict[K, tuple[Node, ...]]:
    found: dict[K, list[Node]] = {}
    for node in nodes:
        if node.tags:
            found.setdefault(key_of(node.tags), []).append(node)
    return {key: tuple(same) for key, same in found.items()}


@dataclass(frozen=True, slots=True)
class SlotVolume:
    """One mount of a slot; ``id`` is empty until the volume was created.

    ``created_at`` is that of an adopted volume: where names are ids, as on Compute Engine, it tells one from the next.
    """

    name: str
    path: str
    size_gib: float
    type: str | None
    id: str = ""
    adopted: bool = False
    created_at: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the wire form; ``id`` and ``adopted`` only once created, ``created_at`` only when adopted."""
        raw: dict[str, Any] = {"name": self.name, "path": self.path, "size_gib": self.size_gib, "type": self.type}
        made = {**raw, "id": self.id, "adopted": self.adopted} if self.id else raw
        return {**made, "created_at": self.created_at} if self.created_at else made


@dataclass(frozen=True, slots=True)
class Slot:
    """What rank ``rank`` of ``nodes`` gets: its zone and its volumes.

    ``handout`` names the call of create_volumes that gave them out, and is empty before; see ``Tags``.
    """

    rank: int
    nodes: int
    zone: str | None
    volumes: tuple[SlotVolume, ...]
    handout: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the wire form that travels through XCom."""
        raw: dict[str, Any] = {
            "rank": self.rank,
            "nodes": self.nodes,
            "zone": self.zone,
            "volumes": [volume.to_dict() for volume in self.volumes],
        }
        return {**raw, "handout": self.handout} if self.handout else raw

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Slot:
        """Read the wire form back."""
        volumes = tuple(SlotVolume(**volume) for volume in raw["volumes"])
        place = {"zone": raw.get("zone"), "handout": raw.get("handout", "")}
        return cls(rank=int(raw["rank"]), nodes=int(raw["nodes"]), volumes=volumes, **place)


@dataclass(frozen=True, slots=True)
class Attachment:
    """One volume on one node: where it is mounted, and whether it may be formatted there.

    ``may_format`` is True only for a volume that this run's create step made blank.
    """

    volume_id: str
    name: str
    path: str
    rank: int
    may_format: bool = False
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class RankResult:
    """A rank's result as Airflow's XCom shows it."""

    rank: int
    exit_code: int | None
    output: Any = None
    log_tail: str = ""
    volumes: tuple[SlotVolume, ...] = ()
    node_id: str = ""
    attempt: int = 0
    started_at: str = ""
    finished_at: str = ""
    reused: bool = False
    events: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain dict that is the task's return value."""
        raw = {item.name: getattr(self, item.name) for item in fields(self)}
        raw["volumes"] = [volume.to_dict() for volume in self.volumes]
        raw["events"] = dict(self.events)
        return raw


def ranks_text(ranks: Iterable[int]) -> str:
    """Return ranks as people read them: ``0, 3 and 7``."""
    names = [str(rank) for rank in sorted(ranks)]
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
