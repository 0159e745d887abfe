"""What volumes have cost so far: GiB-hours, and USD where a price is known; an unknown price is unknown and never 0."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.records import Volume
from airflow_rankvol.spec.explain import error_text
from airflow_rankvol.spec.fields import Model

#: Hours in a month as both clouds convert them: 365 × 24 / 12.
HOURS_PER_MONTH = 730.0
#: A key that stands for every region, or every type, that has no entry of its own.
ANY = "*"

_PACKAGED = Path(__file__).with_name("prices.yaml")
# us-east-1a; a local zone (us-west-2-lax-1a) has prices of its own, so it is no zone of its parent region.
_AWS_ZONE = re.compile(r"([a-z]{2}(?:-[a-z]+)+-\d+)[a-z]")

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Tiers = tuple[tuple[int | None, Amount], ...]


class Price(Model):
    """The price of one volume type in one region, in USD a month.

    Args:
        gib: for a GiB.
        iops: for each provisioned IOPS above ``iops_included``; or tiers ``[[up to, price], …]``, the last up to null.
        mibps: for each MiB/s of provisioned throughput above ``mibps_included``.
    """

    gib: Amount
    iops: Amount | Tiers | None = None
    iops_included: int | None = None
    mibps: Amount | None = None
    mibps_included: int | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a volume has cost so far; ``usd`` is None where that is unknown, and ``unknown`` then says why."""

    gib_hours: float
    usd: float | None
    unknown: str = ""


Regions = dict[str, dict[str, dict[str, Price]]]


class PriceTable:
    """Prices by backend, region and volume type."""

    def __init__(self, prices: Regions) -> None:
        self._prices = prices

    @classmethod
    def load(cls, override: str | Path | None = None) -> PriceTable:
        """Return the package's prices, those of a file before them.

        Raises:
            ConfigError: the file cannot be read, or is not of the form of ``prices.yaml``.
        """
        prices = _read(_PACKAGED)
        for backend, regions in (_read(Path(override).expanduser()) if override else {}).items():
            for region, types in regions.items():
                prices.setdefault(backend, {}).setdefault(region, {}).update(types)
        return cls(prices)

    def cost(self, volume: Volume, backend: str, now: datetime) -> Cost:
        """Return what a volume has cost since it was created."""
        hours = max((now - volume.created_at).total_seconds(), 0.0) / 3600
        gib_hours = volume.size_gib * hours
        monthly = self._monthly(volume, backend)
        if isinstance(monthly, str):
            return Cost(gib_hours, None, monthly)
        return Cost(gib_hours, monthly * hours / HOURS_PER_MONTH)

    def _monthly(self, volume: Volume, backend: str) -> float | str:
        """Return what a volume costs in a month, or why that is unknown."""
        region = region_of(backend, volume.zone)
        regions = self._prices.get(backend, {})
        found = [regions.get(key, {}) for key in (region, ANY)]
        price = next((types[key] for types in found for key in (volume.type, ANY) if key in types), None)
        where = f"{volume.type or 'the default type'} on {backend}" + (f" in {region}" if region else "")
        if price is None:
            return f"no price for {where}"
        iops = _above(volume.iops, price.iops, price.iops_included)
        mibps = _above(volume.throughput_mibps, price.mibps, price.mibps_included)
        if iops is None:
            return f"no price for its IOPS ({volume.iops if volume.iops is not None else 'unknown'}): {where}"
        if mibps is None:
            return f"no price for its throughput ({volume.throughput_mibps or 'unknown'} MiB/s): {where}"
        return volume.size_gib * price.gib + iops + mibps


def region_of(backend: str, zone: str | None) -> str:
    """Return the region of a zone; a zone of unknown form is a region of its own, none is an empty text."""
    if not zone:
        return ""
    if backend == "aws":
        found = _AWS_ZONE.fullmatch(zone)
        return found[1] if found else zone
    return zone.rpartition("-")[0] if backend == "gcp" else zone


def _above(value: int | None, price: float | Tiers | None, included: int | None) -> float | None:
    """Return what provisioned performance costs beside the capacity; None where that is unknown."""
    if price is None and included is None:
        return 0.0  # it is no part of this type's price
    if value is None:
        return None
    extra = value - (included or 0)
    if extra <= 0:
        return 0.0
    if price is None:
        return None
    return extra * price if isinstance(price, float | int) else _tiered(extra, price)


def _tiered(amount: int, tiers: Tiers) -> float | None:
    total, start = 0.0, 0
    for end, price in tiers:
        if end is None or amount <= end:
            return total + (amount - start) * price
        total += (end - start) * price
        start = end
    return None  # it is above the last tier


def _read(path: Path) -> Regions:
    import yaml

    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ConfigError(f"[rankvol] prices: cannot read {path} ({exc.strerror})") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ConfigError(f"[rankvol] prices: {path} is not YAML: {exc}") from exc
    if not isinstance(raw, Mapping):
        raise ConfigError(f"[rankvol] prices: {path}: expected backend → region → volume type → prices in USD a month")
    try:
        return TypeAdapter(Regions).validate_python(raw)
    except ValidationError as exc:
        raise ConfigError(f"[rankvol] prices: {path}:\n{error_text(exc)}") from exc
