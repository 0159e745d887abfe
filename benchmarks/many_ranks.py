"""What many deferred ranks cost on a real Airflow, against a plain mapped task of as many.

Run it with ``python -m benchmarks.many_ranks [RANKS]`` in the checkout: API server, scheduler, DAG processor and
triggerer are processes of their own, nodes are processes of this machine. The plain task does in its worker what a
node does for its rank: the same command in a process of its own, for the same time. Both get the same executor with
as many workers as cores.
"""

from __future__ import annotations

import os
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.system.stack import Stack

RANKS = 64
WORK_S = 1.0
TIMEOUT_S = 400.0
DAGS = """\
import subprocess
from airflow.sdk import DAG, task
from airflow_rankvol import rank_job

COMMAND = "sleep WORK; echo $NODE_RANK > $RANKVOL_RESULT"
JOB = {"nodes": RANKS, "volumes": ["data-${NODE_RANK}:/data"], "volume_template": {"size": "32MB"}}

with DAG("ranks", schedule=None):
    rank_job("job", commands=[COMMAND], **JOB)

with DAG("held", schedule=None):
    rank_job("job", commands=["until [ -e FLAG ]; do sleep 1; done"], **JOB)

with DAG("plain", schedule=None):
    @task
    def shard(rank):
        command = "export NODE_RANK=%d RANKVOL_RESULT=/dev/null; " % rank + COMMAND
        subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True)
        return rank

    shard.expand(rank=list(range(RANKS)))
"""
#: The local backend, whose looks are counted in a file: who looked, and when.
COUNTING = """\
import os, time
from airflow_rankvol.hooks import local_backend

def make(settings):
    backend = local_backend(settings)
    observe = backend.observe
    def counted(group):
        with open(os.environ["LOOKS"], "a") as looks:
            looks.write("%d %.3f\\n" % (os.getpid(), time.time()))
        return observe(group)
    backend.observe = counted
    return backend
"""


@dataclass(frozen=True)
class Figures:
    """What was measured; times in seconds, memory in MiB."""

    ranks: int
    job_s: float
    ranks_s: float
    plain_s: float
    looks: int
    polled_s: float
    slots_held: int
    memory_before_mib: float
    memory_held_mib: float

    @property
    def ratio(self) -> float:
        """How much longer the mapped ranks took than the plain mapped task."""
        return self.ranks_s / self.plain_s

    def __str__(self) -> str:
        return (
            f"{self.ranks} deferred ranks in {self.ranks_s:.1f} s, a plain mapped task of as many in "
            f"{self.plain_s:.1f} s: ratio {self.ratio:.2f} (the whole job, with its volumes and their deletion: "
            f"{self.job_s:.1f} s); {self.looks} looks of the triggerer in {self.polled_s:.1f} s; while all nodes ran, "
            f"{self.slots_held} worker slots were held; the triggerer had {self.memory_before_mib:.0f} MiB before and "
            f"{self.memory_held_mib:.0f} MiB then"
        )


@contextmanager
def running(ranks: int, home: Path) -> Iterator[Stack]:
    """Run an Airflow with the three DAGs, and a local backend that counts its looks."""
    for folder in ("dags", "counting", "counting/counting_looks-1.dist-info"):
        (home / folder).mkdir()
    source = DAGS.replace("RANKS", str(ranks)).replace("WORK", str(WORK_S)).replace("FLAG", str(home / "go"))
    (home / "dags" / "many.py").write_text(textwrap.dedent(source))
    (home / "counting" / "counting_looks.py").write_text(COUNTING)
    known = home / "counting" / "counting_looks-1.dist-info"
    (known / "METADATA").write_text("Metadata-Version: 2.1\nName: counting-looks\nVersion: 1\n")
    (known / "entry_points.txt").write_text("[airflow_rankvol.backends]\ncounting = counting_looks:make\n")
    stack = Stack(home, home / "dags")
    stack.env["PYTHONPATH"] = os.pathsep.join([str(home / "counting"), *filter(None, [os.environ.get("PYTHONPATH")])])
    stack.env["LOOKS"] = str(home / "looks")
    extra = f'{{"state_dir": "{home}/state", "mode": "directory", "poll_interval": 1}}'
    stack.env["AIRFLOW_CONN_RANKVOL_DEFAULT"] = f'{{"conn_type": "counting", "extra": {extra}}}'
    stack.env["AIRFLOW__CORE__PARALLELISM"] = str(os.cpu_count() or 1)
    stack.env["AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG"] = str(ranks)
    stack.start(processor=True)
    try:
        yield stack
    finally:
        stack.stop()


