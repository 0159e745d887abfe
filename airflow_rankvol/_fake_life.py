"""How the machines of the fake cloud live: from one event to the next, in the order of time."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

from airflow_rankvol._fake import Disk, Machine, Record, Timings, by_rank, write_report
from airflow_rankvol.records import VolumeState, to_iso

Event = tuple[datetime, Callable[[], None]]


class World:
    """Every disk and machine, and what time does to them.

    Args:
        ended_nodes_hold_volumes: whether a node that ended keeps its volumes until it is deleted, as a
            stopped Compute Engine instance does.
    """

    def __init__(self, timings: Timings, *, ended_nodes_hold_volumes: bool) -> None:
        self.timings = timings
        self.ended_nodes_hold_volumes = ended_nodes_hold_volumes
        self.disks: dict[str, Disk] = {}
        self.machines: dict[str, Machine] = {}

    def settle(self, now: datetime) -> None:
        """Let everything happen that is due by now, the earliest first."""
        while True:
            due = [event for event in self._events() if event[0] <= now]
            if not due:
                break
            min(due, key=lambda event: event[0])[1]()
        for disk in list(self.disks.values()):
            disk.settle(now)
            if disk.gone_at is not None and disk.gone_at <= now:
                del self.disks[disk.id]

    def disks_of(self, machine: Machine) -> list[Disk | None]:
        """Return the machine's disks in the order of its mounts; None for one that does not exist."""
        return [self.disks.get(item.volume_id) for item in machine.request.attachments]

    def _events(self) -> list[Event]:
        events = []
        for machine in self.machines.values():
            for find in (self._death, self._progress):
                event = find(machine)
                if event is not None:
                    events.append(event)
        return events

    def _death(self, machine: Machine) -> Event | None:
        if machine.phase == "ended":
            gone_at = machine.gone_at
            return (gone_at, lambda: self._vanish(machine)) if gone_at else None
        cap = machine.created_at + timedelta(seconds=machine.request.lifetime_s)
        if machine.stop_at is not None and machine.stop_at <= cap:
            stop_at = machine.stop_at
            return stop_at, lambda: self._end(machine, stop_at, None, "deleted")
        return cap, lambda: self._end(machine, cap, None, "lifetime")

    def _progress(self, machine: Machine) -> Event | None:
        if machine.stop_at is not None:
            return None  # it is shutting down
        if machine.phase == "pending" and machine.ending.boots:
            at = machine.created_at + timedelta(seconds=self.timings.boot_s)
            return at, lambda: self._enter(machine, "booted", at)
        if machine.phase == "booted":
            mounted = self._mounted_at(machine)
            return (mounted, lambda: self._mount(machine, mounted)) if mounted else None
        if machine.phase == "ready" and machine.told_at is not None:
            told = machine.told_at
            return told, lambda: self._begin(machine, told)
        if machine.phase == "working" and machine.ending.after_s is not None:
            end = machine.since + timedelta(seconds=0 if machine.reused else machine.ending.after_s)
            return end, lambda: self._finish(machine, end)
        return None

    @staticmethod
    def _enter(machine: Machine, phase: str, at: datetime) -> None:
        machine.phase, machine.since = phase, at

    def _mounted_at(self, machine: Machine) -> datetime | None:
        moments = [machine.since]
        for disk in self.disks_of(machine):
            if disk is None or disk.attached_to != machine.id or disk.attached_at is None:
                return None
            moments.append(disk.attached_at)
        return max(moments)

    def _mount(self, machine: Machine, at: datetime) -> None:
        machine.attached_at = to_iso(at)
        disk = self._first(machine)
        if not machine.is_gather and disk is not None:
            machine.reused = machine.boot.reuse and self._own_record(machine, disk) is not None
        if machine.boot.rendezvous:
            self._enter(machine, "ready", at)
        else:
            self._begin(machine, at)

    def _begin(self, machine: Machine, at: datetime) -> None:
        machine.started_at = to_iso(at)
        self._enter(machine, "working", at)
        if machine.is_gather or machine.reused:
            return
        for disk in self.disks_of(machine):
            if disk is not None:
                disk.files.add(f"attempt-{machine.request.tags.attempt}")
                disk.record = None

    def _finish(self, machine: Machine, at: datetime) -> None:
        ending = machine.ending
        if machine.is_gather:
            self._finish_gather(machine, at)
        elif machine.reused:
            disk = self._first(machine)
            record = disk.record if disk else None
            self._report(machine, at, 0, record.output if record else "")
        elif ending.exit_code is None:
            self._end(machine, at, None, ending.reason)
        else:
            rank = machine.request.tags.rank
            output = json.dumps({"rank": rank}) if ending.output is None else ending.output
            disk = self._first(machine)
            if ending.exit_code == 0 and disk is not None:
                for other in filter(None, self.disks_of(machine)):
                    other.marked = True
                disk.record = Record(machine.boot.identity, rank, machine.boot.digest, output)
            self._report(machine, at, ending.exit_code, output)

    def _finish_gather(self, machine: Machine, at: datetime) -> None:
        found: dict[int, str] = {}
        for rank, ids in by_rank(machine.request.attachments).items():
            disk = self.disks.get(ids[0])
            record = disk.record if disk else None
            if record and (record.identity, record.rank) == (machine.boot.identity, rank):
                found[rank] = record.output
        lost = set(by_rank(machine.request.attachments)) - set(found)
        left_out = set(range(machine.boot.nodes)) - set(found) - lost
        allowed = machine.boot.allow_missing
        missing = sorted(lost if lost and allowed else lost | left_out)
        more = {"collected": sorted(found), "missing": missing}
        ending = machine.ending
        if lost or (missing and not allowed):
            self._report(machine, at, 1, "", **{**more, "phase": "incomplete"})
        elif ending.exit_code is None:
            self._end(machine, at, None, ending.reason)
        else:
            outputs = json.dumps([json.loads(text) if text else None for text in found.values()])
            self._report(machine, at, ending.exit_code, ending.output or outputs, **more)

    def _report(self, machine: Machine, at: datetime, code: int, output: str, **more: object) -> None:
        raw = write_report(machine, at, code, output, **more)
        machine.report = raw if machine.ending.raw_report is None else machine.ending.raw_report
        self._end(machine, at, code, "")

    def _end(self, machine: Machine, at: datetime, code: int | None, reason: str) -> None:
        machine.end(at, code, reason)
        if machine.stop_at is not None:
            machine.gone_at = at + timedelta(seconds=self.timings.linger_s)
        if machine.stop_at is not None or not self.ended_nodes_hold_volumes:
            self._let_go(machine, at)

    def delete(self, machine: Machine, now: datetime) -> None:
        """Begin to end a machine; one that ended already goes at once."""
        if machine.stop_at is not None:
            return
        machine.stop_at = now + timedelta(seconds=self.timings.terminate_s)
        if machine.phase == "ended":
            machine.gone_at = machine.stop_at + timedelta(seconds=self.timings.linger_s)
            self._let_go(machine, now)

    def _vanish(self, machine: Machine) -> None:
        del self.machines[machine.id]

    def _let_go(self, machine: Machine, at: datetime) -> None:
        for disk in self.disks.values():
            if disk.attached_to == machine.id:
                disk.release(at, self.timings.detach_s)

    def _first(self, machine: Machine) -> Disk | None:
        disks = self.disks_of(machine)
        return disks[0] if disks else None

    @staticmethod
    def _own_record(machine: Machine, disk: Disk) -> Record | None:
        record = disk.record
        wanted = (machine.boot.identity, machine.request.tags.rank, machine.boot.digest)
        return record if record and (record.identity, record.rank, record.digest) == wanted else None


def free(disk: Disk, now: datetime) -> bool:
    """Say whether a disk can be attached now."""
    return disk.state(now) is VolumeState.AVAILABLE
