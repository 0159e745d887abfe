"""What there is to launch on: types in zones, capacity, quotas and the spot market."""

from __future__ import annotations

from typing import Any

from tests.clouds.aws.catalog import Catalog
from tests.clouds.aws.errors import Ec2Error, combination, invalid, not_modelled
from tests.clouds.aws.world import World


class Capacity:
    """What lacks is scripted by tests, but for types that a zone never had."""

    def __init__(self, world: World, catalog: Catalog) -> None:
        self._world = world
        self._catalog = catalog
        self.unsupported: set[tuple[str, str]] = set()  # (zone or "*", type or "*")
        self.scarce: dict[tuple[str, str], int] = {}  # the same, and how many more launches fail

    def clear(self) -> None:
        """Forget what was scripted."""
        self.unsupported.clear()
        self.scarce.clear()

    def spot(self, params: dict[str, Any]) -> bool:
        """Return whether the launch is for a spot instance; refuse what the market does not offer."""
        market = params.get("InstanceMarketOptions") or {}
        if not market:
            return False
        if market.get("MarketType", "spot") != "spot":
            raise not_modelled(f"the market {market['MarketType']}")
        options = market.get("SpotOptions", {})
        price = options.get("MaxPrice")
        now = self._world.settings.spot_price_usd
        try:
            if price is not None and float(price) < now:
                raise Ec2Error(
                    "SpotMaxPriceTooLow",
                    f"Your Spot request price of {price} is lower than the minimum required Spot request fulfillment "
                    f"price of {now}.",
                )
        except ValueError:
            raise invalid(f"Value ({price}) for parameter price is invalid") from None
        if (
            options.get("SpotInstanceType", "one-time") == "one-time"
            and options.get("InstanceInterruptionBehavior", "terminate") != "terminate"
        ):
            raise combination("A one-time Spot request can only be terminated when it is interrupted")
        return True

    def check(self, zone: str, kind: str, count: int) -> None:
        """Refuse a launch that there is no room for."""
        places = [(zone, kind), (zone, "*"), ("*", kind), ("*", "*")]
        if kind not in self._catalog.offered(zone) or any(p in self.unsupported for p in places):
            raise Ec2Error(
                "Unsupported",
                f"Your requested instance type ({kind}) is not supported in your requested Availability Zone ({zone}). "
                "Please retry your request by not specifying an Availability Zone or choosing another one.",
            )
        for place in places:
            if self.scarce.get(place, 0) > 0:
                self.scarce[place] -= 1
                raise Ec2Error(
                    "InsufficientInstanceCapacity",
                    f"We currently do not have sufficient {kind} capacity in the Availability Zone you requested "
                    f"({zone}).",
                    500,  # errors: listed among the server errors
                )
        used = sum(self._vcpus(i.type) for i in self._world.instances.values() if i.state in ("pending", "running"))
        if used + count * self._vcpus(kind) > self._world.settings.vcpu_quota:
            raise Ec2Error(
                "VcpuLimitExceeded",
                f"You have requested more vCPU capacity than your current vCPU limit of "
                f"{self._world.settings.vcpu_quota} allows for the instance bucket that {kind} belongs to.",
            )

    def _vcpus(self, kind: str) -> int:
        return int(self._catalog.instance_type(kind)["VCpuInfo"]["DefaultVCpus"])
