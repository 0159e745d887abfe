"""Accelerators that are added to N1 machines: their types, where there are some, and how many a machine takes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from tests.clouds.gcp.catalog import SCOPES, ZONES
from tests.clouds.gcp.errors import invalid, not_found
from tests.clouds.gcp.listing import Lister
from tests.clouds.gcp.machines import TYPES
from tests.clouds.gcp.model import PROJECT, ROOT
from tests.clouds.gcp.names import zonal

Json = dict[str, Any]
Found = tuple[str, str]

#: gce/gpus, "N1 machine series": the most of one machine.
_MOST = {"nvidia-tesla-t4": 4, "nvidia-tesla-p4": 4, "nvidia-tesla-v100": 8}
_ONLY_IN = {"nvidia-tesla-p4": ("us-central1-a", "us-central1-c"), "nvidia-tesla-v100": ("us-central1-a", "us-east1-c")}
#: Ibid.: as many are added to one machine.
COUNTS = (1, 2, 4, 8)


def is_in(name: str, zone: str) -> bool:
    """Say whether a zone has a type."""
    return name in _MOST and zone in _ONLY_IN.get(name, ZONES)


def accelerators(zone: str, body: Json) -> list[Json]:
    """Return those that an instances.insert asks for, or what stands for those that its machine has built in."""
    found: list[Json] = body.get("guestAccelerators", [])
    machine = TYPES[body["machineType"].rpartition("/")[2]]
    for n, card in enumerate(found):
        field = f"resource.guestAccelerators[{n}]"
        name = zonal(card["acceleratorType"], "acceleratorTypes", zone, f"{field}.acceleratorType")
        if not is_in(name, zone):
            raise invalid(
                f"{field}.acceleratorType", card["acceleratorType"], "The referenced accelerator type does not exist."
            )
        if machine.family != "n1":
            # gce/gpus: other families have their own accelerators built in.
            raise invalid(f"{field}.acceleratorType", name, "Accelerators can be attached to N1 machine types only.")
        count = card.get("acceleratorCount", 0)
        if count not in COUNTS or count > _MOST[name]:
            raise invalid(f"{field}.acceleratorCount", count, f"The number of {name} accelerator cards is invalid.")
    return found or ([{"acceleratorType": "(built in)"}] * bool(machine.gpus))


def _view(found: Found) -> Json:
    zone, name = found
    root = f"{ROOT}projects/{PROJECT}/zones/{zone}"
    return {
        "kind": "compute#acceleratorType",
        "id": str(zlib.crc32(name.encode())),
        "name": name,
        "description": name,
        "maximumCardsPerInstance": _MOST[name],
        "zone": root,
        "selfLink": f"{root}/acceleratorTypes/{name}",
    }


class AcceleratorCalls:
    """The calls that read which types there are."""

    def __init__(self, lost: Mapping[str, str]) -> None:
        self._lost = lost
        self._lister: Lister[Found] = Lister("zones", "acceleratorTypes", "acceleratorType")

    def get(self, params: Json) -> Json:
        """acceleratorTypes.get."""
        zone, name = params["zone"], params["acceleratorType"]
        if not is_in(name, zone):
            raise not_found(f"projects/{PROJECT}/zones/{zone}/acceleratorTypes/{name}")
        return _view((zone, name))

    def list(self, params: Json) -> Json:
        """acceleratorTypes.list."""
        found = [(params["zone"], name) for name in sorted(_MOST) if is_in(name, params["zone"])]
        return self._lister.answer(params, found, _view)

    def aggregated_list(self, params: Json) -> Json:
        """acceleratorTypes.aggregatedList."""
        found = [(zone, name) for name in sorted(_MOST) for zone in sorted(ZONES) if is_in(name, zone)]
        return self._lister.aggregated(params, found, _view, SCOPES, self._lost)
