"""Many ranks on a double whose time goes faster than the world's.

The double's clock, the backend's and the event loop's run FAST times as fast as the world's, and are read together: so
the waits, the buckets and the poll interval have their real sizes, and a run takes seconds.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, cast

from airflow_rankvol.backends.base import Clock
from airflow_rankvol.triggers import RankTrigger
from tests.clouds.common.client import Process
from tests.unit.engine.engine_kit import Rig

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
            work = rig.begin(rank)
            assert rig.launch(work) is None
            return RankTrigger(conn_id, work.to_dict())

        async def rank_of(rank: int) -> dict[str, Any]:
            trigger = await loop.run_in_executor(tasks, begin, rank)
            event = await anext(trigger.run())
            return cast("dict[str, Any]", event.payload)

        return await asyncio.gather(*map(rank_of, range(rig.plan.job.nodes)))
