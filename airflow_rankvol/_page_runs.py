"""What the page reads from Airflow's database: which runs live, and what the tasks of rank jobs did and returned.

It runs in the API server, which may do that; what a user may see of it is decided by the caller.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from airflow_rankvol._runs import BUSY_STATES
from airflow_rankvol.engine.reap import RunState

log = logging.getLogger(__name__)

#: A rank job's tasks by the class of their operator, as ``task_instance.operator`` holds it.
STEPS = {
    "PlanRankVolumes": "plan",
    "CreateRankVolumes": "create",
    "RunRank": "ranks",
    "GatherRankResults": "gather",
    "DeleteRankVolumes": "delete",
}
#: How many runs the page shows of those whose volumes are gone.
RECENT_RUNS = 50

Where = tuple[str, str, str]


@dataclass
class Step:
    """One task of a rank job in one run; of the mapped one, all its instances together."""

    task_id: str
    states: dict[str, int] = field(default_factory=dict)
    start: datetime | None = None
    end: datetime | None = None

    def add(self, state: str, number: int, start: datetime | None, end: datetime | None) -> None:
        """Add instances that are in the same state."""
        self.states[state] = self.states.get(state, 0) + number
        self.start = min(filter(None, (self.start, start)), default=None)
        self.end = max(filter(None, (self.end, end)), default=None)


@dataclass
class RunGroup:
    """One rank job in one run, as its tasks show it."""

    dag: str
    run: str
    group: str
    run_state: str
    conn_id: str | None = None
    steps: dict[str, Step] = field(default_factory=dict)


@dataclass(frozen=True)
class RankTask:
    """One rank's task: its state, its try, and what it returned (None while it has not)."""

    rank: int
    state: str
    try_number: int
    end: datetime | None
    result: Mapping[str, Any] | None