def measure(ranks: int = RANKS) -> Figures:
    """Run the job, the plain mapped task, and a job that is held until all its ranks wait."""
    with tempfile.TemporaryDirectory(prefix="many-ranks-") as folder, running(ranks, Path(folder)) as stack:
        memory_before = _memory_mib(stack.processes["triggerer"].pid)
        plain_s = _span_s(stack, "plain", _run(stack, "plain"), "shard")
        run_id = _run(stack, "ranks")
        ranks_s = _span_s(stack, "ranks", run_id, "job.run_rank")
        run = stack.get(f"/api/v2/dags/ranks/dagRuns/{run_id}")
        polled = _looks(stack)
        slots_held, memory_held = _held(stack, ranks)
        return Figures(
            ranks=ranks,
            job_s=_at(run["end_date"]) - _at(run["start_date"]),
            ranks_s=ranks_s,
            plain_s=plain_s,
            looks=len(polled),
            polled_s=polled[-1] - polled[0],
            slots_held=slots_held,
            memory_before_mib=memory_before,
            memory_held_mib=memory_held,
        )


def _run(stack: Stack, dag_id: str) -> str:
    run_id = stack.trigger(dag_id)
    _succeed(stack, dag_id, run_id)
    return run_id


def _succeed(stack: Stack, dag_id: str, run_id: str) -> None:
    if stack.wait(dag_id, run_id, TIMEOUT_S) != "success":
        raise RuntimeError(f"{dag_id} failed: {stack.states(dag_id, run_id)}\n{stack.logs()}")


def _held(stack: Stack, ranks: int) -> tuple[int, float]:
    """Hold a job's nodes until all its tasks wait; return the worker slots held then, and the triggerer's memory."""
    run_id = stack.trigger("held")
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        states = list(stack.states("held", run_id).values())
        if states.count("deferred") == ranks:
            break
        if time.monotonic() > deadline:
            raise RuntimeError(f"not all ranks wait: {states}\n{stack.logs()}")
        time.sleep(0.5)
    memory = _memory_mib(stack.processes["triggerer"].pid)
    slots = states.count("running") + states.count("queued")
    (stack.home / "go").touch()
    _succeed(stack, "held", run_id)
    return slots, memory


def _span_s(stack: Stack, dag_id: str, run_id: str, task_id: str) -> float:
    """Return the time from when the first instance of a mapped task was scheduled to when the last one ended."""
    found = stack.get(f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=500")["task_instances"]
    mapped = [instance for instance in found if instance["task_id"] == task_id]
    return max(_at(item["end_date"]) for item in mapped) - min(_at(item["scheduled_when"]) for item in mapped)


def _looks(stack: Stack) -> list[float]:
    """Return when a process of the triggerer looked."""
    family = {stack.processes["triggerer"].pid, *_children(stack.processes["triggerer"].pid)}
    lines = [line.split() for line in (stack.home / "looks").read_text().splitlines()]
    return [float(when) for pid, when in lines if int(pid) in family]


def _children(pid: int) -> set[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    direct = {int(child) for child in path.read_text().split()}
    return direct.union(*(_children(child) for child in direct))


def _memory_mib(pid: int) -> float:
    """Return the proportional memory of a process and its children, in MiB."""
    total = 0
    for process in {pid, *_children(pid)}:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def _at(text: Any) -> float:
    return datetime.fromisoformat(str(text)).timestamp()


if __name__ == "__main__":
    figures = measure(int(sys.argv[1]) if len(sys.argv) > 1 else RANKS)
    sys.stderr.write(f"{figures}\n")
