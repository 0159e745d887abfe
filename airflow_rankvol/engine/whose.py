"""Whose a volume is, right before a node gets it and while one holds it."""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow_rankvol.engine.decide import VolumeView
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import VolumeConflict
from airflow_rankvol.records import Node, Observation, Slot, SlotVolume, Volume, VolumeState, to_iso

_VIEWS = {
    VolumeState.CREATING: VolumeView.PENDING,
    VolumeState.ATTACHING: VolumeView.PENDING,
    VolumeState.DETACHING: VolumeView.PENDING,
    VolumeState.DELETING: VolumeView.ABSENT,
    VolumeState.ERROR: VolumeView.BROKEN,
    VolumeState.AVAILABLE: VolumeView.FREE,
}
#: A node is listed at the latest so long after its launch, and so after its volumes were attached (EC2: a minute).
UNLISTED = timedelta(seconds=60)


def volume_view(
    work: Work, observation: Observation, volume: Volume | None, node: Node | None, now: datetime
) -> VolumeView:
    """Return how a volume stands to this work.

    Args:
        node: this work's own; None without one.
    """
    if volume is None:
        return VolumeView.ABSENT
    if volume.state is not VolumeState.ATTACHED:
        return _VIEWS[volume.state]
    if node is not None and volume.attached_to == node.id:
        return VolumeView.HERE
    holder = observation.node(volume.attached_to)
    if holder is None and _may_be_this_runs(work, volume, now):
        return VolumeView.PENDING  # its node was launched, but is not listed yet
    ours = holder is not None and holder.tags is not None and holder.tags.key == work.group.key
    return VolumeView.STALE if ours else VolumeView.FOREIGN


def _may_be_this_runs(work: Work, volume: Volume, now: datetime) -> bool:
    """Say whether a volume's holder, which is not listed, is this run's for sure, or so new that it may be.

    For sure it is where no other run can have the volume, or the holder's id holds this run's name. A volume that
    outlives runs, and that this one was handed, may yet be held by an older one's node. An adopted one that nobody has
    tagged does not say who was handed it.
    """
    tags, key = volume.tags, work.group.key
    name = (volume.attached_to or "").rpartition("/")[2]
    if name.startswith(f"rankvol-{key}-") or (tags is not None and tags.key == key):
        return True
    is_new = volume.attached_at is not None and now - volume.attached_at < UNLISTED
    return is_new and (tags is None or tags.used_by == key)


def check_still_ours(work: Work, slot: Slot, observation: Observation) -> None:
    """Refuse to give a node another owner's volume, or anything but its own in place of one that was made for the job.

    Where names tell volumes apart, somebody may have taken one's name. One that is not there is no matter of this: the
    decision before a launch looks at that.

    Raises:
        VolumeConflict: names the volume, and whose it is.
    """
    for wanted in slot.volumes:
        found = observation.volume(wanted.id)
        if found is None or _serves(work, wanted, found):
            continue
        whose = "carries no tags of ours"
        if _is_another(wanted, found):
            whose = f"was made at {to_iso(found.created_at)}, after the one that this run has adopted"
        elif found.tags:
            whose = f"is owner {found.tags.owner!r}'s, of run {found.tags.run} of DAG {found.tags.dag}"
        raise VolumeConflict(
            f"rank {slot.rank}: volume {found.name} ({found.id}) {whose}; expected the one that create_volumes found "
            "or made. It was not attached. Somebody has taken the name since, or changed the tags: look whose it is, "
            "have it renamed or choose another name in the job, then clear create_volumes and this rank"
        )


def _serves(work: Work, wanted: SlotVolume, found: Volume) -> bool:
    tags = found.tags
    if _is_another(wanted, found):
        return False
    if tags is None:
        return wanted.adopted
    return tags.owner == work.group.owner and (wanted.adopted or tags.key in work.group.keys)


def _is_another(wanted: SlotVolume, found: Volume) -> bool:
    """Say whether a volume has but the name, and so on Compute Engine the id, of the one that was adopted."""
    return bool(wanted.created_at) and wanted.created_at != to_iso(found.created_at)
