"""``@rank_task``: a Python function as a rank job."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from types import FunctionType
from typing import Any

from airflow.sdk import XComArg

from airflow_rankvol._plain import not_plain
from airflow_rankvol._shipping import RUN_COMMAND, RUNNER, check_function, module_source, runner
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.contents import data_url
from airflow_rankvol.taskgroup import RankJobGroup, rank_job

#: Parameters that get their values on the node.
INJECTED = ("rank", "nodes", "volume")

_PLAIN_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class RankTask:
    """A function that runs on every rank's node once it is called in a DAG.

    Attributes:
        function: the function itself, to be called here with arguments of one's own, as in a test.
    """

    def __init__(self, function: FunctionType, requirements: Sequence[str], fields: Mapping[str, Any]) -> None:
        self.function = check_function(function)
        self._requirements = list(requirements)
        self._fields = dict(fields)
        self._signature = _signature(function)
        module_source(function, strict=False)  # what cannot be shipped is refused even if nothing calls it
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> XComArg:
        """Make the task group and return gather's result.

        Args:
            args, kwargs: the function's arguments but ``rank``, ``nodes`` and ``volume``: JSON values, templates, or
                results of other tasks.
        """
        return self.as_group(*args, **kwargs).output

    def as_group(self, *args: Any, **kwargs: Any) -> RankJobGroup:
        """As a call, but return the task group, which other tasks can precede."""
        name = self.function.__name__
        call = {
            "function": name,
            "injected": [key for key in INJECTED if key in inspect.signature(self.function).parameters],
            "arguments": self._bind(args, kwargs),
            "requirements": self._requirements,
        }
        ours = {
            RUNNER: runner(),
            "_rankvol/shipped.py": data_url(module_source(self.function).encode()),
            "_rankvol/call.json": call,
        }
        fields = {"group_id": name, "add_suffix_on_collision": True, "tooltip": _summary(self.function), **self._fields}
        fields["files"] = {**(fields.get("files") or {}), **ours}
        return rank_job(commands=[RUN_COMMAND], **fields)

    def override(self, **fields: Any) -> RankTask:
        """Return the same function with other fields, such as ``group_id`` or ``nodes``."""
        requirements = fields.pop("requirements", self._requirements)
        return _decorated(self.function, requirements, {**self._fields, **fields})

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        name = self.function.__qualname__
        given = sorted(kwargs.keys() & set(INJECTED))
        if given:
            raise ConfigError(f"{name}(): {', '.join(given)} was given, but gets its value on the node; leave it out")
        try:
            arguments = self._signature.bind(*args, **kwargs).arguments
        except TypeError as exc:
            raise ConfigError(f"{name}(): {exc}; its signature without what a node adds is {self._signature}") from exc
        for key, value in arguments.items():
            problem = not_plain(value, allowed=_comes_later)
            if problem:
                raise ConfigError(
                    f"{name}(): the argument {key} is not JSON (found {problem}); expected a JSON value, a template, "
                    "or the result of another task"
                )
        return arguments


def rank_task(
    function: None = None, /, *, requirements: str | Sequence[str] = (), **fields: Any
) -> Callable[[Callable[..., Any]], RankTask]:
    """Make a rank job of a Python function, which runs on every rank's node and returns JSON.

    Calling it in a DAG makes the task group of ``rank_job``, named after the function, and returns gather's result. Of
    the function's parameters ``rank``, ``nodes`` and ``volume`` (the path of the first volume) get their values on the
    node; the others are arguments of that call.

    Args:
        requirements: packages that the nodes install with uv or pip, onto their volume.
        fields: what ``rank_job`` takes, except ``commands``.

    Raises:
        ConfigError: the function cannot run elsewhere: it is no plain function, its source cannot be read, or it uses
            something of the file around it that is neither JSON nor a module. The message names it.
    """
    if function is not None:
        raise ConfigError("@rank_task was used without arguments; expected @rank_task(nodes=…, volumes=[…])")
    wanted = [requirements] if isinstance(requirements, str) else list(requirements)
    return lambda found: _decorated(found, wanted, fields)


def _decorated(function: object, requirements: Sequence[object], fields: Mapping[str, Any]) -> RankTask:
    wanted = [_requirement(text) for text in requirements]
    if "commands" in fields:
        raise ConfigError("@rank_task(commands=…): the function is what runs; use rank_job for commands")
    if "volumes" not in fields:
        raise ConfigError("@rank_task(): volumes is missing; expected them as in volumes=['data-${NODE_RANK}:/data']")
    taken = sorted(name for name in fields.get("files") or {} if name.partition("/")[0] == "_rankvol")
    if taken:
        raise ConfigError(f"files: {taken[0]!r} was found; names in _rankvol/ are the package's own")
    return RankTask(check_function(function), wanted, fields)


def _requirement(text: object) -> str:
    if isinstance(text, str) and text.strip() and text.isprintable() and not text.startswith("-"):
        return text
    raise ConfigError(
        f"requirements: {text!r} was found; expected a package, as in 'duckdb>=1.4'. Options of pip and uv are set by "
        "their variables in env, as in PIP_INDEX_URL and UV_INDEX_URL"
    )


def _signature(function: FunctionType) -> inspect.Signature:
    """Return what a call has to give: the parameters that the node does not add."""
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters:
        if parameter.kind not in _PLAIN_KINDS:
            raise ConfigError(
                f"{function.__qualname__} has the parameter '{parameter}', which is {parameter.kind.description}; "
                "expected parameters that can be given by their names"
            )
    return inspect.Signature([parameter for parameter in parameters if parameter.name not in INJECTED])


def _comes_later(value: object) -> bool:
    """Say whether Airflow puts a value in its place when a task runs, as it does with XComArg and mapped arguments."""
    return hasattr(value, "resolve") and hasattr(value, "iter_references")


def _summary(function: FunctionType) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]
