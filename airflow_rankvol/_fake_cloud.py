"""The machinery of the in-memory cloud: what tests look at, and how a verb goes through the fault script."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar

from airflow_rankvol._fake import Boot, Disk, Ending, Machine, Timings, hangs, read_script, succeeds
from airflow_rankvol._fake_faults import FakeClock, FaultScript, SimulatedCrash
from airflow_rankvol._fake_life import World, free
from airflow_rankvol.backends.base import Clock, NodeRequest
from airflow_rankvol.errors import BackendError, FinalError, VolumeBusy, VolumeConflict
from airflow_rankvol.records import Observation, Tags, VolumeState
from airflow_rankvol.spec.templates import NodeTemplate

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a verb, as the log keeps it."""

    verb: str
    resource: str


class FakeCloud:
    """The cloud without its verbs.

    Args:
        clock: the fake clock; a new one when left out.
        timings: how long things take.
        endings: what nodes do, by (role, rank, attempt) or (role, rank); all others succeed after 5 s.
        attach_at_launch: attach volumes in create_node, as Compute Engine can, not by ``attach``.
        ended_nodes_hold_volumes: see ``World``.
        crash_after: raise SimulatedCrash after that many verb calls, and in every later one until ``revive``.

    Attributes:
        faults: the fault script.
        calls: every verb call so far.
    """

    name = "fake"

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        timings: Timings | None = None,
        endings: Mapping[Any, Ending] | None = None,
        attach_at_launch: bool = False,
        ended_nodes_hold_volumes: bool = False,
        crash_after: int | None = None,
    ) -> None:
        self.clock: Clock = clock or FakeClock()
        self.poll_interval_s = 1.0
        self.timings = timings or Timings()
        self.endings: dict[tuple[str, int, int] | tuple[str, int], Ending] = dict(endings or {})
        self.volumes_per_node: int | None = None
        self.looks_inside = True
        self.troubles: dict[str, str] = {}
        self.logs: dict[str, list[str]] = {}
        self.attach_at_launch = attach_at_launch
        self.crash_after = crash_after
        self.faults = FaultScript()
        self.calls: list[Call] = []
        self._world = World(self.timings, ended_nodes_hold_volumes=ended_nodes_hold_volumes)
        self._ids = count(1)
        self._crashed = False
        self._lock = threading.RLock()

    def count(self, verb: str) -> int:
        """Return how often a verb was called."""
        return sum(call.verb == verb for call in self.calls)

    @property
    def volumes(self) -> dict[str, Disk]:
        """Every volume by its name, with its record and files."""
        self._world.settle(self.clock.now())
        return {disk.name: disk for disk in self._world.disks.values()}

    @property
    def nodes(self) -> dict[str, Machine]:
        """Every node by its name, but not those that are only listed as ended after their deletion."""
        self._world.settle(self.clock.now())
        machines = self._world.machines.values()
        return {item.request.name: item for item in machines if not (item.phase == "ended" and item.stop_at)}

    @property
    def is_empty(self) -> bool:
        """Whether no volume and no node exists."""
        return not self.volumes and not self.nodes

    def revive(self, *, crash_after: int | None = None) -> None:
        """Let a new process call the backend after a simulated crash; the cloud goes on as it was."""
        self._crashed = False
        self.crash_after = None if crash_after is None else len(self.calls) + crash_after

    def add_volume(
        self, name: str, *, size_gib: float = 10, tags: Tags | None = None, zone: str | None = None,
        files: Iterable[str] = (),
    ) -> Disk:  # fmt: skip
        """Put a volume there that no engine made, such as one to adopt or somebody else's."""
        now = self.clock.now()
        disk = Disk(self._id("vol"), name, size_gib, "standard", zone, now, now, tags, blank=False)
        disk.files.update(files)
        self._world.disks[disk.id] = disk
        return disk

    def add_node(self, name: str, tags: Tags, *, holds: Sequence[Disk] = ()) -> Machine:
        """Put a node there that runs for ever and holds volumes, such as one of another run."""
        now = self.clock.now()
        request = NodeRequest(name, None, NodeTemplate(), tags, (), "", 10.0**9, name)
        machine = Machine(self._id("node"), request, Boot(), hangs(), now, "127.9.9.9", "working", now)
        self._world.machines[machine.id] = machine
        for disk in holds:
            disk.attached_to, disk.attached_at = machine.id, now
        return machine

    def _verb(self, verb: str, resource: str, effect: Callable[[], T], half: Callable[[], Any] | None = None) -> T:
        with self._lock:
            if self._crashed:
                raise SimulatedCrash(f"{verb} {resource}: this process is dead")
            self.calls.append(Call(verb, resource))
            self._world.settle(self.clock.now())
            fault = self.faults.take(verb, resource)
            if fault and fault.when == "midway" and half:
                half()
            if fault and fault.when in ("before", "midway"):
                raise self._fault(fault.error, verb, resource)
            ignored = fault is not None and fault.when == "ignored"
            result: Any = None if ignored else effect()
            if fault and fault.when == "after":
                raise self._fault(fault.error, verb, resource)
            if self.crash_after is not None and len(self.calls) >= self.crash_after:
                self._crashed = True
                raise SimulatedCrash(f"after {verb} {resource}")
            return result  # type: ignore[no-any-return]

    def _batch(self, verb: str, ids: Sequence[str], one: Callable[[str], None]) -> None:
        def do(some: Sequence[str]) -> None:
            for item in some:
                one(item)

        names = ",".join(self._name_of(item) for item in ids)
        self._verb(verb, names, lambda: do(ids), lambda: do(ids[: len(ids) // 2]))

    def _fault(self, error: type[BackendError] | BaseException, verb: str, resource: str) -> BaseException:
        if isinstance(error, BaseException):
            self._crashed = self._crashed or isinstance(error, SimulatedCrash)
            return error
        return self._error(error, verb, resource, "as the fault script says")

    def _error(self, error: type[BackendError], verb: str, resource: str, message: str) -> BackendError:
        return error(message, backend=self.name, verb=verb, resource=resource)

    def _seen(self, disks: Callable[[Disk], bool], machines: Callable[[Machine], bool]) -> Observation:
        now = self.clock.now()
        visible = now - timedelta(seconds=self.timings.lag_s)
        return Observation(
            tuple(d.view(now) for d in self._world.disks.values() if d.created_at <= visible and disks(d)),
            tuple(m.view() for m in self._world.machines.values() if m.created_at <= visible and machines(m)),
        )

    def _launch(self, request: NodeRequest) -> Machine:
        number, tags = next(self._ids), request.tags
        wanted = (tags.role, tags.rank)
        ending = self.endings.get((*wanted, tags.attempt)) or self.endings.get(wanted)
        machine = Machine(
            id=f"node-{number:04d}",
            request=request,
            boot=read_script(request.script),
            ending=ending or succeeds(),
            created_at=self.clock.now(),
            address=f"127.1.{number // 250}.{number % 250 + 1}",
        )
        if self.attach_at_launch:
            self._attach_all(machine)
        self._world.machines[machine.id] = machine
        return machine

    def _attach_all(self, machine: Machine) -> None:
        now = self.clock.now()
        for disk in self._world.disks_of(machine):
            if disk is None or not free(disk, now):
                raise self._taken(disk, machine)
        for item in machine.request.attachments:
            self._attach(item.volume_id, machine, "create_node")

    def _taken(self, disk: Disk | None, machine: Machine) -> BackendError:
        """Return the error of a launch whose volume is not free: a conflict when another run's live node has it."""
        holder = self._world.machines.get(disk.attached_to or "") if disk else None
        error: type[BackendError] = VolumeBusy
        if holder and holder.request.tags.run != machine.request.tags.run:
            error = VolumeConflict
        who = f"node {holder.id} of run {holder.request.tags.run} has it" if holder else "it is not available"
        return self._error(error, "create_node", machine.request.name, f"{disk.name if disk else 'a volume'}: {who}")

    def _attach(self, volume_id: str, machine: Machine, verb: str) -> None:
        now, disk = self.clock.now(), self._world.disks.get(volume_id)
        if disk is None:
            raise self._error(FinalError, verb, volume_id, "there is no such volume")
        if disk.zone != machine.request.zone and disk.zone and machine.request.zone:
            raise self._error(FinalError, verb, disk.name, f"it is in zone {disk.zone}")
        if disk.attached_to == machine.id and disk.state(now) is not VolumeState.DETACHING:
            return
        if not free(disk, now):
            raise self._error(VolumeBusy, verb, disk.name, f"it is {disk.state(now)}")
        disk.attached_to, disk.attached_at = machine.id, now + timedelta(seconds=self.timings.attach_s)

    def _id(self, kind: str) -> str:
        return f"{kind}-{next(self._ids):04d}"

    def _name_of(self, item_id: str) -> str:
        disk, machine = self._world.disks.get(item_id), self._world.machines.get(item_id)
        return disk.name if disk else machine.request.name if machine else item_id
