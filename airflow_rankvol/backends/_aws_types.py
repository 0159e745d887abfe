"""What each EBS volume type can be: size, IOPS, throughput.

Sources: EC2 API Reference, CreateVolume (sizes, IOPS, throughput); EBS User Guide, "Amazon EBS volume types" (ratios).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.templates import VolumeTemplate

DEFAULT_TYPE = "gp3"
#: gp3 gives as many operations a second whatever its size, and its throughput is tied to them.
GP3_IOPS = 3000
GP3_MIBPS_PER_IOPS = 0.25


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one volume type; None where it does not take the field.

    Args:
        iops_per_gib: the most operations a second for each GiB of size.
    """

    size_gib: tuple[int, int]
    iops: tuple[int, int] | None = None
    iops_per_gib: int = 0
    iops_needed: bool = False
    throughput_mibps: tuple[int, int] | None = None


TYPES: dict[str, Bounds] = {
    "gp3": Bounds((1, 65_536), (GP3_IOPS, 80_000), 500, throughput_mibps=(125, 2_000)),
    "gp2": Bounds((1, 16_384)),
    "io1": Bounds((4, 16_384), (100, 64_000), 50, iops_needed=True),
    "io2": Bounds((4, 65_536), (100, 256_000), 1_000, iops_needed=True),
    "st1": Bounds((125, 16_384)),
    "sc1": Bounds((125, 16_384)),
    "standard": Bounds((1, 1_024)),
}


def check_bounds(template: VolumeTemplate, where: str) -> None:
    """Refuse a volume that EBS would refuse.

    Args:
        where: names the volume in messages.

    Raises:
        ConfigError: names the field, what was found and what is allowed.
    """
    kind = template.type or DEFAULT_TYPE
    bounds = TYPES.get(kind)
    if bounds is None:
        raise ConfigError(f"{where}: type {kind!r} is no EBS volume type; expected one of {', '.join(TYPES)}")
    size_gib = math.ceil(template.size_gib)
    low, high = bounds.size_gib
    if not low <= size_gib <= high:
        raise ConfigError(f"{where}: size {template.size}; a volume of type {kind} has {low} to {high:,} GiB")
    _check_iops(template.iops, bounds, size_gib, f"{where}: iops", kind)
    _check_throughput(template, bounds, f"{where}: throughput", kind)


def _check_iops(iops: int | None, bounds: Bounds, size_gib: int, where: str, kind: str) -> None:
    if iops is None:
        if bounds.iops_needed:
            raise ConfigError(f"{where} is not set; type {kind} needs it, as in iops={bounds.iops_per_gib * size_gib}")
        return
    if bounds.iops is None:
        raise ConfigError(f"{where}={iops}; type {kind} takes none. Leave it out, or use gp3, io1 or io2")
    low, high = bounds.iops
    if not low <= iops <= high:
        raise ConfigError(f"{where}={iops}; type {kind} takes {low:,} to {high:,}")
    most = max(bounds.iops_per_gib * size_gib, GP3_IOPS if kind == "gp3" else 0)
    if iops > most:
        raise ConfigError(
            f"{where}={iops}; type {kind} of {size_gib} GiB takes at most {most:,} ({bounds.iops_per_gib} for each "
            "GiB). Ask for a larger volume or fewer IOPS"
        )


def _check_throughput(template: VolumeTemplate, bounds: Bounds, where: str, kind: str) -> None:
    wanted = template.throughput
    if wanted is None:
        return
    if bounds.throughput_mibps is None:
        raise ConfigError(f"{where}={wanted}; type {kind} takes none. Leave it out, or use gp3")
    low, high = bounds.throughput_mibps
    if not low <= wanted <= high:
        raise ConfigError(f"{where}={wanted}; type {kind} takes {low} to {high:,} MiB/s")
    iops = template.iops or GP3_IOPS
    if wanted > iops * GP3_MIBPS_PER_IOPS:
        raise ConfigError(
            f"{where}={wanted}; with {iops:,} IOPS at most {iops * GP3_MIBPS_PER_IOPS:.0f} MiB/s are possible (0.25 "
            f"for each). Ask for iops={math.ceil(wanted / GP3_MIBPS_PER_IOPS)}"
        )
