"""The five operators of a rank job: plan, create, run, gather, delete; and the reaper."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_rankvol._base_operator import PLANNED_KEY, RankJobOperator, RankVolumes, resolved
from airflow_rankvol._endings import ending_of, finish
from airflow_rankvol._gather_operator import GatherRankResults
from airflow_rankvol._masked import check_files, check_texts, check_values
from airflow_rankvol._node_operator import NodeOperator
from airflow_rankvol._reap_operator import ReapRankVolumes
from airflow_rankvol._runs import settled_state
from airflow_rankvol._shipping import RUN_COMMAND, is_runner
from airflow_rankvol.engine.calls import patiently
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.engine.reap import ReapRules, RunState, reap, survey
from airflow_rankvol.engine.rehearsal import check_scripts, stage
from airflow_rankvol.engine.step import choose_attempt
from airflow_rankvol.engine.teardown import teardown
from airflow_rankvol.engine.work import Work, group_of
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.hooks import where_of
from airflow_rankvol.links import GroupOnPage, NodeInConsole, Shown, VolumesInConsole
from airflow_rankvol.records import Role, Slot

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_rankvol.plan import Plan

__all__ = [
    "MAP_INDEX_TEMPLATE",
    "CreateRankVolumes",
    "DeleteRankVolumes",
    "GatherRankResults",
    "PlanRankVolumes",
    "ReapRankVolumes",
    "RunRank",
]

MAP_INDEX_TEMPLATE = "rank {{ task.slot['rank'] }} · {{ task.slot['volumes'][0]['name'] }}"


class PlanRankVolumes(RankJobOperator):
    """Check the whole request and push its slots; creates nothing.

    Removes leftovers of this DAG's earlier runs whose expiry has passed, never anything of a live run.

    Returns:
        A list of slots in rank order: ``{"rank", "nodes", "zone", "volumes": [{"name", "path", "size_gib", "type"}]}``.
        ``output["backend"]`` is where it planned, such as ``aws eu-central-1``: ``planned_on`` of the other operators.

    Raises:
        AirflowFailException: the request cannot work as written, or the backend refuses it.
    """

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Plan, check, sweep, and return the slots."""
        with self.final_errors():
            volumes = self.open(context)
            plan = volumes.plan()
            files = self.read_files()
            if plan.job.rendezvous and not volumes.backend.supports_rendezvous:
                raise ConfigError(f"rendezvous=True: backend {volumes.backend.name} cannot do that yet; leave it out")
            if not plan.job.commands:
                raise ConfigError("commands: found none; expected at least one command that every rank runs")
            if volumes.backend.platform != "local":
                check_values("env", plan.job.env)
                check_texts("commands", [command for command in plan.job.commands if command != RUN_COMMAND])
                check_texts("gather", plan.job.gather)
                theirs = {name: what for name, what in (self.files or {}).items() if not is_runner(name, what)}
                check_files(theirs)
            volumes.backend.check(plan)
            check_scripts(volumes.backend, plan, files)
        self.log.info("%s", plan.describe())
        self._sweep(context, volumes)
        context["ti"].xcom_push(PLANNED_KEY, where_of(volumes.backend))
        return plan.to_slots()

    def _sweep(self, context: Context, volumes: RankVolumes) -> None:
        def state_of(dag: str, run: str) -> RunState:
            return settled_state(context["ti"], dag, run, self.log)

        backend, selector = volumes.backend, volumes.selector()
        findings = survey(backend, selector, state_of, ReapRules(expired_only=True))
        gone, problems = reap(backend, selector, findings, state_of)
        self.log.info("Removed expired leftovers: %s", ", ".join(gone) or "none")
        for label, why in problems.items():
            self.log.warning("Could not remove expired leftover %s: %s", label, why)


