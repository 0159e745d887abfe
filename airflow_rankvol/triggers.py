"""The trigger that waits for a node and ends its task."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.triggers.base import BaseTrigger, TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from airflow_rankvol._endings import ending_of_parts, log_failure, xcoms_of
from airflow_rankvol._node_log import NodeLog
from airflow_rankvol._observer import in_thread, observer_of
from airflow_rankvol.engine.loop import Watch
from airflow_rankvol.engine.patience import Patience
from airflow_rankvol.engine.step import Outcome, mark_collected, stop_own
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import AuthDenied, NotReady, RetryableError
from airflow_rankvol.hooks import aget_backend, where_of

if TYPE_CHECKING:
    from airflow_rankvol.backends.base import Backend
    from airflow_rankvol.engine.follow import Screen


class RankTrigger(BaseTrigger):
    """Wait for the end of one node and end its task right here, a rank's or gather's.

    Nothing resumes in a worker: a task that resumes soon after it deferred may be failed by the scheduler, when the
    executor's report of the first part comes in late (airflow #71580, #72716).

    Args:
        conn_id: the job's connection.
        work: the plain form of ``engine.work.Work``: which node, which volumes, which limits.
        succeeded: for gather, the ranks whose tasks had succeeded.
        parts: where several nodes share the gathering, the work of the others.
        masked: what Airflow masked in the task and a node may print. Airflow keeps a trigger's fields encrypted, and
            shows them to nobody.
        where: where the node is (``hooks.where_of``); empty in triggers of before that was known.
    """

    def __init__(
        self,
        conn_id: str,
        work: dict[str, Any],
        succeeded: list[int] | None = None,
        parts: list[dict[str, Any]] | None = None,
        masked: list[str] | None = None,
        where: str = "",
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's base is not annotated
        self.conn_id = conn_id
        self.work = work
        self.succeeded = succeeded or []
        self.parts = parts or []
        self.masked = masked or []
        self.where = where

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return everything that another triggerer needs to go on."""
        names = ("conn_id", "work", "succeeded", "parts", "masked", "where")
        fields = {name: getattr(self, name) for name in names}
        return f"{type(self).__module__}.{type(self).__qualname__}", fields

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Step until the node's work has ended, then yield the one event."""
        await self._mask()
        works = self._works()
        shown = NodeLog(self.log, works)
        waits = [asyncio.ensure_future(self._wait(work, shown.of(work))) for work in works]
        try:
            outcomes = await asyncio.gather(*waits)
        finally:
            for wait in waits:  # which an error of another one leaves alone
                wait.cancel()
            await asyncio.wait(waits)
            shown.close()
        ending = ending_of_parts(outcomes, self.succeeded)
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
        """Stop the node, or all nodes of gather, when a user kills or clears the deferred task; the volumes stay.

        A task that still waits was not killed: Airflow calls this, too, in a triggerer that hung when it finds that
        another one has its triggers now (``TriggerRunner.cancel_triggers`` in Airflow 3.3.2).
        """
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
            await in_thread(mark_collected, await self._open(), whole, ranks)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is no reason to fail what has succeeded
            self.log.warning("The result is stored, but its volumes could not be marked as collected: %s", exc)

    async def _mask(self) -> None:
        """Have masked in this triggerer what was masked in the task."""
        from airflow.sdk.log import amask_secret

        for secret in self.masked:
            await amask_secret(secret)

    async def _wait(self, work: Work, screen: Screen) -> Outcome:
        observer = observer_of(self.conn_id, work.group, self._open)
        patience = Patience(work, self.conn_id)
        watch: Watch | None = None
        refused = 0  # steps in a row; looks are the observer's own
        while True:
            seen = None
            try:
                watch = watch or Watch(await observer.backend(), work, screen)
                seen = await observer.observe(watch.wants)
                watch.use(await observer.backend())  # who only waited does not hear of new credentials
                outcome = await in_thread(watch.step, seen)
            except (RetryableError, AuthDenied) as exc:
                lost = patience.lost_by(exc, watch.now() if watch else datetime.now(UTC))
                if lost:
                    return lost
                if word := patience.word():
                    self.log.warning("%s", word)
                if watch and seen and isinstance(exc, AuthDenied):
                    refused += 1
                    await observer.renew(watch.backend, refused)
                continue
            refused = 0
            patience.recover()
            if outcome:
                return outcome

    async def _open(self) -> Backend:
        """Return the backend, unless the connection leads elsewhere now: there is no node of ours.

        Raises:
            NotReady: it does.
        """
        backend = await aget_backend(self.conn_id)
        where = await in_thread(where_of, backend) if self.where else ""
        if where != self.where:
            raise NotReady(f"connection {self.conn_id!r} leads to {where} now, but the node is on {self.where}")
        return backend

    def _works(self) -> list[Work]:
        return [Work.from_dict(work) for work in (self.work, *self.parts)]

    async def _still_waits(self) -> bool:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        ti = self.task_instance
        if self.trigger_id is None or ti is None:
            return False
        where: dict[str, Any] = {"dag_id": ti.dag_id, "task_ids": [ti.task_id], "run_ids": [ti.run_id]}
        try:
            states = await in_thread(partial(RuntimeTaskInstance.get_task_states, map_index=ti.map_index, **where))
        except Exception as exc:  # noqa: BLE001 - whatever it is, a killed task's node must not run on
            self.log.warning("Airflow did not tell whether %s still waits; stopping its node: %s", ti.task_id, exc)
            return False
        return "deferred" in states.get(ti.run_id, {}).values()

    async def _stop(self) -> None:
        if await self._still_waits():
            self.log.info("Another triggerer waits for this task now: its node is left alone")
            return
        backend, works = await self._open(), self._works()
        stops = [in_thread(stop_own, backend, work) for work in works]
        errors = []
        for work, node in zip(works, await asyncio.gather(*stops, return_exceptions=True), strict=True):
            if isinstance(node, BaseException):
                errors.append(node)
            elif node:
                self.log.info("Stopped %s of %s", node.label, work.label)
        if errors:
            raise errors[0]


_stopping: set[asyncio.Future[None]] = set()
