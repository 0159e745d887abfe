"""Machine types: their size, how many disks they take, and which kinds of disks."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any

_PD = frozenset(("pd-standard", "pd-balanced", "pd-ssd", "pd-extreme"))
_SOLID = frozenset(("pd-balanced", "pd-ssd"))
_HYPER = frozenset(("hyperdisk-balanced", "hyperdisk-extreme", "hyperdisk-throughput"))

# Which disks a family takes (gce/machine-resource, "Disk types supported"; CLOUD_FACTS: c4, n4, a4, h3 … take only
# Hyperdisk). Hyperdisk Extreme takes a large machine: the least number of its CPUs stands below.
FAMILIES: dict[str, frozenset[str]] = {
    "a2": _PD - {"pd-extreme"},
    "a3": _SOLID | _HYPER,
    "a4": _HYPER - {"hyperdisk-throughput"},
    "c2": _PD - {"pd-extreme"},
    "c3": _SOLID | _HYPER,
    "c3d": _SOLID | _HYPER,
    "c4": _HYPER,
    "c4a": _HYPER,
    "c4d": _HYPER,
    "e2": _PD - {"pd-extreme"},
    "g2": _SOLID | {"hyperdisk-throughput"},
    "g4": _HYPER,
    "h3": _HYPER - {"hyperdisk-extreme"},
    "m1": _PD | {"hyperdisk-balanced", "hyperdisk-extreme"},
    "m3": (_PD - {"pd-standard"}) | _HYPER,
    "m4": _HYPER - {"hyperdisk-throughput"},
    "n1": _PD - {"pd-extreme"},
    "n2": _PD | {"hyperdisk-throughput", "hyperdisk-extreme"},
    "n2d": (_PD - {"pd-extreme"}) | {"hyperdisk-throughput"},
    "n4": _HYPER - {"hyperdisk-extreme"},
    "n4a": _HYPER - {"hyperdisk-extreme"},
    "t2a": _PD - {"pd-extreme"},
    "t2d": (_PD - {"pd-extreme"}) | {"hyperdisk-throughput"},
}
# gce/disks/hd-types/hyperdisk-extreme, "Restrictions for machine series support"; A3: "at least 4 GPUs", with 104 CPUs.
_EXTREME_FROM = {
    "a3": 104, "a4": 1, "c3": 88, "c3d": 60, "c4": 96, "c4a": 64, "c4d": 64, "g4": 96, "m1": 80, "m3": 64, "m4": 112,
    "n2": 80,
}  # fmt: skip
_ARM = ("t2a", "c4a", "n4a")
# Ibid., "Custom machine types": FAMILY-custom-CPUS-MEMORY; of E2 also with shared cores; "-ext" for more memory.
_CUSTOM = re.compile(
    r"(?:(?P<family>e2|n2|n2d|n4|n4a)-)?custom-(?:(?P<shared>micro|small|medium)|(?P<cpus>\d+))-(?P<memory>\d+)(?:-ext)?"
)
_ACCELERATORS = {
    "a2": "nvidia-tesla-a100", "a3": "nvidia-h100-80gb", "a4": "nvidia-b200", "g2": "nvidia-l4",
    "g4": "nvidia-rtx-pro-6000",
}  # fmt: skip


@dataclass(frozen=True)
class MachineType:
    """One machine type."""

    name: str
    cpus: int
    memory_mb: int
    shared: bool = False
    gpus: int = 0

    @property
    def family(self) -> str:
        """The series, such as ``n2``; custom types of N1 have none in their name."""
        first = self.name.partition("-")[0]
        return "n1" if first == "custom" else first

    @property
    def max_disks(self) -> int:
        """How many disks it takes, the boot disk included.

        CLOUD_FACTS, csi: 128; shared-core types 16; N4 and N4A 16 up to 8 CPUs, then 32; C4 by its CPUs, from 8 to 128
        [U: the steps between].
        """
        if self.shared:
            return 16
        if self.family in ("n4", "n4a"):
            return 16 if self.cpus <= 8 else 32
        if self.family in ("c4", "c4a"):
            return next(
                limit for most, limit in ((2, 8), (4, 16), (8, 32), (24, 64), (10_000, 128)) if self.cpus <= most
            )
        return 128

    def takes(self, disk_type: str) -> bool:
        """Return whether a disk of that type can be attached."""
        if disk_type not in FAMILIES[self.family]:
            return False
        if disk_type == "pd-extreme" and self.family == "n2" and self.cpus < 64:
            return False  # gce/disks/extreme-persistent-disk: "N2 VMs require at least 64 vCPUs"
        return disk_type != "hyperdisk-extreme" or self.cpus >= _EXTREME_FROM.get(self.family, 1)

    @property
    def moves(self) -> bool:
        """Return whether it can move to another host (gce/instances/live-migration-process: not with GPUs or metal)."""
        return not self.gpus and not self.name.endswith("-metal")

    def view(self, zone: str, root: str) -> dict[str, Any]:
        """Return it as answers hold it."""
        seen: dict[str, Any] = {
            "kind": "compute#machineType",
            "id": str(zlib.crc32(self.name.encode())),
            "name": self.name,
            "description": f"{self.cpus} vCPUs, {self.memory_mb // 1024} GB RAM",
            "guestCpus": self.cpus,
            "memoryMb": self.memory_mb,
            "maximumPersistentDisks": self.max_disks,
            "maximumPersistentDisksSizeGb": str(3 * 1024 if self.shared else 257 * 1024),
            "isSharedCpu": self.shared,
            "architecture": "ARM64" if self.family in _ARM else "X86_64",
            "zone": zone,
            "selfLink": f"{root}/zones/{zone}/machineTypes/{self.name}",
        }
        if self.gpus:
            cards = {"guestAcceleratorType": _ACCELERATORS[self.family], "guestAcceleratorCount": self.gpus}
            seen["accelerators"] = [cards]
        return seen


class Types(dict[str, MachineType]):
    """Machine types by name: those that are listed, and custom ones, which are there when they are asked for."""

    def __missing__(self, name: str) -> MachineType:
        found = _CUSTOM.fullmatch(name)
        if found is None:
            raise KeyError(name)
        shared, cpus, memory_mb = found["shared"] is not None, int(found["cpus"] or 2), int(found["memory"])
        # gce/instances/creating-instance-with-custom-machine-type: an even number of CPUs, or one on N1; a multiple of
        # 256 MB, of which each CPU has half a GB at least [U: the answer to others].
        one = cpus == 1 and found["family"] is None
        if (cpus % 2 and not one) or memory_mb % 256 or memory_mb < 512 * (1 if shared else cpus):
            raise KeyError(name)
        return MachineType(name, cpus, memory_mb, shared=shared)

    def named(self, name: str) -> MachineType | None:
        """Return a type, a custom one too, if there is one of that name."""
        try:
            return self[name]
        except KeyError:
            return None


def _types() -> Types:
    made = [
        MachineType("e2-micro", 2, 1024, shared=True),
        MachineType("e2-small", 2, 2048, shared=True),
        MachineType("e2-medium", 2, 4096, shared=True),
        MachineType("n1-standard-1", 1, 3840),
        MachineType("a2-highgpu-1g", 12, 87_040, gpus=1),
        MachineType("a3-highgpu-2g", 52, 479_232, gpus=2),
        MachineType("a3-highgpu-4g", 104, 958_464, gpus=4),
        MachineType("a3-highgpu-8g", 208, 1_916_928, gpus=8),
        MachineType("a4-highgpu-8g", 224, 4_063_232, gpus=8),
        MachineType("g2-standard-4", 4, 16_384, gpus=1),
        MachineType("g4-standard-48", 48, 184_320, gpus=1),
        MachineType("g4-standard-96", 96, 368_640, gpus=2),
        MachineType("h3-standard-88", 88, 360_448),
        MachineType("c3-standard-192-metal", 192, 786_432),
        MachineType("m1-ultramem-40", 40, 984_064),
        MachineType("m1-ultramem-80", 80, 1_968_128),
        MachineType("m4-megamem-56", 56, 761_856),
        MachineType("m4-megamem-112", 112, 1_523_712),
    ]
    sizes = {
        "c2": (4, 8, 16, 30, 60),
        "c3": (4, 8, 22, 44, 88, 176),
        "c3d": (4, 8, 16, 30, 60, 90),
        "c4d": (2, 4, 8, 16, 32, 48, 64, 96),
        "c4": (2, 4, 8, 16, 24, 32, 48, 96, 192),
        "c4a": (1, 2, 4, 8, 16, 32, 48, 64, 72),
        "e2": (2, 4, 8, 16, 32),
        "m3": (64, 128),
        "n1": (2, 4, 8, 16, 32, 64, 96),
        "n2": (2, 4, 8, 16, 32, 48, 64, 80, 96, 128),
        "n2d": (2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 224),
        "n4": (2, 4, 8, 16, 32, 48, 64, 80),
        "n4a": (1, 2, 4, 8, 16, 32, 48, 64),
        "t2a": (1, 2, 4, 8, 16, 32, 48),
        "t2d": (1, 2, 4, 8, 16, 32, 48, 60),
    }
    for family, all_cpus in sizes.items():
        kind = "megamem" if family == "m3" else "standard"
        made += [MachineType(f"{family}-{kind}-{cpus}", cpus, cpus * 4096) for cpus in all_cpus]
    return Types({m.name: m for m in made})


TYPES = _types()
