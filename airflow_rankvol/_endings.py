"""How a node's end becomes a task's end; one way for the worker, the trigger and ``dag.test()``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from airflow_rankvol.errors import (
    DeadlineExceeded,
    GatherFailed,
    GatherIncomplete,
    RankFailed,
    RankVolError,
    VolumeConflict,
)

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from airflow_rankvol.engine.step import Outcome


class _Logger(Protocol):
    def error(self, event: Any, /, *args: Any) -> Any: ...


def ending_of(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as the plain dict that a trigger event can carry."""
    error = outcome.error
    return {
        "result": outcome.result.to_dict(),
        "output": outcome.result.output,
        "error": str(error) if error else "",
        "error_type": type(error).__name__ if error else "",
        "collected": list(outcome.report.collected) if outcome.report else [],
        "missing": list(error.missing) if isinstance(error, GatherIncomplete) else [],
    }


def log_failure(log: _Logger, ending: Mapping[str, Any]) -> None:
    """Log why it failed and the end of the node's log, at ERROR."""
    log.error("%s (exit code %s)", ending["error"], ending["result"]["exit_code"])
    tail = ending["result"]["log_tail"]
    if tail:
        log.error("The end of the node's log:\n%s", tail)


def finish(operator: BaseOperator, context: Context, ending: Mapping[str, Any]) -> dict[str, Any]:
    """Return a success's result; log a failure, push its result and raise.

    Raises:
        RankVolError: the node's work failed; the message says why.
    """
    result: dict[str, Any] = dict(ending["result"])
    if not ending["error"]:
        return result
    log_failure(operator.log, ending)
    if result["rank"] >= 0:
        context["ti"].xcom_push(key="return_value", value=result)
    raise error_of(ending)


def error_of(ending: Mapping[str, Any]) -> RankVolError:
    """Return the error of an ending that failed, as the type that it was raised as."""
    result, message, kind = ending["result"], str(ending["error"]), ending["error_type"]
    details = {"exit_code": result["exit_code"], "log_tail": result["log_tail"]}
    if kind == GatherFailed.__name__:
        return GatherFailed(message, **details)
    if kind == GatherIncomplete.__name__:
        return GatherIncomplete(message, missing=ending["missing"])
    if kind == DeadlineExceeded.__name__:
        return DeadlineExceeded(message)
    if kind == VolumeConflict.__name__:
        return VolumeConflict(message)
    return RankFailed(message, rank=result["rank"], **details)
