"""Where a job's volumes go, and with them its nodes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_rankvol.engine.provision import provision
from airflow_rankvol.errors import NoCapacity
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.backend.kit import Lab, succeed
from tests.unit.engine.engine_kit import a_plan

SUCCEED = f"{succeed.__module__}:{succeed.__name__}"
#: Each is in some of the region's zones only, and they meet in some of these (moto's listing is EC2's of some day).
TRAINIUM, INFERENTIA, AMPERE = "trn1.2xlarge", "inf2.xlarge", "p4d.24xlarge"


def offering(lab: Lab, machine_type: str) -> set[str]:
    """Return the zones that offer a type."""
    wanted = [{"Name": "instance-type", "Values": [machine_type]}]
    found = lab.double.boto3("ec2").describe_instance_type_offerings(LocationType="availability-zone", Filters=wanted)
    return {offer["Location"] for offer in found["InstanceTypeOfferings"]}


def subnet_in(lab: Lab, zone: str) -> str:
    """Return the default subnet of a zone."""
    wanted = [{"Name": "availability-zone", "Values": [zone]}]
    return str(lab.double.boto3("ec2").describe_subnets(Filters=wanted)["Subnets"][0]["SubnetId"])


def zones_of(lab: Lab, dags: int = 12, **job: Any) -> set[str]:
    """Return the zones that several DAGs' groups get."""
    zones = set()
    for number in range(dags):
        plan = a_plan(2, owner=lab.owner, dag=f"dag-{number}", gather=[], **job)
        lab.backend.check(plan)
        zones.add(str(lab.backend.choose_zone(plan)))
    return zones


def test_groups_spread_over_the_zones_that_offer_the_jobs_machine_type(lab: Lab) -> None:
    there = offering(lab, TRAINIUM)
    assert 1 < len(there) < len(lab.backend.places.zones())
    assert zones_of(lab, node={"machine_type": TRAINIUM}) == there


def test_a_zone_with_more_of_the_list_is_better(lab: Lab) -> None:
    both = offering(lab, INFERENTIA) & offering(lab, AMPERE)
    assert 1 < len(both) < len(offering(lab, INFERENTIA) | offering(lab, AMPERE))
    assert zones_of(lab, node={"machine_type": f"{INFERENTIA}, {AMPERE}"}) == both


def test_the_gather_nodes_machine_type_counts_too(lab: Lab) -> None:
    plan = a_plan(2, owner=lab.owner, gather_node={"machine_type": TRAINIUM})
    lab.backend.check(plan)
    assert lab.backend.choose_zone(plan) in offering(lab, TRAINIUM)


def test_a_subnet_that_is_named_decides(lab: Lab) -> None:
    assert zones_of(lab, dags=3, node={"subnets": subnet_in(lab, "us-east-1f")}) == {"us-east-1f"}


def test_volumes_and_node_go_where_the_type_is_offered(lab: Lab) -> None:
    lab.double("end_nodes", script=SUCCEED, after_s=30.0)
    rig = lab.rig(2, node=NodeTemplate(machine_type=TRAINIUM))
    (zone,) = {slot.zone for slot in rig.create()}
    assert zone in offering(lab, TRAINIUM)
    assert [rig.run_rank(rank).error for rank in range(2)] == [None, None]
    places = [found["Placement"] for found in lab.double.state()["instances"].values()]
    assert {place["AvailabilityZone"] for place in places} == {zone}


def test_what_a_killed_try_made_keeps_the_group_in_its_zone(lab: Lab) -> None:
    """Also when other zones have become better meanwhile."""
    named = a_plan(1, owner=lab.owner, node={"zones": "us-east-1f"})
    provision(lab.backend, named, generation=1)
    lab.settle()
    slots = provision(lab.process(), a_plan(3, owner=lab.owner), generation=2)
    assert {slot.zone for slot in slots} == {"us-east-1f"}


def test_a_zone_without_capacity_is_told_when_boot_timeout_is_over(lab: Lab) -> None:
    template = NodeTemplate(
        machine_type="m7i.large, m6i.large",
        zones=("us-east-1a",),
        boot_timeout=timedelta(minutes=5),
        lifetime=timedelta(minutes=30),
    )
    rig = lab.rig(1, node=template)
    (slot,) = rig.create()
    lab.double("no_capacity", zone="us-east-1a")
    started = lab.backend.clock.now()
    outcome = rig.run_rank(0)
    assert isinstance(outcome.error, NoCapacity)
    for told in ("rank 0 of 1", "within 300 s", "us-east-1a", "volumes are kept", "other zones", "m6i.large"):
        assert told in str(outcome.error), outcome.error
    assert lab.backend.clock.now() - started < timedelta(minutes=7)
    lab.double("no_capacity", zone="us-east-1a", times=0)
    lab.double("end_nodes", script=SUCCEED, after_s=30.0)
    again = rig.run_rank(0, 2)
    assert (again.error, again.result.volumes) == (None, slot.volumes)


@pytest.mark.parametrize("zones", ["us-east-1e", "us-east-1a, us-east-1e"])
def test_zones_that_are_named_are_never_left(lab: Lab, zones: str) -> None:
    with pytest.raises(ValueError, match=r"not offered in zone us-east-1e.*node\.zones"):
        lab.backend.check(a_plan(2, owner=lab.owner, node={"zones": zones, "machine_type": "m7i.large"}))


def test_ranks_whose_zone_has_no_room_for_volumes_go_to_the_jobs_next_one(lab: Lab) -> None:
    """Before any volume is used: what the refused zone had given is removed, and nothing is made twice."""
    text = "There is insufficient capacity in the Availability Zone"
    lab.double.fault(
        "error", "CreateVolume", resource="us-east-1b", code="InsufficientVolumeCapacity", message=text, status=500,
        times=-1,
    )  # fmt: skip
    slots = provision(lab.backend, a_plan(4, owner=lab.owner, node={"zones": "us-east-1a, us-east-1b"}), generation=1)
    assert [slot.zone for slot in slots] == ["us-east-1a"] * 4
    lab.settle()
    there = [v for v in lab.double.state()["volumes"].values() if "rankvol:rank" in v["Tags"]]
    assert [volume["AvailabilityZone"] for volume in there] == ["us-east-1a"] * 4
