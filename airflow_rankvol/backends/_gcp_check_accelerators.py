"""Whether machines take the accelerators that a template asks for, and whether its zones have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from airflow_rankvol.backends._gcp_launch import takes_accelerators
from airflow_rankvol.backends._gcp_machines import MachineType
from airflow_rankvol.backends._gcp_places import Offers, Places
from airflow_rankvol.backends._gcp_types import WITHOUT_ACCELERATORS, family_of
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.templates import NodeTemplate

#: As many of one type are added to an N1 machine (Compute Engine's documentation, "GPU machine types", N1); of families
#: that are not known here, that is Compute Engine's to judge.
COUNTS = (1, 2, 4, 8)


def check_accelerators(machine: MachineType, template: NodeTemplate, where: str) -> None:
    """Refuse accelerators that a machine does not take, or a number that it does not have."""
    gpus = template.gpus_per_node
    if not gpus:
        return
    if machine.accelerators and machine.accelerators != gpus:
        raise ConfigError(
            f"{where}.gpus_per_node: {gpus}; {machine.name} has {machine.accelerators}. Correct the one or the other"
        )
    if takes_accelerators(template, machine.name) and family_of(machine.name) in WITHOUT_ACCELERATORS:
        raise ConfigError(
            f"{where}.accelerator: {template.accelerator}; {machine.name} takes none, only N1 machines do. Use one of "
            "these, as n1-standard-4, or a machine type that has its own, as g2-standard-4"
        )
    if not machine.accelerators and not takes_accelerators(template, machine.name):
        raise ConfigError(
            f"{where}.accelerator is not set, and {machine.name} has none built in; say which: 'nvidia-tesla-t4' on N1 "
            "machines, or use a machine type that has its own, as in g2-standard-4"
        )


def check_cards(places: Places, template: NodeTemplate, where: str, zones: Sequence[str], offers: Offers) -> None:
    """Refuse accelerators that a machine of a zone cannot be given, because they are not there or too many."""
    name = template.accelerator
    for zone in zones:
        taking = [kind for kind in offers if zone in offers[kind] and takes_accelerators(template, kind)]
        if not name or not taking:
            continue
        found = places.cards(name, zones)
        if zone not in found:
            raise ConfigError(f"{where}.accelerator: {_no_card(places, name, zone, found)}")
        most = found[zone]
        able = [count for count in COUNTS if not most or count <= most]
        if template.gpus_per_node not in able and family_of(taking[0]) == "n1":
            raise ConfigError(
                f"{where}.gpus_per_node: {template.gpus_per_node}; {taking[0]} takes {', '.join(map(str, able))} of "
                f"{name}. Choose one of these"
            )


def _no_card(places: Places, name: str, zone: str, found: Mapping[str, int]) -> str:
    if found:
        return f"there is no {name} in zone {zone}. Set node.zones to some of {', '.join(sorted(found))}"
    known = places.names("acceleratorTypes", zone)
    return f"there is no {name!r} in any zone; zone {zone} has {', '.join(known) or 'none'}. Choose one that is there"
