"""What the nodes of a plan need of the project: zones, machine types, images, networks, attachments."""

from __future__ import annotations

import difflib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_rankvol.backends._gcp_check_accelerators import check_accelerators, check_cards
from airflow_rankvol.backends._gcp_creation import check_link
from airflow_rankvol.backends._gcp_labels import check_labels
from airflow_rankvol.backends._gcp_launch import GRACE_S, LONGEST_S
from airflow_rankvol.backends._gcp_machines import MachineType, check_names, is_custom
from airflow_rankvol.backends._gcp_places import Offers, Places, region_of
from airflow_rankvol.backends._gcp_types import (
    FAMILIES,
    NO_BOOT,
    TYPES,
    boot_type_of,
    family_of,
    takes,
)
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.templates import NodeTemplate, ReportChannel

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan

log = logging.getLogger(__name__)

_ACCOUNT = re.compile(r"default|[^@\s]+@[^@\s]+")
#: Google's "OAuth 2.0 scopes": mostly https://www.googleapis.com/auth/…, of which the end will do.
_SCOPE = re.compile(r"https://[\w.-]+/[\w./-]*|[a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)*")
#: RFC 1035 (discovery document, Tags.items).
_TAG = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")


def check_nodes(plan: Plan, places: Places, zones: Mapping[int, str], kinds: Mapping[str, str]) -> None:
    """Refuse nodes that the project cannot give.

    Args:
        zones: each rank's zone.
        kinds: the types of the volumes, each with the label of one that has it.
    """
    job = plan.job
    used = sorted(set(zones.values()))
    _check_zones(places, used)
    _check_node(places, job.node, "node", used, (kinds, len(job.volumes)))
    if job.gathers_on_node and job.gather_node is not None:
        # gather splits into parts where a node cannot hold all volumes, but one rank's have to be on one node.
        _check_node(places, job.gather_node, "gather_node", used, (kinds, len(job.volumes)))


def _check_zones(places: Places, used: Sequence[str]) -> None:
    known = places.all_zones()
    for zone in used:
        if zone not in known:
            near = [name for name in known if region_of(name) == region_of(zone)] or places.zones(
                places.gce.session.region
            )
            raise ConfigError(
                f"node.zones: {zone!r} is no zone of Google Cloud's; expected one as in "
                f"{', '.join(near) or 'us-central1-a'}"
            )
        if known[zone] != "UP":
            raise ConfigError(f"node.zones: zone {zone} is {known[zone]}; choose another one")


def _check_node(
    places: Places, template: NodeTemplate, where: str, zones: Sequence[str], disks: tuple[Mapping[str, str], int]
) -> None:
    """Check one template in every zone that it is used in.

    Args:
        disks: the types of its volumes, and how many there are.
    """
    _check_fields(template, where)
    _check_network(places, template, where, zones)
    offers = places.offers(places.types_of(template), zones)
    for zone in zones:
        _check_offered(places, template, where, zone, offers)
    for name in places.types_of(template):
        image = places.image(template.image, name)
        size_gib = template.root_size_gib
        if size_gib is not None and size_gib < image.size_gib:
            raise ConfigError(
                f"{where}.root_size: {template.root_size}; image {image.link} needs at least {image.size_gib} GiB"
            )
        least = TYPES[template.root_type].min_gib if template.root_type else 0
        if size_gib is None and least > image.size_gib:
            raise ConfigError(f"{where}.root_size is not set; {template.root_type} takes {least} GiB or more. Set it")
        machine = next(iter(offers[name].values()), None)
        if machine is not None:
            _check_machine(machine, template, where, disks)
    check_cards(places, template, where, zones, offers)


def _check_fields(template: NodeTemplate, where: str) -> None:
    check_labels(template.tags, where)
    check_names(f"{where}.accelerator", filter(None, [template.accelerator]), "nvidia-tesla-t4")
    _check_root(template, where)
    if template.report is not ReportChannel.CONSOLE:
        raise ConfigError(
            f"{where}.report: {str(template.report)!r} is AWS'; nodes on Google Cloud report by guest attributes. "
            "Leave it out"
        )
    if template.service_account and not _ACCOUNT.fullmatch(template.service_account):
        raise ConfigError(
            f"{where}.service_account: {template.service_account!r} was found; expected its email address, or 'default'"
        )
    for scope in template.scopes:
        if not _SCOPE.fullmatch(scope):
            raise ConfigError(
                f"{where}.scopes: {scope!r} was found; expected scopes of OAuth, as 'cloud-platform', "
                "'devstorage.read_only' or 'https://www.googleapis.com/auth/logging.write'"
            )
    for tag in template.network_tags:
        if not _TAG.fullmatch(tag):
            raise ConfigError(
                f"{where}.network_tags: {tag!r}; expected 1 to 63 lower-case letters, digits and dashes, the first a "
                "letter, the last no dash"
            )
    if math.ceil(template.lifetime.total_seconds()) + GRACE_S > LONGEST_S:
        raise ConfigError(f"{where}.lifetime: {template.lifetime}; Compute Engine limits it to 119 days")


