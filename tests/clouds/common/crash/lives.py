"""How many nodes a rank has had, and when."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from airflow_rankvol.records import Role, Tags

#: A node that is told to end, or does so by itself, is over for the engine; for the double a moment later.
ENDING_S = 1.0


@dataclass(frozen=True)
class Life:
    """An instance from its launch to its end, in seconds of the double's clock."""

    id: str
    tags: Tags
    begun: float
    over: float = math.inf


def superfluous(lives: Iterable[Life], journal: Mapping[str, Any], *, seen: bool) -> list[str]:
    """Say which rank has had more nodes than tries, or two at once.

    Args:
        journal: how many tries each launch has had.
        seen: whether a try could see the nodes of those before it; else it may launch one beside them, which gets no
            volume.
    """
    of_rank: dict[tuple[str, str, int], list[Life]] = defaultdict(list)
    for life in sorted(lives, key=lambda life: life.begun):
        of_rank[life.tags.key, life.tags.role, life.tags.rank].append(life)
    found = []
    for (_, role, rank), nodes in of_rank.items():
        who = "gather" if role == Role.GATHER else str(rank)
        ids = [life.id for life in nodes]
        tries = journal[f"try of launch {who}"]
        if len(set(ids)) > tries:
            found.append(f"{who} had {ids} in {tries} tries")
        over = [life.over for life in nodes]
        if seen and any(life.begun + ENDING_S < max(over[:place]) for place, life in enumerate(nodes) if place):
            found.append(f"{who} had two of {ids} at once")
    return found
