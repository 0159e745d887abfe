"""``@rank_task`` while a DAG file is read: what becomes of a function, and what is refused."""

from __future__ import annotations

import functools
import json
import math
import os.path as paths
import threading
import xml.etree.ElementTree  # noqa: ICN001 - the long form is the claim
from collections.abc import Callable, Iterator
from datetime import date
from enum import IntEnum
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from airflow.sdk import DAG, task
from airflow.serialization.serialized_objects import DagSerialization

from airflow_rankvol import rank_task
from airflow_rankvol._rank_task import RankTask
from airflow_rankvol._shipping import module_source
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.contents import inline_content

VOLUMES = ["data-${NODE_RANK}:/data"]
LIMIT = 3
COLUMNS = ("a", {"b": [1.5, None, True]})
LOCK = threading.Lock()
DAY = date(2026, 1, 2)
HOLES = {"rows": [1, {"day": DAY}]}
TOTAL = 0


class Level(IntEnum):
    """A number that is more than a number."""

    LOW = 1


LEVEL = Level.LOW


def helper() -> int:
    """Return a number; it belongs to this file."""
    return 1


def made(function: Callable[..., Any], **fields: Any) -> RankTask:
    return rank_task(volumes=VOLUMES, **fields)(function)


def source(function: Callable[..., Any]) -> str:
    assert isinstance(function, FunctionType)
    return module_source(function)