def _check_root(template: NodeTemplate, where: str) -> None:
    name, size_gib = template.root_type, template.root_size_gib
    if name is None:
        return
    if name not in TYPES or name in NO_BOOT:
        able = [kind for kind in TYPES if kind not in NO_BOOT]
        raise ConfigError(f"{where}.root_type: {name!r} was found; a node boots from one of {', '.join(able)}")
    kind = TYPES[name]
    # Without a size, it is the image's.
    if size_gib is not None and not kind.min_gib <= math.ceil(size_gib) <= kind.max_gib:
        raise ConfigError(f"{where}.root_size: {template.root_size}; {name} takes {kind.min_gib} to {kind.max_gib} GiB")


def _check_network(places: Places, template: NodeTemplate, where: str, zones: Sequence[str]) -> None:
    """Look up what lies in this project; the network of another one, only its own project's users may see."""
    mine = places.gce.link("")
    _check_subnet_zones(template, where, zones)
    by_zone = template.subnets if isinstance(template.subnets, dict) else dict.fromkeys(zones, template.subnets)
    for subnet, region in sorted({(subnet, region_of(zone)) for zone, subnet in by_zone.items() if subnet}):
        check_link(f"{where}.subnets", subnet, "subnetworks", "default")
        link = places.subnet(subnet, region)
        if link.startswith(mine) and not places.exists(link, subnet):
            raise ConfigError(
                f"{where}.subnets: there is no {link}. Name a subnet of region {region}, or set {where}.zones to "
                "zones of the subnet's region"
            )
        if f"/regions/{region}/" not in link:
            raise ConfigError(f"{where}.subnets: {subnet} does not lie in region {region}, as the volumes do")
    if template.network and template.subnets:
        log.warning("%s.network is ignored, because %s.subnets is set: a subnet lies in a network", where, where)
    if template.network:
        check_link(f"{where}.network", template.network, "networks", "default")
    link = places.network(template.network)
    if template.network and link.startswith(mine) and not places.exists(link, template.network):
        raise ConfigError(f"{where}.network: there is no {link}. Name a network of project {places.gce.project}")


def _check_subnet_zones(template: NodeTemplate, where: str, zones: Sequence[str]) -> None:
    """Refuse subnets that leave out a zone: a node there would lie in the default network."""
    without = [zone for zone in zones if zone not in template.subnets] if isinstance(template.subnets, dict) else []
    if without:
        raise ConfigError(
            f"{where}.subnets has none for zone {', '.join(without)}, where volumes lie or may go; found some for "
            f"{', '.join(template.subnets or ())}; expected one for each of {', '.join(zones)}. Add it"
        )


def subnets_of(template: NodeTemplate) -> list[str]:
    """Return the subnets that a template names."""
    subnets = template.subnets
    if subnets is None:
        return []
    return sorted(set(subnets.values())) if isinstance(subnets, dict) else [subnets]


def _check_offered(places: Places, template: NodeTemplate, where: str, zone: str, offers: Offers) -> None:
    """Refuse a zone that offers none of a template's machine types, and types that no zone offers."""
    types = places.types_of(template)
    for name in types:
        if not offers[name]:
            raise ConfigError(f"{where}.machine_type: {_no_type(places, name, zone)}")
    if not any(zone in offers[name] for name in types):
        good = sorted(set.union(*(set(offers[name]) for name in types)))
        near = [name for name in good if region_of(name) == region_of(zone)] or good
        raise ConfigError(
            f"{where}.machine_type: {', '.join(types)} is not offered in zone {zone}. Set node.zones to some of "
            f"{', '.join(near)}"
        )


def _no_type(places: Places, name: str, zone: str) -> str:
    """Say that there is no machine type of a name, and what to do about it."""
    if is_custom(name):
        return (
            f"zone {zone} has no {name!r}. A custom type is called FAMILY-custom-CPUS-MIB, as n2-custom-4-16384; its "
            "family sets which numbers it takes. Correct them, or name a predefined type"
        )
    near = difflib.get_close_matches(name, places.names("machineTypes", zone), n=3)
    meant = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    return f"there is no {name!r} in any zone. {meant}See `gcloud compute machine-types list --zones={zone}`"


def _check_machine(
    machine: MachineType, template: NodeTemplate, where: str, disks: tuple[Mapping[str, str], int]
) -> None:
    kinds, count = disks
    if count > machine.max_disks:
        raise ConfigError(
            f"{where}.machine_type: {machine.name} takes {machine.max_disks} disks besides the one that it boots from; "
            f"each rank has {count} volumes. Use a larger machine type, or fewer mounts"
        )
    boot = template.root_type or boot_type_of(machine.name)
    if family_of(machine.name) not in FAMILIES:
        log.warning(
            "%s.machine_type: the family of %s is not known here: whether it takes disks of type %s, only its launch "
            "tells (docs/gcp.md has a table)", where, machine.name, ", ".join(sorted({boot, *kinds})),
        )  # fmt: skip
    for kind, whose in (*kinds.items(), (boot, "the disk that it boots from")):
        if not takes(machine.name, machine.cpus, kind):
            able = sorted(FAMILIES.get(family_of(machine.name), ()))
            raise ConfigError(
                f"{where}.machine_type: {machine.name} takes no disks of type {kind}, as {whose} is; its family takes "
                f"{', '.join(able)}, some of them only on large machines. Choose another type of disk or machine"
            )
    check_accelerators(machine, template, where)
