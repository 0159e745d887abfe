"""A volume whose name or tags somebody has taken since create_volumes goes to no node."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from airflow_rankvol.errors import VolumeConflict
from airflow_rankvol.testing import FakeBackend

from .engine_kit import Rig, a_gang, a_rig

GLOBAL: dict[str, Any] = {"volume_template": {"scope": "global"}}
THEIRS = {"owner": "somebody", "run": "their-run", "dag": "their-dag"}


def retag(rig: Rig, rank: int, **tags: Any) -> None:
    """Have somebody else's volume under the name of a rank's; without tags, nobody's."""
    (volume,) = rig.slots[rank].volumes
    disk = rig.backend.volumes[volume.name]
    old = disk.tags or rig.group.tags(rank=rank)
    disk.tags = replace(old, **tags) if tags else None


def adopting() -> Rig:
    backend = FakeBackend()
    for rank in range(2):
        backend.add_volume(f"data-volume-{rank}")
    rig = a_rig(2, backend=backend, **GLOBAL)
    assert all(slot.volumes[0].adopted for slot in rig.slots)
    return rig


@pytest.mark.parametrize(
    ("tags", "whose"),
    [
        (THEIRS, "is owner 'somebody''s, of run their-run of DAG their-dag"),
        ({}, "carries no tags of ours"),
        ({"key": "ffffffff"}, "is owner 'me''s, of run run-1 of DAG dag"),
    ],
    ids=["another owner's", "nobody's", "another job's"],
)
def test_a_volume_that_is_not_the_one_that_was_made_is_not_attached(tags: dict[str, str], whose: str) -> None:
    rig = a_rig(2, **GLOBAL)
    retag(rig, 0, **tags)
    with pytest.raises(VolumeConflict) as caught:
        rig.run_rank(0)
    text = str(caught.value)
    assert "rank 0: volume data-volume-0 (" in text
    assert whose in text
    assert "clear create_volumes and this rank" in text
    assert rig.backend.nodes == {}
    assert rig.run_rank(1).error is None


@pytest.mark.parametrize(
    ("tags", "refused"),
    [(THEIRS, True), ({}, False), ({"key": "ffffffff"}, False)],
    ids=["another owner's", "nobody's", "another run's of ours"],
)
def test_an_adopted_volume_may_be_anybodys_but_another_owners(tags: dict[str, str], refused: bool) -> None:
    rig = adopting()
    retag(rig, 0, **tags)
    if refused:
        with pytest.raises(VolumeConflict, match="owner 'somebody'"):
            rig.run_rank(0)
        assert rig.backend.nodes == {}
    else:
        assert rig.run_rank(0).error is None


def test_what_took_the_name_of_an_adopted_volume_is_not_attached() -> None:
    """On Compute Engine it has its id, too: only when it was made tells them apart."""
    rig = adopting()
    disk = rig.backend.volumes["data-volume-0"]
    disk.created_at += timedelta(seconds=1)
    rig.backend.clock.sleep(1)
    with pytest.raises(VolumeConflict, match="after the one that this run has adopted"):
        rig.run_rank(0)
    assert rig.backend.nodes == {}
    assert rig.run_rank(1).error is None


def test_no_rank_launches_a_peer_with_another_owners_volume(backend: FakeBackend) -> None:
    rig = a_gang(2, backend=backend, **GLOBAL)
    retag(rig, 1, **THEIRS)
    with pytest.raises(VolumeConflict, match="rank 1: volume data-volume-1"):
        rig.launch(rig.begin(0))
    assert {node.tags.rank for node in rig.observe().nodes if node.tags} == {0}


def test_gather_reads_no_volume_of_another_owner_but_where_the_rank_is_left_out(backend: FakeBackend) -> None:
    rig = a_rig(2, backend=backend, allow_missing=True, **GLOBAL)
    assert [rig.run_rank(rank).error for rank in range(2)] == [None, None]
    retag(rig, 1, **THEIRS)
    with pytest.raises(VolumeConflict, match="rank 1: volume data-volume-1"):
        rig.gather()
    backend.volumes["data-volume-1"].record = None
    assert rig.gather().error is None


def test_a_run_gets_its_volumes_of_every_scope(backend: FakeBackend) -> None:
    """Each scope has a key of its own."""
    for scope in ("run", "dag", "global"):
        rig = a_rig(1, backend=backend, volume_template={"scope": scope}, volumes=[f"{scope}-v-${{NODE_RANK}}:/data"])
        assert rig.run_rank(0).error is None
