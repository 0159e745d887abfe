"""Many ranks on a double whose time goes faster than the world's.

The double's clock, the backend's and the event loop's run FAST times as fast as the world's, and are read together: so
the waits, the buckets and the poll interval have their real sizes, and a run takes seconds.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, cast

import pytest

from airflow_rankvol import triggers
from airflow_rankvol.backends.base import Clock
from airflow_rankvol.engine.step import mark_collected
from airflow_rankvol.spec.templates import NodeTemplate
from airflow_rankvol.triggers import RankTrigger
from tests.clouds.common.client import Process
from tests.clouds.common.lab import BackendLab
from tests.unit.engine.engine_kit import Rig, a_plan

FAST = 5.0
#: As many tasks as an Airflow runs at once unless told otherwise ([core] parallelism).
TASKS = 32


class FastClock(Clock):
    """The double's clock, without asking for it each time."""

    def __init__(self, double: Process) -> None:
        self._started = time.monotonic()
        self._at = float(double("clock", rate=FAST))

    def seconds(self) -> float:
        return self._at + (time.monotonic() - self._started) * FAST

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds(), UTC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds / FAST)


class _FastSelector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout / FAST if timeout else timeout)


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop whose seconds are as short as the double's."""

    def __init__(self) -> None:
        super().__init__(_FastSelector())

    def time(self) -> float:
        return super().time() * FAST


async def run_ranks(rig: Rig, conn_id: str) -> list[dict[str, Any]]:
    """Launch every rank as its task does, TASKS at a time, then wait for all of them as one triggerer does."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(TASKS) as tasks:

        def begin(rank: int) -> RankTrigger:
            return RankTrigger(conn_id, rig.start(rank).to_dict())

        async def rank_of(rank: int) -> dict[str, Any]:
            trigger = await loop.run_in_executor(tasks, begin, rank)
            event = await anext(trigger.run())
            return cast("dict[str, Any]", event.payload)

        return await asyncio.gather(*map(rank_of, range(rig.plan.job.nodes)))


@dataclass(frozen=True)
class LargeRun:
    """What a run of many ranks cost, without gathering.

    Args:
        calls: those of the service that has volumes and nodes.
        elapsed_s: on the double's clock.
        intervals: how many poll intervals that is.
    """

    ranks: int
    calls: list[dict[str, Any]]
    elapsed_s: float
    intervals: float

    @cached_property
    def counts(self) -> Counter[str]:
        """How many calls of each action were accepted; on a slow machine the double's buckets refuse some."""
        return Counter(call["action"] for call in self.calls if not call["code"])

    @property
    def refused(self) -> int:
        """How many calls were refused as too fast."""
        return sum(bool(call["code"]) for call in self.calls)

    def check_once(self, whose: Mapping[str, Callable[[dict[str, Any]], str]]) -> None:
        """Each rank's call of each of these actions is accepted once, and not asked for again and again before that.

        Args:
            whose: what tells one rank's calls from another's, by action.
        """
        # The backend waits for its turn, so none would be refused if the double's clock went as evenly as its own.
        few = self.ranks // 20
        assert self.refused <= few
        assert {action: self.counts[action] for action in whose} == dict.fromkeys(whose, self.ranks)
        for action, tell in whose.items():
            attempts = Counter(tell(call["params"]) for call in self.calls if call["action"] == action)
            assert len(attempts) == self.ranks, action
            assert attempts.total() <= self.ranks + few, action
            assert max(attempts.values()) <= 2, (action, attempts.most_common(3))

    def most_looks(self, is_look: Callable[[str], bool], interval_s: float) -> int:
        """Return the largest number of looks in any one poll interval."""
        at = [float(call["at"]) for call in self.calls if is_look(call["action"])]
        return max(sum(begin <= other < begin + interval_s for other in at) for begin in at)

    def check_looks(self, is_look: Callable[[str], bool], capsys: pytest.CaptureFixture[str]) -> None:
        """Print the figures; looks cost four calls at most in any poll interval, whatever the number of ranks."""
        looks = sum(n for action, n in self.counts.items() if is_look(action))
        most = self.most_looks(is_look, self.elapsed_s / self.intervals)
        with capsys.disabled():
            sys.stdout.write(
                f"\n{self.ranks} ranks, {self.elapsed_s:.0f} s on the cloud's clock, {self.intervals:.1f} intervals,"
                f" {looks / self.intervals:.1f} looks in each and {most} at most, {self.refused} calls refused as too"
                f" fast: {dict(self.counts.most_common())}\n"
            )
        assert most <= 4


def large_run(
    lab: type[BackendLab[Any, Any, Any]],
    backend: Any,
    double: Process,
    ranks: int,
    *,
    scope: str = "run",
    **node_fields: Any,
) -> LargeRun:
    """Run that many ranks on a fast clock: all succeed, nothing stays, and no call is refused but for its rate."""

    async def the_backend(_conn_id: str) -> Any:
        return backend

    node = NodeTemplate(machine_type=lab.machine_type, zones=(lab.zone,), **node_fields)
    template = {"scope": scope, "reclaim": "delete"}
    rig = Rig(cast("Any", backend), a_plan(ranks, owner="lab", node=node, gather=[], volume_template=template))
    started = backend.clock.now()
    rig.create()
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner(loop_factory=FastLoop) as runner:
        patch.setattr(triggers, "aget_backend", the_backend)
        endings = runner.run(run_ranks(rig, "a_connection"))
    mark_collected(backend, rig.gather_work(), range(ranks))
    report = rig.teardown()
    elapsed_s = (backend.clock.now() - started).total_seconds()
    assert [(ending["output"], ending["error"]) for ending in endings] == [({"rank": r}, "") for r in range(ranks)]
    assert (len(report.deleted), report.kept) == (ranks, ())
    calls = [call for call in double.calls() if call["service"] == lab.service]
    assert {call["code"] for call in calls} <= {"", "RequestLimitExceeded", "rateLimitExceeded"}
    return LargeRun(ranks, calls, elapsed_s, elapsed_s / backend.poll_interval_s)
