"""EC2's request throttling: a token bucket for each action (throttle; the figures are those of CLOUD_FACTS)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.clouds.aws.errors import Ec2Error
from tests.clouds.aws.world import World

# capacity, refill a second. throttle: "each API is evaluated individually".
ACTIONS = {
    "RunInstances": (5, 2),
    "CreateVolume": (100, 5),
    "DeleteVolume": (100, 5),
    "CreateSnapshot": (100, 5),
    "CreateSnapshots": (100, 5),
    "TerminateInstances": (100, 5),
    "AttachVolume": (50, 5),
    "DetachVolume": (50, 5),
    "ModifyVolume": (50, 5),
    "CreateTags": (100, 10),
}
DESCRIBE, DESCRIBE_ALL, OTHER = (100, 20), (50, 10), (50, 5)
INSTANCES = (1000, 2)  # RunInstances draws from this one, too, a token for each instance


@dataclass
class _Bucket:
    tokens: float
    at: float


class Buckets:
    """The buckets of the account."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._buckets: dict[str, _Bucket] = {}

    def take(self, action: str, params: Mapping[str, Any]) -> None:
        """Take what a call costs.

        Raises:
            Ec2Error: RequestLimitExceeded, when there is not enough.
        """
        if self._world.settings.bucket_scale <= 0:
            return
        needs = [(*_bucket(action, params), 1)]
        if action == "RunInstances":
            needs.append(("instances", INSTANCES, int(params.get("MaxCount", 1))))
        buckets = [(self._filled(name, size), cost) for name, size, cost in needs]
        if any(bucket.tokens < cost for bucket, cost in buckets):
            raise Ec2Error("RequestLimitExceeded", "Request limit exceeded.", 503)
        for bucket, cost in buckets:
            bucket.tokens -= cost

    def _filled(self, name: str, size: tuple[int, int]) -> _Bucket:
        scale, now = self._world.settings.bucket_scale, self._world.now()
        capacity, refill = size[0] * scale, size[1] * scale
        bucket = self._buckets.setdefault(name, _Bucket(capacity, now))
        bucket.tokens = min(capacity, bucket.tokens + max(0.0, now - bucket.at) * refill)
        bucket.at = now
        return bucket

    def clear(self) -> None:
        """Fill all buckets."""
        self._buckets.clear()


def _bucket(action: str, params: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    if action in ACTIONS:
        return action, ACTIONS[action]
    if not action.startswith(("Describe", "Get")):
        return action, OTHER
    if action.startswith("Get") or params.get("Filters") or params.get("MaxResults"):
        return action, DESCRIBE
    return f"{action} (all)", DESCRIBE_ALL
