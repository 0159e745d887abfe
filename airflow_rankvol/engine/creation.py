"""Create what a plan lacks, in zones that have room for it, and remove it again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from airflow_rankvol.backends.base import Backend, Guard, VolumeRequest
from airflow_rankvol.engine.calls import all_patiently, in_parallel, patiently, wait_until
from airflow_rankvol.engine.marks import check_usable, end_tags, outlives_runs, take_each
from airflow_rankvol.errors import BackendError, LeakError, NoCapacity, RetryableError, VolumeConflict
from airflow_rankvol.plan import Plan, PlannedSlot, PlannedVolume
from airflow_rankvol.records import Group, Tags, Volume
from airflow_rankvol.spec.templates import Scope

DELETED_TIMEOUT_S = 120.0
# What a try made that was killed, the next one may not see listed yet; more tries do not fit into that moment.
EARLIER_TRIES = 2

#: A plan's volumes that exist, by name, with whether each is adopted.
Found = Mapping[str, tuple[Volume, bool]]


class _ZoneIsFull(Exception):
    """What NoCapacity is for once: no reason to wait, since there may be another zone."""


@dataclass
class Creation:
    """The creation of what a plan lacks; what it makes is added to ``found``.

    Args:
        generation: number of this try, from 1.
        new: the names of the volumes that did not exist before.
    """

    backend: Backend
    group: Group
    plan: Plan
    generation: int
    found: dict[str, tuple[Volume, bool]]
    new: frozenset[str]
    made: list[Volume] = field(default_factory=list)

    def run(self) -> None:
        """Create every volume that is missing.

        Where a zone has no room for one, its ranks go to the job's other zones, and what they have got in it is
        removed: no rank has used it yet. When no zone is left for them, the call is repeated for a while.

        Raises:
            NoCapacity: no zone of the job has room.
        """
        full: set[str] = set()
        zones = self._zones(full)
        while True:
            try:
                self._create(zones, full)
            except _ZoneIsFull as exc:
                others = self._zones(full)
                moved = [slot for slot in self.plan.slots if zones[slot.rank] != others[slot.rank]]
                if not moved:
                    break
                self._move(exc, [wanted.name for slot in moved for wanted in slot.volumes])
                zones = others
            else:
                return
        self._create(zones, None)

    def _create(self, zones: Mapping[int, str | None], full: set[str] | None) -> None:
        """Create what is missing, as many at once as the backend takes.

        Args:
            full: zones without room are added, and the first ends it; None for patience with them.
        """

        def ask(request: VolumeRequest) -> Volume:
            try:
                return self.backend.create_volume(request)
            except NoCapacity as exc:
                if full is None:
                    raise
                full.update([request.zone] if request.zone else [])
                raise _ZoneIsFull(str(exc)) from exc

        def create(item: tuple[PlannedSlot, PlannedVolume]) -> None:
            slot, wanted = item
            request = request_of(self.group, wanted, zones[slot.rank], self.generation, self.backend, planned=slot.zone)
            volume = ask(request)
            self.made.append(volume)
            # What outlives runs another run may have been quicker to make.
            check_usable(self.backend, self.group, volume)
            adopted = wanted.scope is Scope.GLOBAL and volume.tags is not None and not volume.tags.made_by(self.group)
            self.found[wanted.name] = (volume, adopted)

        missing = [(slot, v) for slot in self.plan.slots for v in slot.volumes if v.name not in self.found]
        # One first: of two runs that make the same group, the slower one stops there and has made none of it. Where it
        # has to wait, all wait at the same time.
        with suppress(RetryableError):
            for item in [item for item in missing if item[1].scope is not Scope.RUN][:1]:
                create(item)
        all_patiently(self.backend, [item for item in missing if item[1].name not in self.found], create)

    def _move(self, cause: BaseException, names: Collection[str]) -> None:
        """Remove what was made in a zone without room, so that it can be made in another one."""
        self.roll_back(cause, names)
        moved = self.new.intersection(names)
        there = [v for v in patiently(self.backend, self.backend.observe, self.group).volumes if v.name in moved]
        if there:
            raise VolumeConflict(
                "another run is about to get it, while this one has no room beside it and wants another zone. It was "
                "not touched. Clear create_volumes once that one is over",
                backend=self.backend.name,
                verb="create_volume",
                resource=there[0].label,
            ) from cause

    def _zones(self, full: Collection[str]) -> dict[int, str | None]:
        """Return where each rank's volumes go; a zone is looked for only when no volume of the plan has one yet.

        Ranks whose job names no zone stay together: gather works in parts where they lie apart.

        Args:
            full: zones to go past, where the job names others.
        """
        there = {name: item for name, item in self.found.items() if name not in self.new}
        zones = {slot.rank: zone_of(slot, there) or self._with_room(slot, full) for slot in self.plan.slots}
        missing = any(wanted.name not in self.found for wanted in self.plan.volumes())
        if missing and None in zones.values():
            other = next((volume.zone for volume, _ in there.values() if volume.zone), None)
            zone = other or patiently(self.backend, self.backend.choose_zone, self.plan)
            zones = {rank: named or zone for rank, named in zones.items()}
        return zones

    def _with_room(self, slot: PlannedSlot, full: Collection[str]) -> str | None:
        """Return a rank's zone, or the next one of the job's that is not full."""
        named = self.plan.job.node.effective_zones
        turned = [named[(slot.rank + more) % len(named)] for more in range(len(named))]
        return next((zone for zone in turned if zone not in full), slot.zone)

    def roll_back(self, cause: BaseException, names: Collection[str] | None = None) -> None:
        """Remove what did not exist before.

        It is looked up again, because an answer may have been lost, and what was answered is removed even where
        the look-up does not show it yet. What a later try, or another run, has been handed meanwhile, while this one
        hung, is in use. What outlives runs is taken first, so that nobody is handed it while it goes.

        Args:
            names: only these; everything new without them.

        Raises:
            LeakError: some could not be removed.
        """
        new = self.new if names is None else self.new.intersection(names)
        mine = self._own(new, {volume.id: volume for volume in self.made if volume.name in new})
        doomed, others = self._taken(new, mine, cause)

        def delete(volume: Volume) -> None:
            guard = Guard(owner=self.group.owner, key=volume.tags.key if volume.tags else self.group.key)
            try:
                patiently(self.backend, self.backend.delete_volume, volume.id, guard)
            except BackendError as exc:
                cause.add_note(f"while rolling back {volume.label}: {exc}")

        labels: list[str] = []

        def gone() -> bool:
            labels[:] = [volume.label for volume in self._own(new, {}).values() if volume.id not in others]
            return not labels

        in_parallel(self.backend, doomed, delete)
        if not wait_until(self.backend, gone, timeout_s=DELETED_TIMEOUT_S):
            raise LeakError(
                f"creating the volumes failed ({cause}), and these could not be removed again: {', '.join(labels)}. "
                "Remove them with `rankvol reap`",
                resources=labels,
            ) from cause
        for name in new:
            self.found.pop(name, None)
        self.made[:] = [volume for volume in self.made if volume.name not in new]

    def _own(self, names: Collection[str], known: Mapping[str, Volume]) -> dict[str, Volume]:
        """Return by id what this call has made of these names and nobody was handed since.

        Args:
            known: what counts where a look does not show it.
        """
        there = {v.id: v for v in patiently(self.backend, self.backend.observe, self.group).volumes if v.name in names}

        def own(tags: Tags | None) -> bool:
            if tags is None or not tags.made_by(self.group) or not tags.free_for(self.group):
                return False
            return tags.attempt in (0, self.generation)

        return {volume.id: volume for volume in {**known, **there}.values() if own(volume.tags)}

    def _taken(
        self, names: Collection[str], mine: Mapping[str, Volume], cause: BaseException
    ) -> tuple[list[Volume], set[str]]:
        """Take what outlives runs; return what may be deleted, and the ids of what is gone or another run's by now."""
        shared = [volume for volume in mine.values() if outlives_runs(volume)]
        if not shared:
            return list(mine.values()), set()
        problems: dict[str, str] = {}
        taken, others = take_each(self.backend, self.group, shared, problems)
        for label, why in problems.items():
            cause.add_note(f"while rolling back {label}: {why}")
        still = self._own(names, mine).values()
        return [volume for volume in still if volume.id in taken or not outlives_runs(volume)], others


