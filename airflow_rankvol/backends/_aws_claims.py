"""Whether volumes may be claimed, as EC2 shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from airflow_rankvol.backends._aws_memory import Memory, Raw
from airflow_rankvol.backends._aws_view import our_tags
from airflow_rankvol.backends.base import check_held, check_there
from airflow_rankvol.errors import NotReady


def check_claim(
    memory: Memory, volume_ids: Sequence[str], seen: Iterable[Raw], held_by: str, tags: Mapping[str, str]
) -> None:
    """Raise VolumeConflict where a volume is gone, or somebody else was handed it.

    Raises:
        NotReady: EC2 does not show one that was just made.
    """
    found = {raw["VolumeId"]: raw for raw in seen}
    for volume_id in volume_ids:
        raw = found.get(volume_id, {})
        if not raw and memory.just_made(volume_id):
            text = "EC2 does not show it yet; it is tried again"
            raise NotReady(text, backend="aws", verb="tag_volumes", resource=volume_id)
        check_there(raw.get("State", "deleted") not in ("deleting", "deleted"), held_by, "aws", volume_id)
        known = our_tags(raw)
        check_held(known.used_by if known else "", held_by, tags, "aws", volume_id)
