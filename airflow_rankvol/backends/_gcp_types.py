"""What Compute Engine offers: disk types with their bounds, and which machine families take them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.templates import VolumeTemplate

DEFAULT_TYPE = "pd-balanced"
DEFAULT_MACHINE = "e2-standard-2"

Bounds = Callable[[int], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class DiskType:
    """A type's bounds: GiB, and for a size IOPS and MiB per second; None where they cannot be chosen."""

    min_gib: int
    max_gib: int
    iops: Bounds | None = None
    throughput: Bounds | None = None


def _balanced_iops(gib: int) -> tuple[int, int]:
    least = min(3000, 500 * gib)
    return least, max(least, min(160_000, 500 * gib))


#: Compute Engine's documentation: "About Persistent Disk", "Extreme Persistent Disk", and the pages of the Hyperdisk
#: types.
TYPES: dict[str, DiskType] = {
    "pd-standard": DiskType(1, 65_536),
    "pd-balanced": DiskType(1, 65_536),
    "pd-ssd": DiskType(1, 65_536),
    "pd-extreme": DiskType(500, 65_536, lambda _: (2500, 120_000)),
    "hyperdisk-balanced": DiskType(4, 65_536, _balanced_iops, lambda _: (140, 2400)),
    "hyperdisk-extreme": DiskType(64, 65_536, lambda gib: (2 * gib, min(350_000, 1200 * gib))),
    "hyperdisk-throughput": DiskType(
        2048, 32_768, None, lambda gib: (max(20, 10 * gib // 1024), min(2400, 90 * gib // 1024))
    ),
}

_PD = frozenset({"pd-standard", "pd-balanced", "pd-ssd"})
_SOLID = frozenset({"pd-balanced", "pd-ssd"})
_HYPER = frozenset({"hyperdisk-balanced", "hyperdisk-extreme", "hyperdisk-throughput"})
_NO_EXTREME = _HYPER - {"hyperdisk-extreme"}
_FAST = _HYPER - {"hyperdisk-throughput"}

#: Machine family → disk types that it takes (Compute Engine's documentation, "Machine families resource and comparison
#: guide" and "About Hyperdisk", machine series support; for N4A, N4D and A4X, which take Hyperdisk only, also
#: nextflow-io/nextflow#6841 and the attach limits of kubernetes-sigs/gcp-compute-persistent-disk-csi-driver). Of G4,
#: H4D and Z4, which Hyperdisk is Compute Engine's to judge; so is a family that is not here.
FAMILIES: dict[str, frozenset[str]] = {
    "a2": _PD,
    "a3": _SOLID | _HYPER,
    "a4": _FAST,
    "a4x": _FAST,
    "c2": _PD,
    "c2d": _PD,
    "c3": _SOLID | _HYPER,
    "c3d": _SOLID | _HYPER,
    "c4": _HYPER,
    "c4a": _HYPER,
    "c4d": _HYPER,
    "e2": _PD,
    "f1": _PD,
    "g1": _PD,
    "g2": _SOLID | {"hyperdisk-throughput"},
    "g4": _HYPER,
    "h3": _NO_EXTREME,
    "h4d": _HYPER,
    "m1": _PD | {"pd-extreme"} | _FAST,
    "m2": _PD | {"pd-extreme"} | _FAST,
    "m3": _SOLID | {"pd-extreme"} | _HYPER,
    "m4": _FAST,
    "n1": _PD,
    "n2": _PD | {"pd-extreme", "hyperdisk-throughput", "hyperdisk-extreme"},
    "n2d": _PD | {"hyperdisk-throughput"},
    "n4": _NO_EXTREME,
    "n4a": _NO_EXTREME,
    "n4d": _NO_EXTREME,
    "t2a": _PD,
    "t2d": _PD | {"hyperdisk-throughput"},
    "x4": _FAST,
    "z3": _SOLID | _HYPER,
    "z4d": _HYPER,
    "z4m": _HYPER,
}
#: "All fourth-generation types like C4, N4, M4, and newer machine series" boot from Hyperdisk Balanced by default
#: (discovery document, AttachedDiskInitializeParams.diskType).
_HYPERDISK_FROM = 4
#: Hyperdisk Extreme and Extreme Persistent Disk take large machines ("About Hyperdisk Extreme", machine series support;
#: "Extreme Persistent Disk"): the least number of vCPUs. Of A3 it is 4 GPUs, which come with 104 vCPUs.
_EXTREME_FROM = {
    "a3": 104, "c3": 88, "c3d": 60, "c4": 96, "c4a": 64, "c4d": 64, "g4": 96, "m1": 80, "m3": 64, "m4": 112, "n2": 80,
}  # fmt: skip
_PD_EXTREME_FROM = {"n2": 64}
#: Boot disk types in the order of preference: the first that the family takes.
BOOT_TYPES = ("pd-balanced", "hyperdisk-balanced")
#: What nothing boots from (Compute Engine's documentation, "About Google Cloud Hyperdisk").
NO_BOOT = frozenset({"hyperdisk-extreme", "hyperdisk-throughput"})
#: Families that bring their accelerators, so that none is to be added (Compute Engine's documentation, "GPU machine
#: types"); N1 takes them apart.
WITH_ACCELERATORS = frozenset({"a2", "a3", "a4", "a4x", "g2", "g4"})
#: "GPUs are not compatible with other machine types" (ibid., "About GPU instances"), nor with N1's shared cores. Of a
#: family that is not here, that is Compute Engine's to judge.
WITHOUT_ACCELERATORS = FAMILIES.keys() - WITH_ACCELERATORS - {"n1"}
#: Ampere, Axion, and the Grace of GB200 in A4X (ibid., "Arm VMs on Compute" and "GPU machine types").
ARM = frozenset({"t2a", "c4a", "n4a", "a4x"})


def family_of(machine_type: str) -> str:
    """Return a machine type's family, such as ``n2``; custom types of N1 have none in their name."""
    first = machine_type.partition("-")[0]
    return "n1" if first == "custom" else first


def moves(machine_type: str) -> bool:
    """Say whether an instance can move to another host while it runs.

    Those with accelerators, of the family H4D and on bare metal cannot (Compute Engine's documentation, "Set VM host
    maintenance policy").
    """
    return family_of(machine_type) not in (*WITH_ACCELERATORS, "h4d") and not machine_type.endswith("-metal")


def boot_type_of(machine_type: str) -> str:
    """Return the disk type that a machine boots from unless the template names one."""
    family = family_of(machine_type)
    if family not in FAMILIES:
        found = re.match(r"[a-z]+(\d+)", family)
        return BOOT_TYPES[1] if found and int(found[1]) >= _HYPERDISK_FROM else BOOT_TYPES[0]
    return next((kind for kind in BOOT_TYPES if kind in FAMILIES[family]), BOOT_TYPES[-1])


def takes(machine_type: str, cpus: int, disk_type: str) -> bool:
    """Say whether a machine takes a disk of a type, as far as that is known: an adopted one may have any."""
    family = family_of(machine_type)
    known = FAMILIES.get(family)
    if known is None or disk_type not in TYPES:
        return True
    if disk_type == "hyperdisk-extreme" and cpus < _EXTREME_FROM.get(family, 1):
        return False
    if disk_type == "pd-extreme" and cpus < _PD_EXTREME_FROM.get(family, 1):
        return False
    return disk_type in known


def check_bounds(template: VolumeTemplate, where: str) -> None:
    """Refuse a type, a size, IOPS or a throughput that Compute Engine does not have.

    Raises:
        ConfigError: says what was found and what is possible.
    """
    name = template.type or DEFAULT_TYPE
    kind = TYPES.get(name)
    if kind is None:
        raise ConfigError(f"{where}: type {name!r} was found; expected one of {', '.join(TYPES)}")
    gib = math.ceil(template.size_gib)
    if not kind.min_gib <= gib <= kind.max_gib:
        raise ConfigError(f"{where}: size {template.size}; {name} takes {kind.min_gib} to {kind.max_gib} GiB")
    for field, value, bounds in (
        ("iops", template.iops, kind.iops),
        ("throughput", template.throughput, kind.throughput),
    ):
        _check_provisioned(where, name, gib, (field, value, bounds))
    _check_ratio(template, where, name, gib)


def _check_provisioned(where: str, name: str, gib: int, what: tuple[str, int | None, Bounds | None]) -> None:
    field, value, bounds = what
    if value is None:
        return
    if bounds is None:
        able = [kind for kind, found in TYPES.items() if (found.iops if field == "iops" else found.throughput)]
        raise ConfigError(f"{where}: {field}={value}; {name} has no {field} to choose, which {', '.join(able)} have")
    low, high = bounds(gib)
    if not low <= value <= high:
        raise ConfigError(f"{where}: {field}={value}; {name} of {gib} GiB takes {low} to {high}")


def _check_ratio(template: VolumeTemplate, where: str, name: str, gib: int) -> None:
    """Hyperdisk Balanced: MiB/s lie between IOPS/256 and IOPS/4 (its page in the documentation).

    Without IOPS, at least what is included counts: what depends on more has to name them.
    """
    if name != "hyperdisk-balanced" or template.throughput is None:
        return
    if template.iops is None:
        sure = max(140, _balanced_iops(gib)[0] // 4)
        if template.throughput > sure:
            raise ConfigError(
                f"{where}: throughput={template.throughput} without iops; {name} of {gib} GiB takes more than {sure} "
                f"MiB/s only with four times as many IOPS. Set iops to {4 * template.throughput} or more"
            )
        return
    low, high = math.ceil(template.iops / 256), max(140, template.iops // 4)
    if not low <= template.throughput <= high:
        raise ConfigError(
            f"{where}: throughput={template.throughput} with iops={template.iops}; {name} of {gib} GiB takes "
            f"{max(140, low)} to {high} MiB/s then"
        )
