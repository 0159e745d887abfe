"""What a disk of each type may be: its size, IOPS and throughput."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.clouds.gcp.errors import invalid

Range = Callable[[int], tuple[int, int]]


@dataclass(frozen=True)
class Kind:
    """A disk type: sizes in GB as the API counts them (base-2), and what can be provisioned for a size."""

    name: str
    quota: str
    min_gb: int
    max_gb: int
    default_gb: int
    iops: Range | None = None
    throughput: Range | None = None
    default_iops: int | None = None
    default_throughput: int | None = None


# gce/disks/hd-types/hyperdisk-balanced: 4 GiB to 64 TiB; 3,000 IOPS and 140 MiB/s are included; at most 500 IOPS a GiB
# and 160,000, and 2,400 MiB/s. Below 6 GiB both are fixed.
def _balanced_iops(size_gb: int) -> tuple[int, int]:
    return min(3000, 500 * size_gb), max(min(3000, 500 * size_gb), min(160_000, 500 * size_gb))


# gce/disks/hd-types/hyperdisk-throughput: 2 to 32 TiB; 20 to 2,400 MiB/s, 10 to 90 MiB/s a TiB.
def _throughput(size_gb: int) -> tuple[int, int]:
    return max(20, 10 * size_gb // 1024), min(2400, 90 * size_gb // 1024)


KINDS = {
    kind.name: kind
    for kind in (
        # disc, Disk.sizeGb: "Acceptable values are greater than 0"; seen:kubeflow/kubeflow#2401 has disks of 5 GB.
        Kind("pd-standard", "DISKS_TOTAL_GB", 1, 65_536, 500),
        Kind("pd-balanced", "SSD_TOTAL_GB", 1, 65_536, 100),
        Kind("pd-ssd", "SSD_TOTAL_GB", 1, 65_536, 100),
        # gce/disks/extreme-persistent-disk: 2,500 to 120,000 IOPS; 500 GB at least.
        Kind("pd-extreme", "SSD_TOTAL_GB", 500, 65_536, 1000, lambda _: (2500, 120_000), default_iops=100_000),
        Kind(
            "hyperdisk-balanced",
            "HDB_TOTAL_GB",
            4,
            65_536,
            100,
            _balanced_iops,
            lambda _: (140, 2400),
            default_iops=3600,
            default_throughput=290,
        ),
        # gce/disks/hd-types/hyperdisk-extreme: 64 GiB to 64 TiB, 2 to 1,200 IOPS a GiB (an older text: 1,000), 350,000.
        Kind(
            "hyperdisk-extreme",
            "HDX_TOTAL_GB",
            64,
            65_536,
            1000,
            lambda gb: (2 * gb, min(350_000, 1200 * gb)),
            default_iops=100_000,
        ),
        Kind("hyperdisk-throughput", "HDT_TOTAL_GB", 2048, 32_768, 2048, None, _throughput, default_throughput=180),
    )
}


def check(kind: Kind, size_gb: int, body: dict[str, Any], field: str = "resource") -> tuple[int | None, int | None]:
    """Return the IOPS and the throughput that a disk gets.

    Raises:
        GceError: Size, IOPS or throughput are out of their bounds, or cannot be provisioned for the type.
    """
    if not kind.min_gb <= size_gb <= kind.max_gb:
        raise invalid(
            f"{field}.sizeGb",
            size_gb,
            f"Disk size for disk type {kind.name} must be between {kind.min_gb} GB and {kind.max_gb} GB.",
        )
    iops = _provisioned(kind, size_gb, body, (f"{field}.provisionedIops", "provisionedIops", kind.iops))
    throughput = _provisioned(
        kind, size_gb, body, (f"{field}.provisionedThroughput", "provisionedThroughput", kind.throughput)
    )
    if kind.name == "hyperdisk-balanced" and throughput is not None:
        # gce/disks/hd-types/hyperdisk-balanced: throughput lies between IOPS/256 and IOPS/4.
        # Without IOPS, those that the disk gets count.
        least = iops or _default(None, kind.default_iops, kind.iops, size_gb) or 0
        if not least / 256 <= throughput <= max(140, least / 4):
            raise invalid(
                f"{field}.provisionedThroughput",
                throughput,
                f"It must be between {least // 256} and {least // 4} MB/s for {least} IOPS.",
            )
    return _default(iops, kind.default_iops, kind.iops, size_gb), _default(
        throughput, kind.default_throughput, kind.throughput, size_gb
    )


def _provisioned(kind: Kind, size_gb: int, body: dict[str, Any], what: tuple[str, str, Range | None]) -> int | None:
    field, name, bounds = what
    if name not in body:
        return None
    value = int(body[name])
    if bounds is None:
        raise invalid(field, value, f"Disk type {kind.name} does not take {name}.")
    low, high = bounds(size_gb)
    if not low <= value <= high:
        raise invalid(field, value, f"It must be between {low} and {high} for {kind.name} of {size_gb} GB.")
    return value


def _default(value: int | None, default: int | None, bounds: Range | None, size_gb: int) -> int | None:
    if value is not None or default is None or bounds is None:
        return value
    low, high = bounds(size_gb)
    return min(max(default, low), high)
