"""Machine types: what their names may be, and what a zone offers under them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_rankvol.backends._gcp_view import last
from airflow_rankvol.errors import ConfigError

#: Where nothing says how many disks a machine takes besides the one that it boots from (Compute Engine's documentation,
#: "About Persistent Disk"): shared-core types take 15, most others 127.
MOST_DISKS, SHARED_DISKS = 127, 15
SHARED = frozenset({"e2-micro", "e2-small", "e2-medium", "f1-micro", "g1-small"})

#: Of machine types, accelerators, images and snapshots alike: what else a name holds, no path or filter takes.
NAME = re.compile(r"[a-z][-a-z0-9]*")
#: Any CPUs and memory that its family takes. No list has these types; each is there when it is asked for (Compute
#: Engine's documentation, "Create a VM with a custom machine type").
_CUSTOM = re.compile(r"(?:[a-z0-9]+-)?custom-.+")


@dataclass(frozen=True, slots=True)
class MachineType:
    """What a zone offers under a machine type's name."""

    name: str
    cpus: int
    max_disks: int
    arm: bool = False
    accelerators: int = 0


def is_custom(name: str) -> bool:
    """Say whether a machine type's size stands in its name, as in ``n2-custom-4-16384``."""
    return _CUSTOM.fullmatch(name) is not None


def check_names(field: str, names: Iterable[str], example: str) -> None:
    """Refuse what nothing of Compute Engine's is called, before anything is asked for by it.

    Raises:
        ConfigError: says what was found, and what may have been meant.
    """
    for name in names:
        if not NAME.fullmatch(name):
            near = last(name).lower()
            meant = f". Did you mean {near!r}?" if NAME.fullmatch(near) else ""
            raise ConfigError(
                f"{field}: {name!r} was found; expected a name of lower-case letters, digits and dashes, such as "
                f"{example!r}{meant}"
            )


def machine_type_of(raw: Mapping[str, Any]) -> MachineType:
    """Return a described machine type."""
    shared = bool(raw.get("isSharedCpu"))
    most = int(raw.get("maximumPersistentDisks") or 0)
    count = sum(int(card.get("guestAcceleratorCount") or 0) for card in raw.get("accelerators") or ())
    return MachineType(
        name=str(raw["name"]),
        cpus=int(raw.get("guestCpus") or 0),
        # It counts the disk that the machine boots from.
        max_disks=most - 1 if most > 1 else (SHARED_DISKS if shared else MOST_DISKS),
        arm=raw.get("architecture") == "ARM64",
        accelerators=count,
    )
