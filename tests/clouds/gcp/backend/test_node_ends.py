"""How nodes of Compute Engine end: deleted, powered off, taken back, out of time, or never up; what is seen of it."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_rankvol.backends.base import Guard
from airflow_rankvol.errors import (
    NotOurs,
    NotReady,
)
from airflow_rankvol.records import Node, NodeState, VolumeState
from tests.clouds.gcp.backend.kit import OTHER_ZONE, ZONE, Lab, lines_of, report


def instance(lab: Lab, node: Node) -> dict[str, Any]:
    """Return an instance as it really is."""
    found: dict[str, Any] = lab.double.state()["instances"][node.id]
    return found


def test_a_node_that_was_deleted_is_not_listed_any_more(lab: Lab) -> None:
    volume = lab.volume()
    node = lab.node(volume)
    lab.backend.delete_node(node.id, lab.guard)
    assert all(seen.state is NodeState.ENDED for seen in lab.see().nodes)
    lab.settle()
    assert lab.see().nodes == ()
    assert lab.seen_volume(volume).state is VolumeState.AVAILABLE
    lab.backend.delete_node(node.id, lab.guard)


def test_the_same_node_can_be_launched_again(lab: Lab) -> None:
    """Its requestId of before is answered with the operation of before."""
    volume = lab.volume()
    node = lab.node(volume)
    lab.see()
    lab.backend.delete_node(node.id, lab.guard)
    lab.settle()
    lab.see()
    again = lab.node(volume)
    assert lab.seen_node(again).state is NodeState.RUNNING


@pytest.mark.parametrize("known", [True, False])
def test_a_foreign_node_is_not_ended(lab: Lab, known: bool) -> None:
    node = lab.node(lab.volume())
    with pytest.raises(NotOurs, match="not touched"):
        (lab.backend if known else lab.process()).delete_node(node.id, Guard("lab", "ffffffff"))
    assert lab.count("instances.delete") == 0


def test_a_node_that_powered_off_stays_with_its_report_until_it_is_deleted(lab: Lab) -> None:
    volume = lab.volume()
    node = lab.node(volume)
    lab.double("write", instance=node.name, attributes={"rankvol/report-0": lines_of(report(exit_code=3))})
    lab.double("power_off", instance=node.name)
    lab.settle()
    seen = lab.seen_node(node)
    assert seen.state is NodeState.ENDED
    assert lab.seen_volume(volume).attached_to == node.id
    text = lab.backend.read_report(node.id)
    assert text is not None
    assert '"exit_code": 3' in text
    assert lab.seen_node(node).exit_code == 3
    before = lab.count("instances.getGuestAttributes")
    assert lab.backend.read_report(node.id) == text
    assert lab.count("instances.getGuestAttributes") == before


def test_the_report_of_a_node_that_left_none_is_looked_for_twice(lab: Lab) -> None:
    node = lab.node(lab.volume())
    lab.double("power_off", instance=node.name)
    lab.settle()
    lab.see()
    with pytest.raises(NotReady, match="once more"):
        lab.backend.read_report(node.id)
    assert lab.backend.read_report(node.id) is None


def test_a_spot_node_that_is_taken_back_says_so_while_it_goes(lab: Lab) -> None:
    volume, spare = lab.volume(0), lab.volume(1)
    node, other = lab.node(volume, spot=True), lab.node(spare, rank=1, spot=True)
    lab.double.settings(delete_instance_s=30.0)
    lab.double("preempt", instance=node.name, notice_s=0.0)
    lab.double("power_off", instance=other.name)
    lab.settle()
    ended = {seen.id: seen for seen in lab.see().nodes if seen.state is NodeState.ENDED}
    assert {id_: seen.reason for id_, seen in ended.items()} == {
        node.id: "Compute Engine took the spot capacity back", other.id: ""
    }  # fmt: skip
    assert "name other machine types, or drop spot" in ended[node.id].step
    assert ended[other.id].step == ""
    lab.see()
    assert lab.count("zoneOperations.list") == 1


@pytest.mark.parametrize(("spot", "reason", "lists"), [(True, "its host failed", 1), (False, "", 0)])
def test_a_host_that_failed_is_told_of_a_spot_node(lab: Lab, spot: bool, reason: str, lists: int) -> None:
    """Of others nobody asks: each node that finishes would cost a share of a list."""
    node = lab.node(lab.volume(), spot=spot)
    lab.double("die", instance=node.name)
    lab.settle(5)
    seen = lab.seen_node(node)
    assert (seen.state, seen.reason) == (NodeState.ENDED, reason)
    assert lab.count("zoneOperations.list") == lists


def test_why_nodes_of_many_zones_ended_is_asked_in_turns(lab: Lab) -> None:
    """Whoever looks all the time, while they go, makes four lists in a poll interval at most."""
    zones = [ZONE, OTHER_ZONE, "us-central1-c"]
    nodes = [lab.node(lab.volume(rank, zone), rank=rank, spot=True) for rank, zone in enumerate(zones)]
    lab.double.settings(delete_instance_s=300.0)
    lab.see()
    for node in nodes:
        lab.double("preempt", instance=node.name, notice_s=0.0)
    assert [bool(node.reason) for node in lab.see().nodes] == [True] * 3
    for _ in range(3):
        assert all(node.step for node in lab.see().nodes)
    at = [float(call["at"]) for call in lab.double.calls() if call["action"].lower().endswith("list")]
    assert lab.count("zoneOperations.list") == 3
    assert max(sum(begin <= other < begin + lab.backend.poll_interval_s for other in at) for begin in at) <= 4


def test_what_became_of_other_peoples_nodes_makes_the_question_no_longer(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_rankvol.backends._gcp_calls.PAGE", 2)
    others = [lab.node(lab.volume(rank), rank=rank, spot=True) for rank in range(1, 5)]
    for other in others:
        lab.double("preempt", instance=other.name, notice_s=0.0)
    lab.settle()
    node = lab.node(lab.volume(), spot=True)
    lab.double.settings(delete_instance_s=300.0)
    lab.double("preempt", instance=node.name, notice_s=0.0)
    assert lab.seen_node(node).reason == "Compute Engine took the spot capacity back"
    assert lab.count("zoneOperations.list") == 1


def test_many_nodes_of_a_zone_that_ended_are_asked_about_in_several_calls(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter has only so much room."""
    monkeypatch.setattr("airflow_rankvol.backends._gcp_reasons.NODES_PER_LIST", 2)
    nodes = [lab.node(lab.volume(rank), rank=rank, spot=True) for rank in range(5)]
    lab.double.settings(delete_instance_s=300.0)
    for node in nodes:
        lab.double("preempt", instance=node.name, notice_s=0.0)
    for _ in range(2):
        assert [bool(node.reason) for node in lab.see().nodes] == [True] * 5
    assert lab.count("zoneOperations.list") == 3


