"""Real DAG runs in this process: Airflow's own ``dag.test()``, and its loop again after tasks were cleared."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db
from airflow.models.dagrun import DagRun, get_or_create_dagrun
from airflow.models.taskinstance import TaskInstance, find_relevant_relatives
from airflow.models.xcom import XComModel
from airflow.sdk import timezone
from airflow.sdk.definitions.dag import _run_task
from airflow.serialization.serialized_objects import DagSerialization
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, State, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select

from airflow_rankvol.backends.base import Backend, Selector
from airflow_rankvol.hooks import get_backend, get_owner
from airflow_rankvol.records import Observation
from tests.airflow.grounds import Ground

_HEAD = """\
from datetime import timedelta
from airflow.sdk import DAG, Param
from airflow_rankvol import NodeTemplate, VolumeTemplate, rank_job
"""
_numbers = itertools.count()
_PATIENCE_S = 30.0


@dataclass
class Run:
    """A DAG run that can be looked at, and gone on with."""

    dag: Any
    run_id: str
    state: str = ""
    log: str = ""

    def states(self) -> dict[str, str]:
        """Return the state of every task: ``{"plan": "success", "run_rank[0]": "failed", …}``."""
        with create_session() as session:
            found = DagRun.fetch_task_instances(self.dag.dag_id, self.run_id, session=session)
            return {_short(ti): str(ti.state) for ti in found}

    def labels(self) -> dict[str, str | None]:
        """Return the labels of the mapped tasks as the UI shows them."""
        with create_session() as session:
            found = DagRun.fetch_task_instances(self.dag.dag_id, self.run_id, session=session)
            return {_short(ti): ti.rendered_map_index for ti in found if ti.map_index >= 0}

    def xcom(self, task: str) -> Any:
        """Return what a task returned (``"gather"``, ``"run_rank[2]"``), or None."""
        match = re.fullmatch(r"([\w.]+?)(?:\[(\d+)\])?", task)
        assert match
        with create_session() as session:
            query = XComModel.get_many(
                key="return_value", run_id=self.run_id, dag_ids=self.dag.dag_id, map_indexes=int(match[2] or -1)
            )
            found: list[Any] = list(session.scalars(query))
            rows = [row for row in found if f".{row.task_id}".endswith(f".{match[1]}")]
            return XComModel.deserialize_value(rows[0]) if rows else None


def _short(ti: TaskInstance) -> str:
    name = ti.task_id.partition(".")[2] if ti.task_id.startswith("job.") else ti.task_id
    return f"{name}[{ti.map_index}]" if ti.map_index >= 0 else name


class DagBench:
    """Writes DAG files, runs them, clears tasks of their runs, and looks at what they left."""

    def __init__(
        self, folder: Path, prefix: str, ground: Ground | None = None, read_output: Callable[[], str] = str
    ) -> None:
        self.folder = folder
        self.prefix = prefix
        self._ground = ground
        self._read_output = read_output
        self._seen: dict[str, set[str]] = {}

    @property
    def ground(self) -> Ground:
        """The cloud that the jobs run on."""
        assert self._ground is not None
        return self._ground

    def write(self, body: str, dag_id: str | None = None) -> Any:
        """Write a DAG file and load it. In the body, ``DAG_ID`` stands for the id."""
        dag_id = dag_id or f"{self.prefix}_{next(_numbers)}"
        path = self.folder / f"{dag_id}.py"
        path.write_text(_HEAD + textwrap.dedent(body).replace("DAG_ID", repr(dag_id)))
        return self._load(path, dag_id)

    def example(self, name: str) -> Any:
        """Load a DAG of ``dags/`` under an id of its own."""
        source = (Path(__file__).parents[2] / "dags" / f"{name}.py").read_text()
        assert f'"{name}"' in source
        dag_id = f"{self.prefix}_{next(_numbers)}"
        path = self.folder / f"{dag_id}.py"
        path.write_text(source.replace(f'"{name}"', repr(dag_id)))
        return self._load(path, dag_id)

    def _load(self, path: Path, dag_id: str) -> Any:
        spec = importlib.util.spec_from_file_location(f"rankvol_dag_{dag_id}_{next(_numbers)}", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.dag

    def job(self, dag_id: str | None = None, dag_args: str = "", **fields: Any) -> Any:
        """Write a DAG with one ``rank_job("job", …)``; string values that start with ``=`` are Python source."""
        defaults: dict[str, Any] = {
            "nodes": 2,
            "volumes": ["data-${NODE_RANK}:/data"],
            "volume_template": {"size": "32MB"},
            "commands": ["true"],
        }
        source = ", ".join(
            f"{key}={value[1:] if isinstance(value, str) and value.startswith('=') else repr(value)}"
            for key, value in {**defaults, **fields}.items()
        )
        body = f"with DAG(DAG_ID, schedule=None{dag_args and ', ' + dag_args}) as dag:\n    rank_job('job', {source})\n"
        return self.write(body, dag_id)

    def run(self, dag: Any, conf: dict[str, Any] | None = None) -> Run:
        """Run the DAG with Airflow's ``dag.test()``."""
        dag_run = dag.test(run_conf=conf)
        return Run(dag, dag_run.run_id, str(dag_run.state), self._read_output())

    def clear(self, run: Run, *tasks: str, downstream: bool = True) -> None:
        """Clear tasks (``"run_rank[2]"``) as the UI does, with what follows them."""
        markers: set[str | tuple[str, int]] = set()
        for task in tasks:
            name, _, index = task.rstrip("]").partition("[")
            markers.add((f"job.{name}", int(index)) if index else f"job.{name}")
        scheduled = _scheduled(run.dag)
        with create_session() as session:
            if downstream:
                markers |= set(
                    find_relevant_relatives(
                        {m for m in markers if isinstance(m, str)},
                        {m for m in markers if isinstance(m, tuple)},
                        dag=scheduled,
                        run_id=run.run_id,
                        direction="downstream",
                        session=session,
                    )
                )
            scheduled.clear(task_ids=markers, run_id=run.run_id, session=session)

    def start(self, dag: Any, conf: dict[str, Any] | None = None) -> Run:
        """Make a run without running any task; ``drive`` does that."""
        scheduled = _scheduled(dag)
        now = timezone.utcnow()
        _sync()
        with create_session() as session:
            dag_run = get_or_create_dagrun(
                dag=scheduled,
                start_date=now,
                logical_date=now,
                data_interval=None,
                run_after=now,
                run_id=DagRun.generate_run_id(run_type=DagRunType.MANUAL, logical_date=now, run_after=now),
                session=session,
                conf=conf,
                triggered_by=DagRunTriggeredByType.TEST,
                triggering_user_name="tests",
            )
            session.commit()
            return Run(dag, dag_run.run_id)

    def fail_running(self, run: Run) -> None:
        """Fail the tasks whose process is dead, as the scheduler does when their heartbeat stops."""
        with create_session() as session:
            for ti in DagRun.fetch_task_instances(run.dag.dag_id, run.run_id, session=session):
                if ti.state in (TaskInstanceState.RUNNING, TaskInstanceState.QUEUED):
                    ti.state = TaskInstanceState.FAILED

    def time_out(self, run: Run) -> None:
        """Fail the run and skip what has not ended, as the scheduler does after ``dagrun_timeout``."""
        with create_session() as session:
            for ti in DagRun.fetch_task_instances(run.dag.dag_id, run.run_id, session=session):
                if ti.state not in State.finished:
                    ti.state = TaskInstanceState.SKIPPED
            _dag_run(run, session).state = DagRunState.FAILED

    def resume(self, run: Run, dag: Any | None = None) -> Run:
        """Go on with a run (after a clear, or with a changed DAG) in the loop of ``dag.test()``."""
        return self.drive(Run(dag or run.dag, run.run_id))[0]

    def drive(self, *runs: Run) -> list[Run]:
        """Run all tasks of several runs, one task of each in turn, so that the runs overlap."""
        for run in runs:
            with create_session() as session:
                _dag_run(run, session).state = DagRunState.RUNNING
        going = {run.run_id: run for run in runs}
        states: dict[str, str] = {}
        while going:
            for run in list(going.values()):
                states[run.run_id], due = _due(run)
                if due is not None:
                    _run_task(ti=due, task=run.dag.task_dict[due.task_id], run_triggerer=True)
                elif states[run.run_id] != DagRunState.RUNNING:
                    del going[run.run_id]
        log = self._read_output()
        return [Run(run.dag, run.run_id, states[run.run_id], log) for run in runs]

    def backend(self) -> Backend:
        """Return the backend of the default connection."""
        return get_backend()

    def left(self, dag: Any) -> Observation:
        """Return every volume and node that runs of this DAG have left; what is seen last may stay."""
        backend = get_backend()
        found = backend.list_owned(Selector(owner=get_owner("rankvol_default", backend), dag=dag.dag_id))
        self._seen[dag.dag_id] = {volume.id for volume in found.volumes} | {node.id for node in found.nodes}
        return found

    def without_nodes(self, dag: Any) -> Observation:
        """Return what runs of this DAG have left once no node is there: a cloud lists one until it has shut down."""
        deadline = time.monotonic() + _PATIENCE_S
        while (left := self.left(dag)).nodes:
            assert time.monotonic() < deadline, left.nodes
            time.sleep(0.1)
        return left

    def check_left(self) -> None:
        """See that nothing is there but what the test has seen last."""
        expected = sorted(set[str]().union(*self._seen.values()))
        deadline = time.monotonic() + _PATIENCE_S
        while (left := self.ground.left()) != expected:
            assert time.monotonic() < deadline, f"left: {left}, expected: {expected}"
            time.sleep(0.02)