def zone_of(slot: PlannedSlot, found: Found) -> str | None:
    """Return where a rank's first existing volume lies, and so its others and its node; None when it has none."""
    return next((found[v.name][0].zone for v in slot.volumes if v.name in found), None)


def has_open_zone(plan: Plan, found: Found) -> bool:
    """Say whether a volume that is missing may go to one of several zones, so that tries may differ in it.

    A rank stays where it has a volume, and ranks whose job names no zone stay together.
    """
    zones = {*plan.job.node.effective_zones}
    if len(zones) == 1 or all(wanted.name in found for wanted in plan.volumes()):
        return False
    return any(zone_of(slot, found) is None for slot in plan.slots) if zones else not found


def request_of(
    group: Group,
    wanted: PlannedVolume,
    zone: str | None,
    generation: int,
    backend: Backend,
    *,
    planned: str | None = None,
) -> VolumeRequest:
    """Return the request for one planned volume, with all the tags it will carry.

    Args:
        planned: the zone that the plan has for its rank; in another one it is another volume.
    """
    end = end_tags(backend, wanted.scope, wanted.template)
    tags = replace(
        group.tags(rank=wanted.rank, scope=str(wanted.scope), reclaim=end["rankvol:reclaim"]),
        key=wanted.key,
        expiry=end["rankvol:expiry"],
    )
    text = f"{group.owner}/{wanted.key}/{wanted.name}"
    if planned is not None and zone != planned:
        text += f"/{zone}"
    # What outlives runs is one volume whoever makes it: any run, at any of its tries.
    last = generation if wanted.scope is Scope.RUN else 1
    first = max(1, last - EARLIER_TRIES)
    *earlier, token = (hashlib.sha256(f"{text}/{n}".encode()).hexdigest() for n in range(first, last + 1))
    return VolumeRequest(
        name=wanted.name,
        zone=zone,
        template=wanted.template,
        tags=tags,
        token=token,
        earlier=tuple(earlier),
    )
