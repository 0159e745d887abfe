"""What a task may ask Airflow about runs: whether one lives, and whether a task of one that has ended still does.

A task may not touch Airflow's database; these questions go through its supervisor to the API server.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

from airflow_rankvol.engine.reap import RunState

if TYPE_CHECKING:
    from airflow.sdk.types import Logger, RuntimeTaskInstanceProtocol

Answer = TypeVar("Answer")

# States in which a DAG run has ended; anything else that Airflow answers means that it lives.
_ENDED_STATES = ("success", "failed")
# In these a task runs, or will without anybody's doing, whatever the state of its run. One that waits for its start or
# its retry in a run that has ended does so for ever (SchedulerJobRunner._executable_task_instances_to_queued takes
# DagRunState.RUNNING only): nothing would ever be reaped for its sake.
BUSY_STATES = frozenset({"queued", "running", "restarting", "deferred"})


def run_state(ti: RuntimeTaskInstanceProtocol, dag_id: str, run_id: str, log: Logger) -> RunState:
    """Ask Airflow whether a run lives; unknown is only one that Airflow says it does not have."""
    if (dag_id, run_id) == (ti.dag_id, ti.run_id):
        return RunState.LIVE
    state, problem = _ask(lambda: ti.get_dagrun_state(dag_id, run_id))
    if problem is not None:
        if problem[0] == HTTPStatus.NOT_FOUND:
            return RunState.UNKNOWN
        log.warning("Airflow could not tell whether run %s of %s lives: %s", run_id, dag_id, problem[1])
        return RunState.LIVE  # an answer that failed is no word that the run has ended
    # A str subclass whose str() is "DagRunState.FAILED": compared, never printed.
    return RunState.ENDED if state in _ENDED_STATES else RunState.LIVE


def settled_state(ti: RuntimeTaskInstanceProtocol, dag_id: str, run_id: str, log: Logger) -> RunState:
    """Ask the same, but let a run live as long as a task of it does: its teardown may be at work on the volumes."""
    state = run_state(ti, dag_id, run_id, log)
    if state is not RunState.ENDED:
        return state
    answer, problem = _ask(lambda: ti.get_task_states(dag_id=dag_id, run_ids=[run_id]))
    if answer is None:
        log.warning("Airflow could not tell whether tasks of run %s of %s still run: %s", run_id, dag_id, problem)
        return RunState.LIVE
    busy = sorted(task for task, found in answer.get(run_id, {}).items() if found in BUSY_STATES)
    if busy:
        log.info("Run %s of %s has ended, but not its tasks %s: it counts as live", run_id, dag_id, ", ".join(busy))
    return RunState.LIVE if busy else RunState.ENDED


def _ask(question: Callable[[], Answer]) -> tuple[Answer | None, tuple[int | None, Exception] | None]:
    """Return the API's answer, or its HTTP status and the error; ``dag.test()`` has errors of a kind of its own."""
    from airflow.sdk.api.client import ServerResponseError
    from airflow.sdk.exceptions import AirflowRuntimeError

    try:
        return question(), None
    except AirflowRuntimeError as exc:
        return None, ((exc.error.detail or {}).get("status_code"), exc)
    except ServerResponseError as exc:
        return None, (exc.response.status_code, exc)
