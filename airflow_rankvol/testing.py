"""An in-memory cloud with a fault script and a clock that never really sleeps, for tests of rank jobs.

    backend = FakeBackend(endings={("rank", 1, 1): fails(3)})   # rank 1 fails at its first attempt
    backend.faults.fail("create_volume", QuotaExceeded, call=2, when="after")
    ...
    assert backend.count("observe") < 20
    assert backend.is_empty

It is strict: what takes time takes time on its clock, a volume is attached to one running node at a time, and
nothing without our tags is ever deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from airflow_rankvol._fake import (
    Disk,
    Ending,
    Timings,
    fails,
    hangs,
    is_lost,
    never_boots,
    succeeds,
    with_tags,
)
from airflow_rankvol._fake_cloud import Call, FakeCloud
from airflow_rankvol._fake_faults import FakeClock, FaultScript, SimulatedCrash
from airflow_rankvol.backends.base import (
    Guard,
    LogPart,
    NodeRequest,
    Selector,
    Stager,
    VolumeRequest,
    check_held,
    check_there,
)
from airflow_rankvol.errors import NotOurs, NotReady, VolumeBusy, VolumeConflict
from airflow_rankvol.records import Group, Node, NodeState, Observation, Tags, Volume

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan
    from airflow_rankvol.spec.templates import NodeTemplate

__all__ = [
    "Call",
    "Ending",
    "FakeBackend",
    "FakeClock",
    "FaultScript",
    "SimulatedCrash",
    "Timings",
    "fails",
    "hangs",
    "is_lost",
    "never_boots",
    "succeeds",
]


class FakeBackend(FakeCloud):
    """A whole cloud in memory; it implements the Backend protocol.

    Args: those of FakeCloud.
    """

    name = "fake"
    platform = "local"  # the fake reads only the variables at the head of the rendered script
    supports_rendezvous = True
    concurrency = 1
    listing_lag_s = 0.0
    log_interval_s: float | None = None
    stager: Stager | None = None
    zone: str | None = None

    def default_owner(self) -> str | None:
        """Return a fixed owner."""
        return "fake-owner"

    def check(self, plan: Plan) -> None:
        """Accept every plan; use the fault script for one that is refused."""
        self._verb("check", plan.key, lambda: None)

    def max_volumes(self, template: NodeTemplate) -> int | None:  # noqa: ARG002 - every node here is alike
        """Return how many volumes a node can hold: any number here."""
        return self.volumes_per_node

    def choose_zone(self, plan: Plan) -> str | None:  # noqa: ARG002 - every plan fits
        """Return where volumes go whose job names no zone."""
        return self.zone

    def observe(self, group: Group) -> Observation:
        """Return what is visible of the group."""

        def mine(tags: Tags | None, keys: frozenset[str]) -> bool:
            return tags is not None and tags.owner == group.owner and tags.key in keys

        def effect() -> Observation:
            return self._seen(
                lambda disk: mine(disk.tags, group.keys) or disk.name in group.names,
                lambda machine: mine(machine.request.tags, frozenset({group.key})),
            )

        return self._verb("observe", group.key, effect)

    def list_owned(self, selector: Selector) -> Observation:
        """Return what is visible of the owner."""

        def mine(tags: Tags | None) -> bool:
            if tags is None or tags.owner != selector.owner:
                return False
            return selector.dag in (None, tags.dag) and selector.run in (None, tags.run)

        def effect() -> Observation:
            return self._seen(lambda disk: mine(disk.tags), lambda machine: mine(machine.request.tags))

        return self._verb("list_owned", selector.owner, effect)

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create a volume, or return the one of that name and key."""

        def effect() -> Volume:
            now, tags = self.clock.now(), request.tags
            for disk in self._world.disks.values():
                if disk.name != request.name:
                    continue
                if disk.tags and (disk.tags.owner, disk.tags.key) == (tags.owner, tags.key):
                    return disk.view(now)
                raise self._error(VolumeConflict, "create_volume", disk.name, "the name is taken")
            template = request.template
            disk = Disk(
                id=self._id("vol"),
                name=request.name,
                size_gib=template.size_gib,
                type=template.type or "standard",
                zone=request.zone,
                created_at=now,
                available_at=now + timedelta(seconds=self.timings.create_s),
                tags=tags,
                blank=not (template.snapshot or template.image),
            )
            self._world.disks[disk.id] = disk
            return disk.view(now)

        return self._verb("create_volume", request.name, effect)

    def delete_volume(self, volume_id: str, guard: Guard) -> None:
        """Begin to delete a volume of ours that nothing holds."""

        def effect() -> None:
            disk = self._world.disks.get(volume_id)
            if disk is None or disk.gone_at is not None:
                return
            guard.check(tags=disk.tags, name=disk.name, backend=self.name, verb="delete_volume")
            if disk.attached_to is not None:
                raise self._error(VolumeBusy, "delete_volume", disk.name, f"held by {disk.attached_to}")
            disk.gone_at = self.clock.now() + timedelta(seconds=self.timings.delete_s)

        self._verb("delete_volume", self._name_of(volume_id), effect)

    def tag_volumes(
        self, volume_ids: Sequence[str], tags: Mapping[str, str], *, held_by: str | None = None
    ) -> frozenset[str]:
        """Set tags on volumes of ours; return the ids of those that are gone."""
        with self._lock:
            self._world.settle(self.clock.now())
            known = {volume_id: self._world.disks.get(volume_id) for volume_id in volume_ids}
            for volume_id, there in known.items():
                check_there(there is not None and there.gone_at is None, held_by, self.name, volume_id)
            for disk in filter(None, known.values()):
                check_held(disk.tags.used_by if disk.tags else "", held_by, tags, self.name, disk.name)
            self._tag_volumes(volume_ids, tags)
            return frozenset(volume_id for volume_id, there in known.items() if there is None)

    def _tag_volumes(self, volume_ids: Sequence[str], tags: Mapping[str, str]) -> None:
        def tag(volume_id: str) -> None:
            disk = self._world.disks.get(volume_id)
            if disk is None:
                return
            if disk.tags is None:
                raise self._error(NotOurs, "tag_volumes", disk.name, "it has no tags of ours")
            disk.tags = with_tags(disk.tags, tags)

        self._batch("tag_volumes", volume_ids, tag)

    def create_node(self, request: NodeRequest) -> Node:
        """Launch a node, or return the one of that name."""

        def effect() -> Node:
            for machine in self._world.machines.values():
                if machine.request.name == request.name:
                    return machine.view()
            return self._launch(request).view()

        return self._verb("create_node", request.name, effect)

    def delete_node(self, node_id: str, guard: Guard) -> None:
        """Begin to end a node of ours."""

        def effect() -> None:
            machine = self._world.machines.get(node_id)
            if machine is None:
                return
            name = machine.request.name
            guard.check(tags=machine.request.tags, name=name, backend=self.name, verb="delete_node")
            self._world.delete(machine, self.clock.now())

        self._verb("delete_node", self._name_of(node_id), effect)

    def attach(self, volume_id: str, node_id: str) -> None:
        """Attach a volume to a running node."""

        def effect() -> None:
            machine, name = self._world.machines.get(node_id), self._name_of(volume_id)
            if machine is None or machine.view().state is not NodeState.RUNNING or machine.stop_at:
                raise self._error(NotReady, "attach", name, f"{node_id} is not running")
            self._attach(volume_id, machine, "attach")

        self._verb("attach", self._name_of(volume_id), effect)

    def tell_nodes(self, node_ids: Sequence[str], message: Mapping[str, str]) -> None:
        """Hand variables to nodes that wait for their peers; what was told once stays."""

        def tell(node_id: str) -> None:
            machine = self._world.machines.get(node_id)
            if machine is not None and machine.phase == "ready" and machine.told_at is None:
                machine.told_at, machine.message = self.clock.now(), dict(message)

        self._batch("tell_nodes", node_ids, tell)

    def boot_trouble(self, node_id: str, late_since: datetime) -> str:  # noqa: ARG002 - it has no earlier knowledge
        """Return what ``troubles`` has for the node's name."""
        name = self._name_of(node_id)
        return self._verb("boot_trouble", name, lambda: self.troubles.get(name, ""))

    def read_report(self, node_id: str) -> str | None:
        """Return the node's report."""

        def effect() -> str | None:
            machine = self._world.machines.get(node_id)
            return machine.report if machine else None

        return self._verb("read_report", self._name_of(node_id), effect)

    def read_log(self, node_id: str, position: int) -> LogPart:
        """Return the lines of ``logs`` for the node's name from a position on."""
        name = self._name_of(node_id)
        return self._verb("read_log", name, lambda: _part(self.logs.get(name, ()), position))

    def holds_result(self, volume_id: str, key: str) -> bool | None:  # noqa: ARG002 - one record at a time here
        """Say whether the volume holds a completion record; nobody can tell while a node has it."""

        def effect() -> bool | None:
            disk = self._world.disks.get(volume_id)
            if disk is not None and disk.attached_to is not None:
                raise self._error(VolumeBusy, "holds_result", disk.name, f"held by {disk.attached_to}")
            if not self.looks_inside:
                return None
            return disk is not None and disk.marked

        return self._verb("holds_result", self._name_of(volume_id), effect)


def _part(lines: Sequence[str], position: int) -> LogPart:
    return LogPart(tuple(lines[position:]), max(position, len(lines)))
