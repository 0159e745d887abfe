"""Tags of volumes on this machine, set on all of them or on none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow_rankvol.backends._local_store import Store
from airflow_rankvol.backends.base import check_held, check_there
from airflow_rankvol.errors import NotOurs
from airflow_rankvol.records import Tags


def tag(store: Store, volume_ids: Sequence[str], tags: Mapping[str, str], held_by: str | None) -> frozenset[str]:
    """Set tags on volumes of ours, and return the ids of those that are gone; the caller has the store's lock.

    Raises:
        NotOurs: one carries no tags of ours.
        VolumeConflict: one that is claimed is gone, or somebody else's.
    """
    known = {volume_id: store.volume(volume_id) for volume_id in volume_ids}
    for volume_id, there in known.items():
        check_there(there is not None, held_by, "local", volume_id)
    found = [item for item in known.values() if item]
    for item in found:
        if Tags.from_dict(item.tags) is None:
            raise NotOurs(
                "refused: it carries no tags of ours, and adopted volumes are never tagged",
                backend="local",
                verb="tag_volumes",
                resource=item.name,
            )
    for item in found:
        check_held(item.tags.get("rankvol:used_by", ""), held_by, tags, "local", item.name)
    for item in found:
        store.retag(item, tags)
    return frozenset(volume_id for volume_id, there in known.items() if there is None)
