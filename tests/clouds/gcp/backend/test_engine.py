"""The engine on the Google Cloud backend: whole jobs, what they leave, and what they cost in calls."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from datetime import timedelta

import pytest

from airflow_rankvol.engine.loop import Watch
from airflow_rankvol.errors import NoCapacity
from airflow_rankvol.records import Node
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.common.engine import EngineTests
from tests.clouds.gcp.backend.kit import OTHER_ZONE, ZONE, Lab, lines_of, report

SUCCEED = "tests.clouds.gcp.backend.kit:succeed"


class TestOnGce(EngineTests):
    succeed = SUCCEED
    once = ("disks.insert", "instances.insert", "instances.delete", "disks.delete", "instances.getGuestAttributes")
    volumes = "disks"
    told = ("instances.setMetadata", 3)
    lost_because = ""
    after_a_day = 2  # maxRunDuration has ended the nodes
    too_few = "SSD_TOTAL_GB"

    def handle(self, node: Node) -> str:
        return node.name

    def fail(self, lab: Lab, node: Node, exit_code: int) -> None:
        lines = lines_of(report(1, exit_code=exit_code))
        lab.double("write", instance=node.name, attributes={"rankvol/report-0": lines})
        lab.double("power_off", instance=node.name)

    def allow_two(self, lab: Lab) -> None:
        lab.double.settings(quotas={"SSD_TOTAL_GB": 25.0})


def test_gather_takes_the_volumes_from_the_nodes_that_have_ended(lab: Lab) -> None:
    """A stopped instance holds its disks until it is deleted. Writable: mounting may have to apply a journal."""
    lab.double("end_nodes", script=SUCCEED, after_s=1.0)
    rig = lab.rig(2, gather=["true"])
    rig.create()
    assert [rig.run_rank(rank).error for rank in range(2)] == [None, None]
    work = rig.gather_work()
    assert rig.launch(work) is None
    (node,) = [node for node in rig.observe().nodes if node.tags and node.tags.role == "gather"]
    disks = lab.double.state()["instances"][node.id]["disks"]
    assert [disk["mode"] for disk in disks if not disk["boot"]] == ["READ_WRITE", "READ_WRITE"]
    rig.teardown()


@pytest.mark.parametrize("plain", [False, True])
def test_volumes_are_handed_out_only_with_their_mark_whatever_is_answered(lab: Lab, plain: bool) -> None:
    """As by an ingress that finds nothing for a moment: what passes for never used is deleted with its results."""
    lab.double.fault("error", "disks.setLabels", times=2, status=404, code="notFound", message="none", plain=plain)
    rig = lab.rig(2)
    rig.create(generation=3)
    assert [volume.tags and volume.tags.attempt for volume in rig.observe().volumes] == [3, 3]
    rig.teardown()


def test_volumes_go_where_there_is_room(lab: Lab) -> None:
    lab.double(
        "fail_later", action="disks.insert", resource=f"zones/{ZONE}/", code="ZONE_RESOURCE_POOL_EXHAUSTED", times=-1
    )
    zones = NodeTemplate(machine_type="n2-standard-2", zones=(ZONE, OTHER_ZONE))
    slots = lab.rig(2, node=zones).create()
    assert {slot.zone for slot in slots} == {OTHER_ZONE}


def test_a_rank_for_which_there_is_no_room_says_so(lab: Lab) -> None:
    rig = lab.rig(1, node=NodeTemplate(machine_type="n2-standard-2", zones=(ZONE,), boot_timeout=timedelta(minutes=2)))
    rig.create()
    lab.double("no_capacity")
    outcome = rig.run_rank(0)
    assert isinstance(outcome.error, NoCapacity)
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" in str(outcome.error)
    lab.double("no_capacity", times=0)
    lab.double("end_nodes", script=SUCCEED)
    assert rig.run_rank(0, 2).error is None


def test_a_node_that_its_time_has_deleted_is_lost_for_that_reason(lab: Lab) -> None:
    rig = lab.rig(1, node=NodeTemplate(machine_type="n2-standard-2", zones=(ZONE,), lifetime=timedelta(hours=1)))
    rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    lab.settle(2 * 3600)
    (lost,) = rig.until_end(work)
    assert "lifetime" in str(lost.error)
    assert len(lab.see().volumes) == 0  # of the lab's own group
    assert len(rig.observe().volumes) == 1


@pytest.mark.parametrize(
    ("goes_s", "why"),
    [
        (60.0, r"ended without a report \(Compute Engine took the spot capacity back\)"),
        (0.0, "is gone before it reported"),
    ],
    ids=["seen as it goes", "gone"],
)
def test_a_rank_whose_spot_node_is_taken_back_goes_on_with_its_volume(lab: Lab, goes_s: float, why: str) -> None:
    node = NodeTemplate(machine_type="n2-standard-2", zones=(ZONE,), spot=True)
    rig = lab.rig(1, node=node)
    rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    lab.double.settings(delete_instance_s=goes_s)
    lab.double("preempt", instance=work.node_name, notice_s=0.0)
    lab.settle(0.5)
    (lost,) = rig.until_end(work)
    assert re.search(f"{why}; its volume is kept", str(lost.error))
    lab.double.settings(delete_instance_s=0.0)
    lab.double("end_nodes", script=SUCCEED)
    assert rig.run_rank(0, 2).error is None
    rig.teardown()


def test_a_tasks_log_shows_new_lines_of_a_node_that_runs_and_its_end_by_the_report(lab: Lab) -> None:
    """Nobody can read the serial port of a node that has stopped."""
    shown: list[str] = []

    class Screen:
        def show(self, lines: Sequence[str]) -> None:
            shown.extend(lines)

        def warn(self, message: str) -> None:
            raise AssertionError(message)

    rig = lab.rig(1)
    rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    watch = Watch(lab.backend, work, Screen())
    name = work.node_name
    for line in ("one", "two", "three"):
        lab.double("write", instance=name, console=f"kernel: noise\r\nRANKVOL-LOG {line}\r\n")
        lab.settle(2 * lab.backend.poll_interval_s)
        assert watch.step(rig.observe()) is None
    assert shown == ["one", "two", "three"]
    reads = lab.count("instances.getSerialPortOutput")
    assert reads in (2, 3)  # the first one comes within an interval
    told = report(log_tail_b64=b64encode(b"two\nthree\nfour\n").decode())
    lab.double("write", instance=name, attributes={"rankvol/report-0": lines_of(told)})
    lab.double("power_off", instance=name)
    lab.settle(60)
    outcome = watch.step(rig.observe())
    assert outcome is not None
    assert outcome.error is None
    assert shown == ["one", "two", "three", "four"]
    assert lab.count("instances.getSerialPortOutput") == reads
    rig.teardown()


def test_a_report_that_only_the_serial_port_had_counts_for_who_followed_it(lab: Lab) -> None:
    """Where an organisation forbids guest attributes, the port is all there is, while the node runs on for a minute."""
    rig = lab.rig(1)
    rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    lines = "".join(f"{line}\r\n" for line in lines_of(report(output="seen")).splitlines())
    lab.double("write", instance=work.node_name, console=f"RANKVOL-LOG one\r\n{lines}")
    (node,) = rig.observe().nodes
    assert lab.backend.read_log(node.id, 0).lines == ("one",)
    lab.double("power_off", instance=work.node_name)
    lab.settle(60)
    outcome = Watch(lab.backend, work).step(rig.observe())
    assert outcome is not None
    assert (outcome.error, outcome.result.output) == (None, "seen")
    rig.teardown()
