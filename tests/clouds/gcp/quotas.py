"""Quotas of what there may be in a region, and of requests a minute."""

from __future__ import annotations

from typing import Any

from tests.clouds.gcp.bounds import KINDS
from tests.clouds.gcp.catalog import REGIONS, ZONES
from tests.clouds.gcp.errors import Failure, GceError
from tests.clouds.gcp.machines import TYPES
from tests.clouds.gcp.model import PROJECT, PROJECT_NUMBER, ROOT, stamp
from tests.clouds.gcp.world import World

Json = dict[str, Any]

# quota: the groups of methods, each counted by itself in a project and region.
_TITLES = {
    "mutations": ("Queries", "default", "defaultPerMinutePerProject"),
    "reads": ("Read requests", "read_requests_per_region", "ReadRequestsPerMinutePerProjectPerRegion"),
    "lists": ("List requests", "list_requests_per_region", "ListRequestsPerMinutePerProjectPerRegion"),
    "operations": (
        "Operation read requests",
        "operation_read_requests_per_region",
        "OperationReadRequestsPerMinutePerProjectPerRegion",
    ),
}
# GPU and spot quotas are by model and family; nobody asks for them yet.
CPU_STATES = ("PROVISIONING", "STAGING", "RUNNING", "STOPPING")


class Quotas:
    """What the project uses, and what it may."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._counts: dict[tuple[str, str], int] = {}
        self._minute = -1

    def clear(self) -> None:
        """Forget the requests."""
        self._counts.clear()

    def usage(self, region: str) -> dict[str, float]:
        """Return how much of each metric is used."""
        used = dict.fromkeys(self._world.settings.quotas, 0.0)
        for disk in self._world.disks.values():
            metric = KINDS[disk.type].quota
            if disk.zone.rpartition("-")[0] == region:
                used[metric] = used.get(metric, 0.0) + disk.size_gb
        for instance in self._world.instances.values():
            if instance.zone.rpartition("-")[0] == region:
                used["INSTANCES"] = used.get("INSTANCES", 0.0) + 1
                if instance.status in CPU_STATES:
                    used["CPUS"] = used.get("CPUS", 0.0) + TYPES[instance.machine_type].cpus
        return used

    def check(self, zone: str, wanted: dict[str, float]) -> Failure | None:
        """Return how an operation fails that needs more than there is.

        Raises:
            GceError: The same, at once, when the settings say so.
        """
        region = zone.rpartition("-")[0]
        used = self.usage(region)
        for metric, amount in wanted.items():
            limit = self._world.settings.quotas.get(metric)
            if limit is None or used.get(metric, 0.0) + amount <= limit:
                continue
            text = f"Quota '{metric}' exceeded.  Limit: {limit} in region {region}."
            if not self._world.settings.quota_late:
                raise GceError(403, "quotaExceeded", text)
            info = {"metricName": f"compute.googleapis.com/{metric.lower()}", "limitName": metric, "limit": limit}
            details = ({"quotaInfo": {**info, "dimensions": {"region": region}}},)
            return Failure("QUOTA_EXCEEDED", text, 403, "FORBIDDEN", details)
        return None

    def region(self, params: Json) -> Json:
        """regions.get."""
        region = params["region"]
        used = self.usage(region)
        return {
            "kind": "compute#region",
            "id": str(1000 + list(REGIONS).index(region)),
            "name": region,
            "description": region,
            "status": "UP",
            "creationTimestamp": stamp(1_400_000_000.0),
            "selfLink": f"{ROOT}projects/{PROJECT}/regions/{region}",
            "zones": [f"{ROOT}projects/{PROJECT}/zones/{zone}" for zone in ZONES if zone.startswith(region)],
            "quotas": [
                {"metric": metric, "limit": limit, "usage": used[metric]}
                for metric, limit in sorted(self._world.settings.quotas.items())
            ],
        }

    @staticmethod
    def project(params: Json) -> Json:
        """projects.get."""
        return {
            "kind": "compute#project",
            "id": PROJECT_NUMBER,
            "name": PROJECT,
            "creationTimestamp": stamp(1_400_000_000.0),
            "selfLink": f"{ROOT}projects/{PROJECT}",
            "defaultServiceAccount": f"{PROJECT_NUMBER}-compute@developer.gserviceaccount.com",
            "commonInstanceMetadata": {"kind": "compute#metadata", "fingerprint": "AAAAAAAAAAA="},
            "quotas": [{"metric": "NETWORKS", "limit": 15.0, "usage": 1.0}],
        }

    # -- requests

    def take(self, method: str, params: Json) -> None:
        """Count a request.

        quota: "refills at the start of the next synchronized interval, such as 10:01:00".

        Raises:
            GceError: rateLimitExceeded, when its group has had too many this minute.
        """
        settings = self._world.settings
        if settings.rate_scale <= 0:
            return
        minute = int(self._world.now() // 60)
        if minute != self._minute:
            self._minute = minute
            self._counts.clear()
        place = params.get("region") or str(params.get("zone", "global")).rpartition("-")[0] or "global"
        group = _group(method)
        limit = int(settings.rates[group] * settings.rate_scale)
        count = self._counts.get((group, place), 0)
        if count >= limit:
            raise _exceeded(group, place, limit)
        self._counts[group, place] = count + 1


def _group(method: str) -> str:
    if method.startswith("zoneOperations."):
        return "operations"
    verb = method.rpartition(".")[2]
    if verb in ("list", "aggregatedList"):
        return "lists"
    return "reads" if verb.startswith("get") or verb == "testIamPermissions" else "mutations"


def _exceeded(group: str, place: str, limit: int) -> GceError:
    """Return the error as it has been seen: scylladb/scylla-cluster-tests#7940."""
    title, metric, name = _TITLES[group]
    return GceError(
        403,
        "rateLimitExceeded",
        f"Quota exceeded for quota metric '{title}' and limit '{title} per minute per region' of service "
        f"'compute.googleapis.com' for consumer 'project_number:{PROJECT_NUMBER}'.",
        domain="usageLimits",
        details=[
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "RATE_LIMIT_EXCEEDED",
                "domain": "googleapis.com",
                "metadata": {
                    "consumer": f"projects/{PROJECT_NUMBER}",
                    "quota_limit": name,
                    "quota_limit_value": str(limit),
                    "quota_location": place,
                    "quota_metric": f"compute.googleapis.com/{metric}",
                    "service": "compute.googleapis.com",
                },
            }
        ],
    )
