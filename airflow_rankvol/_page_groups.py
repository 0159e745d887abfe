"""The groups of the page: what is there now, and what Airflow's tasks tell, as one list of plain dicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from airflow_rankvol._page_looks import Seen
from airflow_rankvol._page_runs import RunGroup, Where
from airflow_rankvol.engine.reap import Finding, RunState
from airflow_rankvol.prices import Cost, PriceTable
from airflow_rankvol.records import Node, Volume, to_iso
from airflow_rankvol.spec.templates import ReclaimPolicy, Scope

_KEEPING = (ReclaimPolicy.RETAIN, ReclaimPolicy.SNAPSHOT)


@dataclass(frozen=True)
class Item:
    """One volume or node that is there, with the verdict on it."""

    seen: Seen
    finding: Finding

    @property
    def where(self) -> Where:
        """The group it is shown in: a volume that outlives runs belongs to the one that has had it last."""
        tags = self.finding.tags
        return tags.used_dag or tags.dag, tags.used_run or tags.run, tags.group

    @property
    def orphan(self) -> bool:
        """Whether it belongs to no live run, and was not meant to outlive its run."""
        finding, tags = self.finding, self.finding.tags
        if finding.run_state is RunState.LIVE:
            return False
        return finding.kind == "node" or (tags.scope == Scope.RUN and tags.reclaim not in _KEEPING)

    def cost(self, prices: PriceTable, now: datetime) -> Cost | None:
        """What a volume has cost so far."""
        volume, place = self.finding.resource, self.seen.place
        return prices.cost(volume, place.backend.name, now) if place and isinstance(volume, Volume) else None


@dataclass
class Found:
    """One group: what is there of it, and its tasks (None where Airflow does not have the run, or any more)."""

    where: Where
    items: list[Item] = field(default_factory=list)
    job: RunGroup | None = None

    @property
    def volumes(self) -> list[tuple[Item, Volume]]:
        """Its volumes."""
        return [(item, item.finding.resource) for item in self.items if isinstance(item.finding.resource, Volume)]

    @property
    def nodes(self) -> list[tuple[Item, Node]]:
        """Its nodes."""
        return [(item, item.finding.resource) for item in self.items if isinstance(item.finding.resource, Node)]

    @property
    def conn_ids(self) -> list[str]:
        """The connections it was found with, else the one that its tasks name."""
        found = sorted({item.seen.conn_id for item in self.items})
        return found or ([self.job.conn_id] if self.job and self.job.conn_id else [])

    @property
    def begun(self) -> datetime | None:
        """When the first thing of it was made, or its first task began."""
        starts = [step.start for step in self.job.steps.values()] if self.job else []
        return min(filter(None, [*starts, *(item.finding.resource.created_at for item in self.items)]), default=None)


def visible(looks: Iterable[Seen], readable: Callable[[Finding], bool]) -> list[Item]:
    """Return what a user may see of what is there."""
    return [Item(seen, finding) for seen in looks for finding in seen.findings if readable(finding)]


def merge(items: Iterable[Item], jobs: Mapping[Where, RunGroup]) -> list[Found]:
    """Put what is there and what tasks tell together, the latest group first."""
    groups = {where: Found(where, job=job) for where, job in jobs.items()}
    for item in items:
        groups.setdefault(item.where, Found(item.where)).items.append(item)
    return sorted(groups.values(), key=lambda group: to_iso(group.begun), reverse=True)


def summary(group: Found, prices: PriceTable, now: datetime) -> dict[str, Any]:
    """Return what the page shows of a group at a glance."""
    dag, run, name = group.where
    costs = [cost for cost in (item.cost(prices, now) for item, _ in group.volumes) if cost]
    steps = group.job.steps if group.job else {}
    tasks = dict(steps["ranks"].states) if "ranks" in steps else {}
    return {
        "dag": dag,
        "run": run,
        "group": name,
        "conn_ids": group.conn_ids,
        "run_state": group.job.run_state if group.job else _run_state(group),
        "ranks": max(len(_ranks(group)), sum(tasks.values())),
        "tasks": tasks,
        "volumes": dict(Counter(str(volume.state) for _, volume in group.volumes)),
        "nodes": dict(Counter(str(node.state) for _, node in group.nodes)),
        "size_gib": sum(volume.size_gib for _, volume in group.volumes),
        **costs_of(costs),
        "orphans": sum(item.orphan for item in group.items),
        "removable": sum(item.finding.remove for item in group.items),
        "begun": to_iso(group.begun),
    }


def costs_of(costs: Iterable[Cost]) -> dict[str, Any]:
    """Return the sum of what volumes cost; one that is unknown makes the sum unknown."""
    every = list(costs)
    known = [cost.usd for cost in every if cost.usd is not None]
    return {
        "gib_hours": round(sum(cost.gib_hours for cost in every), 9),
        "usd": round(sum(known), 9) if every and len(known) == len(every) else None,
        "unknown": sorted({cost.unknown for cost in every} - {""}),
    }


def _ranks(group: Found) -> set[int]:
    return {item.finding.tags.rank for item in group.items if item.finding.tags.rank >= 0}


def _run_state(group: Found) -> str:
    states = {item.finding.run_state for item in group.items}
    return str(next(state for state in (RunState.LIVE, RunState.UNKNOWN, RunState.ENDED) if state in states))


def plain_item(item: Item, prices: PriceTable, now: datetime) -> dict[str, Any]:
    """Return a volume or node as the page shows it."""
    resource, tags = item.finding.resource, item.finding.tags
    row: dict[str, Any] = {
        "conn_id": item.seen.conn_id,
        "kind": item.finding.kind,
        "id": resource.id,
        "name": resource.name,
        "state": str(resource.state),
        "zone": resource.zone,
        "created": to_iso(resource.created_at),
        "expiry": tags.expiry,
        "orphan": item.orphan,
        "removable": item.finding.remove,
        "reason": item.finding.reason,
        "rank": tags.rank,
    }
    if isinstance(resource, Volume):
        cost = item.cost(prices, now)
        row |= {"size_gib": resource.size_gib, "type": resource.type, "scope": tags.scope, "reclaim": tags.reclaim}
        row |= {"attached": to_iso(resource.attached_at)}
        row |= costs_of([cost] if cost else [])
    else:
        row |= {"attempt": tags.attempt, "role": tags.role, "trouble": resource.trouble or resource.reason}
    return row
