"""Which of two nodes of one rank and attempt counts: first what it did, then what it has, then what it is."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from airflow_rankvol.engine.twins import chosen
from airflow_rankvol.records import Node, NodeState, Observation

from .engine_kit import Rig, a_rig


@pytest.fixture
def rig() -> Rig:
    made = a_rig(1)
    work = made.begin(0)
    made.launch(work)
    made.until_attached(work)
    return made


def one(node: Node, name: str, traits: str) -> Node:
    """Return a node with these traits: it was told to go, has reported, has ended, is younger."""
    return replace(
        node,
        id=name,
        released="released" in traits,
        exit_code=0 if "reported" in traits else None,
        state=NodeState.ENDED if "ended" in traits else NodeState.RUNNING,
        created_at=node.created_at + timedelta(minutes="younger" in traits),
    )


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("released, ended, younger", "has the volume"),
        ("reported, ended, younger", "has the volume"),
        ("has the volume, ended, younger", ""),
        ("younger", "ended"),
        ("", "younger"),
        ("has the volume, released, younger", "released"),
        ("released, younger", "released, ended"),
    ],
)
@pytest.mark.parametrize("listed_first", ["better", "worse"])
def test_the_better_one_counts_in_whatever_order_they_are_listed(
    rig: Rig, better: str, worse: str, listed_first: str
) -> None:
    (node,), (volume,) = rig.observe().nodes, rig.observe().volumes
    # Names tell nothing: the better one's comes last.
    nodes = (one(node, "z-better", better), one(node, "a-worse", worse))
    holder = next((each.id for each, traits in zip(nodes, (better, worse), strict=True) if "volume" in traits), None)
    seen = Observation(volumes=(replace(volume, attached_to=holder),), nodes=nodes)
    listed = nodes if listed_first == "better" else nodes[::-1]
    assert chosen(listed, [volume.id], seen).id == "z-better"
