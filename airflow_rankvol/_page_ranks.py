"""The ranks of one group, and the bar of each on the time axis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from airflow_rankvol._page_groups import Found, costs_of, plain_item
from airflow_rankvol._page_runs import RankTask, Step
from airflow_rankvol.prices import Cost, PriceTable
from airflow_rankvol.records import NodeState, Role, Volume, VolumeState, from_iso, to_iso

#: What a rank does from one of its result's events to the next.
_PARTS = ("create", "launch", "attach", "run")
Span = tuple[str, datetime, datetime | None]


def detail(
    group: Found,
    tasks: Sequence[RankTask],
    slots: Sequence[Mapping[str, Any]],
    prices: PriceTable,
    backends: Mapping[str, str],
    now: datetime,
) -> dict[str, Any]:
    """Return every rank of a group, and what belongs to none (a gather node).

    Args:
        slots: what ``create_volumes`` pushed.
        backends: the backend's name of each connection that was looked at just now, without a problem.
    """
    by_rank: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for item in group.items:
        row = plain_item(item, prices, now)
        by_rank[-1 if row.get("role") == Role.GATHER else row["rank"]].append(row)
    of_task = {task.rank: task for task in tasks}
    of_slot = {slot["rank"]: slot for slot in slots if isinstance(slot.get("rank"), int)}
    late = _common(group, now)
    backend = next((backends[conn] for conn in group.conn_ids if conn in backends), "")
    looked = bool(backend) and backends.keys() >= {*group.conn_ids}
    ranks = sorted({*by_rank, *of_task, *of_slot} - {-1})
    rows = []
    for rank in ranks:
        row = _rank(rank, by_rank[rank], of_task.get(rank), of_slot.get(rank, {}), looked=looked)
        spans = [*_spans(row, of_task.get(rank), now), *late]
        if not by_rank[rank]:
            row |= costs_of(_past(row, spans, backend, prices))
        rows.append({**row, "spans": [(kind, to_iso(start), to_iso(end)) for kind, start, end in spans]})
    return {"ranks": rows, "others": by_rank[-1]}


def _rank(
    rank: int, items: list[dict[str, Any]], task: RankTask | None, slot: Mapping[str, Any], *, looked: bool
) -> dict[str, Any]:
    result = (task.result if task else None) or {}
    volumes = [item for item in items if item["kind"] == "volume"]
    nodes = sorted((item for item in items if item["kind"] == "node"), key=lambda item: item["attempt"])
    known = [Cost(item["gib_hours"], item["usd"], "; ".join(item["unknown"])) for item in volumes]
    return {
        "rank": rank,
        "task": task.state if task else None,
        "attempt": result.get("attempt") or max((node["attempt"] for node in nodes), default=None)
        or (task.try_number if task else None),
        "exit_code": result.get("exit_code"),
        "events": _events(result),
        "zone": next((item["zone"] for item in items if item["zone"]), slot.get("zone")),
        "volumes": volumes or _told(result.get("volumes") or slot.get("volumes"), looked=looked),
        "nodes": nodes,
        **costs_of(known),
    }  # fmt: skip


def _told(volumes: Any, *, looked: bool) -> list[dict[str, Any]]:
    """Return volumes that were not seen as the tasks told of them; an XCom may have been changed by hand.

    Those that exist are gone only where somebody has looked; adopted ones carry no tags by which they would be seen.
    """
    return [
        {
            "kind": "volume",
            "id": str(volume.get("id") or ""),
            "name": str(volume.get("name") or ""),
            "state": _state(volume, looked=looked),
            "size_gib": size if isinstance(size := volume.get("size_gib"), int | float) else None,
            "type": str(volume.get("type") or "") or None,
        }
        for volume in (volumes if isinstance(volumes, list) else [])
        if isinstance(volume, Mapping)
    ]


def _state(volume: Mapping[str, Any], *, looked: bool) -> str:
    if not volume.get("id"):
        return "planned"
    return "gone" if looked and not volume.get("adopted") else "unknown"


def _events(result: Mapping[str, Any]) -> dict[str, str]:
    events = result.get("events")
    return {str(name): str(at) for name, at in events.items()} if isinstance(events, Mapping) else {}


def _spans(row: Mapping[str, Any], task: RankTask | None, now: datetime) -> list[Span]:
    """Return what a rank did and when: by its result once it has one, until then by what is there."""
    if row["events"].get("finish") or row["events"].get("launch"):
        return _told_spans(row["events"])
    created = min((item["created"] for item in row["volumes"] if item.get("created")), default="")
    launched = max((item["created"] for item in row["nodes"]), default="")
    start, up = _time(created), _time(launched)
    spans: list[Span] = []
    if start:
        spans.append(("create", start, max(up, start) if up else None))
    if up:
        over = all(node["state"] == NodeState.ENDED for node in row["nodes"])
        end = (task.end if task and task.end else now) if over else None
        attached = max(filter(None, (_time(item.get("attached", "")) for item in row["volumes"])), default=None)
        # A volume that is kept was attached to nodes before this one, too.
        holds = max(attached, up) if attached and attached >= up else None
        if holds or not over:
            spans.append(("launch", up, holds))
        if holds or over:
            spans.append(("up", holds or up, end))
    return spans


def _told_spans(events: Mapping[str, str]) -> list[Span]:
    times = [(name, _time(events.get(name, ""))) for name in (*_PARTS, "finish")]
    known = [(name, at) for name, at in times if at]
    spans: list[Span] = []
    for (name, start), (_, end) in pairwise(known):
        # A rank that was taken over from its record has finished before its last node was launched.
        if end >= start:
            spans.append((name, start, end))
    return spans


def _common(group: Found, now: datetime) -> list[Span]:
    steps = group.job.steps if group.job else {}
    found = ((name, steps.get(name)) for name in ("gather", "delete"))
    return [(name, step.start, _end(step, now)) for name, step in found if step and step.start]


def _end(step: Step, now: datetime) -> datetime | None:
    if set(step.states) <= {"success", "failed"}:
        return step.end or now
    return None


def _past(row: Mapping[str, Any], spans: Sequence[Span], backend: str, prices: PriceTable) -> list[Cost]:
    """Return what volumes have cost that are gone: from their creation until they were deleted."""
    start = _time(row["events"].get("create", ""))
    ends = [end for kind, _, end in spans if kind == "delete" and end]
    if not start or not ends:
        return []
    return [
        prices.cost(
            Volume(
                id=str(item["id"]),
                name=str(item["name"]),
                state=VolumeState.DELETING,
                size_gib=float(item["size_gib"]),
                type=item["type"] or "",
                created_at=start,
                zone=row["zone"],
            ),
            backend,
            ends[-1],
        )
        for item in row["volumes"]
        if item.get("size_gib") and item["state"] == "gone"
    ]


def _time(text: str) -> datetime | None:
    try:
        return from_iso(text)
    except ValueError:  # an XCom may be changed by anybody who may change the DAG
        return None
