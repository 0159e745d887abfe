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
from airflow_rankvol.errors import RankVolError

# Airflow 3.3 looks for connections in its database only in a process that says it is a server
# (airflow.sdk.execution_time.supervisor.ensure_secrets_backend_loaded); `airflow connections` does the same.
_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"

# A driver that fails to load, an engine that was never made, and whatever the driver itself reports.
_TROUBLE = (SQLAlchemyError, ImportError, RuntimeError, OSError)


class AirflowSilent(RankVolError):
    """Airflow's database is configured and does not answer, which is no word that a run has ended."""


class AirflowDatabase:
    """Airflow's metadata database, as far as this machine can reach it.

    Args:
        needed: whether to raise, instead of taking runs for unknown, where the database does not answer.
    """

    def __init__(self, *, needed: bool = False) -> None:
        self._needed = needed
        self._states: dict[tuple[str, str], RunState] = {}
        self._said = False
        self._failed = ""

    @cached_property
    def _reach(self) -> tuple[str, str]:
        """Why there is no database, and why the one that there is does not answer; both empty when it does."""
        from airflow import settings
        from airflow.configuration import AIRFLOW_HOME
        from airflow.models.base import Base

        try:
            engine = settings.get_engine()
            path = engine.url.database
            # Connecting to a missing SQLite file would create it.
            if engine.url.get_backend_name() == "sqlite" and path and not Path(path).is_file():
                missing = f"there is no {path}"
                # Airflow's default, where nobody has set anything up; any other path somebody has chosen.
                return (missing, "") if Path(path) == Path(AIRFLOW_HOME, "airflow.db") else ("", missing)
            if not inspect(engine).has_table("dag_run", schema=Base.metadata.schema):
                return f"{engine.url.render_as_string(hide_password=True)} has no table dag_run", ""
        except _TROUBLE as exc:
            return "", _first_line(exc)
        return "", ""

    @property
    def failure(self) -> str:
        """Why the database that is configured does not answer; empty when it does, or was never set up."""
        return self._failed or self._reach[1]

    @property
    def problem(self) -> str:
        """Why the database cannot be asked; empty when it can."""
        return self._reach[0] or self.failure

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

    def demand(self) -> None:
        """Raise where the database is needed and does not answer.

        Raises:
            AirflowSilent: saying why, and what to do.
        """
        if self._needed and self.failure:
            raise AirflowSilent(
                f"Airflow's database does not answer ({self.failure}), so nobody can tell which runs live; "
                "try again when it does. With --without-airflow runs count as unknown, and their expiry alone counts"
            )

    def run_state(self, dag_id: str, run_id: str) -> RunState:
        """Return whether a run lives, as it was when first asked; see ``ask``."""
        where = (dag_id, run_id)
        if where not in self._states:
            self._states[where] = self.ask(*where)
        return self._states[where]

    def ask(self, dag_id: str, run_id: str) -> RunState:
        """Return whether a run lives now; unknown where Airflow does not know it, or was never set up.

        Raises:
            AirflowSilent: the database does not answer, and is needed.
        """
        if not self.failure:
            try:
                return self._ask(dag_id, run_id)
            except _TROUBLE as exc:
                self._failed = _first_line(exc)
        self.demand()
        self._say(self.failure)
        return RunState.UNKNOWN

    def _ask(self, dag_id: str, run_id: str) -> RunState:
        if self.problem:
            self._say(self.problem)
            return RunState.UNKNOWN
        from airflow.models.dagrun import DagRun
        from airflow.models.taskinstance import TaskInstance
        from airflow.utils.session import create_session
        from airflow.utils.state import DagRunState

        query = select(DagRun.state).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        tasks = select(TaskInstance.task_id).where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
        with create_session(scoped=False) as session:
            state = session.scalar(query)
            busy = session.scalar(tasks.where(TaskInstance.state.in_(BUSY_STATES)).limit(1))
        if state is None:
            return RunState.UNKNOWN
        ended = state in (DagRunState.SUCCESS, DagRunState.FAILED) and not busy
        return RunState.ENDED if ended else RunState.LIVE

    def _say(self, why: str) -> None:
        if not self._said:
            note(f"Airflow's database cannot be asked which runs live ({why}); they count as unknown")
        self._said = True


def _first_line(exc: Exception) -> str:
    return f"{type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}"
