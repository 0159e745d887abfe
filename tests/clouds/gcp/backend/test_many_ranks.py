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
from airflow_rankvol.backends._gcp_calls import RATES
from airflow_rankvol.backends._gcp_connection import DEFAULT_POLL_INTERVAL_S, Session
from airflow_rankvol.backends._gcp_memory import Memory
from airflow_rankvol.backends._rate import RateLimiter
from airflow_rankvol.backends.gcp import GcpBackend
from airflow_rankvol.engine.follow import READS_PER_S
from airflow_rankvol.engine.step import mark_collected
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.common.fast import FastClock, FastLoop, run_ranks
from tests.clouds.gcp.backend.kit import ZONE, settings
from tests.clouds.gcp.client import Double
from tests.unit.engine.engine_kit import Rig, a_plan

ONCE = ("disks.insert", "instances.insert", "instances.delete", "disks.delete", "instances.getGuestAttributes")
SUCCEED = "tests.clouds.gcp.backend.kit:succeed"


@pytest.fixture
def double(tmp_path: Path) -> Iterator[Double]:
    with Double(tmp_path / "double") as double:
        double("end_nodes", script=SUCCEED, after_s=10.0)
        # What each takes on Compute Engine, about.
        double.settings(
            operation_start_s=0.3, create_disk_s=2.0, delete_disk_s=1.0, provision_s=5.0, stage_s=10.0, stop_s=20.0,
            delete_instance_s=20.0, update_s=1.0,
        )  # fmt: skip
        yield double
        assert double.bugs() == []


@pytest.fixture
def backend(double: Double) -> GcpBackend:
    clock = FastClock(double)
    session = Session(settings(double), RateLimiter(RATES, now=clock.seconds, sleep=clock.sleep))
    memory = Memory(clock.seconds)
    return GcpBackend(session, poll_interval_s=DEFAULT_POLL_INTERVAL_S, clock=clock, memory=memory)


@pytest.mark.parametrize("ranks", [40, pytest.param(256, marks=pytest.mark.slow)])
def test_a_rank_costs_a_call_of_each_kind_and_looks_do_not_grow_with_their_number(
    ranks: int, double: Double, backend: GcpBackend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def the_backend(_conn_id: str) -> GcpBackend:
        return backend

    monkeypatch.setattr(triggers, "aget_backend", the_backend)
    node = NodeTemplate(machine_type="n2-standard-2", zones=(ZONE,))
    rig = Rig(cast("Any", backend), a_plan(ranks, owner="lab", node=node, gather=[]))
    started = backend.clock.now()
    rig.create()
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        endings = runner.run(run_ranks(rig, "gcp_test"))
    mark_collected(backend, rig.gather_work(), range(ranks))
    report = rig.teardown()
    elapsed_s = (backend.clock.now() - started).total_seconds()

    assert [(ending["output"], ending["error"]) for ending in endings] == [({"rank": r}, "") for r in range(ranks)]
    assert (len(report.deleted), report.kept) == (ranks, ())
    calls = [call for call in double.calls() if call["service"] == "compute"]
    counts = Counter(call["action"] for call in calls)
    lists = sum(n for action, n in counts.items() if action.endswith(("List", ".list")))
    intervals = elapsed_s / backend.poll_interval_s
    with capsys.disabled():
        sys.stdout.write(
            f"\n{ranks} ranks, {elapsed_s:.0f} s on Compute Engine's clock, {intervals:.1f} poll intervals with "
            f"{lists / intervals:.1f} lists each: {dict(counts.most_common())}\n"
        )
    assert {action: counts[action] for action in ONCE} == dict.fromkeys(ONCE, ranks)
    # Handed out, collected: a call for each, which only succeeds while nobody else has changed the labels.
    assert counts["disks.setLabels"] == 2 * ranks
    # Besides the burst that a process begins with: two looks of two lists each.
    assert lists <= 4 * math.ceil(intervals) + 4
    # Nothing else, besides the waiting for operations.
    others = {"zoneOperations.wait", "disks.setLabels", "disks.aggregatedList", "instances.aggregatedList", *ONCE}
    assert set(counts) - others <= {"disks.get", "instances.getSerialPortOutput"}
    # New lines of all logs together, however many ranks there are.
    assert counts["instances.getSerialPortOutput"] <= READS_PER_S * elapsed_s
    assert [call for call in calls if call["code"]] == []
