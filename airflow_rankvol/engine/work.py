"""What one task is at: a rank's node, or the gather node; small and serialisable for a trigger."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

from airflow_rankvol.plan import Plan, RunIdentity
from airflow_rankvol.records import Group, Role, Slot, from_iso, to_iso
from airflow_rankvol.spec.templates import NodeTemplate, Scope

# After its lifetime a node gets this long to be noticed as ended before the engine ends it, in seconds.
DEADLINE_GRACE_S = 60.0


def group_of(plan: Plan) -> Group:
    """Return what identifies the plan's volume group to a backend."""
    return group_of_identity(plan.identity, plan.volume_names)


def group_of_identity(identity: RunIdentity, names: Sequence[str] = ()) -> Group:
    """Return what identifies a run's volume group, with the literal names of its volumes in global scope."""
    return Group(
        owner=identity.owner,
        dag=identity.dag_id,
        run=identity.run_id,
        group=identity.group,
        key=identity.key(Scope.RUN),
        dag_key=identity.key(Scope.DAG),
        global_key=identity.key(Scope.GLOBAL),
        names=tuple(names),
    )


def record_identity(group: Group) -> str:
    """Return the hash that a completion record must carry to count for this run's group."""
    text = json.dumps([group.owner, group.dag, group.run, group.group])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Work:
    """One node's worth of work: who it is, and the limits it must keep.

    Args:
        rank: the rank; for gather -1 minus its part, so -1 where one node gathers everything.
        attempt: which try of that rank (in a rendezvous: of the whole gang).
        slots: the rank's own slot; for gather, those that it reads: all of them, or its part's.
        begun: when the task began, ISO 8601.
        rendezvous: whether the nodes start together.
        gang: where they do, the volume ids of every rank: whoever steps attaches them for all.
        parts: how many nodes share the gathering.
    """

    role: Role
    rank: int
    attempt: int
    group: Group
    slots: tuple[Slot, ...]
    begun: str
    lifetime_s: float
    boot_timeout_s: float
    rendezvous: bool = False
    gang: tuple[tuple[str, ...], ...] = ()
    parts: int = 1

    @classmethod
    def begin(
        cls,
        *,
        role: Role,
        attempt: int,
        group: Group,
        slots: tuple[Slot, ...],
        template: NodeTemplate,
        now: datetime,
        everyone: tuple[Slot, ...] = (),
    ) -> Work:
        """Return the work of a task that begins now.

        Args:
            everyone: where the nodes start together (rendezvous), the slots of all ranks; else none.
        """
        together = role is Role.RANK and bool(everyone)
        return cls(
            role=role,
            rank=slots[0].rank if role is Role.RANK else -1,
            attempt=attempt,
            group=group,
            slots=slots,
            begun=to_iso(now),
            lifetime_s=template.lifetime.total_seconds(),
            boot_timeout_s=template.boot_timeout.total_seconds(),
            rendezvous=together,
            gang=tuple(tuple(volume.id for volume in slot.volumes) for slot in everyone) if together else (),
        )

    @property
    def node_name(self) -> str:
        """The deterministic name of this attempt's node."""
        return node_name(self.group, self.role, self.rank, self.attempt, self.handout)

    @property
    def handout(self) -> str:
        """Which call of create_volumes gave the volumes out; nodes that had them before are not of this work."""
        return self.slots[0].handout

    @property
    def nodes(self) -> int:
        """How many ranks the job has."""
        return self.slots[0].nodes

    @property
    def volume_ids(self) -> tuple[str, ...]:
        """The ids of every volume of this node."""
        return tuple(volume.id for slot in self.slots for volume in slot.volumes)

    @property
    def label(self) -> str:
        """How messages name it."""
        if self.role is Role.RANK:
            return f"rank {self.rank}"
        return "gather" if self.parts == 1 else f"gather, part {self.part} of {self.parts},"

    @property
    def part(self) -> int:
        """Which part of the gathering this is, from 0."""
        return -1 - self.rank

    @property
    def deadline(self) -> datetime:
        """The moment after which this work has failed whatever is observed."""
        begun = from_iso(self.begun)
        assert begun is not None  # noqa: S101 - begin() always sets it
        return begun + timedelta(seconds=self.boot_timeout_s + self.lifetime_s + DEADLINE_GRACE_S)

    def in_parts(self, limit: int | None) -> list[Work]:
        """Split the gathering where one node cannot hold all volumes, or where they lie in several zones.

        Args:
            limit: how many volumes a node can hold; None for any number.
        """
        parts: list[list[Slot]] = []
        for slot in sorted(self.slots, key=lambda slot: (slot.zone or "", slot.rank)):
            last = parts[-1] if parts else []
            held = sum(len(other.volumes) for other in last)
            if not last or last[0].zone != slot.zone or (limit is not None and held + len(slot.volumes) > limit):
                parts.append([])
            parts[-1].append(slot)
        return [replace(self, rank=-1 - part, slots=tuple(slots), parts=len(parts)) for part, slots in enumerate(parts)]

    def at_attempt(self, attempt: int) -> Work:
        """Return the same work at another attempt."""
        return replace(self, attempt=attempt)

    def to_dict(self) -> dict[str, Any]:
        """Return the plain form for a trigger's fields."""
        raw = {item.name: getattr(self, item.name) for item in fields(self)}
        raw["role"] = str(self.role)
        raw["group"] = self.group.to_dict()
        raw["slots"] = [slot.to_dict() for slot in self.slots]
        raw["gang"] = [list(ids) for ids in self.gang]
        return raw

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Work:
        """Read the plain form back."""
        changes: dict[str, Any] = {
            "role": Role(raw["role"]),
            "group": Group.from_dict(raw["group"]),
            "slots": tuple(Slot.from_dict(slot) for slot in raw["slots"]),
            "gang": tuple(tuple(ids) for ids in raw["gang"]),
        }
        return cls(**{**raw, **changes})


def node_name(group: Group, role: Role, rank: int, attempt: int, handout: str) -> str:
    """Return a node's name: deterministic, so that a launch can be repeated safely; at most 63 characters."""
    part = "" if rank >= -1 else str(-1 - rank)
    who = f"r{rank}" if role is Role.RANK else f"gather{part}"
    return "-".join(filter(None, ("rankvol", group.key, handout, who, f"a{attempt}")))
