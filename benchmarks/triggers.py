"""What a thousand deferred ranks cost one triggerer's event loop: looks, lag and memory.

Run it with ``python -m benchmarks.triggers [RANKS]`` in the checkout. The triggers are real, in an event loop as
Airflow's triggerer has one; the cloud is made up: a look takes half a second and returns every node anew, nodes print
while they run, and all of them end at the same moment.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from airflow_rankvol.backends.base import Clock, LogPart
from airflow_rankvol.engine.work import Work, group_of
from airflow_rankvol.plan import Plan, RunIdentity, make_plan
from airflow_rankvol.records import Group, Node, NodeState, Observation, Role, Slot, Volume, VolumeState, utc_now
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.testing import FakeBackend
from airflow_rankvol.triggers import RankTrigger

RANKS = 1000
INTERVAL_S = 2.0
INTERVALS = 10
LOOK_S = 0.5
REPORT = json.dumps({"version": 1, "phase": "done", "exit_code": 0, "output_b64": "NQ==", "log_tail_b64": ""})


@dataclass(frozen=True)
class Figures:
    """What was measured; times in seconds. ``in_loop`` counts calls for which the event loop itself waited."""

    ranks: int
    looks: int
    intervals: float
    lags_s: list[float]
    ending_s: float
    succeeded: int
    log_reads: int
    memory_kib: int
    threads: int
    in_loop: int

    def lag_s(self, part: float) -> float:
        """Return the lag that this part of all measurements stayed below."""
        ordered = sorted(self.lags_s)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    def __str__(self) -> str:
        p50, p99, worst = (1000 * self.lag_s(part) for part in (0.5, 0.99, 1.0))
        return (
            f"{self.ranks} deferred ranks, {self.intervals:.1f} intervals: {self.looks / self.intervals:.2f} looks an "
            f"interval, {self.log_reads} logs read; the event loop's lag p50 {p50:.1f} ms, p99 {p99:.1f} ms, max "
            f"{worst:.1f} ms; {self.succeeded} succeeded, the last {self.ending_s:.1f} s after the nodes' end; "
            f"{self.memory_kib / 1024:.0f} MiB more memory ({self.memory_kib / self.ranks:.0f} KiB a rank), "
            f"{self.threads} threads"
        )


@dataclass
class Cloud(FakeBackend):
    """Nodes that all run, until all of them end."""

    plan: Plan
    over: bool = False
    looks: int = 0
    log_reads: int = 0
    in_loop: int = 0
    began: Any = field(default_factory=utc_now)

    def __post_init__(self) -> None:
        super().__init__(clock=Clock())
        self.poll_interval_s = INTERVAL_S
        self.log_interval_s = INTERVAL_S

    def observe(self, group: Group) -> Observation:
        """Return all nodes and volumes, made anew as from an answer."""
        self.looks += 1
        self._wait(LOOK_S)
        state = NodeState.ENDED if self.over else NodeState.RUNNING
        held = VolumeState.AVAILABLE if self.over else VolumeState.ATTACHED
        return Observation(
            tuple(
                Volume(
                    f"vol-{r}", f"data-{r}", held, 1, "t", self.began, group.tags(rank=r), None,
                    None if self.over else f"node-{r}",
                )
                for r in range(self.plan.job.nodes)
            ),
            tuple(
                Node(f"node-{r}", f"n-{r}", state, self.began, group.tags(rank=r, attempt=1, role=Role.RANK))
                for r in range(self.plan.job.nodes)
            ),
        )  # fmt: skip

    def read_report(self, node_id: str) -> str:  # noqa: ARG002 - all of them have succeeded
        """Return a report of success."""
        self._wait(0.05)
        return REPORT

    def read_log(self, node_id: str, position: int) -> LogPart:  # noqa: ARG002 - all of them print the same
        """Return twenty new lines."""
        self.log_reads += 1
        self._wait(0.05)
        return LogPart(tuple(f"line {n}" for n in range(position, position + 20)), position + 20)

    def _wait(self, seconds: float) -> None:
        with suppress(RuntimeError):
            asyncio.get_running_loop()  # of this very thread
            self.in_loop += 1
        time.sleep(seconds)


def triggers_of(cloud: Cloud) -> list[RankTrigger]:
    """Return a trigger for each rank, as Airflow makes them from its database."""
    plan, group = cloud.plan, group_of(cloud.plan)
    found = []
    for raw in plan.to_slots():
        raw["volumes"] = [{**volume, "id": f"vol-{raw['rank']}", "adopted": False} for volume in raw["volumes"]]
        slot = Slot.from_dict(raw)
        work = Work.begin(
            role=Role.RANK, attempt=1, group=group, slots=(slot,), template=plan.job.node, now=cloud.began
        )
        trigger = RankTrigger("bench", work.to_dict())
        trigger.trigger_id = 1 + slot.rank
        place: Any = SimpleNamespace(dag_id="dag", task_id="job.run_rank", run_id="run", map_index=slot.rank)
        trigger.task_instance = place
        found.append(trigger)
    return found


def measure(ranks: int = RANKS, intervals: int = INTERVALS) -> Figures:
    """Let so many ranks wait for so many poll intervals, then end; return what that cost."""
    fields = {"nodes": ranks, "volumes": ["data-${NODE_RANK}:/data"], "commands": ["compute"]}
    job = RankJob.model_validate(fields, context={"max_nodes": ranks})
    cloud = Cloud(make_plan(job, RunIdentity("me", "dag", "run", "job")))
    with _outside(cloud):
        return asyncio.run(_measured(cloud, intervals))


async def _measured(cloud: Cloud, intervals: int) -> Figures:
    before_kib = _memory_kib()
    triggers = triggers_of(cloud)
    lags_s: list[float] = []
    probe = asyncio.ensure_future(_probe(lags_s))
    started = time.monotonic()
    waiting = []
    for trigger in triggers:
        waiting.append(asyncio.ensure_future(anext(trigger.run())))
        await asyncio.sleep(0)  # as Airflow's TriggerRunner.create_triggers does
    await asyncio.sleep(intervals * INTERVAL_S)
    passed, looks, memory_kib = (time.monotonic() - started) / INTERVAL_S, cloud.looks, _memory_kib()
    cloud.over = True
    ended = time.monotonic()
    events = await asyncio.gather(*waiting)
    ending_s = time.monotonic() - ended
    probe.cancel()
    return Figures(
        ranks=cloud.plan.job.nodes,
        looks=looks,
        intervals=passed,
        lags_s=lags_s,
        ending_s=ending_s,
        succeeded=sum(type(event).__name__ == "TaskSuccessEvent" for event in events),
        log_reads=cloud.log_reads,
        memory_kib=memory_kib - before_kib,
        threads=threading.active_count(),
        in_loop=cloud.in_loop,
    )


async def _probe(lags_s: list[float], pause_s: float = 0.01) -> None:
    """Measure how much later than asked for the event loop comes back."""
    while True:
        asked = time.perf_counter()
        await asyncio.sleep(pause_s)
        lags_s.append(time.perf_counter() - asked - pause_s)


@contextmanager
def _outside(cloud: Cloud) -> Iterator[None]:
    """Stand in for Airflow's connections and XComs."""

    async def here(_conn_id: str) -> Cloud:
        return cloud

    async def push(**_fields: Any) -> None:
        await asyncio.sleep(0)

    with (
        mock.patch("airflow_rankvol.triggers.aget_backend", here),
        mock.patch("airflow.sdk.execution_time.xcom.XCom.aset", push),
    ):
        yield


def _memory_kib() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])


if __name__ == "__main__":
    figures = measure(int(sys.argv[1]) if len(sys.argv) > 1 else RANKS)
    sys.stderr.write(f"{figures}\n")
