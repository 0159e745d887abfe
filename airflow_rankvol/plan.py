"""From a job and a run's identity to the plan: which volumes each rank gets, under which names, and where.

Pure: nothing is looked up and nothing is created. The same job and identity always give the same plan, which
is what lets a later attempt, or the reaper, find again what an earlier one made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.spec.naming import KEY_LENGTH, Scope, volume_names
from airflow_rankvol.spec.sizes import format_size
from airflow_rankvol.spec.templates import ReclaimPolicy, VolumeTemplate

_DIGEST_LENGTH = 32


@dataclass(frozen=True)
class RunIdentity:
    """Whose job this is: what makes its names differ from those of every other job and run.

    Args:
        owner: The installation; volumes of another owner are never touched.
        dag_id: The DAG.
        run_id: The DAG run.
        group_id: The task group, with the groups around it.
        map_index: The index of the mapped task group around it, or -1.

    Raises:
        ConfigError: A part is not of its type, or empty.
    """

    owner: str
    dag_id: str
    run_id: str
    group_id: str
    map_index: int = -1

    def __post_init__(self) -> None:
        for name in ("owner", "dag_id", "run_id", "group_id"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ConfigError(f"identity: {name}: {value!r} was found; text that is not empty is expected")
        index: object = self.map_index
        if not isinstance(index, int) or isinstance(index, bool) or index < -1:
            raise ConfigError(
                f"identity: map_index: {index!r} was found; a whole number from 0 on is expected, or -1 for none"
            )

    @property
    def group(self) -> str:
        """The group with its map index, as in ``shards[3]``."""
        return f"{self.group_id}[{self.map_index}]" if self.map_index >= 0 else self.group_id

    def key(self, scope: Scope = Scope.RUN) -> str:
        """The 8 hex digits that stand for this identity in the names of a scope."""
        parts: list[str | int] = [scope.value, self.owner]
        if scope is not Scope.GLOBAL:
            parts += [self.dag_id, self.group_id, self.map_index]
        if scope is Scope.RUN:
            parts.append(self.run_id)
        return _digest(parts)[:KEY_LENGTH]


@dataclass(frozen=True)
class PlannedVolume:
    """One volume of one rank."""

    rank: int
    mount_index: int
    name: str
    path: str
    scope: Scope
    key: str
    template: VolumeTemplate

    @property
    def size_gib(self) -> int | float:
        """The size in GiB."""
        return self.template.size_gib

    @property
    def type(self) -> str | None:
        """The backend's volume type, or None for its default."""
        return self.template.type

    @property
    def reclaim(self) -> ReclaimPolicy:
        """What becomes of the volume at the end."""
        return self.template.effective_reclaim

    def to_dict(self) -> dict[str, Any]:
        """The volume as it goes into XCom."""
        return {"name": self.name, "path": self.path, "size_gib": self.size_gib, "type": self.type}


@dataclass(frozen=True)
class PlannedSlot:
    """What one rank needs: its volumes in the order of the job's mounts, and the zone of volumes and node."""

    rank: int
    nodes: int
    zone: str | None
    volumes: tuple[PlannedVolume, ...]

    def to_dict(self) -> dict[str, Any]:
        """The slot as it goes into XCom."""
        return {
            "rank": self.rank,
            "nodes": self.nodes,
            "zone": self.zone,
            "volumes": [volume.to_dict() for volume in self.volumes],
        }


