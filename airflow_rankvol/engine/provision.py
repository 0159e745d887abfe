"""Create every volume of a plan, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from airflow_rankvol.backends.base import Backend, Guard, VolumeRequest
from airflow_rankvol.engine.calls import in_parallel, patiently, wait_until
from airflow_rankvol.engine.marks import check_claims, end_tags, hand_out, renew
from airflow_rankvol.engine.work import group_of
from airflow_rankvol.errors import BackendError, LeakError, NotReady, VolumeConflict
from airflow_rankvol.plan import Plan, PlannedSlot, PlannedVolume
from airflow_rankvol.records import Group, Observation, Slot, SlotVolume, Volume, VolumeState
from airflow_rankvol.spec.templates import Scope

# EBS volumes are available within seconds; one that is not by then never will be.
AVAILABLE_TIMEOUT_S = 120.0
DELETED_TIMEOUT_S = 120.0
# What a try made that was killed, the next one may not see listed yet; more tries do not fit into that moment.
EARLIER_TRIES = 2


def provision(
    backend: Backend, plan: Plan, *, generation: int, lives: Callable[[str, str], bool] = lambda _dag, _run: False
) -> list[Slot]:
    """Create or adopt every volume of the plan and return its slots with their ids.

    Existing volumes of this group are taken as they are, so the call can be repeated. When one volume cannot
    be had, those that this very call made are removed again and the error is raised. Only a volume that was
    handed out carries an ``attempt``: the teardown and the reaper tell by it what a killed call left half-way.

    Args:
        generation: number of this try, from 1; part of the idempotency tokens: each is burned with its volume.
        lives: tells from a DAG id and a run id whether that run goes on; a volume serves one run at a time.

    Raises:
        VolumeConflict: a name is taken, too small, or in use by another run that lives.
        LeakError: the creation failed and some of its volumes could not be removed again.
    """
    group = group_of(plan)
    found = patiently(backend, _found, backend, group, plan, lives)
    new = frozenset(v.name for slot in plan.slots for v in slot.volumes if v.name not in found)
    made: list[Volume] = []
    zones = _zones(backend, plan, found)
    try:
        _create(backend, group, plan, zones, found, made, generation)
        slots = [_slot(slot, found) for slot in plan.slots]
        ids = [volume.id for slot in slots for volume in slot.volumes if not volume.adopted]
        _verify_available(backend, group, ids)
        check_claims(
            backend, group, [volume for volume, _ in found.values()], lives
        )  # another run may have been quicker
        renew(backend, plan, {name: item for name, item in found.items() if name not in new})
        hand_out(backend, group, found, ids, generation)
    except BaseException as exc:
        _roll_back(backend, group, new, made, generation, exc)
        raise
    return slots


def _found(
    backend: Backend, group: Group, plan: Plan, lives: Callable[[str, str], bool]
) -> dict[str, tuple[Volume, bool]]:
    """Return what exists of the plan by name, with whether it is adopted; every one was found to be usable."""
    observation = backend.observe(group)
    by_name = {volume.name: volume for volume in observation.volumes}
    planned = {wanted.name for slot in plan.slots for wanted in slot.volumes}
    check_claims(backend, group, [by_name[name] for name in planned & by_name.keys()], lives)
    return {
        wanted.name: (by_name[wanted.name], _check(backend, group, wanted, by_name[wanted.name], observation))
        for slot in plan.slots
        for wanted in slot.volumes
        if wanted.name in by_name
    }


def _check(backend: Backend, group: Group, wanted: PlannedVolume, found: Volume, observation: Observation) -> bool:
    """Return whether an existing volume is adopted; raise when it cannot serve."""

    def conflict(message: str) -> VolumeConflict:
        return VolumeConflict(message, backend=backend.name, verb="create_volume", resource=found.label)

    ours = found.tags is not None and found.tags.owner == group.owner and found.tags.key == wanted.key
    if not ours and wanted.scope is not Scope.GLOBAL:
        raise conflict(
            f"a volume named {wanted.name!r} exists that is not of this group; it was not touched. "
            "Rename the volume in the job, or use scope='global' to adopt it"
        )
    if found.state is VolumeState.ERROR:
        raise conflict("the volume is in an error state; look at it, then remove it with `rankvol reap --name`")
    if found.state is VolumeState.DELETING:
        raise NotReady(
            "a volume of that name is being deleted; it is made again once that one is gone",
            backend=backend.name,
            verb="create_volume",
            resource=found.label,
        )
    if found.state is VolumeState.DETACHING:
        raise NotReady(
            f"it is still being detached from {found.attached_to}",
            backend=backend.name,
            verb="create_volume",
            resource=found.label,
        )
    if found.size_gib < wanted.size_gib:
        raise conflict(
            f"found {found.size_gib:g} GiB, expected at least {wanted.size_gib:g} GiB for rank {wanted.rank}. "
            "Grow or remove it (`rankvol reap --name`), or ask for the size it has"
        )
    holder = observation.node(found.attached_to)
    if found.attached_to and not (holder and holder.tags and holder.tags.key == group.key):
        raise conflict(
            f"it is attached to {found.attached_to}, a live node of another run; neither was touched. "
            "Wait for that run to end"
        )
    return wanted.scope is Scope.GLOBAL and not (ours and found.tags and found.tags.made_by(group))


def _create(
    backend: Backend,
    group: Group,
    plan: Plan,
    zones: Mapping[int, str | None],
    found: dict[str, tuple[Volume, bool]],
    made: list[Volume],
    generation: int,
) -> None:
    """Create what is missing, as many at once as the backend takes; each is added to ``found`` and ``made``."""

    def create(item: tuple[PlannedVolume, str | None]) -> None:
        wanted, zone = item
        request = request_of(group, wanted, zone, generation, backend)
        volume = patiently(backend, backend.create_volume, request)
        made.append(volume)
        # In global scope another run may have been quicker.
        adopted = wanted.scope is Scope.GLOBAL and volume.tags is not None and not volume.tags.made_by(group)
        found[wanted.name] = (volume, adopted)

    missing = [(wanted, zones[slot.rank]) for slot in plan.slots for wanted in slot.volumes if wanted.name not in found]
    in_parallel(backend, missing, create)


def _zones(backend: Backend, plan: Plan, found: Mapping[str, tuple[Volume, bool]]) -> dict[int, str | None]:
    """Return where each rank's volumes go; a zone is looked for only when no volume of the plan has one yet.

    Ranks whose job names no zone stay together: gather works in parts where they lie apart.
    """
    zones = {slot.rank: _zone(slot, found) for slot in plan.slots}
    missing = any(wanted.name not in found for wanted in plan.volumes())
    if missing and None in zones.values():
        there = next((volume.zone for volume, _ in found.values() if volume.zone), None)
        zone = there or patiently(backend, backend.choose_zone, plan)
        zones = {rank: named or zone for rank, named in zones.items()}
    return zones


def _zone(slot: PlannedSlot, found: Mapping[str, tuple[Volume, bool]]) -> str | None:
    """Return where a rank's volumes and its node have to lie: where its first existing volume does."""
    return next((found[v.name][0].zone for v in slot.volumes if v.name in found), None) or slot.zone


