"""What a node reports, by guest attributes and serial port 1, and its log while it runs."""

from __future__ import annotations

import json

import pytest

from airflow_rankvol.backends._gcp_report import Reports
from airflow_rankvol.errors import AuthDenied
from tests.clouds.gcp.backend.kit import ZONE, Lab, lines_of, report
from tests.clouds.gcp.client import Double

NAME = "rankvol-0a1b2c3d-r0-a1"
PLACE = f"zones/{ZONE}/instances/{NAME}"
REPORT = report(output="x" * 3000)


@pytest.fixture
def reports(lab: Lab) -> Reports:
    """Of one node that runs."""
    lab.node(lab.volume())
    return Reports(lab.backend.gce)


def told(double: Double, console: str = "", **attributes: str) -> None:
    named = {f"rankvol/{key.replace('_', '-')}": value for key, value in attributes.items()}
    double("write", instance=NAME, console=console, attributes=named)


def test_there_is_no_report_before_there_is_one(reports: Reports, double: Double) -> None:
    assert reports.report(PLACE) is None
    told(double, state="ready", console="[    0.0] Linux version 6\n")
    assert reports.report(PLACE) is None


def test_a_report_is_put_together_from_its_attributes_even_when_the_node_has_stopped(
    reports: Reports, double: Double
) -> None:
    lines = lines_of(REPORT).splitlines()
    assert len(lines) > 1 or lines
    told(double, state="ready", report_0=lines[0] + "\n", report_1="\n".join(lines[1:]))
    double("power_off", instance=NAME)
    double.advance(10)
    assert json.loads(reports.report(PLACE) or "") == REPORT


@pytest.mark.parametrize("lost", ["all", "a part"])
def test_what_guest_attributes_lost_is_read_from_serial_port_1(reports: Reports, double: Double, lost: str) -> None:
    lines = lines_of(report(output=[str(n * 7919 % 10007) for n in range(2000)])).splitlines()
    assert len(lines) > 4
    if lost == "a part":
        told(double, report_0="\n".join(lines[:2]))
    assert reports.report(PLACE) is None
    told(double, console="".join(f"[  3.1] google: {line}\r\n" for line in lines))
    assert json.loads(reports.report(PLACE) or "")["rank"] == 0


def test_an_organisation_that_forbids_guest_attributes_leaves_the_serial_port(reports: Reports, double: Double) -> None:
    told(double, console=lines_of(REPORT) + "\n", report_0="never seen")
    double.fault("error", "instances.getGuestAttributes", status=412, code="conditionNotMet", message="disabled")
    assert json.loads(reports.report(PLACE) or "") == REPORT


def test_a_missing_right_is_told_and_not_taken_for_silence(reports: Reports, double: Double) -> None:
    double("deny", actions=["compute.instances.getGuestAttributes"])
    with pytest.raises(AuthDenied, match=r"compute\.instances\.getGuestAttributes"):
        reports.report(PLACE)


def test_a_node_that_is_gone_has_no_report_and_no_log(reports: Reports) -> None:
    assert reports.report(f"{PLACE}9") is None
    assert reports.log(f"{PLACE}9") == ""
    assert reports.new_lines(f"{PLACE}9", 7).next == 7


class TestLog:
    def test_it_is_what_the_job_printed_and_before_that_what_the_system_did(
        self, reports: Reports, double: Double
    ) -> None:
        told(double, console="[    0.0] Linux version 6\r\n")
        assert reports.log(PLACE) == "[    0.0] Linux version 6"
        told(double, console="RANKVOL-LOG one\r\nsystemd[1]: Started x.\r\nlogin: RANKVOL-LOG two\r\nRANKVOL-READY\r\n")
        assert reports.log(PLACE) == "one\ntwo"

    def test_new_lines_come_once_and_whole(self, reports: Reports, double: Double) -> None:
        told(double, console="boot\r\nRANKVOL-LOG one\r\nRANKVOL-LOG grü")
        first = reports.new_lines(PLACE)
        assert first.lines == ("one",)
        assert reports.new_lines(PLACE, first.next).lines == ()
        told(double, console="n\r\nkernel: x\r\nRANKVOL-LOG three\r\n")
        second = reports.new_lines(PLACE, first.next)
        assert second.lines == ("grün", "three")
        assert reports.new_lines(PLACE, second.next) == reports.new_lines(PLACE, second.next)
        assert reports.new_lines(PLACE, second.next).lines == ()

    def test_lines_that_were_overwritten_are_counted(self, reports: Reports, double: Double) -> None:
        told(double, console="RANKVOL-LOG early\r\n")
        first = reports.new_lines(PLACE)
        told(double, console="x" * 1_100_000 + "\r\nRANKVOL-LOG late\r\n")
        second = reports.new_lines(PLACE, first.next)
        assert second.lines[1:] == ("late",)
        assert "bytes were overwritten before they were read" in second.lines[0]

    def test_who_follows_it_sees_the_report_that_nobody_can_read_later(self, reports: Reports, double: Double) -> None:
        told(double, console="RANKVOL-LOG one\r\n")
        first = reports.new_lines(PLACE)
        lines = lines_of(report(output=[str(n * 7919 % 10007) for n in range(500)])).splitlines()
        told(double, console=f"{lines[0]}\r\n")
        half = reports.new_lines(PLACE, first.next)
        assert half.report is None
        told(double, console="".join(f"{line}\r\n" for line in lines[1:]))
        assert json.loads(reports.new_lines(PLACE, half.next).report or "")["rank"] == 0

    def test_a_node_that_has_stopped_has_none(self, reports: Reports, double: Double) -> None:
        told(double, console="RANKVOL-LOG one\r\n")
        double("power_off", instance=NAME)
        double.advance(10)
        assert reports.log(PLACE) == ""
        assert reports.new_lines(PLACE, 3).next == 3
