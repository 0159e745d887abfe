"""What the backend's tests are written with: the double's clock as everybody's, and short words for requests."""

from __future__ import annotations

import re
from typing import Any

from airflow_rankvol.backends._gcp_calls import RATES
from airflow_rankvol.backends._gcp_connection import Session
from airflow_rankvol.backends._gcp_memory import Memory
from airflow_rankvol.backends._rate import RateLimiter
from airflow_rankvol.backends.gcp import GcpBackend
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.records import Volume
from tests.clouds.common import reports
from tests.clouds.common.clocks import DoubleClock
from tests.clouds.common.lab import KEY, SETTLED_S, BackendLab
from tests.clouds.common.reports import report
from tests.clouds.gcp.client import OTHER_ZONE, ZONE, Double

__all__ = ["KEY", "OTHER_ZONE", "SETTLED_S", "ZONE", "DoubleClock", "Lab", "lab_on", "report", "settings", "succeed"]


def settings(double: Double, **extra: Any) -> Settings:
    """Return the connection that leads to the double; it does not retry, so that each fault is seen."""
    return Settings("gcp_test", "google_cloud_platform", {**double.connection_extra(), "zone": ZONE, **extra})


class Lab(BackendLab[Double, Session, GcpBackend]):
    """On Compute Engine: the calls that make something wait until it is there."""

    service, zone, machine_type, made_s = "compute", ZONE, "n2-standard-2", 0.0

    def process(self) -> GcpBackend:
        clock = DoubleClock(self.double)
        return GcpBackend(self.connection, poll_interval_s=5.0, clock=clock, memory=Memory(clock.seconds))

    def disk(self, volume: Volume) -> dict[str, Any]:
        """Return a disk as it really is."""
        found: dict[str, Any] = self.double.state()["disks"][volume.id]
        return found

    def foreign_disk(self, name: str, zone: str = ZONE, **body: Any) -> str:
        """Create a disk as somebody does by hand, and return its id."""
        self.double.rest().post(f"zones/{zone}/disks", {"name": name, "sizeGb": "10", **body})
        self.settle()
        return f"{zone}/{name}"


def lab_on(double: Double, **extra: Any) -> Lab:
    """Return a lab whose rate is that of the double's clock."""
    clock = DoubleClock(double)
    limiter = RateLimiter(RATES, now=clock.seconds, sleep=clock.sleep)
    return Lab(double, Session(settings(double, **extra), limiter))


def lines_of(found: dict[str, Any]) -> str:
    """Return a report as a node writes it to its guest attributes and its serial port."""
    return "\n".join(reports.lines_of(found))


def succeed(_view: dict[str, Any], script: bytes) -> dict[str, Any]:
    """Stand in for a node's commands, inside the double: what a rank that succeeds reports."""
    rank = re.search(r"\bRV_RANK=(-?\d+)", script.decode())
    assert rank is not None
    lines = lines_of(report(int(rank[1])))
    return {"console": lines, "attributes": {"rankvol/report-0": lines}}
