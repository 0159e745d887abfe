"""What EC2 remembers: volumes, instances, attachments, snapshots and their tags."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class TagSet:
    """Tags of which a change is seen a moment after it was made."""

    current: dict[str, str] = field(default_factory=dict)
    previous: dict[str, str] = field(default_factory=dict)
    changed_at: float = 0.0

    def change(self, tags: dict[str, str], now: float) -> None:
        """Replace the tags; until they are visible the ones before are shown."""
        self.previous, self.current, self.changed_at = self.current, tags, now

    def seen(self, now: float, lag_s: float) -> dict[str, str]:
        """Return the tags as a Describe shows them now."""
        return self.current if now >= self.changed_at + lag_s else self.previous


@dataclass
class Resource:
    """What all of them have."""

    id: str
    created_at: float
    tags: TagSet
    token: str = ""


@dataclass
class Attachment:
    """The bond of a volume and an instance; its state is EC2's word for it."""

    volume_id: str
    instance_id: str
    device: str
    attached_at: float
    delete_on_termination: bool = False
    state: str = "attaching"


@dataclass
class Volume(Resource):
    """An EBS volume."""

    zone: str = ""
    size_gib: int = 0
    type: str = "gp2"
    iops: int | None = None
    throughput_mibps: int | None = None
    encrypted: bool = False
    kms_key_id: str = ""
    snapshot_id: str = ""
    state: str = "creating"
    attachment: Attachment | None = None


@dataclass
class Snapshot(Resource):
    """A snapshot of a volume."""

    volume_id: str = ""
    size_gib: int = 0
    encrypted: bool = False
    description: str = ""
    state: str = "pending"


@dataclass
class Instance(Resource):
    """An EC2 instance; ``facts`` is what Describe shows of it and nothing here decides on."""

    zone: str = ""
    type: str = ""
    subnet_id: str = ""
    address: str = ""
    user_data: bytes = b""
    shutdown_behavior: str = "stop"
    spot: bool = False
    metadata_tags: bool = False
    reservation_id: str = ""
    root_device: str = "/dev/xvda"
    launch_index: int = 0
    state: str = "pending"
    state_reason: tuple[str, str] = ("pending", "pending")
    transition_reason: str = ""
    ended_at: float | None = None
    console: bytes = b""
    console_lost: bool = False
    spot_action_at: float | None = None
    impaired: bool = False
    disks: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


# The low byte of the code of each state (API:InstanceState).
STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
