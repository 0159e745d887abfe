"""The engine on the AWS backend: whole jobs, what they leave, and what they cost in calls."""

from __future__ import annotations

from typing import Any, cast

import pytest

from airflow_rankvol.errors import FinalError, NoCapacity, QuotaExceeded, RankFailed, RankVolError
from airflow_rankvol.records import Node, Observation
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.backend.kit import ZONE, Lab, console_of, report
from tests.clouds.common.engine import EngineTests, collect, left
from tests.unit.engine.engine_kit import Rig

SUCCEED = "tests.clouds.aws.backend.kit:succeed"


class TestOnEc2(EngineTests):
    succeed = SUCCEED
    once = ("CreateVolume", "RunInstances", "AttachVolume", "GetConsoleOutput", "DeleteVolume")
    volumes = "volumes"
    told = ("CreateTags", 2)
    lost_because = "internal error"
    after_a_day = 4
    too_few = "Service Quotas"

    def handle(self, node: Node) -> str:
        return node.id

    def fail(self, lab: Lab, node: Node, exit_code: int) -> None:
        lab.double("power_off", instance=node.id, console=console_of(report(1, exit_code=exit_code)))

    def allow_two(self, lab: Lab) -> None:
        lab.double.settings(volume_quota=2)


@pytest.mark.parametrize(
    ("reason", "kind", "why", "step"),
    [
        ("Server.InsufficientInstanceCapacity", NoCapacity, "no capacity for it", "Name several machine types"),
        ("Client.VolumeLimitExceeded", QuotaExceeded, "the storage quota left no room", "console of Service Quotas"),
        ("Client.InvalidSnapshot.NotFound", FinalError, "the snapshot of its boot disk", "Name another image"),
        ("Client.InternalError", RankFailed, "EC2 could not start it", "docs/aws.md lists for kms_key"),
        ("Server.InternalError", RankFailed, "an internal error", "A retry starts a fresh node"),
        ("Server.SpotInstanceTermination", RankFailed, "took the spot capacity back", "or drop spot"),
        ("Server.SpotInstanceShutdown", RankFailed, "to take the spot capacity back", "or drop spot"),
    ],
)
def test_a_launch_that_ec2_accepts_and_ends_fails_like_one_that_it_refuses(
    lab: Lab, reason: str, kind: type[RankVolError], why: str, step: str
) -> None:
    lab.double("fail_launch", reason=reason)
    rig = lab.rig(1)
    rig.create()
    error = rig.run_rank(0).error
    assert type(error) is kind
    assert why in str(error)
    assert step in str(error)
    assert str(error).endswith("A retry starts a fresh node with the same volume")


def test_a_spot_node_that_was_taken_back_says_what_to_do(lab: Lab) -> None:
    rig = lab.rig(1, node=NodeTemplate(machine_type="m7i.large", zones=(ZONE,), spot=True))
    rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    rig.until_attached(work)
    (node,) = rig.observe().nodes
    lab.double("reclaim", instance=node.id, notice_s=0.0)
    (lost,) = rig.until_end(work)
    assert isinstance(lost.error, RankFailed)
    assert "give the task retries" in str(lost.error)


def test_a_retry_tries_the_machine_type_last_that_ec2_had_no_room_for_after_all(lab: Lab) -> None:
    lab.double("fail_launch", reason="Server.InsufficientInstanceCapacity")
    rig = lab.rig(2, node=NodeTemplate(machine_type="m7i.large, m6i.large, m5.large", zones=(ZONE,)))
    rig.create()
    assert isinstance(rig.run_rank(0).error, NoCapacity)
    lab.double("end_nodes", script=SUCCEED, after_s=30.0)
    lab.double("no_capacity", type="m6i.large")
    lab.double("no_capacity", type="m5.large", times=1)
    rig.backend = cast("Any", lab.process())  # a retry is another process
    assert rig.run_rank(0, 2).error is None
    assert rig.run_rank(1).error is None
    types = [call["params"]["InstanceType"] for call in lab.double.calls("RunInstances")]
    assert types == ["m7i.large", "m6i.large", "m5.large", "m7i.large", "m7i.large"]


def test_nodes_that_end_by_themselves_cost_no_call(lab: Lab) -> None:
    lab.double("end_nodes", script=SUCCEED, after_s=30.0)
    rig = lab.rig(2)
    rig.create()
    assert [rig.run_rank(rank).error for rank in range(2)] == [None, None]
    collect(rig)
    rig.teardown()
    assert lab.count("TerminateInstances") == 0


def test_a_job_on_an_image_with_a_data_disk_leaves_nothing(lab: Lab) -> None:
    """No tag would lead to that disk once its node has ended."""
    lab.double("end_nodes", script=SUCCEED, after_s=30.0)
    node = NodeTemplate(machine_type="m7i.large", zones=(ZONE,), image=lab.image_with_disk())
    rig = lab.rig(2, node=node)
    rig.create()
    assert [rig.run_rank(rank).error for rank in range(2)] == [None, None]
    collect(rig)
    rig.teardown()
    assert left(lab) == Observation()
    assert lab.double.state()["volumes"] == {}


def test_slow_listings_change_nothing(lab: Lab) -> None:
    """What was just made shows up only half a minute later."""
    lab.double.settings(visible_s=30.0)
    lab.double("end_nodes", script=SUCCEED, after_s=120.0)
    rig = lab.rig(2)
    rig.create()
    assert [rig.run_rank(rank).error for rank in range(2)] == [None, None]
    collect(rig)
    rig.teardown()
    assert left(lab) == Observation()
    assert (lab.count("CreateVolume"), lab.count("RunInstances")) == (2, 2)


def test_slow_listings_change_nothing_for_processes_that_know_nothing_of_each_other(lab: Lab) -> None:
    """States and attachments, too, are shown as they were twenty seconds ago, while things take their time."""
    lab.double.settings(visible_s=20.0, create_volume_s=2.0, launch_s=15.0, attach_s=2.0, shut_down_s=90.0)
    lab.double("end_nodes", script=SUCCEED, after_s=200.0)
    rig = lab.rig(2)

    def elsewhere() -> Rig:
        rig.backend = cast("Any", lab.process())
        return rig

    elsewhere().create()
    works = [elsewhere().start(rank) for rank in range(2)]
    assert [outcome.error for outcome in elsewhere().until_end(*works)] == [None, None]
    collect(elsewhere())
    assert len(elsewhere().teardown().deleted) == 2
    assert lab.double.state()["volumes"] == {}
    attached = [call["code"] for call in lab.double.calls("AttachVolume")]
    assert (lab.count("CreateVolume"), lab.count("RunInstances"), attached) == (2, 2, ["", ""])


def test_a_rank_that_is_launched_is_there_for_the_triggerer(lab: Lab) -> None:
    """A task hands over to another process only what EC2 lists."""
    lab.double.settings(visible_s=8.0)
    lab.double("end_nodes", script=SUCCEED, after_s=60.0)
    rig = lab.rig(1)
    rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    triggerer = lab.rig(1)
    triggerer.backend, triggerer.slots = lab.process(), rig.slots  # type: ignore[assignment]
    (outcome,) = triggerer.until_end(work)
    assert outcome.error is None
    assert lab.count("RunInstances") == 1
