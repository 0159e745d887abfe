"""Create every volume of a plan, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from airflow_rankvol.backends.base import Backend, Selector
from airflow_rankvol.engine.calls import patiently, wait_until
from airflow_rankvol.engine.creation import EARLIER_TRIES, Creation, has_open_zone, zone_of
from airflow_rankvol.engine.marks import check_claims, check_usable, claim, hand_out, never_handed_out, renew
from airflow_rankvol.engine.work import group_of
from airflow_rankvol.errors import BackendError, FinalError, NotReady, VolumeConflict
from airflow_rankvol.plan import Plan, PlannedSlot, PlannedVolume
from airflow_rankvol.records import Group, NodeState, Observation, Slot, SlotVolume, Volume, VolumeState, to_iso
from airflow_rankvol.spec.templates import Scope

# EBS volumes are available within seconds; one that is not by then never will be.
AVAILABLE_TIMEOUT_S = 120.0
#: About how long a new EBS volume takes until it is available, in seconds. A look before that would be in vain, and a
#: backend takes two in a poll interval, one of which found out what exists.
NEW_S = 3.0


def provision(
    backend: Backend,
    plan: Plan,
    *,
    generation: int,
    handout: str = "",
    lives: Callable[[str, str], bool] = lambda _dag, _run: False,
) -> list[Slot]:
    """Create or adopt every volume of the plan and return its slots with their ids.

    Existing volumes of this group are taken as they are, so the call can be repeated. When one volume cannot
    be had, those that this very call made are removed again and the error is raised. Only a volume that was
    handed out carries an ``attempt``: the teardown and the reaper tell by it what a killed call left half-way.

    Args:
        generation: number of this try, from 1; in run scope part of the idempotency tokens: each is burned with its
            volume.
        handout: what tells this call from every other; the slots carry it to the nodes.
        lives: tells from a DAG id and a run id whether that run goes on; a volume serves one run at a time.

    Raises:
        VolumeConflict: a name is taken, too small, or in use by another run that lives.
        LeakError: the creation failed and some of its volumes could not be removed again.
    """
    group = group_of(plan)
    found = _found_for_sure(backend, lambda: _found(backend, group, plan, lives), plan, generation)
    new = frozenset(v.name for slot in plan.slots for v in slot.volumes if v.name not in found)
    creation = Creation(backend, group, plan, generation, found, new)
    try:
        creation.run()
        slots = [replace(_slot(slot, found), handout=handout) for slot in plan.slots]
        ids = [volume.id for slot in slots for volume in slot.volumes if not volume.adopted]
        made = {found[volume.name][0].id: volume for volume in plan.volumes() if volume.name in new}
        _verify_available(backend, group, made, ids, NEW_S if _is_any_new(found) else 0.0)
        _claim(backend, group, found, ids, lives)
        renew(backend, plan, {name: item for name, item in found.items() if name not in new})
        hand_out(backend, group, found, ids, generation)
    except BaseException as exc:
        creation.roll_back(exc)
        raise
    return slots


def _found_for_sure(
    backend: Backend, look: Callable[[], dict[str, tuple[Volume, bool]]], plan: Plan, generation: int
) -> dict[str, tuple[Volume, bool]]:
    """Return what exists of the plan, with what the tries before have made.

    What is not listed yet, a try before may have made in another zone than this one would: there the tokens of those
    tries, and a name that is unique in its zone, stand for nothing. So a later try waits until it would be listed.
    Likewise one that does not know the tokens of all tries any more: the try before took the oldest that it knew.
    """
    until = backend.clock.now() + timedelta(seconds=backend.listing_lag_s)
    while True:
        found = patiently(backend, look)
        unsure = generation > 1 and has_open_zone(plan, found)
        unsure |= generation > 1 + EARLIER_TRIES and any(
            wanted.scope is Scope.RUN and wanted.name not in found for wanted in plan.volumes()
        )
        if not unsure or backend.clock.now() >= until:
            return found
        backend.clock.sleep(backend.poll_interval_s)


def _claim(
    backend: Backend,
    group: Group,
    found: dict[str, tuple[Volume, bool]],
    ids: Sequence[str],
    lives: Callable[[str, str], bool],
) -> None:
    """Claim the volumes for this run, unless another one, which lives, was quicker.

    Whose they are a listing shows only after a while: a run that has just given them back looks as if it had been
    handed them now. So whose they are is looked at again as long as that may be.
    """
    until = backend.clock.now() + timedelta(seconds=backend.listing_lag_s)
    while True:
        check_claims(backend, group, [volume for volume, _ in found.values()], lives)
        try:
            claim(backend, group, found, ids)
        except VolumeConflict:
            if backend.clock.now() >= until:
                raise
        else:
            return
        backend.clock.sleep(backend.poll_interval_s)
        there = patiently(backend, backend.observe, group)
        found |= {name: (there.volume(v.id) or v, adopted) for name, (v, adopted) in found.items()}


def _found(
    backend: Backend, group: Group, plan: Plan, lives: Callable[[str, str], bool]
) -> dict[str, tuple[Volume, bool]]:
    """Return what exists of the plan by name, with whether it is adopted; every one was found to be usable."""
    observation = backend.observe(group)
    # The last one counts: one that is going comes first, then what no rank has had.
    volumes = sorted(observation.volumes, key=lambda v: (v.state is not VolumeState.DELETING, _was_handed_out(v)))
    by_name = {volume.name: volume for volume in volumes}
    _check_only_one(backend, plan, volumes)
    planned = {wanted.name for slot in plan.slots for wanted in slot.volumes}
    check_claims(backend, group, [by_name[name] for name in planned & by_name.keys()], lives)
    return {
        wanted.name: (by_name[wanted.name], _check(backend, group, wanted, by_name[wanted.name], observation))
        for slot in plan.slots
        for wanted in slot.volumes
        if wanted.name in by_name
    }


def _was_handed_out(volume: Volume) -> bool:
    return volume.tags is not None and not never_handed_out(volume.tags)


def _check_only_one(backend: Backend, plan: Plan, volumes: Sequence[Volume]) -> None:
    """Raise VolumeConflict where several volumes have a name that is to be adopted: which is meant, nobody knows."""
    ids: dict[str, list[str]] = {name: [] for name in plan.volume_names}
    for volume in volumes:
        if volume.name in ids and volume.state is not VolumeState.DELETING:
            ids[volume.name].append(volume.id)
    for name, same in ids.items():
        if len(same) > 1:
            raise VolumeConflict(
                f"{len(same)} volumes have the name ({', '.join(sorted(same))}); expected one at most, and none was "
                "touched. Rename or delete the others, or choose another name for the volume in the job",
                backend=backend.name,
                verb="create_volume",
                resource=f"volume {name}",
            )


def _check(backend: Backend, group: Group, wanted: PlannedVolume, found: Volume, observation: Observation) -> bool:
    """Return whether an existing volume is adopted; raise when it cannot serve."""

    def conflict(message: str) -> VolumeConflict:
        return VolumeConflict(message, backend=backend.name, verb="create_volume", resource=found.label)

    ours = found.tags is not None and found.tags.owner == group.owner and found.tags.key == wanted.key
    if not ours:
        _check_adoptable(backend, group, wanted, found)
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
        raise conflict(_held_elsewhere(backend, group, found.attached_to))
    check_usable(backend, group, found)
    return wanted.scope is Scope.GLOBAL and not (ours and found.tags and found.tags.made_by(group))


def _held_elsewhere(backend: Backend, group: Group, node_id: str) -> str:
    """Say which node of another run holds a volume, and what to do: one that has ended frees nothing by itself."""
    holder = backend.list_owned(Selector(owner=group.owner)).node(node_id)
    if holder and holder.tags and holder.state is NodeState.ENDED:
        return (
            f"it is attached to {node_id}, a node of run {holder.tags.run} of DAG {holder.tags.dag} that has ended and "
            "still holds it; neither was touched. Once that run is over, clear its delete_volumes, or run "
            "`rankvol reap --yes`; then clear this task"
        )
    return f"it is attached to {node_id}, a live node of another run; neither was touched. Wait for that run to end"


def _check_adoptable(backend: Backend, group: Group, wanted: PlannedVolume, found: Volume) -> None:
    """Raise VolumeConflict where a volume that is not of this group may not be adopted."""
    if wanted.scope is not Scope.GLOBAL:
        why = (
            f"a volume named {wanted.name!r} exists that is not of this group; it was not touched. "
            "Rename the volume in the job, or use scope='global' to adopt it"
        )
    elif found.tags is not None and found.tags.owner != group.owner:
        why = (
            f"it is owner {found.tags.owner!r}'s, of run {found.tags.run} of DAG {found.tags.dag}; "
            f"expected no owner's, or {group.owner!r}'s. It was not touched. Rename the volume in the job"
        )
    else:
        return
    raise VolumeConflict(why, backend=backend.name, verb="create_volume", resource=found.label)


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
                created_at=to_iso(volume.created_at) if adopted else "",
            )
        )
    return Slot(rank=slot.rank, nodes=slot.nodes, zone=zone_of(slot, found) or slot.zone, volumes=tuple(volumes))


def _is_any_new(found: Mapping[str, tuple[Volume, bool]]) -> bool:
    return any(volume.state is VolumeState.CREATING for volume, _ in found.values())


def _verify_available(
    backend: Backend, group: Group, made: Mapping[str, PlannedVolume], ids: Sequence[str], first_s: float
) -> None:
    """Wait until volumes are available.

    Args:
        made: those that this call has made, by id.
    """

    def waiting() -> dict[str, Volume | None]:
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
        return {i: seen.get(i) for i in ids if i not in seen or seen[i].state is VolumeState.CREATING}

    if ids and not wait_until(backend, lambda: not waiting(), timeout_s=AVAILABLE_TIMEOUT_S, first_s=first_s):
        late = waiting()
        vanished = [volume_id for volume_id, seen in late.items() if seen is None and volume_id in made]
        if vanished:
            raise _vanished(backend, made, vanished)
        raise NotReady(
            f"not available after {AVAILABLE_TIMEOUT_S:.0f} s: {', '.join(late)}",
            backend=backend.name,
            verb="create_volume",
        )


def _vanished(backend: Backend, made: Mapping[str, PlannedVolume], ids: Sequence[str]) -> BackendError:
    """Return the error of volumes whose creation was accepted, and that no look has shown to the end.

    EBS looks at the key then, gives no reason, and drops the volume: API CreateVolume, ``KmsKeyId``.
    """
    key = made[ids[0]].template.kms_key
    if key:
        step = (
            f"That happens where the key cannot be used: expected kms_key {key!r} to be an enabled, symmetric key in "
            "the volume's region that the connection's identity has the rights to use (docs/aws.md). Correct the key "
            "or its rights, then clear this task"
        )
    else:
        step = (
            "Either somebody deleted it, or it is encrypted with the account's default key, and the connection's "
            "identity may not use that. Look at both; a retry makes it anew"
        )
    more = f" (and {len(ids) - 1} more)" if len(ids) > 1 else ""
    resource = f"volume {made[ids[0]].name} ({ids[0]}){more}"
    kind = FinalError if key else BackendError
    text = f"the cloud accepted its creation, and it is gone again. {step}"
    return kind(text, backend=backend.name, verb="create_volume", resource=resource)