def run_state(dag_id: str, run_id: str) -> RunState:
    """Return whether a run, or a task of it, lives; unknown is only one that Airflow does not have.

    Raises:
        SQLAlchemyError: Airflow's database does not answer, which is no word that a run has ended.
    """
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    tasks = select(TaskInstance.task_id).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
    with create_session(scoped=False) as session:
        state = session.scalar(select(DagRun.state).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
        busy = session.scalar(tasks.where(TaskInstance.state.in_(BUSY_STATES)).limit(1))
    if state is None:
        return RunState.UNKNOWN
    return RunState.ENDED if state in ("success", "failed") and not busy else RunState.LIVE


def dags_with_jobs() -> set[str]:
    """Return the ids of all DAGs that have run a rank job."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        return set(session.scalars(select(TaskInstance.dag_id).where(TaskInstance.operator == "RunRank").distinct()))


def run_groups(
    dags: Collection[str], run: str | None = None, runs: Collection[tuple[str, str]] = ()
) -> dict[Where, RunGroup]:
    """Return the rank jobs of the latest runs of some DAGs, by DAG, run and group.

    Args:
        run: only of runs with this id.
        runs: these (DAG, run) in any case, however old.
    """
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    jobs = (
        select(TaskInstance.dag_id, TaskInstance.run_id)
        .where(TaskInstance.operator == "RunRank", TaskInstance.dag_id.in_(dags))
        .distinct()
        .subquery()
    )
    latest = (
        select(DagRun.dag_id, DagRun.run_id)
        .join(jobs, (jobs.c.dag_id == DagRun.dag_id) & (jobs.c.run_id == DagRun.run_id))
        .order_by(DagRun.run_after.desc())
        .limit(RECENT_RUNS)
    )
    columns = [getattr(TaskInstance, name) for name in ("dag_id", "run_id", "task_id", "operator", "state")]
    tasks = (
        select(
            *columns,
            DagRun.state,
            func.count(),
            func.min(TaskInstance.start_date),
            func.max(TaskInstance.end_date),
        )
        .join(DagRun, (TaskInstance.dag_id == DagRun.dag_id) & (TaskInstance.run_id == DagRun.run_id))
        .where(TaskInstance.operator.in_(STEPS), TaskInstance.dag_id.in_(dags))
        .group_by(*columns, DagRun.state)
    )
    with create_session(scoped=False) as session:
        wanted = {(dag_id, run) for dag_id in dags} if run else {*map(tuple, session.execute(latest)), *runs}
        rows = session.execute(tasks.where(TaskInstance.run_id.in_({run_id for _, run_id in wanted}))).all()
        rows = [row for row in rows if (row[0], row[1]) in wanted]
        known = {(row[0], row[1], row[2]) for row in rows}
        fields = _fields(session, known)
        declared = _declared(session, {task for task in known if not fields.get(task, {}).get("volume_group")})
        for task, values in declared.items():
            fields[task] = {**values, **{name: value for name, value in fields.get(task, {}).items() if value}}
    return _grouped(rows, fields)


def _grouped(rows: Collection[Any], fields: Mapping[Where, Mapping[str, Any]]) -> dict[Where, RunGroup]:
    found: dict[Where, RunGroup] = {}
    for dag, run, task_id, operator, state, of_run, number, start, end in rows:
        known = fields.get((dag, run, task_id), {})
        group = str(known.get("volume_group") or task_id.rpartition(".")[0] or task_id)
        job = found.setdefault((dag, run, group), RunGroup(dag, run, group, str(getattr(of_run, "value", of_run))))
        job.conn_id = job.conn_id or known.get("conn_id")
        step = job.steps.setdefault(STEPS[operator], Step(task_id))
        step.add(str(getattr(state, "value", state) or "none"), number, start, end)
    return found


def _fields(session: Any, tasks: Collection[Where]) -> dict[Where, Mapping[str, Any]]:
    """Return rendered fields of tasks; Airflow keeps them for the latest runs only."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields as Rendered

    query = select(Rendered.dag_id, Rendered.run_id, Rendered.task_id, Rendered.rendered_fields).where(
        Rendered.dag_id.in_({dag for dag, _, _ in tasks}),
        Rendered.run_id.in_({run for _, run, _ in tasks}),
        Rendered.task_id.in_({task for _, _, task in tasks}),
        Rendered.map_index.in_((-1, 0)),
    )
    return {(dag, run, task): values or {} for dag, run, task, values in session.execute(query)}


def _dag(session: Any, dag_id: str) -> Any:
    from airflow.models.dagbag import DBDagBag

    try:
        return DBDagBag(load_op_links=False).get_latest_version_of_dag(dag_id, session=session)
    except Exception as exc:  # noqa: BLE001 - whatever it is, the page shows the other DAGs
        log.warning("DAG %s cannot be read: %s", dag_id, exc)
        return None


def _declared(session: Any, tasks: Collection[Where]) -> dict[Where, Mapping[str, Any]]:
    """Return such fields as their DAGs have them: of a task that has not begun, or long ago, none are kept.

    A template in them says nothing without its run.
    """
    found = dict[Where, Mapping[str, Any]]()
    dags = {dag_id: _dag(session, dag_id) for dag_id in {dag for dag, _, _ in tasks}}
    for dag_id, run, task_id in tasks:
        dag = dags[dag_id]
        if dag is None or not dag.has_task(task_id):
            continue
        task: Any = dag.get_task(task_id)
        given: Mapping[str, Any] = getattr(task, "partial_kwargs", None) or vars(task)
        told = {name: given.get(name) for name in ("volume_group", "conn_id")}
        found[dag_id, run, task_id] = {
            name: value for name, value in told.items() if isinstance(value, str) and "{" not in value
        }
    return found


def rank_tasks(job: RunGroup) -> list[RankTask]:
    """Return every rank's task of a job; none before the mapped task has been expanded."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    step = job.steps.get("ranks")
    if step is None:
        return []
    query = select(TaskInstance.map_index, TaskInstance.state, TaskInstance.try_number, TaskInstance.end_date).where(
        TaskInstance.dag_id == job.dag,
        TaskInstance.run_id == job.run,
        TaskInstance.task_id == step.task_id,
        TaskInstance.map_index >= 0,
    )
    with create_session(scoped=False) as session:
        rows = session.execute(query.order_by(TaskInstance.map_index)).all()
        results = _returned(session, job, step.task_id)
    return [
        RankTask(rank, str(getattr(state, "value", state) or "none"), tries or 0, end, _mapping(results.get(rank)))
        for rank, state, tries, end in rows
    ]


def slots(job: RunGroup) -> list[Mapping[str, Any]]:
    """Return what the job's plan, or better its volumes' creation, pushed: one slot for each rank."""
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        for name in ("create", "plan"):
            pushed = _returned(session, job, job.steps[name].task_id).get(-1) if name in job.steps else None
            if isinstance(pushed, list):
                return [slot for slot in pushed if isinstance(slot, Mapping)]
    return []


def _returned(session: Any, job: RunGroup, task_id: str) -> dict[int, Any]:
    from airflow.models.xcom import XComModel

    query = select(XComModel).where(
        XComModel.dag_id == job.dag,
        XComModel.run_id == job.run,
        XComModel.task_id == task_id,
        XComModel.key == "return_value",
    )
    return {row.map_index: XComModel.deserialize_value(row) for row in session.scalars(query)}


def _mapping(value: Any) -> Mapping[str, Any] | None:
    return value if isinstance(value, Mapping) else None
