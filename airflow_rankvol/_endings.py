"""How a node's end becomes a task's end; one way for the worker, the trigger and ``dag.test()``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from airflow_rankvol._node_log import masked
from airflow_rankvol.errors import (
    AuthDenied,
    BackendError,
    CredentialsRefused,
    DeadlineExceeded,
    FinalError,
    GatherFailed,
    GatherIncomplete,
    NoCapacity,
    NotOurs,
    NotReady,
    QuotaExceeded,
    RankFailed,
    RankVolError,
    RetryableError,
    Throttled,
    VolumeBusy,
    VolumeConflict,
)
from airflow_rankvol.records import ranks_text

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from airflow_rankvol.engine.step import Outcome


RETURN_KEY = "return_value"
COLLECTED_KEY = "collected"
#: What a node's work ends with besides its own failures: these are a message and nothing else.
_PLAIN: dict[str, type[RankVolError]] = {
    kind.__name__: kind
    for kind in (
        *(DeadlineExceeded, BackendError),
        *(RetryableError, Throttled, NoCapacity, VolumeBusy, NotReady),
        *(FinalError, AuthDenied, CredentialsRefused, QuotaExceeded, VolumeConflict, NotOurs),
    )
}


class _Logger(Protocol):
    def error(self, event: Any, /, *args: Any) -> Any: ...


def ending_of(outcome: Outcome, succeeded: Collection[int] = ()) -> dict[str, Any]:
    """Return an outcome as the plain dict that a trigger event can carry.

    Args:
        succeeded: for gather, the ranks whose tasks had succeeded.
    """
    error = outcome.error
    missing = list(error.missing) if isinstance(error, GatherIncomplete) else []
    message = str(error) if error else ""
    if missing and set(missing) <= set(succeeded):
        message = (
            f"the task of rank {ranks_text(missing)} had succeeded, but its volume holds no completion record, like "
            "one that was made anew after the results were collected and the first one deleted. Clear the whole task "
            "group to compute everything again"
        )
    result = outcome.result.to_dict()
    return {
        "result": {**result, "log_tail": masked(result["log_tail"])},
        "output": outcome.result.output,
        "error": message,
        "error_type": type(error).__name__ if error else "",
        "collected": list(outcome.report.collected) if outcome.report else [],
        "missing": missing,
    }


def ending_of_parts(outcomes: Sequence[Outcome], succeeded: Collection[int] = ()) -> dict[str, Any]:
    """Return the ending of work that several nodes shared: a list of outputs, or the first error."""
    endings = [ending_of(outcome, succeeded) for outcome in outcomes]
    if len(endings) == 1:
        return endings[0]
    failed = next((ending for ending in endings if ending["error"]), None)
    copied = [outcome.report.copied for outcome in outcomes if outcome.report]
    if not failed and -1 in copied and max(copied) <= 0:
        text = (
            "gather: the results could not be copied: collect matches no file on any volume, although there are some; "
            "the manifests at the destination list none. The volumes are kept: mend that, then clear gather"
        )
        result = {**endings[0]["result"], "exit_code": 1}  # the part's 0 would pass for a success
        failed = {**endings[0], "result": result, "error": text, "error_type": GatherFailed.__name__}
    return {
        **(failed or endings[0]),
        "output": [ending["output"] for ending in endings],
        "collected": sorted({rank for ending in endings for rank in ending["collected"]}),
        "missing": sorted({rank for ending in endings for rank in ending["missing"]}),
    }


def xcoms_of(ending: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the task pushes: a rank's result in any case, gather's output when it succeeded."""
    result = ending["result"]
    if result["rank"] >= 0:
        return {RETURN_KEY: result}
    return {} if ending["error"] else {RETURN_KEY: ending["output"], COLLECTED_KEY: ending["collected"]}


def log_failure(log: _Logger, ending: Mapping[str, Any]) -> None:
    """Log why it failed and the end of the node's log, at ERROR."""
    log.error("%s (exit code %s)", ending["error"], ending["result"]["exit_code"])
    tail = ending["result"]["log_tail"]
    if tail:
        log.error("The end of the node's log:\n%s", tail)


def finish(operator: BaseOperator, context: Context, ending: Mapping[str, Any]) -> Any:
    """Push what there is and return the task's value; log a failure and raise it.

    Raises:
        RankVolError: the node's work failed; the message says why.
    """
    xcoms = xcoms_of(ending)
    for key, item in xcoms.items():  # the result before the word that it is stored
        if item is not None:
            context["ti"].xcom_push(key=key, value=item)
    if ending["error"]:
        log_failure(operator.log, ending)
        raise error_of(ending)
    return xcoms.get(RETURN_KEY)


def error_of(ending: Mapping[str, Any]) -> RankVolError:
    """Return the error of an ending that failed, as the type that it was raised as."""
    result, message, kind = ending["result"], str(ending["error"]), ending["error_type"]
    details = {"exit_code": result["exit_code"], "log_tail": result["log_tail"]}
    if kind == GatherFailed.__name__:
        return GatherFailed(message, **details)
    if kind == GatherIncomplete.__name__:
        return GatherIncomplete(message, missing=ending["missing"])
    if kind in _PLAIN:
        return _PLAIN[kind](message)
    return RankFailed(message, rank=result["rank"], **details)
