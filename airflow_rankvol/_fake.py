"""What the in-memory cloud behind ``airflow_rankvol.testing`` is made of: disks and machines."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_rankvol.backends.base import NodeRequest
from airflow_rankvol.errors import BackendError
from airflow_rankvol.records import (
    Attachment,
    Node,
    NodeState,
    Role,
    Tags,
    Volume,
    VolumeState,
    to_iso,
)

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Timings:
    """How long things take on the fake cloud, in seconds.

    Args:
        lag_s: eventual consistency: how long a new volume or node stays invisible to observe and list_owned.
        linger_s: how long a deleted node is still listed as ended (about an hour on EC2).
    """

    create_s: float = 2.0
    boot_s: float = 10.0
    attach_s: float = 1.0
    detach_s: float = 2.0
    terminate_s: float = 5.0
    delete_s: float = 1.0
    lag_s: float = 0.0
    linger_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ending:
    """What one node does once it has its volumes.

    ``exit_code`` None means that the node is lost without a report; ``after_s`` None that it never ends by
    itself. ``output`` is the text of $RANKVOL_RESULT; None stands for a sensible default.
    """

    exit_code: int | None = 0
    after_s: float | None = 5.0
    output: str | None = None
    log_tail: str = ""
    boots: bool = True
    reason: str = ""
    raw_report: str | None = None
    step: str = ""
    error: type[BackendError] | None = None


def succeeds(output: Any = None, *, after_s: float = 5.0, log_tail: str = "") -> Ending:
    """Return the ending of a node that exits with 0 and that output (any JSON value)."""
    return Ending(0, after_s, None if output is None else json.dumps(output), log_tail)


def fails(exit_code: int = 1, *, after_s: float = 5.0, log_tail: str = "it went wrong") -> Ending:
    """Return the ending of a node whose command fails."""
    return Ending(exit_code, after_s, "", log_tail)


def is_lost(
    *, after_s: float = 5.0, reason: str = "reclaimed", step: str = "", error: type[BackendError] | None = None
) -> Ending:
    """Return the ending of a node that disappears without a report.

    Args:
        step: what the cloud's backend says to do about it.
        error: what a launch raises for the same reason, where the cloud had accepted the node nevertheless.
    """
    return Ending(None, after_s, "", reason=reason, step=step, error=error)


def never_boots() -> Ending:
    """Return the ending of a node that stays pending."""
    return Ending(boots=False)


def hangs() -> Ending:
    """Return the ending of a node that runs until its lifetime is over."""
    return Ending(after_s=None)


@dataclass(frozen=True, slots=True)
class Record:
    """A completion record: whose it is, and the result that a retry returns without computing again."""

    identity: str
    rank: int
    digest: str
    output: str


@dataclass(slots=True)
class Disk:
    """A volume of the fake cloud with what lies on it.

    ``record`` is its completion record; ``marked`` says that a rank has ever finished on it, with or without that
    record; ``files`` holds the names of what nodes left there.
    """

    id: str
    name: str
    size_gib: float
    type: str
    zone: str | None
    created_at: datetime
    available_at: datetime
    tags: Tags | None
    blank: bool
    attached_to: str | None = None
    attached_at: datetime | None = None
    free_at: datetime | None = None
    gone_at: datetime | None = None
    broken: bool = False
    record: Record | None = None
    marked: bool = False
    files: set[str] = field(default_factory=set)

    def state(self, now: datetime) -> VolumeState:
        """Return the state at that moment."""
        if self.broken:
            return VolumeState.ERROR
        if self.gone_at is not None:
            return VolumeState.DELETING
        if self.free_at is not None and now < self.free_at:
            return VolumeState.DETACHING
        if self.attached_to is not None and self.attached_at is not None:
            return VolumeState.ATTACHED if now >= self.attached_at else VolumeState.ATTACHING
        return VolumeState.AVAILABLE if now >= self.available_at else VolumeState.CREATING

    def release(self, now: datetime, detach_s: float) -> None:
        """Begin to detach."""
        if self.attached_to is not None and self.free_at is None:
            self.free_at = now + timedelta(seconds=detach_s)

    def settle(self, now: datetime) -> None:
        """Finish a detachment whose time has come."""
        if self.free_at is not None and now >= self.free_at:
            self.attached_to = self.attached_at = self.free_at = None

    def view(self, now: datetime) -> Volume:
        """Return the record that a backend hands out."""
        return Volume(
            self.id, self.name, self.state(now), self.size_gib, self.type, self.created_at, self.tags,
            self.zone, self.attached_to, self.blank, attached_at=self.attached_at,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Boot:
    """What the fake reads from a node's bootstrap script."""

    nodes: int = 0
    identity: str = ""
    digest: str = ""
    rendezvous: bool = False
    reuse: bool = True
    allow_missing: bool = False


