"""What the command line asks of Airflow's database: whether a run lives, and which connections there are.

Looking must not create anything, so the database is used only where it exists and has been initialised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from sqlalchemy import inspect, select
from sqlalchemy.exc import SQLAlchemyError

from airflow_rankvol._cli_output import note
from airflow_rankvol._runs import BUSY_STATES
from airflow_rankvol.engine.reap import RunState

# Airflow 3.3 looks for connections in its database only in a process that says it is a server
# (airflow.sdk.execution_time.supervisor.ensure_secrets_backend_loaded); `airflow connections` does the same.
_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"

# A missing driver, settings that Airflow refuses, and whatever the driver itself reports.
_TROUBLE = (SQLAlchemyError, ImportError, RuntimeError, OSError)


class AirflowDatabase:
    """Airflow's metadata database, as far as this machine can reach it."""

    def __init__(self) -> None:
        self._states: dict[tuple[str, str], RunState] = {}
        self._broken = False

    @cached_property
    def problem(self) -> str:
        """Why the database cannot be asked; empty when it can."""
        from airflow import settings

        try:
            engine = settings.get_engine()
            path = engine.url.database
            # Connecting to a missing SQLite file would create it.
            if engine.url.get_backend_name() == "sqlite" and path and not Path(path).is_file():
                return f"there is no {path}"
            if not inspect(engine).has_table("dag_run"):
                return f"{engine.url.render_as_string(hide_password=True)} has no table dag_run"
        except _TROUBLE as exc:
            return _first_line(exc)
        return ""

    @contextmanager
    def connections(self) -> Iterator[None]:
        """Let connections stored in the database be found, next to those of the environment."""
        if self.problem or _CONTEXT in os.environ:
            yield
            return
        os.environ[_CONTEXT] = "server"
        try:
            yield
        finally:
            os.environ.pop(_CONTEXT, None)

    def run_state(self, dag_id: str, run_id: str) -> RunState:
        """Return whether a run lives; unknown where Airflow does not know it or cannot be asked."""
        where = (dag_id, run_id)
        if where not in self._states:
            self._states[where] = self._ask(*where)
        return self._states[where]

    def _ask(self, dag_id: str, run_id: str) -> RunState:
        if self._broken or self.problem:
            self._say(self.problem)
            return RunState.UNKNOWN
        from airflow.models.dagrun import DagRun
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from airflow.utils.state import DagRunState

        query = select(DagRun.state).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        tasks = select(TaskInstance.task_id).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
        try:
            with create_session(scoped=False) as session:
                state = session.scalar(query)
                busy = session.scalar(tasks.where(TaskInstance.state.in_(BUSY_STATES)).limit(1))
        except _TROUBLE as exc:
            self._say(_first_line(exc))
            return RunState.UNKNOWN
        if state is None:
            return RunState.UNKNOWN
        ended = state in (DagRunState.SUCCESS, DagRunState.FAILED) and not busy
        return RunState.ENDED if ended else RunState.LIVE

    def _say(self, why: str) -> None:
        if not self._broken:
            note(f"Airflow's database cannot be asked which runs live ({why}); they count as unknown")
        self._broken = True


def _first_line(exc: Exception) -> str:
    return f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}"
