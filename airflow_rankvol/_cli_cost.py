"""``rankvol cost``: what the volumes that are there have cost so far."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

from airflow_rankvol._cli_airflow import AirflowDatabase
from airflow_rankvol._cli_output import Exit, note, render
from airflow_rankvol._cli_reap import places
from airflow_rankvol._reaping import Place
from airflow_rankvol.engine.calls import patiently
from airflow_rankvol.errors import RankVolError
from airflow_rankvol.prices import PriceTable
from airflow_rankvol.spec.sizes import format_size

# What the rows of each level have in common.
_KEYS: dict[str, tuple[str, ...]] = {
    "dag": ("conn_id", "dag"),
    "run": ("conn_id", "dag", "run"),
    "group": ("conn_id", "dag", "run", "group"),
    "volume": ("conn_id", "dag", "run", "group", "rank", "name", "id", "type", "zone"),
}


def show_cost(args: argparse.Namespace, out: TextIO) -> Exit:
    """Print GiB-hours so far, and USD where the prices are known, by volume, group, run or DAG."""
    from airflow.configuration import conf

    table = PriceTable.load(conf.get("rankvol", "prices", fallback=None) or None)
    volumes, failed = [], False
    for place in places(args, AirflowDatabase()):
        try:
            volumes += list(_volumes(place, table))
        except (RankVolError, OSError) as exc:
            note(f"error: {place.conn_id}: {exc}")
            failed = True
    rows = _summed(volumes, _KEYS[args.by])
    if args.output != "table":
        out.write(render(rows, args.output) + "\n")
    elif rows:
        out.write(render([_cells(row) for row in rows], args.output) + "\n")
    elif not failed:
        out.write("none\n")
    _sum_up(volumes)
    return Exit.FAILED if failed else Exit.OK


def _volumes(place: Place, table: PriceTable) -> Iterator[dict[str, Any]]:
    backend = place.backend
    now = backend.clock.now()
    for volume in patiently(backend, backend.list_owned, place.selector).volumes:
        tags = volume.tags
        if tags is None or tags.owner != place.selector.owner:
            continue
        cost = table.cost(volume, backend.name, now)
        yield {
            "conn_id": place.conn_id,
            "dag": tags.dag,
            "run": tags.run,
            "group": tags.group,
            "rank": tags.rank if tags.rank >= 0 else None,
            "name": volume.name,
            "id": volume.id,
            "type": volume.type,
            "zone": volume.zone,
            "size_gib": volume.size_gib,
            "gib_hours": cost.gib_hours,
            "usd": cost.usd,
            "unknown": cost.unknown,
        }


def _summed(volumes: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return one row for each value of the keys; its USD are unknown as soon as those of one volume are."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for volume in volumes:
        groups.setdefault(tuple(volume[key] for key in keys), []).append(volume)
    return [
        {
            **dict(zip(keys, values, strict=True)),
            "volumes": len(members),
            "size_gib": sum(member["size_gib"] for member in members),
            "gib_hours": round(sum(member["gib_hours"] for member in members), 3),
            "usd": _usd(members),
            "unknown": sorted({member["unknown"] for member in members} - {""}),
        }
        for values, members in groups.items()
    ]


def _usd(members: Sequence[Mapping[str, Any]]) -> float | None:
    known = [member["usd"] for member in members if member["usd"] is not None]
    return round(sum(known), 4) if len(known) == len(members) else None


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row as text for people."""
    texts = {**row, "size_gib": format_size(row["size_gib"]), "gib_hours": f"{row['gib_hours']:.2f}"}
    texts["usd"] = "unknown" if row["usd"] is None else f"{row['usd']:.2f}"
    names = {"size_gib": "size", "gib_hours": "GiB-hours", "usd": "USD"}
    return {names.get(key, key): "-" if text is None else str(text) for key, text in texts.items() if key != "unknown"}


def _sum_up(volumes: Sequence[Mapping[str, Any]]) -> None:
    known = [volume["usd"] for volume in volumes if volume["usd"] is not None]
    hours = sum(volume["gib_hours"] for volume in volumes)
    note(f"{len(volumes)} volumes, {hours:.2f} GiB-hours so far, USD {sum(known):.2f} for {len(known)} of them")
    for why in sorted({volume["unknown"] for volume in volumes} - {""}):
        number = sum(volume["unknown"] == why for volume in volumes)
        note(f"unknown for {number}: {why}; [rankvol] prices may name a file with it")
