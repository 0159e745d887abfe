"""The operator that gathers the results of all ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg

from airflow_rankvol._base_operator import resolved
from airflow_rankvol._endings import ending_of_parts, finish
from airflow_rankvol._node_operator import NodeOperator
from airflow_rankvol.engine.calls import patiently
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.step import forget_collected, mark_collected
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import BackendError, ConfigError, GatherIncomplete
from airflow_rankvol.links import GroupOnPage, NodeInConsole, Shown, VolumesInConsole
from airflow_rankvol.records import Group, Role, Slot, ranks_text

if TYPE_CHECKING:
    from datetime import datetime

    from airflow.sdk import Context

    from airflow_rankvol.backends.base import Backend
    from airflow_rankvol.spec.templates import NodeTemplate


class GatherRankResults(NodeOperator):
    """Gather the results of all ranks into one.

    With ``gather`` commands they run on a node that has every rank's volumes, read-only; what they write to
    ``$RANKVOL_RESULT`` is the result. Where one node cannot hold all volumes, or they lie in several zones, several
    nodes share them (``$GATHER_PART`` of ``$GATHER_PARTS``), and the result is the list of theirs. Without commands,
    the result is the list of the ranks' outputs in rank order, with None for a rank that is missing.

    With a ``destination``, what the ``collect`` globs match on the volumes is copied there once the commands have
    succeeded, with a manifest; without a result of theirs, a summary of that is the result.

    Args:
        slots, results: what CreateRankVolumes and the mapped RunRank returned.
        deferrable: wait in the triggerer (the default) or in the worker.

    Raises:
        GatherIncomplete: naming the ranks without a completion record, unless ``allow_missing=True``.
        GatherFailed: the gather commands failed.
    """

    operator_extra_links = (VolumesInConsole(), NodeInConsole(), GroupOnPage())

    def __init__(self, *, slots: Any, results: Any, deferrable: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Not templated: a rank that failed has no XCom to render, and this task must run and say so itself.
        self.slots = slots
        self.results = results
        self.deferrable = deferrable
        # Only the ranks are upstream: Airflow lets nothing but all_success follow a setup directly.
        XComArg.apply_upstream_relationship(self, results)

    def execute(self, context: Context) -> Any:
        """Check that every rank has succeeded, then gather."""
        with self.final_errors():
            volumes = self.open(context)
            slots = self._slots(context)
            backend, job = volumes.backend, volumes.job
            work = self._work(context, volumes.group, job.gather_node or job.node, backend.clock.now())
            self.shown = Shown(backend, work.volume_ids)
            observation = patiently(backend, backend.observe, work.group)
            patiently(backend, forget_collected, backend, work, observation)
            outputs = self._outputs(context)
            launcher = Launcher(
                job,
                self.read_files(),
                slots,
                backend.platform,
                succeeded=frozenset(outputs),
                stager=backend.stager,
            )
        missing = [slot.rank for slot in slots if slot.rank not in outputs]
        if missing and (not job.allow_missing or not outputs):
            advice = "fix and clear it" + ("" if job.allow_missing else ", or set allow_missing=True")
            raise GatherIncomplete(
                f"rank {ranks_text(missing)} of {len(slots)} did not succeed, so there is no whole result. Unless its "
                f"policy is delete_always, its volume is kept until its expiry: {advice}",
                missing=missing,
            )
        if not job.gathers_on_node:
            result = [outputs.get(slot.rank) for slot in slots]
            ending = {"result": {"rank": -1}, "output": result, "error": "", "collected": sorted(outputs)}
            return self._finish(context, backend, work, ending)
        # What is not read counts neither for the limit nor for the zone.
        read = replace(work, slots=tuple(slot for slot in slots if slot.rank in outputs))
        works = read.in_parts(backend.max_volumes(job.gather_node or job.node))
        ranks = sorted(outputs)
        outcomes = self.launch_and_wait(volumes, works, launcher, deferrable=self.deferrable, succeeded=ranks)
        if self._running:
            backend, _ = self._running  # by credentials that may be newer
        return self._finish(context, backend, work, ending_of_parts(outcomes, ranks))

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """End a gather whose trigger could not end it by itself (``dag.test()`` runs triggers inline)."""
        volumes = self.open(context)
        job = volumes.job
        work = self._work(context, volumes.group, job.gather_node or job.node, volumes.backend.clock.now())
        return self._finish(context, volumes.backend, work, event)

    def _work(self, context: Context, group: Group, template: NodeTemplate, now: datetime) -> Work:
        return Work.begin(
            role=Role.GATHER,
            attempt=context["ti"].try_number,
            group=group,
            slots=self._slots(context),
            template=template,
            now=now,
        )

    def _finish(self, context: Context, backend: Backend, work: Work, ending: Mapping[str, Any]) -> Any:
        """Store the result, and only then mark the volumes that it came from: they may be deleted."""
        value = finish(self, context, ending)
        try:
            mark_collected(backend, work, ending["collected"])
        except BackendError as exc:
            self.log.warning("The result is stored, but its volumes could not be marked as collected: %s", exc)
        return value

    def _slots(self, context: Context) -> tuple[Slot, ...]:
        raw = resolved(self.slots, context)
        if not raw:
            raise ConfigError("there is nothing to gather: no volumes were created for this run; see create_volumes")
        return tuple(Slot.from_dict(slot) for slot in raw)

    def _outputs(self, context: Context) -> dict[int, Any]:
        results = resolved(self.results, context)
        # A slice is one request; iterating asks for one result after the other, and logs the end as an error.
        return {
            item["rank"]: item["output"] for item in (results[:] if results else []) if item and item["exit_code"] == 0
        }
