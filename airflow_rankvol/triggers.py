"""The trigger that waits for a node, and the observer that all triggers of one group share."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from airflow_rankvol._endings import ending_of_parts, log_failure, xcoms_of
from airflow_rankvol.backends.base import Backend
from airflow_rankvol.engine.loop import Watch
from airflow_rankvol.engine.step import Outcome, mark_collected, stop_own
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import BackendError, RetryableError
from airflow_rankvol.hooks import aget_backend
from airflow_rankvol.records import Group, Observation


class GroupObserver:
    """One batched observation per interval for all triggers of one group, however many wait."""

    def __init__(self, backend: Backend, group: Group) -> None:
        self._backend = backend
        self._group = group
        self._waiters: list[asyncio.Future[Observation]] = []
        self._task: asyncio.Task[None] | None = None
        self._last = float("-inf")

    async def observe(self) -> Observation:
        """Return an observation that began after this call: an older one may miss what the caller just made."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Observation] = loop.create_future()
        self._waiters.append(waiter)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._serve())
        return await waiter

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiters:
            await asyncio.sleep(max(0.0, self._last + self._backend.poll_interval_s - loop.time()))
            waiters, self._waiters = self._waiters, []
            self._last = loop.time()
            try:
                observation = await asyncio.to_thread(self._backend.observe, self._group)
            except Exception as exc:  # noqa: BLE001 - every waiter gets it, whatever it is
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(exc)
                continue
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(observation)


_observers: weakref.WeakValueDictionary[tuple[int, str, str], GroupObserver] = weakref.WeakValueDictionary()


def observer_of(conn_id: str, backend: Backend, group: Group) -> GroupObserver:
    """Return the observer that every trigger of this group in this event loop shares."""
    key = (id(asyncio.get_running_loop()), conn_id, group.key)
    observer = _observers.get(key)
    if observer is None:
        observer = GroupObserver(backend, group)
        _observers[key] = observer
    return observer


class RankTrigger(BaseTrigger):
    """Wait for the end of one node and end its task right here, a rank's or gather's.

    Nothing resumes in a worker: a task that resumes soon after it deferred may be failed by the scheduler, when the
    executor's report of the first part comes in late (airflow #71580, #72716).

    Args:
        conn_id: the job's connection.
        work: the plain form of ``engine.work.Work``: which node, which volumes, which limits.
        succeeded: for gather, the ranks whose tasks had succeeded.
        parts: where several nodes share the gathering, the work of the others.
    """

    def __init__(
        self,
        conn_id: str,
        work: dict[str, Any],
        succeeded: list[int] | None = None,
        parts: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's base is not annotated
        self.conn_id = conn_id
        self.work = work
        self.succeeded = succeeded or []
        self.parts = parts or []

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return everything that another triggerer needs to go on."""
        fields = {"conn_id": self.conn_id, "work": self.work, "succeeded": self.succeeded, "parts": self.parts}
        return f"{type(self).__module__}.{type(self).__qualname__}", fields

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Step until the node's work has ended, then yield the one event."""
        ending = ending_of_parts(await asyncio.gather(*map(self._wait, self._works())), self.succeeded)
        # dag.test() runs triggers inline, without a triggerer to end the task.
        if self.trigger_id is None:
            yield TriggerEvent(ending)
            return
        await self._push(xcoms_of(ending))
        if ending["error"]:
            log_failure(self.log, ending)
        elif ending["collected"]:
            await self._mark(ending["collected"])
        yield TaskFailedEvent() if ending["error"] else TaskSuccessEvent()

    async def on_kill(self) -> None:
        """Stop the node, or all nodes of gather, when a user kills or clears the deferred task; the volumes stay."""
        # The runner cancels this coroutine again within a second: the work itself must not be cancelled with it.
        task = asyncio.ensure_future(self._stop())
        _stopping.add(task)
        task.add_done_callback(_stopping.discard)
        await asyncio.shield(task)

    async def _push(self, xcoms: dict[str, Any]) -> None:
        """Push what the task returns, as a worker would.

        An end event's own ``xcoms`` are stored encoded twice (``XComModel.set`` in Airflow 3.3.2), so that tasks
        downstream would read a string instead of the dict.
        """
        from airflow.sdk.execution_time.xcom import XCom

        ti = self.task_instance
        assert ti is not None  # noqa: S101 - the triggerer sets it together with trigger_id; for mypy
        place = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
        for key, value in xcoms.items():
            if value is not None:  # a worker pushes no None either
                await XCom.aset(key=key, value=value, **place)

    async def _mark(self, ranks: list[int]) -> None:
        """Mark the volumes whose results are stored now: they may be deleted."""
        works = self._works()
        whole = replace(works[0], slots=tuple(slot for work in works for slot in work.slots))
        try:
            await asyncio.to_thread(mark_collected, await aget_backend(self.conn_id), whole, ranks)
        except BackendError as exc:
            self.log.warning("The result is stored, but its volumes could not be marked as collected: %s", exc)

    async def _wait(self, work: Work) -> Outcome:
        backend = await aget_backend(self.conn_id)
        observer = observer_of(self.conn_id, backend, work.group)
        watch = Watch(backend, work)
        while True:
            try:
                observation = await observer.observe()
            except RetryableError as exc:
                self.log.warning("Could not observe %s: %s", work.node_name, exc)
                continue
            outcome = await asyncio.to_thread(watch.step, observation)
            if outcome:
                return outcome

    def _works(self) -> list[Work]:
        return [Work.from_dict(work) for work in (self.work, *self.parts)]

    async def _stop(self) -> None:
        backend = await aget_backend(self.conn_id)
        for work in self._works():
            node = await asyncio.to_thread(stop_own, backend, work)
            if node:
                self.log.info("Stopped %s of %s", node.label, work.label)


_stopping: set[asyncio.Future[None]] = set()
