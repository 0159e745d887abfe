"""How many primes there are: one job for this machine, EC2 and Compute Engine.

Each rank writes the primes of its block of the numbers onto its own volume; gather reads all volumes. The nodes need
``python3`` and nothing else, so that the clouds' default images do. Where it runs is the connection's and the node
template's business alone, and both are Params: the same file runs

- here: as it is;
- on AWS: ``{"conn_id": "aws_default", "node": {"machine_type": "m7i.large"}}``;
- on GCP: ``{"conn_id": "google_cloud_default", "node": {"machine_type": "n2-standard-2"}}``.

The result is the same wherever it ran.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param

from airflow_rankvol import rank_job

with DAG(
    "primes_anywhere",
    schedule=None,
    tags=["rankvol", "example"],
    doc_md=__doc__,
    params={
        "conn_id": Param(
            "rankvol_default", type="string", minLength=1, description="Connection, whose type says where it runs"
        ),
        "node": Param(
            {}, type="object", description="Node template: what such a node is there, as in the DAG's documentation"
        ),
        "nodes": Param(4, type="integer", minimum=1, maximum=256, description="Number of ranks"),
        "size": Param(
            "10GB",
            type="string",
            pattern=r"^[1-9][0-9]*(GB|TB)$",
            description="Size of each rank's volume, in whole GB",
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
        "limit": Param(
            200_000, type="integer", minimum=3, maximum=10_000_000, description="The numbers are those below this one"
        ),
    },
) as dag:
    rank_job(
        "primes",
        conn_id="{{ params.conn_id }}",
        node="{{ params.node | tojson }}",
        nodes="{{ params.nodes }}",
        volumes=["primes-${NODE_RANK}:/primes"],
        volume_template="{{ {'size': params.size, 'type': params.type, 'reclaim': params.reclaim} | tojson }}",
        files={"primes.py": "include/primes.py"},
        commands=["python3 primes.py find {{ params.limit }} $VOLUME_PATH/primes.txt"],
        gather=["python3 primes.py merge $RANKS_PATH/*/primes/primes.txt"],
    )