def shipped(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the names of the shipped module, run in a namespace of its own as a node does."""
    space: dict[str, Any] = {"__name__": "_rankvol.shipped"}
    exec(compile(source(function), "shipped.py", "exec"), space)
    return space


@pytest.fixture
def dag() -> Iterator[DAG]:
    with DAG("of_rank_task", schedule=None) as dag:
        yield dag


def fields_of(dag: DAG, group: str) -> dict[str, Any]:
    plan: Any = dag.get_task(f"{group}.plan")
    return {name: getattr(plan, name) for name in ("files", "nodes", "commands", "conn_id", "env")}


# What is shipped


def test_json_values_and_modules_around_a_function_go_with_it() -> None:
    def shard(rank: int) -> Any:
        return LIMIT + rank, COLUMNS, math.floor(2.5), paths.basename("a/b"), offset

    offset = [1, "x"]
    assert shipped(shard)["shard"](rank=1) == (4, COLUMNS, 2, "b", [1, "x"])


def test_a_module_in_a_module_is_imported_where_the_function_reaches_for_it() -> None:
    def shard() -> Any:
        return xml.etree.ElementTree.fromstring("<a/>").tag

    assert "import xml.etree.ElementTree\n" in source(shard)
    assert shipped(shard)["shard"]() == "a"


def test_a_module_in_a_renamed_module_is_imported_and_takes_no_name_of_the_function() -> None:
    def shard(rank: int) -> Any:
        return [_, renamed.etree.ElementTree.fromstring("<a/>").tag, rank]

    renamed, _ = xml, 3
    assert "__import__('xml.etree.ElementTree')\n" in source(shard)
    assert shipped(shard)["shard"](1) == shard(1) == [3, "a", 1]
    _ = math
    assert shipped(shard)["shard"](1) == shard(1) == [math, "a", 1]


def test_an_indented_function_keeps_its_texts_of_several_lines() -> None:
    def shard() -> str:
        return """
        one
      two
        """

    assert shipped(shard)["shard"]() == shard()


def test_annotations_may_name_what_does_not_exist_on_a_node() -> None:
    def shard(rank: int, day: DAG | None = None) -> Path:
        found: DAG = rank  # type: ignore[assignment]

        def inner(lock: threading.Lock) -> Path:
            return found  # type: ignore[return-value]

        return inner(day)  # type: ignore[arg-type]

    text = source(shard)
    assert "import" not in text.replace("from __future__ import annotations", "")
    assert shipped(shard)["shard"](3) == 3


def test_a_function_may_be_decorated_where_it_is_defined_and_call_itself() -> None:
    @rank_task(
        nodes=2,
        volumes=VOLUMES,
    )
    def down(rank: int) -> int:
        return down.function(rank - 1) if rank < 0 else rank

    text = source(down.function)
    assert "rank_task" not in text
    assert "def down(rank: int)" in text


def test_a_default_and_a_counter_take_their_values_along() -> None:
    def shard(limit: int = LIMIT) -> int:
        global TOTAL  # noqa: PLW0603 - that it is the node's own is the claim
        TOTAL += limit
        return TOTAL

    assert shipped(shard)["shard"]() == 3
    assert TOTAL == 0


def test_comprehensions_classes_and_builtins_need_nothing() -> None:
    def shard(rank: int) -> Any:
        class Row:
            value = max(rank, 0)
            other = value

        return sorted({row.other for row in [Row() for _ in range(2)]}), __name__

    assert shipped(shard)["shard"](1) == ([1], "_rankvol.shipped")


def test_the_shipped_module_is_the_same_every_time() -> None:
    def shard() -> Any:
        return COLUMNS, LIMIT, math.pi

    assert source(shard) == source(shard)


# What is refused


def closing_over(value: Any) -> Callable[..., Any]:
    def shard(rank: int) -> Any:
        return value

    return shard


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (threading.Lock(), "_thread.lock"),
        (DAY, "datetime.date"),
        ({1, 2}, "set"),
        (b"x", "bytes"),
        ({1: 2}, "dict with keys that are not str"),
        (math.nan, "nan"),
        (Level.LOW, "Level"),
        (HOLES, r"datetime.date at \['rows'\]\[1\]\['day'\]"),
        (helper, "function"),
        (Level, "EnumType|EnumMeta"),
    ],
)
def test_a_function_that_closes_over_what_is_not_json_is_refused_by_the_variables_name(value: Any, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"uses 'value' .*not JSON \(found .*({kind})"):
        made(closing_over(value))


def test_a_global_that_is_not_json_is_refused_by_its_name() -> None:
    def shard() -> Any:
        with LOCK:
            return 1

    with pytest.raises(ConfigError, match=r"uses 'LOCK' .* make it inside shard"):
        made(shard)


def test_a_global_that_only_an_inner_function_uses_is_refused_too() -> None:
    def shard() -> Any:
        return [lambda: LEVEL for _ in range(2)]

    with pytest.raises(ConfigError, match="uses 'LEVEL'"):
        made(shard)


def test_what_was_imported_from_a_module_is_to_be_imported_inside() -> None:
    def shard() -> Any:
        return Path("x").name

    with pytest.raises(ConfigError, match=r"uses 'Path' .* import it inside shard"):
        made(shard)


def test_a_function_of_the_same_file_is_to_go_inside() -> None:
    def shard() -> Any:
        return helper()

    with pytest.raises(ConfigError, match=r"uses 'helper' .* define it inside shard"):
        made(shard)


def test_the_result_of_another_task_is_an_argument_and_no_closure(dag: DAG) -> None:
    numbers = task(helper)()

    def shard() -> Any:
        return numbers

    with pytest.raises(ConfigError, match=r"uses 'numbers' .* pass"):
        made(shard)


def test_a_name_that_is_defined_nowhere_is_refused_by_the_call(dag: DAG) -> None:
    def shard() -> Any:
        return nowhere  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ConfigError, match="uses 'nowhere', which is not defined"):
        made(shard)()


def test_a_value_that_is_assigned_after_the_function_counts(dag: DAG) -> None:
    def shard() -> Any:
        return later

    found = made(shard)
    later = 5
    found()
    assert b"later = 5\n" in (inline_content(fields_of(dag, "shard")["files"]["_rankvol/shipped.py"]) or b"")


def test_a_variable_of_the_function_around_it_cannot_be_assigned_to() -> None:
    count = 0

    def shard() -> Any:
        nonlocal count
        count += 1

    with pytest.raises(ConfigError, match="cannot stand alone"):
        made(shard)


class Holder:
    """Has a method."""

    def method(self, rank: int) -> int:
        """Return the rank."""
        return rank


async def coroutine(rank: int) -> int:
    """Return the rank later."""
    return rank


async def stream(rank: int) -> Any:
    """Return the rank later, and only it."""
    yield rank


def generator(rank: int) -> Iterator[int]:
    """Return the rank, and only it."""
    yield rank


@functools.lru_cache
def cached(rank: int) -> int:
    """Return the rank."""
    return rank


@functools.wraps(helper)
def wrapper() -> int:
    """Return what the other returns."""
    return helper()


namespace: dict[str, Any] = {}
exec("def sourceless(rank): return rank", namespace)


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (lambda rank: rank, "is a lambda"),
        (Holder.method, "is a method"),
        (Holder().method, "expects a function"),
        (Holder, "expects a function"),
        (functools.partial(helper), "expects a function"),
        (cached, "expects a function"),
        (len, "expects a function"),
        (coroutine, "is async"),
        (stream, "is async"),
        (generator, "is a generator"),
        (wrapper, "has another decorator"),
        (namespace["sourceless"], "the source of sourceless cannot be read"),
    ],
)
def test_what_is_no_plain_function_is_refused(function: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        made(function)


def test_a_second_decorator_is_refused() -> None:
    def kept(function: Any) -> Any:
        return function

    with pytest.raises(ConfigError, match="decorators besides @rank_task"):

        @rank_task(volumes=VOLUMES)
        @kept
        def shard() -> None: ...


def test_a_file_that_changed_meanwhile_is_no_source() -> None:
    def shard() -> None: ...

    shard.__name__ = "other"
    shard.__qualname__ = "other"
    with pytest.raises(ConfigError, match="has changed"):
        made(shard)


def positional(rank: int, /) -> None: ...
def several(*days: str) -> None: ...
def anything(**days: str) -> None: ...


@pytest.mark.parametrize("function", [positional, several, anything])
def test_parameters_have_names(function: Any) -> None:
    with pytest.raises(ConfigError, match="expected parameters that can be given by their names"):
        made(function)


def plain(rank: int, nodes: int, volume: str, day: str, limit: int = 3) -> Any:
    """Compute one day.

    And nothing else.
    """
    return rank, nodes, volume, day, limit


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"commands": ["true"]}, "use rank_job for commands"),
        ({"requirements": ["--index-url=x"]}, "Options of pip and uv"),
        ({"requirements": [3]}, "requirements: 3"),
        ({"files": {"_rankvol/run.py": "x"}}, "package's own"),
    ],
)
def test_fields_that_cannot_be_are_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        made(plain, **fields)


def test_volumes_and_parentheses_are_required() -> None:
    with pytest.raises(ConfigError, match="volumes is missing"):
        rank_task(nodes=2)(plain)
    with pytest.raises(ConfigError, match=r"expected @rank_task\(nodes"):
        rank_task(plain)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("args", "kwargs", "problem"),
    [
        ([], {}, "missing a required argument: 'day'"),
        (["d", 1, 2], {}, "too many positional"),
        (["d"], {"rank": 1}, "rank was given"),
        ([], {"day": "d", "month": 1}, "unexpected keyword argument 'month'"),
        ([{"d": DAY}], {}, r"argument day is not JSON \(found datetime.date at \['d'\]\)"),
        ([Path("x")], {}, "argument day is not JSON"),
    ],
)
def test_arguments_are_those_of_the_signature_and_json(
    dag: DAG, args: list[Any], kwargs: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        made(plain)(*args, **kwargs)
    assert dag.task_ids == []


# What it makes


def test_a_call_makes_the_tasks_of_rank_job_named_after_the_function(dag: DAG) -> None:
    out: Any = made(plain, nodes="{{ params.n }}", conn_id="aws_default", env={"A": "1"}, requirements="x==1")(
        "{{ ds }}"
    )
    ends = ("plan", "create_volumes", "run_rank", "gather", "done", "delete_volumes")
    assert set(dag.task_ids) == {f"plain.{end}" for end in ends}
    assert out.operator.task_id == "plain.gather"
    group: Any = dag.task_group.children["plain"]
    assert group.tooltip == "Compute one day."
    fields = fields_of(dag, "plain")
    assert (fields["nodes"], fields["conn_id"], fields["env"]) == ("{{ params.n }}", "aws_default", {"A": "1"})
    assert fields["files"]["_rankvol/call.json"] == {
        "function": "plain",
        "injected": ["rank", "nodes", "volume"],
        "arguments": {"day": "{{ ds }}"},
        "requirements": ["x==1"],
    }


def test_only_what_the_signature_names_is_injected(dag: DAG) -> None:
    def shard(volume: str, rank: int) -> None: ...

    made(shard, files={"x": "include/x"})()
    files = fields_of(dag, "shard")["files"]
    assert files["_rankvol/call.json"]["injected"] == ["rank", "volume"]
    assert files["x"] == "include/x"


def test_a_result_of_another_task_precedes_every_task_of_the_group(dag: DAG) -> None:
    made(plain)(task(helper)(), limit=[task(helper)()])
    assert dag.get_task("plain.plan").upstream_task_ids == {"helper", "helper__1"}


def test_called_twice_it_makes_two_groups(dag: DAG) -> None:
    function = made(plain)
    groups = [function.as_group("a"), function.as_group("b"), function.override(group_id="mine", nodes=7).as_group("c")]
    assert [group.group_id for group in groups] == ["plain", "plain__1", "mine"]
    assert fields_of(dag, "mine")["nodes"] == 7


def test_the_group_can_follow_a_task(dag: DAG) -> None:
    before: Any = task(helper)()
    before >> made(plain).as_group("a")
    assert dag.get_task("plain.plan").upstream_task_ids == {"helper"}


def test_the_function_itself_can_be_called_in_a_test() -> None:
    found = made(plain)
    assert found.function(rank=0, nodes=1, volume="v", day="d") == (0, 1, "v", "d", 3)
    assert (found.__name__, found.__doc__) == ("plain", plain.__doc__)  # type: ignore[attr-defined]


def test_no_field_of_the_group_is_changed_by_rendering_it(dag: DAG) -> None:
    """Braces of the source are none of Jinja's."""

    def shard(rank: int) -> str:
        return f"{{{{ {rank} }}}} {{% x %}} ${{#y}}"

    made(shard)()
    plan: Any = dag.get_task("shard.plan")
    files = json.loads(json.dumps(plan.files))
    assert plan.render_template(plan.files, {}, dag.get_template_env()) == files


def test_a_dag_with_functions_is_serialised_alike_every_time() -> None:
    """Else Airflow would make a new version of the DAG whenever it reads the file."""

    def serialised() -> str:
        with DAG("same", schedule=None) as dag:
            made(plain)(task(helper)(), limit={"b": 1, "a": 2})
        return json.dumps(DagSerialization.to_dict(dag))

    assert serialised() == serialised()
