"""π from a shower of random points: a Python function on N nodes, each with a volume of its own.

Every rank throws its share of the points and counts those that fall into the circle. The tally so far lies on its
volume, so that a retry goes on where the attempt before was cut off. Without any connection all of it runs on this
machine, in seconds.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, task

from airflow_rankvol import rank_task

BATCH = 50_000


@rank_task(
    nodes="{{ params.nodes }}",
    volumes=["data-volume-${NODE_RANK}:/data_volume"],
    volume_template="{{ {'size': params.size, 'type': params.type, 'reclaim': params.reclaim} | tojson }}",
    rank_args={"retries": 1},
)
def throw(rank: int, nodes: int, volume: str, points: str, seed: str) -> dict[str, int]:
    """Throw this rank's share of the points."""
    import json
    import random
    from pathlib import Path

    tally = Path(volume, "tally.json")
    done, inside = json.loads(tally.read_text(encoding="utf-8")) if tally.exists() else (0, 0)
    share = (int(points) + rank) // nodes
    while done < share:
        dice = random.Random(f"{seed}/{rank}/{done}")
        batch = min(BATCH, share - done)
        inside += sum(dice.random() ** 2 + dice.random() ** 2 <= 1 for _ in range(batch))
        done += batch
        fresh = tally.with_suffix(".new")
        fresh.write_text(json.dumps([done, inside]), encoding="utf-8")
        fresh.replace(tally)
        print(f"{done} of {share} points")
    return {"points": done, "inside": inside}


@task
def estimate(tallies: Any) -> dict[str, Any]:
    """Add up what the ranks have counted."""
    points = sum(tally["points"] for tally in tallies)
    share = sum(tally["inside"] for tally in tallies) / points
    return {"pi": 4 * share, "give_or_take": 4 * (share * (1 - share) / points) ** 0.5, "points": points}


with DAG(
    "pi_by_rank",
    schedule=None,
    tags=["rankvol", "example"],
    doc_md=__doc__,
    params={
        "nodes": Param(3, type="integer", minimum=1, maximum=64, description="Number of ranks"),
        "points": Param(
            300_000,
            type="integer",
            minimum=1_000,
            maximum=1_000_000_000,
            description="Points of all ranks together; a node throws some millions in a second or two",
        ),
        "seed": Param(1, type="integer", minimum=0, description="The same seed gives the same points"),
        "size": Param(
            "64MB",
            type="string",
            pattern=r"^[1-9][0-9]*(MB|GB|TB)$",
            description="Size of each rank's volume; clouds give whole GB",
        ),
        "type": Param(
            None,
            type=["null", "string"],
            pattern=r"^[a-z][a-z0-9-]*$",
            description="Type of the volumes, as the cloud calls it (gp3, pd-balanced); its usual one when left empty",
        ),
        "reclaim": Param(
            "delete",
            type="string",
            enum=["delete", "delete_always", "retain"],
            description="What becomes of the volumes: gone once gathered, gone whatever happened, or kept",
        ),
    },
) as dag:
    estimate(throw(points="{{ params.points }}", seed="{{ params.seed }}"))
