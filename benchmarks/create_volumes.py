"""How much faster 64 volumes are created than by a loop over CreateVolume, each call taking 200 ms on its way.

Run it with ``python -m benchmarks.create_volumes`` in the checkout. It starts the double of EC2 (tests/clouds/aws),
whose request buckets are those of an account. The loop only creates; ``provision`` also looks for what exists, waits
until all volumes are available, and tags them as handed out, which is what the task ``create_volumes`` does.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.plan import Plan, RunIdentity, make_plan
from airflow_rankvol.spec.job import RankJob
from tests.clouds.aws.client import Double

VOLUMES = 64
LATENCY_S = 0.2
ZONE = "us-east-1a"
#: What has to come out on a machine that does nothing else.
PROMISED = 10.0
#: In the double a new volume is available within milliseconds; in EC2, after a second or two.
POLL_INTERVAL_S = 0.05


def main() -> None:
    """Create the volumes both ways, and print the times and their ratio."""
    with tempfile.TemporaryDirectory() as folder, Double(Path(folder)) as double:
        loop_s = by_loop(double)
        ours_s = by_provision(double)
        refused = [call["code"] for call in double.calls() if call["code"]]
    if refused:
        sys.exit(f"the double refused {len(refused)} calls, expected none: {sorted(set(refused))}")
    print(f"{VOLUMES} volumes, {LATENCY_S * 1000:.0f} ms a call, no call refused")
    print(f"a loop over CreateVolume: {loop_s:6.2f} s")
    print(f"provision():              {ours_s:6.2f} s, all available and tagged")
    ratio = loop_s / ours_s
    print(f"ratio:                    {ratio:6.1f}")
    if ratio < PROMISED:
        sys.exit(f"the ratio is below the {PROMISED:.0f} that is promised; is the machine doing something else?")


def by_loop(double: Double) -> float:
    """Return the seconds that a plain loop takes."""
    client = double.boto3("ec2")
    double.settings(latency_s={"*": LATENCY_S})
    client.describe_availability_zones()  # the connection is there
    started = time.monotonic()
    for _ in range(VOLUMES):
        client.create_volume(AvailabilityZone=ZONE, Size=1, VolumeType="gp3")
    return time.monotonic() - started


def by_provision(double: Double) -> float:
    """Return the seconds that the engine takes for the same, from buckets that are full again."""
    double.advance(60)
    double.settings(latency_s={"*": LATENCY_S})
    extra: dict[str, Any] = double.connection_extra()
    backend = AwsBackend(
        Clients(Settings("aws_bench", "aws", extra, "testing", "testing")), poll_interval_s=POLL_INTERVAL_S
    )
    backend.places.zones()  # the connection is there
    started = time.monotonic()
    slots = provision(backend, a_plan(), generation=1)
    took_s = time.monotonic() - started
    made = {volume.id for slot in slots for volume in slot.volumes}
    if len(made) != VOLUMES:
        sys.exit(f"expected {VOLUMES} volumes, found {len(made)}")
    return took_s


def a_plan() -> Plan:
    """Return the plan of a job with a volume for each rank."""
    job = RankJob.model_validate(
        {
            "nodes": VOLUMES,
            "volumes": ["data-volume-${NODE_RANK}:/data_volume"],
            "volume_template": {"size": "1GB"},
            "commands": ["true"],
            "node": {"zones": ZONE},
        }
    )
    return make_plan(job, RunIdentity("bench", "bench", "run-1", "shards"))


if __name__ == "__main__":
    main()
