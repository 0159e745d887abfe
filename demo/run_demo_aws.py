"""Run the example DAG ``flights_on_aws`` once, against a double of EC2 whose nodes really run: ``make demo-aws``.

The double is a process of its own on 127.0.0.1, with an EBS volume and an instance for every rank: a disk with a file
system, and a machine with root, processes and network of its own. Airflow's home and the double's state are
``.airflow/aws`` in the checkout; the result is fetched from the double's S3 to ``demo/output-aws``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console

from demo.run_demo import ROOT, Outcome, alone, environment, explain, left_behind, output_to, run_dag, show
from tests.clouds.aws.client import Double
from tests.clouds.nodes.host import why_not
from tests.clouds.nodes.kit import leftovers
from tests.clouds.nodes.packages import flights, why_no_aws_cli, why_no_flights

DAG, CONN_ID = "flights_on_aws", "aws_default"
BUCKET, PREFIX = "flights-demo", "2013"
FILES = ("flights.parquet", "report.md", "flights.png")
MOST_NODES = 26  # the gather node, of type m6i.large or larger, takes so many volumes besides its root's
CANNOT = 2


def make_account(double: Double) -> dict[str, Any]:
    """Make what the DAG's doc asks for: a bucket, a profile and an image; return the params that name them."""
    double.boto3("s3").create_bucket(Bucket=BUCKET)
    iam = double.boto3("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam.create_role(RoleName="flights", AssumeRolePolicyDocument=document)
    iam.create_instance_profile(InstanceProfileName="flights")
    iam.add_role_to_instance_profile(InstanceProfileName="flights", RoleName="flights")
    image = double.boto3("ec2").register_image(Name="flights")["ImageId"]
    double("layers", image=image, layers={place: str(folder) for place, folder in flights().items()})
    double.boto3("ssm").put_parameter(Name="/flights/image", Value=image, Type="String")
    result = f"s3://{BUCKET}/{PREFIX}"
    return {"result": result, "image": "ssm:/flights/image", "instance_profile": "flights"}


def settings(home: Path, double: Double) -> dict[str, str]:
    """Return the settings of an Airflow whose AWS is the double."""
    connection = json.loads(double.env()["AIRFLOW_CONN_AWS_DEFAULT"])
    connection["extra"]["poll_interval"] = 0.5
    return {
        **environment(home, ""),
        **double.env(),
        "AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection),
        "AIRFLOW__RANKVOL__OWNER": "demo",
    }


def fetch(double: Double, folder: Path) -> None:
    """Download the result."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        double.boto3("s3").download_file(BUCKET, f"{PREFIX}/{name}", str(folder / name))


def formatted(state: Path) -> int:
    """Return how many disks the nodes have made a file system on, by what they wrote on their consoles."""
    consoles = [path.read_text(encoding="utf-8", errors="replace") for path in state.glob("host/nodes/*/console.log")]
    return len(set(re.findall(r"formatting the new, blank volume \S+ \((vol-\w+)\)", "".join(consoles))))


def differences(found: Path, home: Path) -> int:
    """Return how many rows of the statistics differ from those of one process that aggregates all flights."""
    direct = home / "direct"
    script = ROOT / "dags/include/flights_merge.py"
    command = [sys.executable, str(script), "--direct", "--out", str(direct)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"MPLCONFIGDIR": str(home / "mpl")})
    with duckdb.connect() as database:
        for name, folder in (("found", found), ("direct", direct)):
            database.read_parquet(str(folder / FILES[0])).create(name)
        differ = "(FROM found EXCEPT ALL FROM direct) UNION ALL (FROM direct EXCEPT ALL FROM found)"
        return len(database.execute(differ).fetchall())


@contextlib.contextmanager
def running_double(state: Path) -> Iterator[Double]:
    """Run the double, below a directory that is empty before and gone afterwards.

    Raises:
        RuntimeError: something of it stays.
    """
    shutil.rmtree(state, ignore_errors=True)
    with Double(state, nodes=True) as double:
        yield double
    if left := leftovers(state):
        raise RuntimeError(f"left by the double: {', '.join(left)}")
    shutil.rmtree(state)


def run(console: Console, home: Path, nodes: int, out: Path) -> bool:
    """Run the DAG; say what happened, and whether all is well."""
    log = home / "demo.log"
    started = time.monotonic()
    with running_double(home / "double") as double:
        os.environ.update(settings(home, double))
        params = {"nodes": nodes, **make_account(double)}
        with output_to(log):
            outcome = run_dag(DAG, params, CONN_ID)
        show(console, DAG, outcome, time.monotonic() - started)
        console.print(f"Disks that nodes formatted and mounted: {formatted(double.state_dir)}")
        console.print(f"Left behind: {left_behind(CONN_ID)}")
        if outcome.state != "success":
            explain(console, outcome, log)
            return False
        fetch(double, out)
    return told(console, home, out, outcome)


def told(console: Console, home: Path, out: Path, outcome: Outcome) -> bool:
    """Say where the result is, and whether it is right."""
    different = differences(out, home)
    console.print(f"Fetched from {outcome.gathered['parquet'].rpartition('/')[0]} to {out}", soft_wrap=True)
    if different:
        console.print(f"{different} rows differ from what one process computes from all flights: this is a bug.")
        return False
    console.print("The totals equal the local demo's, which are those of one process, to the last bit.")
    return True


def cannot() -> str:
    """Return why this machine cannot run nodes, or nothing."""
    if os.geteuid() != 0:
        return "nodes with disks, mounts and a network of their own need root. `make demo` runs as anybody"
    return why_not() or why_no_aws_cli() or why_no_flights()


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(prog="demo-aws", description="Run the example DAG flights_on_aws on a double.")
    parser.add_argument("--nodes", type=int, default=4, help=f"number of ranks, 1 to {MOST_NODES}")
    parser.add_argument("--out", type=Path, default=ROOT / "demo" / "output-aws", help="directory for the result")
    parser.add_argument("--home", type=Path, default=ROOT / ".airflow" / "aws", help="Airflow's and the double's")
    args = parser.parse_args()
    if not 1 <= args.nodes <= MOST_NODES:
        parser.error(f"--nodes {args.nodes}: 1 to {MOST_NODES} are allowed; with more, gather would work in parts")
    console = Console()
    console.width = max(console.width, 100)
    home = args.home.resolve()
    console.print(f"Running {DAG} with {args.nodes} nodes; the log is in {home / 'demo.log'} …", soft_wrap=True)
    if reason := cannot():
        console.print(f"The demo of AWS cannot run here: {reason}.", markup=False, soft_wrap=True)
        return CANNOT
    home.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the double is ended
    try:
        with alone(home):
            return 0 if run(console, home, args.nodes, args.out.resolve()) else 1
    except Exception as exc:  # noqa: BLE001  # the log has the traceback; people need the reason
        console.print(f"The run did not come to an end: {exc}\nThe log is in {home / 'demo.log'}", markup=False)
        return 1


if __name__ == "__main__":
    sys.exit(main())
