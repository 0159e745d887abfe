"""Tries of create_volumes: what one has made, the next finds, also while EC2 does not list it yet."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_rankvol.backends.base import Guard
from airflow_rankvol.engine.creation import request_of
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.engine.work import group_of
from airflow_rankvol.plan import Plan
from airflow_rankvol.records import Slot, from_iso
from tests.clouds.aws.backend.kit import OTHER_ZONE, ZONE, Lab
from tests.unit.engine.engine_kit import a_plan

RANKS = 3


@pytest.fixture
def lab(lab: Lab) -> Lab:
    """A region whose listings are half a minute behind."""
    lab.double.settings(visible_s=30.0)
    return lab


def the_plan(lab: Lab, zones: str = ZONE) -> Plan:
    return a_plan(RANKS, owner=lab.owner, node={"zones": zones} if zones else {})


def killed(lab: Lab, generation: int, *ranks: int, zones: str = ZONE, zone: str = ZONE) -> set[str]:
    """Do what a try has done that was killed after it had made the volumes of some ranks; return their ids.

    Args:
        zones: the job's.
        zone: where it made them.
    """
    process, plan = lab.process(), the_plan(lab, zones)
    requests = [
        request_of(group_of(plan), wanted, zone, generation, process, planned=slot.zone)
        for slot in plan.slots
        for wanted in slot.volumes
    ]
    return {process.create_volume(requests[rank]).id for rank in ranks}


def create(lab: Lab, generation: int, zones: str = ZONE) -> set[str]:
    """Run one try of the task in a process of its own, and return the ids that it hands out."""
    return ids(provision(lab.process(), the_plan(lab, zones), generation=generation))


def ids(slots: list[Slot]) -> set[str]:
    return {volume.id for slot in slots for volume in slot.volumes}


@pytest.mark.parametrize("pause_s", [0, 7])
def test_a_retry_gets_what_a_killed_try_made_before_it_is_listed(lab: Lab, pause_s: int) -> None:
    """The expiry among the tags is no other parameter: it counts from the creation."""
    made = killed(lab, 1, 0, 1)
    lab.settle(pause_s)
    assert lab.process().observe(group_of(the_plan(lab))).volumes == ()
    handed_out = create(lab, 2)
    assert made < handed_out
    assert set(lab.double.state()["volumes"]) == handed_out
    assert lab.count("CreateVolume") == 2 + RANKS


def test_two_tries_may_be_killed_within_that_moment(lab: Lab) -> None:
    made = killed(lab, 1, 0) | killed(lab, 2, 0, 1)
    assert made < create(lab, 3)
    assert len(lab.double.state()["volumes"]) == RANKS


@pytest.mark.parametrize(
    ("zones", "zone"),
    [(f"{ZONE}, {OTHER_ZONE}", OTHER_ZONE), ("", "us-east-1f")],
    ids=["moved on from a full zone", "another one was the best"],
)
@pytest.mark.parametrize("ranks", [(0, 1), (0, 1, 2)], ids=str)
def test_a_retry_gets_what_a_killed_try_made_in_another_zone_than_it_would_itself(
    lab: Lab, zones: str, zone: str, ranks: tuple[int, ...]
) -> None:
    """No token tells it of these, so it waits until EC2 lists them."""
    made = killed(lab, 1, *ranks, zones=zones, zone=zone)
    handed_out = create(lab, 2, zones)
    assert made <= handed_out
    volumes = lab.double.state()["volumes"]
    assert set(volumes) == handed_out
    assert {volumes[volume_id]["AvailabilityZone"] for volume_id in made} == {zone}


def test_a_first_try_waits_for_no_other(lab: Lab) -> None:
    lab.double.settings(visible_s=0.0)
    before = lab.backend.clock.now()
    create(lab, 1, f"{ZONE}, {OTHER_ZONE}")
    assert lab.backend.clock.now() - before < timedelta(seconds=10)


def test_a_try_after_a_deletion_makes_new_volumes_without_waiting(lab: Lab) -> None:
    """The tokens of the tries before are used up, and that costs a call each."""
    old = create(lab, 1)
    lab.settle(40)
    process, plan = lab.process(), the_plan(lab)
    for volume_id in old:
        process.delete_volume(volume_id, Guard(lab.owner, plan.key))
    lab.settle()
    before = lab.backend.clock.now()
    lab.double.settings(visible_s=0.0)
    new = create(lab, 2)
    assert (len(new), new & old) == (RANKS, set())
    assert lab.backend.clock.now() - before < timedelta(seconds=20)
    assert lab.count("CreateVolume") == 3 * RANKS


def test_an_uncrashed_create_makes_one_call_for_each_volume_whatever_its_try(lab: Lab) -> None:
    """Where nothing was made before, the oldest token is as good as a new one."""
    create(lab, 7)
    assert lab.count("CreateVolume") == RANKS


def test_a_volumes_expiry_counts_from_its_creation(lab: Lab) -> None:
    create(lab, 1)
    lab.settle(40)
    for volume in lab.process().observe(group_of(the_plan(lab))).volumes:
        assert volume.tags is not None
        assert from_iso(volume.tags.expiry) == volume.created_at + timedelta(hours=24)
