"""Which zone a job gets that names none: chosen before its volumes exist, because they cannot follow a node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from airflow_rankvol.backends._gcp_launch import takes_accelerators
from airflow_rankvol.backends._gcp_places import Offers, Places, pick
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.templates import NodeTemplate

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan


def choose_zone(plan: Plan, places: Places) -> str:
    """Return the zone for those ranks of a plan whose job names none.

    The connection's zone, else one of its region's that offers the most of the job's machine types, with the
    accelerators that these are given; of equal ones always the same for the same group. How many machines a zone has
    left, Compute Engine tells only those who launch
    (docs/adr/0013-zones-without-capacity.md).
    """
    if places.gce.session.zone:
        return places.gce.session.zone
    job, run = plan.job, plan.identity
    templates = [job.node, *([job.gather_node] if job.gathers_on_node and job.gather_node else [])]
    types = [places.types_of(template) for template in templates]
    zones = places.zones(places.region())
    if not zones:
        raise ConfigError(f"there is no zone in region {places.region()!r} that is up; correct region, or name zones")
    # A zone that cannot be reached is none to choose.
    offers = places.offers([name for names in types for name in names], zones, whole=False)
    offered = [_offered(places, template, offers, zones) for template in templates]
    # A zone that has nothing for one of the nodes is worse than one that lacks some of another's list.
    zones = _best(zones, lambda zone: all(any(zone in there for there in nodes) for nodes in offered))
    zones = _best(zones, lambda zone: sum(zone in there for nodes in offered for there in nodes))
    return pick(zones, run.owner, run.dag_id, run.group)


def _offered(places: Places, template: NodeTemplate, offers: Offers, zones: Sequence[str]) -> list[Collection[str]]:
    """Return for each machine type of a template the zones that have it, with its accelerators."""
    found: list[Collection[str]] = []
    for name in places.types_of(template):
        there: Collection[str] = offers[name]
        if takes_accelerators(template, name):
            cards = places.cards(str(template.accelerator), zones, whole=False)
            there = [zone for zone in there if zone in cards]
        found.append(there)
    return found


def _best(zones: Sequence[str], merit: Callable[[str], int]) -> list[str]:
    most = max(map(merit, zones))
    return [zone for zone in zones if merit(zone) == most]
