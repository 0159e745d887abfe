"""How much faster 64 volumes are created than by a loop over CreateVolume, each call taking 200 ms on its way.

Run it with ``python -m benchmarks.create_volumes`` in the checkout. It starts the double of EC2 (tests/clouds/aws),
whose request buckets are those of an account, and whose volumes take as long as EC2's until they are available. The
backend has the settings that are shipped.

Two times are taken of each way. Until all calls are accepted: ``provision`` has looked for what exists by then, the
loop has not. And until all volumes are available and tagged as handed out, which is when the task ``create_volumes``
ends: EC2 itself takes most of that time, so there the ratio is a smaller one.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_rankvol.backends._aws_connection import Clients
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.backends.base import VolumeRequest
from airflow_rankvol.backends.settings import Settings
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.plan import Plan, RunIdentity, make_plan
from airflow_rankvol.records import Volume
from airflow_rankvol.spec.job import RankJob
from tests.clouds.aws.client import Double

VOLUMES = 64
LATENCY_S = 0.2
ZONE = "us-east-1a"
#: What has to come out of the time until all are accepted, on a machine that does nothing else.
PROMISED = 10.0
#: What EC2 takes, about, until it shows a volume as available; it may show it as it was before for so long.
AVAILABLE_S, VISIBLE_S = 2.0, 1.0
#: The loop looks as often, in seconds, until its volumes are available.
LOOP_LOOKS_S = 1.0


@dataclass(frozen=True)
class Times:
    """Seconds since the beginning until all volumes were accepted, and until all were available and tagged."""

    accepted_s: float
    available_s: float


class TimedBackend(AwsBackend):
    """Notes when the last volume was accepted."""

    accepted_at = 0.0

    def create_volume(self, request: VolumeRequest) -> Volume:
        """Create a volume."""
        made = super().create_volume(request)
        self.accepted_at = time.monotonic()
        return made


def main() -> None:
    """Create the volumes both ways, and print the times and their ratios."""
    with tempfile.TemporaryDirectory() as folder, Double(Path(folder)) as double:
        double.settings(latency_s={"*": LATENCY_S}, create_volume_s=AVAILABLE_S - VISIBLE_S, visible_s=VISIBLE_S)
        loop = by_loop(double)
        ours = by_provision(double)
        refused = [call["code"] for call in double.calls() if call["code"]]
    if refused:
        sys.exit(f"the double refused {len(refused)} calls, expected none: {sorted(set(refused))}")
    print(f"{VOLUMES} volumes, {LATENCY_S * 1000:.0f} ms a call, available after {AVAILABLE_S:g} s; no call refused")
    print("                          all accepted   all available and tagged")
    print(f"a loop over CreateVolume: {loop.accepted_s:10.2f} s {loop.available_s:12.2f} s")
    print(f"provision():              {ours.accepted_s:10.2f} s {ours.available_s:12.2f} s")
    ratio = loop.accepted_s / ours.accepted_s
    print(f"ratio:                    {ratio:10.1f}   {loop.available_s / ours.available_s:12.1f}")
    if ratio < PROMISED:
        sys.exit(f"the ratio is below the {PROMISED:.0f} that is promised; is the machine doing something else?")


def by_loop(double: Double) -> Times:
    """Return the times of a plain loop, which then waits for its volumes and tags them."""
    client = double.boto3("ec2")
    client.describe_availability_zones()  # the connection is there
    started = time.monotonic()
    ids = [client.create_volume(AvailabilityZone=ZONE, Size=1, VolumeType="gp3")["VolumeId"] for _ in range(VOLUMES)]
    accepted_s = time.monotonic() - started
    wanted = [{"Name": "volume-id", "Values": ids}, {"Name": "status", "Values": ["available"]}]
    while len(client.describe_volumes(Filters=wanted)["Volumes"]) < VOLUMES:
        time.sleep(LOOP_LOOKS_S)
    client.create_tags(Resources=ids, Tags=[{"Key": "given", "Value": "1"}])
    return Times(accepted_s, time.monotonic() - started)


def by_provision(double: Double) -> Times:
    """Return the times of the engine for the same, from buckets that are full again."""
    double.advance(60)
    extra: dict[str, Any] = double.connection_extra()
    backend = TimedBackend(Clients(Settings("aws_bench", "aws", extra, "testing", "testing")))
    backend.places.zones()  # the connection is there
    started = time.monotonic()
    slots = provision(backend, a_plan(), generation=1)
    available_s = time.monotonic() - started
    made = {volume.id for slot in slots for volume in slot.volumes}
    if len(made) != VOLUMES:
        sys.exit(f"expected {VOLUMES} volumes, found {len(made)}")
    return Times(backend.accepted_at - started, available_s)


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
