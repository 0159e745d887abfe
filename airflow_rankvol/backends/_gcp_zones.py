"""Which zone a job gets that names none: chosen before its volumes exist, because they cannot follow a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from airflow_rankvol.backends._gcp_places import Places, pick
from airflow_rankvol.errors import ConfigError

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan


def choose_zone(plan: Plan, places: Places) -> str:
    """Return the zone for those ranks of a plan whose job names none.

    The connection's zone, else one of its region's that offers the most of the job's machine types; of equal ones
    always the same for the same group. How many machines a zone has left, Compute Engine tells only those who launch
    (docs/adr/0013-zones-without-capacity.md).
    """
    if places.gce.session.zone:
        return places.gce.session.zone
    job, run = plan.job, plan.identity
    templates = [job.node, *([job.gather_node] if job.gathers_on_node and job.gather_node else [])]
    types = [places.types_of(template) for template in templates]
    zones = places.zones(places.region())
    offers = places.offers([name for names in types for name in names], zones)
    if not zones:
        raise ConfigError(f"there is no zone in region {places.region()!r} that is up; correct region, or name zones")
    # A zone that has nothing for one of the nodes is worse than one that lacks some of another's list.
    zones = _best(zones, lambda zone: all(any(zone in offers[name] for name in names) for names in types))
    zones = _best(zones, lambda zone: sum(zone in offers[name] for names in types for name in names))
    return pick(zones, run.owner, run.dag_id, run.group)


def _best(zones: Sequence[str], merit: Callable[[str], int]) -> list[str]:
    most = max(map(merit, zones))
    return [zone for zone in zones if merit(zone) == most]