class CreateRankVolumes(RankJobOperator):
    """Create every rank's volumes, or none.

    Args:
        slots: what PlanRankVolumes returned.

    Returns:
        The slots, now with ``"id"`` and ``"adopted"`` for each volume, and ``"created_at"`` for an adopted one.

    Raises:
        AirflowFailException: a name is taken or a volume cannot serve; nothing of this call is left.
    """

    template_fields: Sequence[str] = (*RankJobOperator.template_fields, "slots")
    operator_extra_links = (VolumesInConsole(), GroupOnPage())

    def __init__(self, *, slots: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.slots = slots

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Create or adopt, verify, and return the slots with their ids."""

        def lives(dag: str, run: str) -> bool:
            return self.run_state(context, dag, run) is RunState.LIVE

        with self.final_errors():
            volumes = self.open(context)
            plan = volumes.plan()
            self._check_slots(plan.to_slots())
            # Before the volumes: what is wrong with it must leave nothing behind.
            stage(volumes.backend, plan, check_scripts(volumes.backend, plan, self.read_files()))
            ti = context["ti"]
            ti.xcom_push(PLANNED_KEY, where_of(volumes.backend))  # for a plan that is cleared: it stays there till then
            slots = provision(
                volumes.backend, plan, generation=ti.try_number, handout=_handout_of(str(ti.id)), lives=lives
            )
        self.shown = Shown(volumes.backend, tuple(volume.id for slot in slots for volume in slot.volumes))
        for rank, volume in ((slot.rank, volume) for slot in slots for volume in slot.volumes):
            how = "adopted" if volume.adopted else "have"
            self.log.info("Rank %d: %s volume %s (%s)", rank, how, volume.name, volume.id)
        return [slot.to_dict() for slot in slots]

    def _check_slots(self, planned: list[dict[str, Any]]) -> None:
        if self.slots is not None and list(self.slots) != planned:
            raise ConfigError(
                f"slots: found {len(self.slots)} that differ from what the job's fields give now ({len(planned)} "
                "slots). A template in them has another value in every task; use one that is stable within a run"
            )


class RunRank(NodeOperator):
    """Run one rank's commands on a node of its own with its volumes; map it over the slots.

    Args:
        slot: this rank's slot, as CreateRankVolumes returned it.
        slots: all slots; needed only with ``rendezvous=True``.
        deferrable: wait in the triggerer (the default) or in the worker; nothing else differs.

    Returns:
        ``{"rank", "exit_code", "output", "log_tail", "volumes", "node_id", "attempt", "started_at", "finished_at",
        "reused", "events"}``; pushed for a failed rank, too.
    """

    template_fields: Sequence[str] = (*RankJobOperator.template_fields, "slots")
    operator_extra_links = (VolumesInConsole(), NodeInConsole(), GroupOnPage())

    def __init__(
        self,
        *,
        slot: Any,
        slots: Any = None,
        deferrable: bool = True,
        map_index_template: str = MAP_INDEX_TEMPLATE,
        **kwargs: Any,
    ) -> None:
        super().__init__(map_index_template=map_index_template, **kwargs)
        self.slot = slot
        self.slots = slots
        self.deferrable = deferrable

    def execute(self, context: Context) -> Any:
        """Launch (or adopt) this rank's node, then wait for its end."""
        with self.final_errors():
            volumes = self.open(context)
            job = volumes.job
            slot = Slot.from_dict(self.slot)
            everyone = tuple(Slot.from_dict(raw) for raw in self.slots or [self.slot])
            if job.rendezvous and len(everyone) != slot.nodes:
                raise ConfigError(f"slots: found {len(everyone)}, expected all {slot.nodes} with rendezvous=True")
            backend = volumes.backend
            launcher = Launcher(job, self.read_files(), everyone, backend.platform, stager=backend.stager)
        work = Work.begin(
            role=Role.RANK,
            attempt=context["ti"].try_number,
            group=volumes.group,
            slots=(slot,),
            template=job.node,
            now=volumes.backend.clock.now(),
            everyone=everyone if job.rendezvous else (),
        )
        observation = patiently(volumes.backend, volumes.backend.observe, work.group)
        work = choose_attempt(work, observation, context["ti"].try_number)
        (outcome,) = self.launch_and_wait(volumes, [work], launcher, deferrable=self.deferrable, seen=observation)
        return finish(self, context, ending_of(outcome))

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Any:
        """End a rank whose trigger could not end it by itself (``dag.test()`` runs triggers inline)."""
        return finish(self, context, event)


class DeleteRankVolumes(RankJobOperator):
    """End what still runs, and delete the volumes by their reclaim policy; use it as a teardown.

    Args:
        collected: ``gather.output["collected"]``: the ranks whose results gather has stored. Needed for volumes with
            ``delete_adopted=True``, which stay without it; the others carry the fact in their tags as well.
        slots: what CreateRankVolumes returned: it alone tells which volumes this run has adopted. Needed for the same
            ones, which stay without it.

    Returns:
        ``{"deleted": [name], "kept": [{"name", "id", "rank", "reason", "expiry"}], "nodes": [label]}``.

    Raises:
        LeakError: naming what could not be removed.
    """

    def __init__(self, *, collected: Any = None, slots: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.collected = collected  # not templated: a gather that failed has pushed nothing
        self.slots = slots  # likewise
        self._problem: Exception | None = None

    def planned(self, context: Context) -> Any:
        """Return where the job was planned; when that cannot be read, nodes are ended all the same, volumes stay."""
        try:
            return super().planned(context)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the nodes are ended first
            self.log.warning("Could not ask where the job was planned: %s", exc)
            self._problem = exc
            return None

    def execute(self, context: Context) -> dict[str, Any]:
        """Remove nodes, then volumes, and verify that each is gone."""
        volumes = self.open(context, checked=False)
        try:
            plan = volumes.plan()
            group = group_of(plan)
        except ConfigError as exc:
            self.log.warning("The job is invalid (%s); removing what exists by its tags", exc)
            plan, group = None, volumes.group
        slots: list[Slot] | None = None
        try:
            slots = self._slots(context, plan)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the nodes are ended first
            self.log.warning("Could not ask which volumes were adopted: %s", exc)
            self._problem = exc
        try:
            collected = self._collected(context)
        except Exception as exc:  # noqa: BLE001 - likewise
            self.log.warning("Could not ask what gather has collected: %s", exc)
            collected, self._problem = [], exc
        problem = self._problem
        report = teardown(volumes.backend, group, plan, collected=collected, slots=slots, sure=problem is None)
        self.log.info("Deleted volumes: %s", ", ".join(report.deleted) or "none")
        for kept in report.kept:
            until = f" until {kept.expiry}" if kept.expiry else ""
            self.log.warning("Kept volume %s (%s) of rank %d%s: %s", kept.name, kept.id, kept.rank, until, kept.reason)
        if problem:
            raise problem  # so that a retry, or a clear, deletes what it can then be sure of
        return report.to_dict()

    def _collected(self, context: Context) -> list[int] | None:
        """Return the ranks that gather has stored: none when it pushed nothing, None when nobody told where to look."""
        if self.collected is None:
            return None
        return list(resolved(self.collected, context) or ())

    def _slots(self, context: Context, plan: Plan | None) -> list[Slot] | None:
        """Return what was created: nothing when create_volumes did not end, None where nobody told or needs it."""
        needed = plan is not None and any(volume.template.delete_adopted for volume in plan.volumes())
        if self.slots is None or not needed:
            return None
        return [Slot.from_dict(raw) for raw in resolved(self.slots, context) or ()]


def _handout_of(try_id: str) -> str:
    """Return eight characters for a try of create_volumes: Airflow 3 gives every try of every task an id of its own."""
    return hashlib.sha256(try_id.encode()).hexdigest()[:8]
