"""The engine on the AWS backend: whole jobs, what they leave, and what they cost in calls."""

from __future__ import annotations

from airflow_rankvol.records import Node, Observation
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.backend.kit import ZONE, Lab, console_of, report
from tests.clouds.common.engine import EngineTests, collect, left

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
