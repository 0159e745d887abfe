"""What the backend costs in calls and in time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, cast

import pytest

from airflow_rankvol.backends import _aws_calls
from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.engine.provision import provision
from tests.clouds.aws.backend.kit import Lab, lab_on, settings
from tests.clouds.aws.client import Double
from tests.unit.engine.engine_kit import a_plan


def test_a_look_costs_a_call_for_each_page_however_many_there_are(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_aws_calls, "PAGE", 5)
    for rank in range(12):
        lab.backend.create_volume(lab.request(rank))
        lab.backend.create_node(lab.node_request(rank=rank, zone="us-east-1a"))
    lab.settle()
    before = lab.count("DescribeVolumes"), lab.count("DescribeInstances")
    seen = lab.see()
    assert (len(seen.volumes), len(seen.nodes)) == (12, 12)
    assert (lab.count("DescribeVolumes") - before[0], lab.count("DescribeInstances") - before[1]) == (3, 3)


def test_a_launch_in_a_process_of_its_own_costs_two_looks_at_the_group(lab: Lab) -> None:
    """As a task does it: what it has looked at to choose its attempt, it launches by; then it sees the node listed."""
    rig = lab.rig(3)
    rig.create()
    for rank in range(3):
        before = lab.double.counts()
        replace(rig, backend=cast("Any", lab.process())).start(rank)
        now = lab.double.counts()
        assert {name: now[name] - before.get(name, 0) for name in now if now[name] != before.get(name, 0)} == {
            "ec2:DescribeVolumes": 2,
            "ec2:DescribeInstances": 2,
            # What a machine type and an image are, a process asks once.
            "ec2:DescribeInstanceTypes": 1,
            "ec2:DescribeImages": 1,
            "ssm:GetParameter": 1,
            "ec2:RunInstances": 1,
        }


def test_names_of_adopted_volumes_are_looked_up_together(lab: Lab) -> None:
    ids = {lab.foreign_volume(f"dataset-{number}") for number in range(3)}
    before = lab.count("DescribeVolumes")
    group = replace(lab.group, names=tuple(f"dataset-{number}" for number in range(3)))
    assert {volume.id for volume in lab.backend.observe(group).volumes} == ids
    assert lab.count("DescribeVolumes") - before == 2
    assert lab.see().volumes == ()


def test_volumes_are_created_side_by_side(double: Double) -> None:
    """64 volumes at 200 ms a call take a loop 12.8 s."""
    double.freeze(False)
    double.settings(latency_s={"CreateVolume": 0.2})
    backend = AwsBackend(Clients(settings(double)), poll_interval_s=0.05)
    backend.places.zones()
    started = time.monotonic()
    slots = provision(backend, a_plan(64, owner="lab", node={"zones": "us-east-1a"}), generation=1)
    took_s = time.monotonic() - started
    assert len({volume.id for slot in slots for volume in slot.volumes}) == 64
    assert double.counts()["ec2:CreateVolume"] == 64
    assert took_s < 64 * 0.2 / 4, took_s


def test_volumes_are_there_within_seconds_at_two_looks(double: Double) -> None:
    """With the poll interval that is shipped, which is far longer than EC2 takes to make a volume."""
    double.settings(create_volume_s=1.0, visible_s=1.0)
    lab = lab_on(double)
    lab.backend = AwsBackend(lab.clients, clock=lab.backend.clock, memory=lab.backend.memory)
    begun = lab.backend.clock.now()
    lab.rig(64).create()
    assert (lab.backend.clock.now() - begun).total_seconds() < 4
    assert lab.count("DescribeVolumes") + lab.count("DescribeInstances") <= 4
