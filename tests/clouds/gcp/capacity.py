"""Where there is no room: scripted by tests."""

from __future__ import annotations

from tests.clouds.gcp.errors import Failure
from tests.clouds.gcp.model import PROJECT


class Capacity:
    """What the zones lack."""

    def __init__(self) -> None:
        self.scarce: dict[tuple[str, str], int] = {}  # (zone or "*", type or "*"), and how many more launches fail

    def clear(self) -> None:
        """Give everything back."""
        self.scarce.clear()

    def check(self, zone: str, kind: str, elsewhere: list[str]) -> Failure | None:
        """Return how a launch fails that there is no room for (seen:GoogleCloudPlatform/ai-on-gke#849)."""
        for place in ((zone, kind), (zone, "*"), ("*", kind), ("*", "*")):
            if self.scarce.get(place, 0) > 0:
                self.scarce[place] -= 1
                return _exhausted(zone, kind, [z for z in elsewhere if z != zone])
        return None


def _exhausted(zone: str, kind: str, elsewhere: list[str]) -> Failure:
    metadata = {"attachment": "", "vmType": kind, "zone": zone, "zonesAvailable": ",".join(elsewhere)}
    info = {"domain": "compute.googleapis.com", "reason": "resource_availability", "metadatas": metadata}
    text = f"A {kind} VM instance is currently unavailable in the {zone} zone."
    return Failure(
        "ZONE_RESOURCE_POOL_EXHAUSTED",
        f"The zone 'projects/{PROJECT}/zones/{zone}' does not have enough resources available to fulfill the request. "
        "Try a different zone, or try again later.",
        503,
        "SERVICE UNAVAILABLE",
        ({"localizedMessage": {"locale": "en-US", "message": text}}, {"errorInfo": info}),
    )
