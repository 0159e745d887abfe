"""No rank is given a volume that does not carry the mark of it: what carries none is deleted, whatever lies on it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from airflow_rankvol.errors import VolumeConflict
from airflow_rankvol.testing import FakeBackend

from .engine_kit import a_rig

NODES = 3


@pytest.mark.parametrize("scope", ["run", "dag", "global"])
def test_create_does_not_succeed_where_a_volume_is_gone_when_it_is_marked(scope: str) -> None:
    """Somebody removes it at that moment; the others go as well."""
    backend = FakeBackend()
    rig = a_rig(NODES, backend=backend, created=False, volume_template={"scope": scope})
    tag_volumes = backend.tag_volumes

    def late(volume_ids: Sequence[str], tags: dict[str, str], *, held_by: str | None = None) -> frozenset[str]:
        if "rankvol:attempt" in tags:
            backend._world.disks.pop(min(volume_ids), None)
        return tag_volumes(volume_ids, tags, held_by=held_by)

    backend.tag_volumes = late  # type: ignore[method-assign, assignment]
    with pytest.raises(VolumeConflict, match=r"it is gone.*Clear create_volumes"):
        rig.create()
    assert backend.volumes == {}
