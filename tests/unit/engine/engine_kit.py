"""A rank job on the fake cloud, one call per stage; what the engine's tests drive."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.calls import patiently
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.loop import launch, run
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.engine.reap import ReapRules, RunState, reap, survey
from airflow_rankvol.engine.step import Outcome, choose_attempt, mark_collected, step
from airflow_rankvol.engine.teardown import TeardownReport, teardown
from airflow_rankvol.engine.work import Work, group_of
from airflow_rankvol.plan import Plan, RunIdentity, make_plan
from airflow_rankvol.records import Group, Observation, Role, Slot, VolumeState
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.spec.templates import NodeTemplate
from airflow_rankvol.testing import FakeBackend


def a_plan(nodes: int = 3, *, run: str = "run-1", dag: str = "dag", owner: str = "me", **job: Any) -> Plan:
    """Return the plan of a job with one volume per rank, or with the given fields."""
    fields: dict[str, Any] = {
        "nodes": nodes,
        "volumes": ["data-volume-${NODE_RANK}:/data_volume"],
        "commands": ["compute"],
        "gather": ["merge"],
        **job,
    }
    return make_plan(RankJob.model_validate(fields), RunIdentity(owner, dag, run, "shards"))


HANDOUTS = itertools.count(1)


@dataclass
class Rig:
    """One run of a job: the stages that Airflow's tasks would call."""

    backend: FakeBackend
    plan: Plan
    slots: list[Slot] = field(default_factory=list)

    @property
    def group(self) -> Group:
        return group_of(self.plan)

    def create(self, generation: int = 1) -> list[Slot]:
        self.slots = provision(self.backend, self.plan, generation=generation, handout=f"{next(HANDOUTS):08x}")
        return self.slots

    def observe(self) -> Observation:
        return self.backend.observe(self.group)

    def launcher(self, *, everyone: bool = False, rank: int = 0) -> Launcher:
        slots = tuple(self.slots) if everyone else (self.slots[rank],)
        return Launcher(self.plan.job, {}, slots, self.backend.platform)

    def work(self, rank: int, attempt: int = 1) -> Work:
        job = self.plan.job
        return Work.begin(
            role=Role.RANK,
            attempt=attempt,
            group=self.group,
            slots=(self.slots[rank],),
            template=job.node,
            now=self.backend.clock.now(),
            everyone=tuple(self.slots) if job.rendezvous else (),
        )

    def gather_work(self, attempt: int = 1) -> Work:
        job = self.plan.job
        return Work.begin(
            role=Role.GATHER,
            attempt=attempt,
            group=self.group,
            slots=tuple(self.slots),
            template=job.gather_node or job.node,
            now=self.backend.clock.now(),
        )

    def begin(self, rank: int, try_number: int = 1) -> Work:
        """Return the work that a rank's task begins with, as its operator chooses it."""
        observation = patiently(self.backend, self.backend.observe, self.group)
        return choose_attempt(self.work(rank, try_number), observation, try_number)

    def start(self, rank: int, try_number: int = 1) -> Work:
        """Launch a rank's node by the look that chose its attempt, as its operator does."""
        seen = patiently(self.backend, self.backend.observe, self.group)
        work = choose_attempt(self.work(rank, try_number), seen, try_number)
        assert launch(self.backend, work, self._launcher(work), seen) is None
        return work

    def launch(self, work: Work) -> Outcome | None:
        return launch(self.backend, work, self._launcher(work))

    def run(self, work: Work) -> Outcome:
        return run(self.backend, work, self._launcher(work))

    def run_rank(self, rank: int, try_number: int = 1) -> Outcome:
        return self.run(self.begin(rank, try_number))

    def gather(self, attempt: int = 1) -> Outcome:
        outcome = self.run(self.gather_work(attempt))
        if outcome.error is None and outcome.report:
            mark_collected(self.backend, self.gather_work(attempt), outcome.report.collected)
        return outcome

    def step(self, work: Work) -> Outcome | None:
        return step(self.backend, work, self.observe())

    def until_end(self, *works: Work, limit: int = 3_000) -> list[Outcome]:
        """Step several works in turn, as one triggerer does, until each has ended."""
        ended: dict[int, Outcome] = {}
        for _ in range(limit):
            for index, work in enumerate(works):
                outcome = None if index in ended else self.step(work)
                if outcome:
                    ended[index] = outcome
            if len(ended) == len(works):
                return [ended[index] for index in range(len(works))]
            self.backend.clock.sleep(self.backend.poll_interval_s)
        raise AssertionError("the works did not end")

    def until_attached(self, *works: Work) -> None:
        """Step until the nodes have their volumes."""
        ids = {volume_id for work in works for volume_id in work.volume_ids}
        for _ in range(1000):
            for work in works:
                assert self.step(work) is None
            volumes = self.observe().volumes
            if all(volume.state is VolumeState.ATTACHED for volume in volumes if volume.id in ids):
                return
            self.backend.clock.sleep(1)
        raise AssertionError("the volumes were not attached")

    def teardown(self) -> TeardownReport:
        return teardown(self.backend, self.group, self.plan, slots=self.slots)

    def reap(self, state: RunState, **rules: Any) -> tuple[list[str], dict[str, str]]:
        selector = Selector(owner=self.group.owner)
        findings = survey(self.backend, selector, lambda _dag, _run: state, ReapRules(**rules))
        return reap(self.backend, selector, findings)

    def _launcher(self, work: Work) -> Launcher:
        if work.role is Role.GATHER and self.plan.job.allow_missing:
            # Airflow knows whose task succeeded; here, whoever left a record.
            records = {volume.tags.rank for volume in self.backend.volumes.values() if volume.record and volume.tags}
            return replace(self.launcher(everyone=True), succeeded=frozenset(records))
        if work.role is Role.GATHER or work.rendezvous:
            return self.launcher(everyone=True)
        return self.launcher(rank=work.rank)


def a_rig(nodes: int = 3, *, backend: FakeBackend | None = None, created: bool = True, **job: Any) -> Rig:
    """Return a run whose volumes exist, on a new fake cloud unless one is given."""
    rig = Rig(backend or FakeBackend(), a_plan(nodes, **job))
    if created:
        rig.create()
    return rig


def a_gang(nodes: int = 3, *, backend: FakeBackend, **job: Any) -> Rig:
    """Return a run whose nodes start together."""
    short = {"node": NodeTemplate(lifetime=timedelta(minutes=30)), **job}
    return a_rig(nodes, backend=backend, rendezvous=True, **short)


def all_launched(rig: Rig) -> list[Work]:
    """Launch every rank as its own task would."""
    works = [rig.begin(rank) for rank in range(rig.plan.job.nodes)]
    for work in works:
        assert rig.launch(work) is None
    return works
