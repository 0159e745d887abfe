"""Whose a volume is right before a node gets it: where names tell volumes apart, somebody may have taken one's name."""

from __future__ import annotations

from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import VolumeConflict
from airflow_rankvol.records import Observation, Slot, SlotVolume, Volume, to_iso


def check_still_ours(work: Work, slot: Slot, observation: Observation) -> None:
    """Refuse to give a node another owner's volume, or anything but its own in place of one that was made for the job.

    One that is not there is no matter of this: the decision before a launch looks at that.

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
