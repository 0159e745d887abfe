"""Many ranks on the double: what a large run costs in calls, and that it earns no throttling."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

import pytest

from airflow_rankvol.backends._gcp_calls import RATES
from airflow_rankvol.backends._gcp_connection import DEFAULT_POLL_INTERVAL_S, Session
from airflow_rankvol.backends._gcp_memory import Memory
from airflow_rankvol.backends._rate import RateLimiter
from airflow_rankvol.backends.gcp import GcpBackend
from airflow_rankvol.engine.follow import READS_PER_S
from tests.clouds.common.fast import TASKS, FastClock, large_run
from tests.clouds.gcp.backend.kit import Lab, settings
from tests.clouds.gcp.client import Double
from tests.unit.engine.engine_kit import Rig, a_plan

#: By which parameter a rank's call is known.
ONCE: dict[str, Callable[[dict[str, Any]], str]] = {
    "disks.insert": lambda params: str(params["body"]["name"]),
    "instances.insert": lambda params: str(params["body"]["name"]),
    "instances.delete": itemgetter("instance"),
    "disks.delete": itemgetter("disk"),
    "instances.getGuestAttributes": itemgetter("instance"),
}
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
    return backend_on(double, DEFAULT_POLL_INTERVAL_S)


def backend_on(double: Double, poll_interval_s: float) -> GcpBackend:
    clock = FastClock(double)
    session = Session(settings(double), RateLimiter(RATES, now=clock.seconds, sleep=clock.sleep))
    memory = Memory(clock.seconds)
    return GcpBackend(session, poll_interval_s=poll_interval_s, clock=clock, memory=memory)


def test_logs_of_many_ranks_are_read_no_more_often_than_all_of_them_may(
    double: Double, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each node's log would be read every two seconds: four times as often as all together may be."""
    ranks = 40
    double("end_nodes", script=SUCCEED, after_s=60.0)
    run = large_run(Lab, backend_on(double, 2.0), double, ranks)
    at: dict[str, list[float]] = defaultdict(list)
    for call in run.calls:
        if call["action"] == "instances.getSerialPortOutput":
            at[call["params"]["instance"]].append(float(call["at"]))
    gaps = [later - earlier for times in at.values() for earlier, later in pairwise(sorted(times))]
    with capsys.disabled():
        sys.stdout.write(f"\n{sum(map(len, at.values()))} reads of {len(at)} serial ports, {min(gaps):.1f} s apart\n")
    assert len(gaps) > ranks
    # A node's turn comes after as many seconds as all of them need, or a tenth less.
    assert min(gaps) >= 0.9 * ranks / READS_PER_S


@pytest.mark.parametrize(
    ("ranks", "page", "job"),
    [
        (40, 50, {}),
        (40, 50, {"spot": True}),
        (40, 50, {"scope": "global"}),
        pytest.param(256, 500, {}, marks=pytest.mark.slow),
    ],
)
def test_a_rank_costs_a_call_of_each_kind_and_looks_do_not_grow_with_their_number(
    ranks: int,
    page: int,
    job: dict[str, Any],
    double: Double,
    backend: GcpBackend,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The ranks' volumes are fewer than a page holds; with what their nodes boot from, there are more."""
    monkeypatch.setattr("airflow_rankvol.backends._gcp_calls.PAGE", page)
    assert ranks < page < 2 * ranks
    run = large_run(Lab, backend, double, ranks, **job)
    run.check_looks(lambda action: action.endswith(("List", ".list")), capsys)
    run.check_once(ONCE)
    # Handed out, collected: a call for each, which only succeeds while nobody else has changed the labels. Before that,
    # what outlives runs is taken.
    marks = 3 if "scope" in job else 2
    assert run.counts["disks.setLabels"] == marks * ranks
    # Right before a node goes: a volume must not go with it. Right before a volume goes: its name may be another's. And
    # of what was taken, before it is handed out.
    assert (run.counts["instances.get"], run.counts["disks.get"]) == (ranks, (marks - 1) * ranks)
    # A requestId means one call: two with the same would be one operation.
    tokens = [call["token"] for call in run.calls if call["token"] and not call["code"]]
    assert len(set(tokens)) == len(tokens) == (4 + marks) * ranks
    # Nothing else, besides the waiting for operations.
    others = {
        "zoneOperations.wait",
        "disks.setLabels",
        "disks.aggregatedList",
        "instances.aggregatedList",
        "instances.get",
        "disks.get",
        *ONCE,
        *(["zoneOperations.list"] if "spot" in job else []),
    }
    assert set(run.counts) - others <= {"instances.getSerialPortOutput"}
    assert run.counts["instances.getSerialPortOutput"] <= READS_PER_S * run.elapsed_s


@pytest.mark.parametrize(("scope", "least", "most"), [("run", 4, 4), ("global", 4, 6)])
def test_a_launch_in_a_process_of_its_own_costs_two_looks_at_the_group(
    scope: str, least: int, most: int, double: Double, backend: GcpBackend
) -> None:
    """A task looks before it launches and until its node is listed; in global scope, names are asked for as well."""
    ranks = 2 * TASKS
    template = {"size": "10GB", "scope": scope, "reclaim": "delete"}
    node = {"machine_type": Lab.machine_type, "zones": Lab.zone}
    rig = Rig(cast("Any", backend), a_plan(ranks, owner="lab", node=node, volume_template=template, gather=[]))
    rig.create()
    processes = [backend_on(double, DEFAULT_POLL_INTERVAL_S) for _ in range(ranks)]
    double("clear_calls")
    with ThreadPoolExecutor(TASKS) as tasks:
        list(tasks.map(lambda rank: replace(rig, backend=cast("Any", processes[rank])).start(rank), range(ranks)))
    counts = Counter(call["action"] for call in double.calls() if not call["code"])
    lists = sum(number for action, number in counts.items() if action.endswith(("List", ".list")))
    assert least * ranks <= lists <= most * ranks
    assert counts["instances.insert"] == ranks
