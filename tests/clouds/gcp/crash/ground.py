"""Google Cloud for the crash test."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

from airflow_rankvol.backends._gcp_calls import RATES
from airflow_rankvol.backends._gcp_connection import Session
from airflow_rankvol.backends._gcp_labels import description_of, label_key, labels_of, short
from airflow_rankvol.backends._gcp_memory import Memory
from airflow_rankvol.backends._gcp_view import our_tags
from airflow_rankvol.backends._rate import RateLimiter
from airflow_rankvol.backends.gcp import GcpBackend
from airflow_rankvol.records import Tags
from tests.clouds.common.clocks import AnyClock
from tests.clouds.common.crash.disks import finished, ids_of
from tests.clouds.common.crash.ground import OWNER, Ground
from tests.clouds.common.crash.lives import Life
from tests.clouds.gcp.backend.kit import OTHER_ZONE, SETTLED_S, ZONE, lines_of, settings
from tests.clouds.gcp.client import Double
from tests.clouds.gcp.conftest import wish

#: What a call to wait for an operation lets pass: to launch an instance takes longer.
_WAITED_S = 0.05
_LINK = re.compile(r"zones/([a-z0-9-]+)/(?:disks|instances)/([a-z0-9-]+)")
_LOOKS = re.compile(r".*\.(?:get\w*|list|aggregatedList|wait)")
#: The operations by which an instance is over.
_ENDS = ("delete", "compute.instances.guestTerminate")


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
    makers = ("disks.insert", "instances.insert")
    unseen = MappingProxyType({"listed_s": 8.0})

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

    def lives(self, double: Any) -> Iterable[Life]:
        bodies = {call["params"]["body"]["name"]: call["params"]["body"] for call in double.calls("instances.insert")}
        operations = [found for found in double.state()["operations"].values() if "error" not in found]
        for made in operations:
            zone, name = _LINK.findall(made["targetLink"])[0]
            if made["operationType"] != "insert" or "/instances/" not in made["targetLink"] or name not in bodies:
                continue
            its = [found for found in operations if found["targetId"] == made["targetId"]]
            over = [_seconds(found["insertTime"]) for found in its if found["operationType"] in _ENDS]
            tags = our_tags(bodies[name])
            assert tags is not None
            yield Life(
                f"{zone}/{name} {made['targetId']}", tags, _seconds(made["insertTime"]), min(over, default=math.inf)
            )

    def tags(self, volume: dict[str, Any]) -> Tags | None:
        return our_tags(volume)

    def changed(self, call: dict[str, Any]) -> set[str]:
        if _LOOKS.fullmatch(call["action"]):
            return set()
        params = call["params"]
        named = {params.get(kind) for kind in ("disk", "instance", "resource")}
        named.add((params.get("body") or {}).get("name"))
        links = {f"{zone}/{name}" for zone, name in _LINK.findall(json.dumps(params.get("body")))}
        return links | {f"{params['zone']}/{name}" for name in named if name}

    def doubtful(self, state: dict[str, Any]) -> set[str]:
        going_on = [found for found in state["operations"].values() if found["status"] != "DONE"]
        links = [found["targetLink"] for found in going_on if found["operationType"] == "setLabels"]
        return {f"{zone}/{name}" for link in links for zone, name in _LINK.findall(link)}


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp).timestamp()


GROUND = GcpGround()
