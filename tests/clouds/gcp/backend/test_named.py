"""Volumes of global scope, which may be anybody's: looks find them by name, and spare that where their labels tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from airflow_rankvol.backends._gcp_labels import description_of, labels_of
from airflow_rankvol.backends.base import Selector
from airflow_rankvol.errors import RetryableError, VolumeConflict
from airflow_rankvol.records import Group, Observation, VolumeState
from tests.clouds.gcp.backend.kit import OTHER_ZONE, Lab
from tests.unit.engine.engine_kit import Rig

GLOBAL = [{"name": "glob-${NODE_RANK}", "path": "/data", "scope": "global", "size": "1GB"}]
#: Names that no pattern holds together: three filters.
MANY = tuple(f"{first}{second}-{'x' * length}" for first in "ghi" for second in "klmno" for length in (1, 2, 3))


def creating(lab: Lab, ranks: int = 2) -> Rig:
    rig = lab.rig(ranks, volumes=GLOBAL)
    rig.create()
    return rig


def adopting(lab: Lab, ranks: int = 2) -> Rig:
    for rank in range(ranks):
        lab.foreign_disk(f"glob-{rank}")
    return creating(lab, ranks)


def named(lab: Lab, *names: str) -> Group:
    return replace(lab.group, names=names)


def lists(lab: Lab, rig: Rig) -> dict[str, int]:
    """Return what a look costs."""
    before = Counter(lab.double.counts())
    rig.observe()
    return dict(Counter(lab.double.counts()) - before)


def most_lists(lab: Lab) -> int:
    """Return how many lists there were in a poll interval at most."""
    at = [float(call["at"]) for call in lab.double.calls() if call["action"].lower().endswith("list")]
    return max(sum(begin <= other < begin + lab.backend.poll_interval_s for other in at) for begin in at)


def test_names_that_a_look_shows_already_are_not_asked_for(lab: Lab) -> None:
    rig = creating(lab)
    rig.observe()
    assert lists(lab, rig) == {"compute:disks.aggregatedList": 1, "compute:instances.aggregatedList": 1}


def test_a_regional_disk_of_a_volumes_name_is_nobodys_volume(lab: Lab) -> None:
    """Somebody has made it since the plan, and given it the labels of ours: it is not adopted, listed or deleted."""
    tags = lab.group.tags(rank=0)
    lab.double(
        "regional_disk", name="glob-0", region="us-central1", labels=labels_of(tags), description=description_of(tags)
    )
    rig = creating(lab)
    assert [(v.id, v.adopted) for slot in rig.slots for v in slot.volumes] == [
        (f"{lab.zone}/glob-{rank}", False) for rank in (0, 1)
    ]
    assert {volume.zone for volume in rig.observe().volumes} == {lab.zone}
    assert {volume.id for volume in lab.backend.list_owned(Selector(owner="lab")).volumes} == {
        f"{lab.zone}/glob-0",
        f"{lab.zone}/glob-1",
    }


def test_adopted_volumes_are_asked_for_in_a_turn_of_their_own(lab: Lab) -> None:
    rig = adopting(lab)
    for _ in range(4):
        assert lists(lab, rig) == {"compute:disks.aggregatedList": 2, "compute:instances.aggregatedList": 2}
    assert most_lists(lab) <= 4


def test_many_names_without_a_pattern_are_asked_for_in_several_turns(lab: Lab) -> None:
    assert len(MANY) == 45
    for name in (MANY[0], MANY[44]):
        lab.foreign_disk(name)
    node = lab.node(lab.volume())
    for _ in range(3):
        seen = lab.backend.observe(named(lab, *MANY))
        assert {volume.name for volume in seen.volumes} == {f"data-{lab.key}-0", MANY[0], MANY[44]}
        assert [found.id for found in seen.nodes] == [node.id]
    assert lab.count("disks.aggregatedList") == 3 * 4
    assert most_lists(lab) <= 4


def test_a_second_disk_of_a_name_that_came_after_plan_is_seen(lab: Lab) -> None:
    """Which is meant nobody knows, although one of them carries tags of ours."""
    creating(lab)
    lab.foreign_disk("glob-1", OTHER_ZONE)
    next_run = lab.process()
    rig = replace(lab, run="run-2").rig(2, volumes=GLOBAL)
    rig.backend = next_run  # type: ignore[assignment]  # as every rig of a lab
    with pytest.raises(VolumeConflict, match="2 volumes have the name"):
        rig.create()


def test_a_volume_that_a_node_got_meanwhile_is_seen_with_that_node(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a rendezvous another rank's task may launch it; a volume that an unknown node has would be a conflict."""
    lab.foreign_disk("shard-0")
    group = named(lab, "shard-0")
    (volume,) = lab.backend.observe(group).volumes
    everywhere = lab.backend.gce.everywhere

    def late(kind: str, *where: str, filter_: str, **named: Any) -> Any:
        if "shard" in filter_:
            lab.process().create_node(lab.node_request(volume))
        return everywhere(kind, *where, filter_=filter_, **named)

    monkeypatch.setattr(lab.backend.gce, "everywhere", late)
    seen = lab.backend.observe(group)
    (volume,) = seen.volumes
    assert volume.state is VolumeState.ATTACHED
    assert seen.node(volume.attached_to) is not None


def test_a_node_that_went_meanwhile_is_seen_with_what_it_had(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.foreign_disk("shard-0")
    group = named(lab, "shard-0")
    volume = lab.volume()
    node = lab.node(volume)
    lab.backend.observe(group)
    everywhere = lab.backend.gce.everywhere

    def late(kind: str, *where: str, filter_: str, **named: Any) -> Any:
        if "shard" in filter_:
            lab.double.rest().delete(f"zones/{lab.zone}/instances/{node.name}")
            lab.settle()
        return everywhere(kind, *where, filter_=filter_, **named)

    monkeypatch.setattr(lab.backend.gce, "everywhere", late)
    seen: Observation = lab.backend.observe(group)
    found = seen.volume(volume.id)
    assert found is not None
    assert seen.node(found.attached_to) is not None


@pytest.mark.parametrize("make", [creating, adopting])
def test_a_zone_that_cannot_be_reached_does_not_stop_a_job_that_lies_elsewhere(lab: Lab, make: Any) -> None:
    rig: Rig = make(lab)
    rig.observe()
    lab.double("unreachable", zone=OTHER_ZONE)
    assert names_of(rig.observe()) == ["glob-0", "glob-1"]
    with pytest.raises(RetryableError, match=OTHER_ZONE):
        lab.process().observe(rig.group)


def test_where_other_names_lie_a_look_at_some_does_not_tell(lab: Lab) -> None:
    """Whoever lists a job without its plan knows none of its names."""
    lab.volume()
    lab.see()
    lab.foreign_disk("shard-0", OTHER_ZONE)
    lab.double("unreachable", zone=OTHER_ZONE)
    with pytest.raises(RetryableError, match=OTHER_ZONE):
        lab.backend.observe(named(lab, "shard-0"))


def names_of(seen: Observation) -> Sequence[str]:
    return sorted(volume.name for volume in seen.volumes)
