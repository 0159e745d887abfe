"""Many ranks on the double: what a large run costs in calls, and that it earns no throttling."""

from __future__ import annotations

import asyncio
import math
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from airflow_rankvol import triggers
from airflow_rankvol.backends._aws_connection import DEFAULT_POLL_INTERVAL_S, Clients
from airflow_rankvol.backends._aws_memory import Memory
from airflow_rankvol.backends._aws_rate import Limiter
from airflow_rankvol.backends.aws import AwsBackend
from airflow_rankvol.engine.step import mark_collected
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.backend.kit import ZONE, settings
from tests.clouds.aws.client import Double
from tests.clouds.common.fast import FastClock, FastLoop, run_ranks
from tests.unit.engine.engine_kit import Rig, a_plan

ONCE = ("CreateVolume", "RunInstances", "AttachVolume", "GetConsoleOutput", "DeleteVolume")
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
    # By real time: forty threads that sleep at once move EC2's clock by forty poll intervals, and a process would have
    # forgotten what it has just launched.
    memory = Memory()
    return AwsBackend(clients, poll_interval_s=DEFAULT_POLL_INTERVAL_S, clock=clock, memory=memory)


@pytest.mark.parametrize("ranks", [40, pytest.param(256, marks=pytest.mark.slow)])
def test_a_rank_costs_a_call_of_each_kind_and_looks_do_not_grow_with_their_number(
    ranks: int, double: Double, backend: AwsBackend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def the_backend(_conn_id: str) -> AwsBackend:
        return backend

    monkeypatch.setattr(triggers, "aget_backend", the_backend)
    node = NodeTemplate(machine_type="m7i.large", zones=(ZONE,))
    rig = Rig(cast("Any", backend), a_plan(ranks, owner="lab", node=node, gather=[]))
    started = backend.clock.now()
    rig.create()
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        endings = runner.run(run_ranks(rig, "aws_test"))
    mark_collected(backend, rig.gather_work(), range(ranks))
    report = rig.teardown()
    elapsed_s = (backend.clock.now() - started).total_seconds()

    assert [(ending["output"], ending["error"]) for ending in endings] == [({"rank": r}, "") for r in range(ranks)]
    assert (len(report.deleted), report.kept) == (ranks, ())
    calls = [call for call in double.calls() if call["service"] == "ec2"]
    counts = Counter(call["action"] for call in calls)
    describes = sum(n for action, n in counts.items() if action.startswith("Describe"))
    intervals = elapsed_s / backend.poll_interval_s
    with capsys.disabled():
        sys.stdout.write(
            f"\n{ranks} ranks, {elapsed_s:.0f} s on EC2's clock, {intervals:.1f} poll intervals with "
            f"{describes / intervals:.1f} describes each: {dict(counts.most_common())}\n"
        )
    assert {action: counts[action] for action in ONCE} == dict.fromkeys(ONCE, ranks)
    for action, of_whom in (
        ("RunInstances", "ClientToken"),
        ("AttachVolume", "VolumeId"),
        ("DeleteVolume", "VolumeId"),
    ):
        assert len({call["params"][of_whom] for call in calls if call["action"] == action}) == ranks
    # Besides the burst that a process begins with: two looks of two describes each.
    assert describes <= 4 * math.ceil(intervals) + 4
    assert counts["TerminateInstances"] == 0
    # Handed out, collected; each for all of them in one call.
    assert counts["CreateTags"] <= 2
    assert [call for call in calls if call["code"]] == []