@dataclass(frozen=True)
class Plan:
    """A job's slots in rank order."""

    identity: RunIdentity
    job: RankJob
    slots: tuple[PlannedSlot, ...]

    @property
    def key(self) -> str:
        """The key of the run's own names."""
        return self.identity.key()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all volumes, each once, in the order of the mounts."""
        return tuple(dict.fromkeys(volume.key for volume in self.volumes()))

    @property
    def volume_names(self) -> tuple[str, ...]:
        """The literal names of global scope: those of volumes that may exist already and be adopted."""
        return tuple(volume.name for volume in self.volumes() if volume.scope is Scope.GLOBAL)

    def volumes(self) -> Iterator[PlannedVolume]:
        """All volumes, rank by rank."""
        for slot in self.slots:
            yield from slot.volumes

    def to_slots(self) -> list[dict[str, Any]]:
        """The slots as plain values, in rank order."""
        return [slot.to_dict() for slot in self.slots]

    def describe(self) -> str:
        """The plan as a table for people."""
        run, job = self.identity, self.job
        total = format_size(sum(volume.size_gib for volume in self.volumes()))
        count = sum(len(slot.volumes) for slot in self.slots)
        head = [
            f"group {run.group} of DAG {run.dag_id}, run {run.run_id}, owner {run.owner}, key {self.key}",
            f"nodes: {job.nodes} of type {job.node.machine_type or 'default'}, connection {job.conn_id}",
            f"volumes: {count}, {total} in all",
        ]
        if job.gather_node and job.gather_node.zones:
            head.append("gather_node.zones: ignored, because gather lies where the volumes lie")
        columns = ("rank", "zone", "volume", "size", "type", "scope", "reclaim", "path")
        rows = [_cells(volume, slot.zone) for slot in self.slots for volume in slot.volumes]
        return "\n".join([*head, "", *_table([columns, *rows])])


def make_plan(job: RankJob, run: RunIdentity) -> Plan:
    """Give every rank of a job its volumes and its zone.

    Raises:
        ConfigError: Two volumes of the plan would have the same name, or an argument is of another type.
    """
    _check_types(job, run)
    columns = [_mount_volumes(job, run, index) for index in range(len(job.volumes))]
    slots = tuple(
        PlannedSlot(rank, job.nodes, job.node.zone_of(rank), tuple(column[rank] for column in columns))
        for rank in range(job.nodes)
    )
    plan = Plan(run, job, slots)
    seen: dict[str, PlannedVolume] = {}
    for volume in plan.volumes():
        other = seen.setdefault(volume.name, volume)
        if other is not volume:
            raise ConfigError(
                f"volumes.{volume.mount_index}.name: {volume.name!r} of rank {volume.rank} is also the name"
                f" of volumes.{other.mount_index} of rank {other.rank}; every volume needs a name of its own"
            )
    return plan


def job_digest(job: RankJob, files: Mapping[str, bytes]) -> str:
    """Hash what decides a rank's result: a completion record counts only for the digest it was made under.

    The sizes and types of volumes and nodes, lifetimes, reclaiming and the gather commands are left out: a
    job can be given a larger machine, or another collection, without computing every rank again.

    Args:
        job: The job.
        files: What ``job.files`` names, by target.
    """
    return _digest(
        {
            "nodes": job.nodes,
            "commands": job.commands,
            "env": job.env,
            "secret_env": job.secret_env,
            "files": {target: hashlib.sha256(content).hexdigest() for target, content in files.items()},
            "volumes": [(mount.name, mount.path) for mount in job.volumes],
            "rendezvous": job.rendezvous,
        }
    )[:_DIGEST_LENGTH]


def _check_types(job: object, run: object) -> None:
    if not isinstance(job, RankJob):
        raise ConfigError(
            f"job: {type(job).__name__} was found; expected a RankJob; RankJob.model_validate(dict) makes one"
        )
    if not isinstance(run, RunIdentity):
        raise ConfigError(f"run: {type(run).__name__} was found; expected a RunIdentity")


def _mount_volumes(job: RankJob, run: RunIdentity, index: int) -> list[PlannedVolume]:
    mount = job.volumes[index]
    template = job.template_of(mount)
    scope, key = template.scope, run.key(template.scope)
    names = volume_names(mount.name, nodes=job.nodes, naming=template.naming, scope=scope, key=key)
    return [PlannedVolume(rank, index, name, mount.path, scope, key, template) for rank, name in enumerate(names)]


def _digest(value: object) -> str:
    # JSON keeps the parts apart whatever they contain: ["a", "bc"] and ["ab", "c"] differ.
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _cells(volume: PlannedVolume, zone: str | None) -> tuple[str, ...]:
    what = (volume.name, volume.template.size, volume.type or "default")
    return (str(volume.rank), zone or "-", *what, volume.scope.value, volume.reclaim.value, volume.path)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
