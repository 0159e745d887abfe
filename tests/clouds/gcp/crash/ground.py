"""Google Cloud for the crash test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from airflow_rankvol.backends._gcp_calls import RATES
from airflow_rankvol.backends._gcp_connection import Session
from airflow_rankvol.backends._gcp_labels import description_of, label_key, labels_of, short
from airflow_rankvol.backends._gcp_memory import Memory
from airflow_rankvol.backends._rate import RateLimiter
from airflow_rankvol.backends.gcp import GcpBackend
from airflow_rankvol.records import Tags
from tests.clouds.common.clocks import AnyClock
from tests.clouds.common.crash.disks import finished, ids_of
from tests.clouds.common.crash.ground import OWNER, Ground
from tests.clouds.gcp.backend.kit import OTHER_ZONE, SETTLED_S, ZONE, lines_of, settings
from tests.clouds.gcp.client import Double
from tests.clouds.gcp.conftest import wish

#: What a call to wait for an operation lets pass: to launch an instance takes longer.
_WAITED_S = 0.05


def end(view: dict[str, Any], script: bytes) -> dict[str, Any]:
    """Return what a node leaves that has done its work; it has had its volumes from the start."""
    text = script.decode()
    numbers = view["diskNumbers"]
    lines = lines_of(finished(text, [numbers[volume.partition("/")[2]] for volume in ids_of(text)]))
    return {"console": lines, "attributes": {"rankvol/report-0": lines}}


class GcpGround(Ground):
    """Compute Engine's double. Names come again, numbers do not."""

    double = Double
    zone, machine_type = ZONE, "n2-standard-2"
    ending = f"{__name__}:end"
    kinds = ("disks", "instances")
    size = "10GB"
    #: At once: what the last call has begun is still under way.
    noticed_s = 0.0

    def warm(self, double: Any) -> None:
        assert Session(settings(double)).project

    def prepare(self, double: Any) -> None:
        double.settings(held_wait_s=_WAITED_S)

    def connect(self, double: Any, clock: AnyClock) -> Session:
        return Session(settings(double), RateLimiter(RATES, now=clock.seconds, sleep=clock.sleep))

    def backend(self, connection: Any, clock: AnyClock, poll_s: float) -> GcpBackend:
        backend = GcpBackend(connection, poll_interval_s=poll_s, clock=clock, memory=Memory(clock.seconds))
        backend.concurrency = 1  # the order of the calls must not change
        return backend

    def strangers(self, double: Any) -> None:
        api = double.rest()
        other = Tags(owner="somebody", dag="dag", run="run-1", group="shards", key="0a1b2c3d", rank=0)
        looks: dict[str, dict[str, Any]] = {
            "data-volume-0": {},
            "data-volume-1": {"labels": labels_of(other), "description": description_of(other)},
            "rankvol": {"labels": {label_key("owner"): short(OWNER)}},
            "copied": {"labels": labels_of(replace(other, owner=OWNER))},
        }
        for zone in (ZONE, OTHER_ZONE):
            for name, look in looks.items():
                api.post(f"zones/{zone}/disks", {"name": name, "sizeGb": "10", **look})
        double.advance(SETTLED_S)
        api.post(f"zones/{ZONE}/instances", wish("rankvol-0a1b2c3d-r0-a1", "data-volume-1", **looks["data-volume-1"]))
        double.advance(SETTLED_S)

    def is_left(self, node: dict[str, Any]) -> bool:
        return True  # one that has ended is there until it is deleted

    def made(self, double: Any) -> Iterable[tuple[str, str]]:
        for operation in double.state()["operations"].values():
            if operation["operationType"] == "insert" and "error" not in operation:
                yield operation["targetLink"], operation["targetId"]

    def bugs(self, double: Any) -> list[str]:
        return list(double.bugs())


GROUND = GcpGround()
