"""Calls wait for their turn, so that Compute Engine refuses none of them as too fast."""

from __future__ import annotations

from airflow_rankvol.backends._gcp_connection import Session
from airflow_rankvol.backends._rate import RateLimiter, Rates
from tests.clouds.common.clocks import DoubleClock
from tests.clouds.gcp.backend.kit import Lab, settings
from tests.clouds.gcp.client import Double

A_MINUTE = 10


def test_no_call_is_made_before_its_turn(double: Double) -> None:
    double.settings(rates={"mutations": A_MINUTE, "reads": 1500, "lists": 1500, "operations": 1500})
    double.settings(held_wait_s=0.1)
    clock = DoubleClock(double)
    # As much in any minute as the project may: half of it at once, the other half in the course of the minute.
    rates = Rates("gcp", "Compute Engine", other=(A_MINUTE / 2, A_MINUTE / 2 / 60))
    lab = Lab(double, Session(settings(double), RateLimiter(rates, now=clock.seconds, sleep=clock.sleep)))
    for rank in range(2 * A_MINUTE):
        lab.volume(rank)
    assert len(lab.double.state()["disks"]) == 2 * A_MINUTE
    assert {call["code"] for call in double.calls()} == {""}
