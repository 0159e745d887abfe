"""Volumes that a plan finds: where they lie, its nodes have to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_rankvol.errors import ConfigError, FinalError
from airflow_rankvol.records import Tags, Volume, VolumeState
from airflow_rankvol.spec.templates import NodeTemplate

if TYPE_CHECKING:
    from airflow_rankvol.plan import Plan, PlannedSlot


@dataclass(frozen=True, slots=True)
class FoundVolume:
    """A volume of a plan that is there already."""

    name: str
    id: str
    zone: str
    type: str
    tags: Tags | None = None

    @property
    def label(self) -> str:
        """Name and id, as messages show them."""
        return f"volume {self.name} ({self.id})"


def by_name(volumes: Iterable[Volume]) -> dict[str, dict[str, FoundVolume]]:
    """Return volumes by name, then by id. One that is being deleted is none: create_volumes makes it anew."""
    found: dict[str, dict[str, FoundVolume]] = defaultdict(dict)
    for volume in volumes:
        if volume.state is not VolumeState.DELETING:
            found[volume.name][volume.id] = FoundVolume(
                volume.name, volume.id, volume.zone or "", volume.type, volume.tags
            )
    return found


#: The volumes of a plan that are there already, by name.
Found = Mapping[str, FoundVolume]


def zones_of(plan: Plan, found: Found, choose: Callable[[], str]) -> dict[int, str]:
    """Return each rank's zone: that of its volumes, else the job's, else the one of the others, as they are created.

    Args:
        choose: returns a zone for a plan that nothing gives one.

    Raises:
        ConfigError: volumes of one rank lie apart.
    """
    zones = {slot.rank: _zone_of(slot, found) or slot.zone for slot in plan.slots}
    if None not in zones.values():
        return {rank: zone for rank, zone in zones.items() if zone is not None}
    other = next((volume.zone for volume in _of(plan, found)), None) or choose()
    return {rank: zone or other for rank, zone in zones.items()}


def check_owners(plan: Plan, found: Found) -> None:
    """Refuse to adopt what another owner has made."""
    for name in plan.volume_names:
        volume = found.get(name)
        if volume and volume.tags and volume.tags.owner != plan.identity.owner:
            raise ConfigError(
                f"{volume.label} is owner {volume.tags.owner!r}'s, of run {volume.tags.run} of DAG {volume.tags.dag}; "
                f"expected no owner's, or {plan.identity.owner!r}'s. Rename the volume in the job"
            )


def check_subnets(plan: Plan, found: Found, zones_of_subnets: Callable[[NodeTemplate], Collection[str]]) -> None:
    """Refuse subnets that leave out the zone of a volume that is there: its node can lie nowhere else.

    Args:
        zones_of_subnets: returns the zones that a template's subnets are for; none where they may be for any.
    """
    job = plan.job
    templates = {"node": job.node, **({"gather_node": job.gather_node} if job.gathers_on_node else {})}
    for where, template in templates.items():
        have = zones_of_subnets(template) if template is not None and template.subnets else ()
        outside = next((volume for volume in _of(plan, found) if have and volume.zone not in have), None)
        if outside:
            raise ConfigError(
                f"{where}.subnets: {outside.label} lies in zone {outside.zone}, and its node has to lie there, too; "
                f"found subnets of {', '.join(sorted(have))}, expected one of {outside.zone}. Add it, as in "
                f"subnets={{{outside.zone!r}: …}}, or name a volume of another zone"
            )


def subnet_in(template: NodeTemplate, zone: str | None, backend: str) -> str | None:
    """Return the subnet of a node that is to lie in a zone; None where the cloud chooses.

    Raises:
        FinalError: the job names subnets, and none for that zone: the node would lie in the default network.
    """
    subnet = template.subnet_of(zone)
    if subnet is None and template.subnets:
        raise FinalError(
            f"subnets has none for zone {zone}, where its volumes lie; found some for {', '.join(template.subnets)}. "
            "Add it to NodeTemplate.subnets, then clear this task",
            backend=backend, verb="create_node", resource=str(zone),
        )  # fmt: skip
    return subnet


def _zone_of(slot: PlannedSlot, found: Found) -> str | None:
    there = [found[volume.name] for volume in slot.volumes if volume.name in found]
    apart = next((volume for volume in there if volume.zone != there[0].zone), None)
    if apart:
        raise ConfigError(
            f"rank {slot.rank}: {there[0].label} lies in zone {there[0].zone}, {apart.label} in {apart.zone}; a node "
            "has volumes of its own zone only. Name volumes of one zone for it, or let one of them be made anew"
        )
    return there[0].zone if there else None


def _of(plan: Plan, found: Found) -> Iterator[FoundVolume]:
    """Return what is found of a plan, rank by rank."""
    return (found[volume.name] for volume in plan.volumes() if volume.name in found)