def _slot(slot: PlannedSlot, found: Mapping[str, tuple[Volume, bool]]) -> Slot:
    volumes = []
    for wanted in slot.volumes:
        volume, adopted = found[wanted.name]
        volumes.append(
            SlotVolume(
                name=volume.name,
                path=wanted.path,
                size_gib=volume.size_gib,
                type=volume.type,
                id=volume.id,
                adopted=adopted,
            )
        )
    return Slot(rank=slot.rank, nodes=slot.nodes, zone=_zone(slot, found), volumes=tuple(volumes))


def request_of(
    group: Group, wanted: PlannedVolume, zone: str | None, generation: int, backend: Backend
) -> VolumeRequest:
    """Return the request for one planned volume, with all the tags it will carry."""
    template = wanted.template
    end = end_tags(backend, wanted.scope, wanted.template)
    tags = replace(
        group.tags(rank=wanted.rank, scope=str(wanted.scope), reclaim=end["rankvol:reclaim"]),
        key=wanted.key,
        expiry=end["rankvol:expiry"],
    )
    text = f"{group.owner}/{wanted.key}/{wanted.mount_index}/{wanted.rank}/{wanted.name}"
    first = max(1, generation - EARLIER_TRIES)
    *earlier, token = (hashlib.sha256(f"{text}/{n}".encode()).hexdigest() for n in range(first, generation + 1))
    return VolumeRequest(
        name=wanted.name,
        zone=zone,
        template=template,
        tags=tags,
        token=token,
        earlier=tuple(earlier),
    )


def _verify_available(backend: Backend, group: Group, ids: Sequence[str]) -> None:
    def waiting() -> list[str]:
        observation = patiently(backend, backend.observe, group)
        seen = {volume.id: volume for volume in observation.volumes if volume.id in ids}
        for volume in seen.values():
            if volume.state is VolumeState.ERROR:
                raise BackendError(
                    "the volume went into an error state while it was created",
                    backend=backend.name,
                    verb="create_volume",
                    resource=volume.label,
                )
        return [i for i in ids if i not in seen or seen[i].state is VolumeState.CREATING]

    if ids and not wait_until(backend, lambda: not waiting(), timeout_s=AVAILABLE_TIMEOUT_S):
        raise NotReady(
            f"not available after {AVAILABLE_TIMEOUT_S:.0f} s: {', '.join(waiting())}",
            backend=backend.name,
            verb="create_volume",
        )


def _roll_back(
    backend: Backend,
    group: Group,
    new: frozenset[str],
    made: Sequence[Volume],
    generation: int,
    cause: BaseException,
) -> None:
    """Remove what did not exist before this call.

    It is looked up again, because an answer may have been lost, and what was answered is removed even where
    the look-up does not show it yet. What a later try, or another run, has been handed meanwhile, while this one hung,
    is in use.
    """

    def seen() -> list[Volume]:
        volumes = patiently(backend, backend.observe, group).volumes
        return [volume for volume in volumes if volume.tags and volume.tags.made_by(group)]

    def ours(volume: Volume) -> bool:
        return volume.tags is not None and volume.tags.attempt in (0, generation) and volume.tags.free_for(group)

    def left() -> list[Volume]:
        return [volume for volume in seen() if volume.name in new and ours(volume)]

    known = {volume.id: volume for volume in made if volume.tags and volume.tags.made_by(group)}
    known |= {volume.id: volume for volume in seen() if volume.name in new}

    def delete(volume: Volume) -> None:
        guard = Guard(owner=group.owner, key=volume.tags.key if volume.tags else group.key)
        try:
            patiently(backend, backend.delete_volume, volume.id, guard)
        except BackendError as exc:
            cause.add_note(f"while rolling back {volume.label}: {exc}")

    in_parallel(backend, filter(ours, known.values()), delete)
    if not wait_until(backend, lambda: not left(), timeout_s=DELETED_TIMEOUT_S):
        names = [volume.label for volume in left()]
        raise LeakError(
            f"creating the volumes failed ({cause}), and these could not be removed again: {', '.join(names)}. "
            "Remove them with `rankvol reap`",
            resources=names,
        ) from cause
