"""What Compute Engine remembers: disks, instances, what joins them, and operations."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

PROJECT, PROJECT_NUMBER = "rankvol-test", "123456789012"
# How the API names itself in what it answers, whichever endpoint was asked.
ROOT = "https://www.googleapis.com/compute/v1/"


def stamp(seconds: float) -> str:
    """Return a time of the clock as answers hold it: RFC 3339 with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def fingerprint(value: Any) -> str:
    """Return what changes whenever the value does."""
    return urlsafe_b64encode(hashlib.sha256(repr(value).encode()).digest()[:8]).decode()


@dataclass(eq=False)
class Resource:
    """What disks and instances have in common."""

    kind: str  # "disks", "instances"
    zone: str
    name: str
    id: int
    created_at: float
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    status: str = ""
    busy: str = ""  # the operation that keeps others away

    @property
    def link(self) -> str:
        """The name that error messages use."""
        return f"projects/{PROJECT}/zones/{self.zone}/{self.kind}/{self.name}"

    @property
    def url(self) -> str:
        """The name that answers use."""
        return ROOT + self.link

    def base(self) -> dict[str, Any]:
        """Return the fields that answers show of any of them."""
        seen: dict[str, Any] = {
            "id": str(self.id),
            "name": self.name,
            "creationTimestamp": stamp(self.created_at),
            "zone": f"{ROOT}projects/{PROJECT}/zones/{self.zone}",
            "selfLink": self.url,
            "status": self.status,
            "labelFingerprint": fingerprint(sorted(self.labels.items())),
        }
        if self.description:
            seen["description"] = self.description
        if self.labels:
            seen["labels"] = self.labels
        return seen


@dataclass(eq=False)
class Disk(Resource):
    """A persistent disk or Hyperdisk; ``facts`` is what answers show of it and nothing here decides on."""

    size_gb: int = 0
    type: str = "pd-standard"
    iops: int | None = None
    throughput: int | None = None
    image: str = ""
    snapshot: str = ""
    users: list[Instance] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Attached:
    """A disk on an instance."""

    disk: Disk
    device: str
    mode: str = "READ_WRITE"
    auto_delete: bool = False
    boot: bool = False
    index: int = 0
    state: str = "attaching"  # "attaching", "attached", "detaching": the API does not show it


@dataclass(eq=False)
class Instance(Resource):
    """A virtual machine; ``facts`` is what answers show of it and nothing here decides on."""

    machine_type: str = ""
    disks: list[Attached] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    scheduling: dict[str, Any] = field(default_factory=dict)
    address: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    serial: bytes = b""
    guest_attributes: dict[tuple[str, str], str] = field(default_factory=dict)
    started_at: float | None = None
    stopped_at: float | None = None
    ends_at: float | None = None
    preempted: bool = False
    serial_lost: bool = False
    impaired: bool = False

    @property
    def spot(self) -> bool:
        """Whether Compute Engine may take it back."""
        return self.scheduling.get("provisioningModel") == "SPOT"

    @property
    def deletes_itself(self) -> bool:
        """Whether the end of its time, or preemption, deletes it."""
        return self.scheduling.get("instanceTerminationAction") == "DELETE"


@dataclass(eq=False)
class Operation:
    """Something that takes time."""

    name: str
    id: int
    zone: str
    type: str
    target: str  # link
    target_id: int
    user: str
    inserted_at: float
    request_id: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    failure: Any = None
    status: str = "PENDING"
    text: str = ""

    @property
    def link(self) -> str:
        """The name that error messages use."""
        return f"projects/{PROJECT}/zones/{self.zone}/operations/{self.name}"

    def view(self) -> dict[str, Any]:
        """Return it as answers hold it."""
        seen: dict[str, Any] = {
            "kind": "compute#operation",
            "id": str(self.id),
            "name": self.name,
            "zone": f"{ROOT}projects/{PROJECT}/zones/{self.zone}",
            "operationType": self.type,
            "targetLink": ROOT + self.target,
            "targetId": str(self.target_id),
            "status": self.status,
            "user": self.user,
            "progress": {"PENDING": 0, "RUNNING": 50, "DONE": 100}[self.status],
            "insertTime": stamp(self.inserted_at),
            "selfLink": ROOT + self.link,
        }
        for name, at in (("startTime", self.started_at), ("endTime", self.ended_at)):
            if at is not None:
                seen[name] = stamp(at)
        if self.request_id:
            seen["clientOperationId"] = self.request_id
        if self.text:
            seen["statusMessage"] = self.text
        if self.failure:
            seen.update(self.failure.view())
        return seen