@dataclass(slots=True)
class Machine:
    """A node of the fake cloud; ``phase`` goes pending, booted, ready, working, ended, gone."""

    id: str
    request: NodeRequest
    boot: Boot
    ending: Ending
    created_at: datetime
    address: str
    phase: str = "pending"
    since: datetime = _NEVER
    attached_at: str = ""
    started_at: str = ""
    told_at: datetime | None = None
    message: Mapping[str, str] = field(default_factory=dict)
    stop_at: datetime | None = None
    gone_at: datetime | None = None
    exit_code: int | None = None
    reason: str = ""
    reused: bool = False
    report: str | None = None

    @property
    def is_gather(self) -> bool:
        """Whether this is the gather node."""
        return self.request.tags.role == Role.GATHER

    def view(self) -> Node:
        """Return the record that a backend hands out."""
        states = {"pending": NodeState.PENDING, "ended": NodeState.ENDED}
        # As it was told to be lost, and not deleted before that.
        lost = self.phase == "ended" and self.exit_code is None and self.reason == self.ending.reason
        return Node(
            id=self.id,
            name=self.request.name,
            state=states.get(self.phase, NodeState.RUNNING),
            created_at=self.created_at,
            tags=self.request.tags,
            zone=self.request.zone,
            address=self.address,
            ready=self.phase == "ready" and self.told_at is None,
            released=self.told_at is not None,
            exit_code=self.exit_code,
            reason=self.reason,
            step=self.ending.step if lost else "",
            error=self.ending.error if lost else None,
            gone=self.phase == "ended" and self.stop_at is not None,
        )

    def end(self, now: datetime, exit_code: int | None, reason: str) -> None:
        """Come to an end."""
        self.phase, self.since, self.exit_code, self.reason = "ended", now, exit_code, reason


def encode(text: str) -> str:
    """Return text as a node's report carries it."""
    return base64.b64encode(text.encode()).decode()


def write_report(machine: Machine, now: datetime, code: int, output: str, **more: Any) -> str:
    """Return the JSON that the bootstrap would have written last."""
    times = {"attached_at": machine.attached_at, "started_at": machine.started_at, "finished_at": to_iso(now)}
    fixed = {"exit_code": code, "phase": "done", "reused": machine.reused, **times}
    tail = encode(machine.ending.log_tail)
    return json.dumps({**fixed, "output_b64": encode(output), "log_tail_b64": tail, **more})


def by_rank(attachments: tuple[Attachment, ...]) -> dict[int, list[str]]:
    """Return the volume ids of each rank."""
    ranks: dict[int, list[str]] = {}
    for item in attachments:
        ranks.setdefault(item.rank, []).append(item.volume_id)
    return ranks


def with_tags(tags: Tags, changes: Mapping[str, str]) -> Tags:
    """Return tags with ``rankvol:…`` entries set."""
    changed = Tags.from_dict({**tags.to_dict(), **changes})
    return changed if changed is not None else replace(tags)


def read_script(script: str) -> Boot:
    """Read from a bootstrap script, whose variables come first, what the fake cloud acts on."""
    head = "\n".join(script.splitlines()[:8])
    found = re.findall(r"\bRV_([A-Z_]+)=('[^']*'|[^\s('\"]*)", head)
    values = {name: text.strip("'") for name, text in reversed(found)}
    return Boot(
        nodes=int(values.get("NODES") or 0),
        identity=values.get("IDENTITY", ""),
        digest=values.get("DIGEST", ""),
        rendezvous=values.get("RENDEZVOUS") == "1",
        reuse=values.get("REUSE") == "1",
        allow_missing=values.get("ALLOW_MISSING") == "1",
    )
