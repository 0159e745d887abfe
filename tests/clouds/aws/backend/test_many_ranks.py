"""Many ranks on the double: what a large run costs in calls, and that it earns no throttling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path

import pytest

from airflow_rankvol.backends._aws_connection import DEFAULT_POLL_INTERVAL_S, Clients
from airflow_rankvol.backends._aws_memory import Memory
from airflow_rankvol.backends._aws_rate import Limiter
from airflow_rankvol.backends.aws import AwsBackend
from tests.clouds.aws.backend.kit import Lab, settings
from tests.clouds.aws.client import Double
from tests.clouds.common.fast import FastClock, large_run

#: By which parameter a rank's call is known.
ONCE = {
    "CreateVolume": itemgetter("ClientToken"),
    "RunInstances": itemgetter("ClientToken"),
    "AttachVolume": itemgetter("VolumeId"),
    "GetConsoleOutput": itemgetter("InstanceId"),
    "DeleteVolume": itemgetter("VolumeId"),
}
ASKED_ONCE = {"DescribeInstanceTypes": 1, "DescribeImages": 1}
SUCCEED = "tests.clouds.aws.backend.kit:succeed"


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Double]:
    with Double(tmp_path / "double") as double:
        double("end_nodes", script=SUCCEED, after_s=5.0, waits=True)
        # What each takes on EC2, about.
        double.settings(create_volume_s=2.0, launch_s=15.0, attach_s=2.0, shut_down_s=20.0, visible_s=2.0)
        yield double


@pytest.fixture
def backend(double: Double) -> AwsBackend:
    clock = FastClock(double)
    # However slow the machine is: a call that is given up is made again, and counted twice.
    patient = {"connect_timeout": 120, "read_timeout": 120}
    clients = Clients(
        settings(double, config_kwargs={"retries": {"total_max_attempts": 1}, "max_pool_connections": 64, **patient}),
        Limiter(now=clock.seconds, sleep=clock.sleep),
    )
    memory = Memory(clock.seconds)
    return AwsBackend(clients, poll_interval_s=DEFAULT_POLL_INTERVAL_S, clock=clock, memory=memory)


@pytest.mark.parametrize("ranks", [40, pytest.param(256, marks=pytest.mark.slow)])
def test_a_rank_costs_a_call_of_each_kind_and_looks_do_not_grow_with_their_number(
    ranks: int, double: Double, backend: AwsBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    run = large_run(Lab, backend, double, ranks)
    looks = {"DescribeVolumes", "DescribeInstances"}
    run.check_looks(looks.__contains__, capsys)
    # What a machine type and an image are is asked for once; with that, too, it is four in each interval on average.
    describes = Counter({action: n for action, n in run.counts.items() if action.startswith("Describe")})
    assert {action: n for action, n in describes.items() if action not in looks} == ASKED_ONCE
    assert describes.total() <= 4 * run.intervals
    run.check_once(ONCE)
    assert run.counts["TerminateInstances"] == 0
    # Handed out, collected; each for all of them in one call.
    assert run.counts["CreateTags"] <= 2
