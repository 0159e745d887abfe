"""What the operators share that launch nodes and wait for their end: a rank's and gather's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_rankvol._base_operator import RankJobOperator, RankVolumes
from airflow_rankvol._node_log import NodeLog, mask_lines, secrets_of
from airflow_rankvol.engine.loop import Line, launch, wait
from airflow_rankvol.engine.step import stop_own
from airflow_rankvol.errors import BackendError
from airflow_rankvol.hooks import get_backend, where_of
from airflow_rankvol.links import Shown

if TYPE_CHECKING:
    from airflow_rankvol.backends.base import Backend
    from airflow_rankvol.engine.launch import Launcher
    from airflow_rankvol.engine.step import Outcome
    from airflow_rankvol.engine.work import Work
    from airflow_rankvol.records import Node, Observation


class NodeOperator(RankJobOperator):
    """Base of the operators that have nodes of their own."""

    _running: tuple[Backend, Sequence[Work]] | None = None  # what is to be stopped when the task is killed, and by what

    def on_kill(self) -> None:
        """Stop the task's nodes and keep their volumes."""
        if self._running:
            _stop_all(*self._running, at_once=True)

    def launch_and_wait(
        self,
        volumes: RankVolumes,
        works: Sequence[Work],
        launcher: Launcher,
        *,
        deferrable: bool,
        succeeded: Sequence[int] = (),
        seen: Observation | None = None,
    ) -> list[Outcome]:
        """Launch the nodes and wait for their end here, or defer once all of them are launched.

        Args:
            works: one per node; several where gather is split.
            succeeded: for gather, the ranks whose tasks had succeeded.
            seen: what was just observed, for the first of them.
        """
        backend = volumes.backend
        mask_lines(launcher)
        self._running = (backend, works)
        self.shown = Shown(backend, tuple(volume_id for work in works for volume_id in work.volume_ids))
        for work in works:
            failed = launch(backend, work, launcher, seen if work is works[0] else None, self._show)
            if failed:
                with suppress(BackendError):  # delete_volumes tries again
                    _stop_all(backend, [other for other in works if other != work])
                return [failed]
        if not deferrable:
            line = Line(self.conn_id, self._reopen, self.log.warning)
            with closing(NodeLog(self.log, works)) as shown:
                return wait(backend, works, shown.of, line)
        from airflow_rankvol.triggers import RankTrigger

        first, *parts = [work.to_dict() for work in works]
        trigger = RankTrigger(
            self.conn_id, first, list(succeeded), parts, masked=secrets_of(launcher), where=where_of(backend)
        )
        self.defer(trigger=trigger, method_name="execute_complete")
        raise AssertionError  # not reached: defer() raises

    def _show(self, node: Node) -> None:
        if self.shown:
            self.shown = replace(self.shown, node_ids=(*self.shown.node_ids, node.id))

    def _reopen(self) -> Backend | None:
        """Return the backend by what the connection says now; None where that is another place."""
        backend = get_backend(self.conn_id)
        if self._running and where_of(backend) != where_of(self._running[0]):
            return None
        if self._running:
            self._running = (backend, self._running[1])
        return backend


def _stop_all(backend: Backend, works: Sequence[Work], *, at_once: bool = False) -> None:
    """Stop the nodes of several works, each of them whatever comes of the others; raise the first error then."""
    errors = []
    for work in works:
        try:
            stop_own(backend, work, at_once=at_once)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the others are still to be stopped
            errors.append(exc)
    if errors:
        raise errors[0]
