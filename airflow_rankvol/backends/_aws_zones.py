"""Which zone a job gets that names none: chosen before its volumes exist, because they cannot follow a node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from airflow_rankvol.backends._aws_places import DEFAULT_TYPES, Places, pick

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan


def choose_zone(plan: Plan, places: Places) -> str:
    """Return the zone for those ranks of a plan whose job names none.

    Of the zones with a subnet for its nodes it is one that offers the most of the job's machine types, with as many
    free addresses as there are nodes; of equal ones always the same for the same group. How many machines a zone has
    left, EC2 tells only those who launch (docs/adr/0013-zones-without-capacity.md).
    """
    job, run = plan.job, plan.identity
    templates = [job.node, *([job.gather_node] if job.gathers_on_node and job.gather_node else [])]
    subnets = [template.subnets for template in templates if isinstance(template.subnets, str)]
    offers = [[*places.offers(template.machine_types or DEFAULT_TYPES).values()] for template in templates]
    zones = _with_network(places, subnets)
    zones = _best(zones, lambda zone: all(zone in t.subnets for t in templates if isinstance(t.subnets, dict)))
    # A zone that has nothing for one of the nodes is worse than one that lacks some of another's list.
    zones = _best(zones, lambda zone: all(any(zone in offered for offered in types) for types in offers))
    zones = _best(zones, lambda zone: sum(zone in offered for types in offers for offered in types))
    roomy = {subnet.zone for subnet in places.subnets(subnets) if subnet.free >= job.nodes}
    zones = _best(zones, lambda zone: zone in roomy)
    return pick(zones, run.owner, run.dag_id, run.group)


def _with_network(places: Places, subnets: Collection[str]) -> list[str]:
    """Return the zones in which the nodes have a subnet; one that is named decides."""
    named = [*places.subnet_zones([*subnets]).values()]
    return named[:1] or places.usual_zones()


def _best(zones: Sequence[str], merit: Callable[[str], int]) -> list[str]:
    most = max(map(merit, zones))
    return [zone for zone in zones if merit(zone) == most]
