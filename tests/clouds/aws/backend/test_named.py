"""Volumes of global scope, which may be anybody's: looks find them by name, and spare that while nodes hold them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, cast

import pytest

from airflow_rankvol.backends import _aws_calls
from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import VolumeConflict
from airflow_rankvol.records import Observation, VolumeState
from tests.clouds.aws.backend.kit import ZONE, Lab
from tests.unit.engine.engine_kit import Rig

GLOBAL = [{"name": "glob-${NODE_RANK}", "path": "/data", "scope": "global", "size": "1GB"}]
MANY = 256


def adopting(lab: Lab, ranks: int) -> Rig:
    for rank in range(ranks):
        lab.foreign_volume(f"glob-{rank}")
    return creating(lab, ranks)


def creating(lab: Lab, ranks: int) -> Rig:
    rig = lab.rig(ranks, volumes=GLOBAL)
    rig.create()
    return rig


def attached(lab: Lab, rig: Rig) -> list[Work]:
    """Launch all nodes and attach their volumes, without the looks of a task each."""
    works = [rig.work(rank) for rank in range(rig.plan.job.nodes)]
    seen = rig.observe()
    for work in works:
        (request,) = rig.launcher(rank=work.rank).requests(work, seen)
        lab.backend.create_node(request)
    lab.settle()
    nodes = {node.tags.rank: node for node in rig.observe().nodes if node.tags}
    for work in works:
        lab.backend.attach(work.volume_ids[0], nodes[work.rank].id)
    lab.settle()
    rig.observe()
    return works


def look(lab: Lab, rig: Rig) -> tuple[Observation, dict[str, int]]:
    """Return what a look shows, and what it cost."""
    before = Counter(lab.double.counts())
    return rig.observe(), dict(Counter(lab.double.counts()) - before)


def one_of_each(volumes: int = 1) -> dict[str, int]:
    return {"ec2:DescribeVolumes": volumes, "ec2:DescribeInstances": 1}


@pytest.mark.parametrize("make", [adopting, creating])
@pytest.mark.parametrize(("ranks", "in_a_filter"), [(24, 5), pytest.param(MANY, 200, marks=pytest.mark.slow)])
def test_a_look_at_many_ranks_that_compute_costs_a_describe_of_each_kind(
    lab: Lab, make: Any, ranks: int, in_a_filter: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many names there are; and it shows of each volume who holds it."""
    monkeypatch.setattr(_aws_calls, "FILTER_VALUES", in_a_filter)
    rig = make(lab, ranks)
    works = attached(lab, rig)
    assert [look(lab, rig)[1] for _ in range(2)] == [one_of_each()] * 2
    seen, cost = look(lab, rig)
    assert cost == one_of_each()
    nodes = {node.id: node.tags.rank for node in seen.nodes if node.tags}
    held = [(volume.state, nodes.get(volume.attached_to or "")) for work in works
            if (volume := seen.volume(work.volume_ids[0]))]  # fmt: skip
    assert held == [(VolumeState.ATTACHED, rank) for rank in range(ranks)]
    assert len(seen.volumes) == ranks


def test_many_names_are_asked_for_with_one_call_and_only_those_are_shown(lab: Lab) -> None:
    """Before they are made, for one; names that only look alike belong to others."""
    rig = lab.rig(MANY, volumes=GLOBAL)
    mine = {lab.foreign_volume("glob-7"), lab.foreign_volume("glob-255")}
    for other in ("glob-256", "glob-x", "glob-07"):
        lab.foreign_volume(other)
    seen, cost = look(lab, rig)
    assert cost == one_of_each(volumes=2)
    assert {volume.id for volume in seen.volumes} == mine


def test_a_process_that_has_not_seen_an_adopted_volume_asks_for_it(lab: Lab) -> None:
    """A triggerer that takes over knows nothing; from then on the nodes tell."""
    rig = adopting(lab, 2)
    attached(lab, rig)
    elsewhere = Rig(cast("Any", lab.process()), rig.plan, rig.slots)
    assert look(lab, elsewhere)[1] == one_of_each(volumes=2)
    assert look(lab, elsewhere)[1] == one_of_each()


def test_a_volume_whose_node_has_ended_is_looked_at_itself(lab: Lab) -> None:
    """Who tears down has to see that it is free."""
    rig = adopting(lab, 2)
    works = attached(lab, rig)
    node = rig.observe().nodes_of(rig.group.key, works[0].role, 0)[0]
    lab.double("power_off", instance=node.id, console="")
    lab.settle(60)
    seen, cost = look(lab, rig)
    assert cost == one_of_each(volumes=2)
    (free,) = [volume for volume in seen.volumes if volume.name == "glob-0"]
    assert (free.state, free.attached_to) == (VolumeState.AVAILABLE, None)
    assert len(seen.volumes) == 2


def test_a_volume_that_somebody_takes_from_its_node_is_seen_to_be_a_strangers(lab: Lab) -> None:
    rig = adopting(lab, 1)
    (work,) = attached(lab, rig)
    (volume_id,) = work.volume_ids
    ec2 = lab.double.boto3("ec2")
    image = lab.backend.places.image(None, "m7i.large").id
    (stranger,) = ec2.run_instances(
        ImageId=image, InstanceType="m7i.large", MinCount=1, MaxCount=1, Placement={"AvailabilityZone": ZONE}
    )["Instances"]
    ec2.detach_volume(VolumeId=volume_id)
    lab.settle(60)
    assert rig.observe().volumes[0].state is not VolumeState.ATTACHED
    ec2.attach_volume(VolumeId=volume_id, InstanceId=stranger["InstanceId"], Device="/dev/xvdba")
    lab.settle(60)
    assert rig.observe().volumes[0].attached_to == stranger["InstanceId"]
    (outcome,) = rig.until_end(work)
    assert isinstance(outcome.error, VolumeConflict)


def test_what_a_node_says_of_a_volume_is_not_taken_for_ever(lab: Lab) -> None:
    """Its name and tags, which a node does not tell, are described anew now and then."""
    rig = adopting(lab, 1)
    attached(lab, rig)
    costs = []
    for _ in range(5):
        lab.settle(1800)
        costs.append(look(lab, rig)[1]["ec2:DescribeVolumes"])
    assert sorted(costs) == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("owner", ["CORP\\data", "team*", "team?", "a\\*b"])
def test_an_owner_is_asked_for_as_it_is(lab: Lab, owner: str) -> None:
    """EC2 takes a star, a question mark and a backslash in filters for something else: nothing would be found again."""
    mine, like = replace(lab, owner=owner), replace(lab, owner="teams", key="ffffffff")
    made = mine.volume()
    like.volume()
    assert [volume.id for volume in mine.process().list_owned(Selector(owner)).volumes] == [made.id]
    assert [volume.id for volume in mine.process().observe(mine.group).volumes] == [made.id]