def test_nobody_asks_why_a_spot_node_ended_that_has_reported(lab: Lab) -> None:
    """A node of a rendezvous, whose report is read as soon as its end is seen."""
    node = lab.node(lab.volume(), spot=True)
    lab.backend.tell_nodes([node.id], {"NODES_IPS": "10.0.0.1"})
    lab.double("write", instance=node.name, attributes={"rankvol/report-0": lines_of(report())})
    lab.see()
    lab.double("power_off", instance=node.name)
    lab.settle()
    (seen,) = lab.see().nodes
    assert (seen.state, seen.exit_code) == (NodeState.ENDED, 0)
    assert lab.count("zoneOperations.list") == 0


def test_a_spot_node_that_was_taken_back_is_gone_and_its_volume_stays(lab: Lab) -> None:
    """The same field decides what becomes of it at the end of its lifetime."""
    volume = lab.volume()
    node = lab.node(volume, spot=True)
    lab.double("preempt", instance=node.name, notice_s=0.0)
    lab.settle()
    assert lab.see().nodes == ()
    assert lab.seen_volume(volume).state is VolumeState.AVAILABLE
    assert list(lab.double.state()["disks"]) == [volume.id]
    assert lab.seen_node(lab.node(volume, attempt=2, spot=True)).state is NodeState.RUNNING


@pytest.mark.parametrize("spot", [False, True])
def test_a_node_ends_with_its_time(lab: Lab, spot: bool) -> None:
    """maxRunDuration deletes it; its volume stays."""
    volume = lab.volume()
    node = lab.node(volume, spot=spot)
    lab.settle(3900)
    lab.settle()
    assert lab.see().node(node.id) is None
    assert lab.double.state()["instances"] == {}
    assert lab.seen_volume(volume).state is VolumeState.AVAILABLE


def test_a_released_node_that_ended_shows_its_exit_code(lab: Lab) -> None:
    """Its peers have to know."""
    node = lab.node(lab.volume())
    lab.backend.tell_nodes([node.id], {"NODES_IPS": "10.0.0.1"})
    lab.double("write", instance=node.name, attributes={"rankvol/report-0": lines_of(report(exit_code=0))})
    lab.double("power_off", instance=node.name)
    lab.settle()
    assert lab.seen_node(node).exit_code == 0


@pytest.mark.parametrize(
    ("console", "trouble"),
    [
        ("[ 0.0] Linux\n[ 9.1] Kernel panic\n", "shows nothing of the guest agent"),
        ("google_metadata_script_runner[501]: Found startup-script in metadata.\n", ""),
        ("RANKVOL-LOG hello\n", ""),
    ],
)
def test_a_system_that_never_came_up_is_told_by_its_serial_port(lab: Lab, console: str, trouble: str) -> None:
    node = lab.node(lab.volume())
    lab.double("write", instance=node.name, console=console)
    found = lab.backend.boot_trouble(node.id, lab.backend.clock.now())
    assert (trouble in found) if trouble else not found


def test_who_may_not_read_the_serial_port_finds_no_trouble(lab: Lab) -> None:
    node = lab.node(lab.volume())
    lab.double("deny", actions=["compute.instances.getSerialPortOutput"])
    assert lab.backend.boot_trouble(node.id, lab.backend.clock.now()) == ""


def test_a_node_without_a_report_is_judged_at_the_second_look_however_late_that_is(lab: Lab) -> None:
    """A connection's poll_interval may be long."""
    node = lab.node(lab.volume())
    lab.double("power_off", instance=node.name)
    lab.settle()
    lab.see()
    with pytest.raises(NotReady):
        lab.backend.read_report(node.id)
    lab.settle(120)
    lab.see()
    assert lab.backend.read_report(node.id) is None
