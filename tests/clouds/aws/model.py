"""What EC2 remembers: volumes, instances, attachments, snapshots and their tags."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self


class Lagging:
    """Something of which a Describe shows for a moment what was before a change.

    Calls that decide, and answers of those that change it, go by what is.
    """

    #: The fields that lag.
    late: ClassVar[frozenset[str]] = frozenset()
    _now: Callable[[], float] | None = None

    def begin(self, now: Callable[[], float]) -> None:
        """Keep from now on what was before each change, by this clock."""
        self._past: list[tuple[float, str, Any]] = []
        self._now = now

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field, keeping what it was."""
        if self._now and name in self.late:
            self._past.append((self._now(), name, getattr(self, name)))
        super().__setattr__(name, value)

    def seen(self, now: float, lag_s: float) -> Self:
        """Return this as a Describe shows it now: without the changes of the last moment."""
        shown = copy.copy(self)
        shown.__dict__["_now"] = None
        for at, name, before in reversed(self._past if self._now else []):
            if now >= at + lag_s:
                break
            shown.__dict__[name] = before
        return shown


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
class Resource(Lagging):
    """What all of them have."""

    id: str
    created_at: float
    tags: TagSet
    token: str = ""


@dataclass
class Attachment(Lagging):
    """The bond of a volume and an instance; its state is EC2's word for it."""

    late = frozenset({"state"})

    volume_id: str
    instance_id: str
    device: str
    attached_at: float
    delete_on_termination: bool = False
    state: str = "attaching"


@dataclass
class Volume(Resource):
    """An EBS volume."""

    late = frozenset({"state", "attachment"})

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

    def seen(self, now: float, lag_s: float) -> Self:
        """Return this, and how it is attached, as a Describe shows it now."""
        shown = super().seen(now, lag_s)
        shown.attachment = shown.attachment and shown.attachment.seen(now, lag_s)
        return shown


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

    late = frozenset({"state", "state_reason", "transition_reason", "attachments"})

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
    attachments: tuple[Attachment, ...] = ()
    disks: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def seen(self, now: float, lag_s: float) -> Self:
        """Return this, and what is attached to it, as a Describe shows it now."""
        shown = super().seen(now, lag_s)
        shown.attachments = tuple(attachment.seen(now, lag_s) for attachment in shown.attachments)
        return shown


# The low byte of the code of each state (API:InstanceState).
STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
