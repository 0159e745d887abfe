"""What the nodes of a plan need of the region: zones, machine types, images, networks, attachments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_rankvol.backends._aws_launch import DEFAULT_ROOT_TYPE, Machine, report_tags, tag_count
from airflow_rankvol.backends._aws_places import Places
from airflow_rankvol.backends._aws_wire import MAX_GO_NODES, MAX_PARTS, fits_metadata
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.records import Tags
from airflow_rankvol.spec.templates import NodeTemplate

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan

MAX_TAGS = 50
ROOT_TYPES = ("gp3", "gp2")


def check_nodes(plan: Plan, places: Places, zones: Mapping[int, str]) -> list[tuple[NodeTemplate, Machine]]:
    """Refuse nodes that the region cannot give; return one of each kind, for a trial.

    Args:
        zones: each rank's zone.
    """
    job = plan.job
    used = sorted(set(zones.values()))
    _check_zones(places, used)
    together = len(job.commands) > 0 and job.rendezvous
    if together and job.nodes > MAX_GO_NODES:
        raise ConfigError(f"rendezvous: {job.nodes} nodes; on AWS at most {MAX_GO_NODES} start together")
    machines = [(job.node, _check_node(places, job.node, "node", used, together=together))]
    if job.gathers_on_node and job.gather_node is not None:
        # Where a zone has no room, its ranks' volumes go to the next one named.
        _check_subnet_zones(job.gather_node, "gather_node", sorted({*used, *job.node.effective_zones}))
        machines.append((job.gather_node, _check_node(places, job.gather_node, "gather_node", used, together=False)))
    for (template, _), where in zip(machines, ("node", "gather_node"), strict=False):
        # gather splits into parts where a node cannot hold all volumes, but one rank's have to be on one node.
        _check_attachments(places, template, where, len(job.volumes))
    return machines


def _check_zones(places: Places, used: Sequence[str]) -> None:
    known = places.all_zones()
    for zone in used:
        if zone not in known:
            raise ConfigError(
                f"node.zones: {zone!r} is no zone of this account's region; expected some of "
                f"{', '.join(places.zones())}"
            )


def _check_node(places: Places, template: NodeTemplate, where: str, zones: Sequence[str], *, together: bool) -> Machine:
    """Check one template in every zone that it is used in; return it in the first."""
    _check_fields(template, where, together=together)
    _check_subnet_zones(template, where, zones)
    _check_network(places, template, where, zones)
    first = {zone: _first_offered(places, template, where, zone) for zone in zones}
    machine_type = first[zones[0]]
    image = places.image(template.image, machine_type)
    _check_architectures(places, template, where)
    size_gib = template.root_size_gib
    if size_gib is not None and size_gib < image.root_size_gib:
        raise ConfigError(
            f"{where}.root_size: {template.root_size}; image {image.id} needs at least {image.root_size_gib} GiB"
        )
    return Machine(machine_type, image, zones[0])


def _check_architectures(places: Places, template: NodeTemplate, where: str) -> None:
    """Refuse machine types that do not boot the image: a launch that comes to one would fail for good."""
    for name in places.types_of(template, None):
        if not places.machine_type(name).nvme:
            raise ConfigError(
                f"{where}.machine_type: {name} shows volumes not as NVMe devices, by which nodes find theirs; expected "
                "a type of the Nitro system. Choose a newer one, such as t3.micro for t2.micro"
            )
        image, found = places.image(template.image, name), places.machine_type(name).architectures
        if image.architecture not in found:
            raise ConfigError(
                f"{where}.machine_type: {name} boots images of {' or '.join(found)}, and {where}.image "
                f"{template.image or image.id} is one of {image.architecture}; expected types that boot it. Name only "
                "such, another image, or none: then each type gets Amazon Linux of its own architecture"
            )


def _check_fields(template: NodeTemplate, where: str, *, together: bool) -> None:
    root_type = template.root_type or DEFAULT_ROOT_TYPE
    # "You can't use st1 or sc1 EBS volumes as root volumes" (EC2 User Guide, "Root volumes").
    if root_type not in ROOT_TYPES:
        raise ConfigError(f"{where}.root_type: {root_type!r} was found; expected one of {', '.join(ROOT_TYPES)}")
    if "Name" in template.tags:
        raise ConfigError(f"{where}.tags: 'Name' is the node's name in the console, and set here. Use another key")
    for key in template.tags:
        if not fits_metadata(key):
            raise ConfigError(
                f"{where}.tags: {key!r}; a node reads its tags from its metadata service, which takes letters, digits "
                "and + - = . , _ : @ in their names"
            )
    count = tag_count(template.tags, Tags(owner="", dag="", run="", group="", key=""))
    count += len(report_tags(template)) + (MAX_PARTS + 1 if together else 0)
    if count > MAX_TAGS:
        raise ConfigError(f"{where}.tags: {count} tags, ours included; EC2 takes {MAX_TAGS}. Leave some out")


def _check_subnet_zones(template: NodeTemplate, where: str, zones: Sequence[str]) -> None:
    """Refuse subnets that leave out a zone: a node there would lie in the default VPC."""
    without = [zone for zone in zones if zone not in template.subnets] if isinstance(template.subnets, dict) else []
    if without:
        raise ConfigError(
            f"{where}.subnets has none for zone {', '.join(without)}, where volumes lie or may go; found some for "
            f"{', '.join(template.subnets or ())}; expected one for each of {', '.join(zones)}. Add it, or set "
            "node.zones to zones that have one"
        )


def _check_network(places: Places, template: NodeTemplate, where: str, zones: Sequence[str]) -> None:
    subnets = template.subnets
    if subnets is None:
        without = [zone for zone in zones if zone not in places.default_subnet_zones()]
        if without:
            raise ConfigError(
                f"{where}.subnets is not set, and the region has no default subnet in {', '.join(without)}. Name a "
                f"subnet of each zone, as in subnets={{{without[0]!r}: 'subnet-…'}}"
            )
    else:
        wanted = subnets if isinstance(subnets, dict) else dict.fromkeys(zones, subnets)
        there = places.subnet_zones(list(wanted.values()))
        for zone, subnet in wanted.items():
            if subnet not in there:
                raise ConfigError(f"{where}.subnets: there is no subnet {subnet} in this account's region")
            if there[subnet] != zone:
                raise ConfigError(
                    f"{where}.subnets: {subnet} lies in {there[subnet]}, the volumes in {zone}. Set "
                    f"node.zones={there[subnet]!r}, or name a subnet of {zone}"
                )
    missing = places.missing_security_groups(template.security_groups) if template.security_groups else []
    if missing:
        raise ConfigError(
            f"{where}.security_groups: there is no {', '.join(missing)} in this account's region; expected ids (sg-…)"
        )


def _first_offered(places: Places, template: NodeTemplate, where: str, zone: str) -> str:
    """Return the first machine type of a template that a zone offers."""
    types = places.types_of(template, zone)
    offers = places.offers(types)
    for name in types:
        if not offers[name]:
            raise ConfigError(
                f"{where}.machine_type: there is no {name!r} in this region. See `aws ec2 describe-instance-types`"
            )
    offered = next((name for name in types if zone in offers[name]), None)
    if offered is None:
        good = sorted(set.intersection(*(set(offers[name]) for name in types)))
        raise ConfigError(
            f"{where}.machine_type: {', '.join(types)} is not offered in zone {zone}. Set node.zones to some of "
            f"{', '.join(good) or 'the zones that offer one of them'}"
        )
    return offered


def _check_attachments(places: Places, template: NodeTemplate, where: str, count: int) -> None:
    limit = places.attachments(template)
    if count > limit:
        raise ConfigError(
            f"{where}.machine_type: such a node takes {limit} volumes besides its image's, and gets the {count} of a "
            "rank. Use a larger machine type, or fewer mounts"
        )
