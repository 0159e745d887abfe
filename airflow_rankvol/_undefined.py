"""Whether a connection that Airflow does not find is not defined, or cannot be asked for at the moment.

``BaseHook.get_connection`` says "isn't defined" in both cases: it passes over a secrets backend that raises
(``airflow.sdk.execution_time.context._get_connection`` in Airflow 3.3.2), and that of tasks and triggers says None also
when the API server does not answer (``ExecutionAPISecretsBackend.get_connection``). Who then took the connection for
undefined would work on this machine instead, and call a cloud's volumes deleted without having looked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import tenacity

from airflow_rankvol.errors import ConfigError, NotReady

T = TypeVar("T")

#: How long a task or a trigger asks again, in seconds; each question is repeated by Airflow's client as well.
PATIENCE_S = 180.0
LONGEST_PAUSE_S = 20.0


def patiently(find: Callable[[], T]) -> T:
    """Return what is found, asking for up to PATIENCE_S in a task; elsewhere somebody waits for the answer.

    Raises:
        NotReady: the last one, when patience has run out.
    """
    return tenacity.Retrying(**_patience())(find) if _comms() is not None else find()


async def apatiently(find: Callable[[], Awaitable[T]]) -> T:
    """Return what is found, asking for up to PATIENCE_S.

    Raises:
        NotReady: the last one, when patience has run out.
    """
    return await tenacity.AsyncRetrying(**_patience())(find)


def _patience() -> dict[str, Any]:
    return {
        "retry": tenacity.retry_if_exception_type(NotReady),
        "wait": tenacity.wait_random_exponential(max=LONGEST_PAUSE_S),
        "stop": tenacity.stop_after_delay(PATIENCE_S),
        "reraise": True,
    }


def check_undefined(conn_id: str) -> None:
    """Return if the connection is not defined anywhere; to be called when Airflow has not found it.

    Raises:
        ConfigError: it is defined in the environment, wrongly.
        NotReady: somebody who may know it did not answer, or has answered now.
    """
    from airflow.sdk.execution_time.secrets import ExecutionAPISecretsBackend
    from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded
    from airflow.secrets.environment_variables import EnvironmentVariablesBackend

    for secrets in ensure_secrets_backend_loaded():
        name = type(secrets).__name__
        try:
            is_api = isinstance(secrets, ExecutionAPISecretsBackend)
            found = _is_known_to_api(conn_id) if is_api else secrets.get_connection(conn_id=conn_id)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is no word that nobody knows the connection
            kind = type(exc).__name__  # its text may hold what it could not read
            if isinstance(secrets, EnvironmentVariablesBackend):
                raise ConfigError(
                    f"connection {conn_id!r} is defined in the environment, but cannot be read ({kind}); expected a "
                    """URI with special characters as %XX, or JSON as in {"conn_type": "aws"}"""
                ) from None
            raise NotReady(
                f"connection {conn_id!r} was not found, but {name} failed when it was asked ({kind}), so it may be "
                "defined. Nothing was done; try again once it answers"
            ) from None
        if found:
            raise NotReady(
                f"connection {conn_id!r} was not found, but {name} knows it now. Nothing was done; try again"
            )


def _is_known_to_api(conn_id: str) -> bool:
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse, GetConnection

    try:
        answer = _comms().send(GetConnection(conn_id=conn_id))
    except AirflowRuntimeError as exc:
        answer = exc.error
    if not isinstance(answer, ErrorResponse):
        return True
    if answer.error is ErrorType.CONNECTION_NOT_FOUND:
        return False
    raise AirflowRuntimeError(answer)


def _comms() -> Any:
    from airflow.sdk.execution_time import task_runner

    return getattr(task_runner, "SUPERVISOR_COMMS", None)