def _dag_run(run: Run, session: Any) -> DagRun:
    found = session.scalar(select(DagRun).where(DagRun.dag_id == run.dag.dag_id, DagRun.run_id == run.run_id))
    assert isinstance(found, DagRun)
    return found


def _scheduled(dag: Any) -> Any:
    return DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))


def _sync() -> None:
    """Write the DAG files to the database, as the DAG processor does."""
    for bundle in DagBundlesManager().get_all_dag_bundles():
        bundle.initialize()
        bag = BundleDagBag(dag_folder=bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
        sync_bag_to_db(bag, bundle.name, bundle.version)


def _due(run: Run) -> tuple[str, TaskInstance | None]:
    """Let the run's dependencies be looked at once; return its state and one task that is due, if any."""
    with create_session() as session:
        dag_run = _dag_run(run, session)
        dag_run.dag = _scheduled(run.dag)
        schedulable, _ = dag_run.update_state(session=session)
        for ti in schedulable:
            ti.try_number += 1
            ti.state = TaskInstanceState.SCHEDULED
        session.commit()
        tasks = dag_run.get_task_instances(session=session)
        due = next((ti for ti in tasks if ti.state == TaskInstanceState.SCHEDULED), None)
        state = str(dag_run.state)
        session.expunge_all()
    return state, due


def initialise() -> Path:
    """Make the test process' Airflow database once; returns its DAGs folder."""
    from airflow.utils import db

    home = Path(os.environ["AIRFLOW_HOME"])
    if not (home / "airflow.db").exists():
        db.initdb()
        DagBundlesManager().sync_bundles_to_db()
    folder = Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"])
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return folder
