"""Defaults of a shipped function are what they were where it was defined."""

from __future__ import annotations

import datetime as dt
import math
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from airflow_rankvol import rank_task
from airflow_rankvol.errors import ConfigError
from tests.unit.test_rank_task import shipped, source

N = 1
LOCK = threading.Lock()


def made() -> Callable[..., Any]:
    N, sign, only_here = 5, "é", {"deep": (1, "ü")}  # noqa: N806 - it hides the file's

    def shard(rank: int, n: int = N, *, text: str = f"{sign}!", more: Any = only_here, plain: float = 2.5) -> Any:
        return rank, n, text, more, plain

    return shard


def test_a_variable_of_the_function_around_is_the_default_and_no_namesake_of_the_file() -> None:
    shard = made()
    assert shipped(shard)["shard"](3) == shard(3) == (3, 5, "é!", {"deep": (1, "ü")}, 2.5)


def test_a_local_that_is_called_like_something_of_python_is_what_it_was() -> None:
    max = 7  # noqa: A001 - the claim

    def shard(rank: int, least: int = max) -> int:
        return rank + least

    assert shipped(shard)["shard"](1) == 8


def test_a_default_that_a_module_gives_is_what_it_gave_when_the_file_was_read() -> None:
    """As Python evaluates it, once; not what a node's module or a loop's variable gives later."""
    tasks = []
    for n in (1, 2):

        def shard(rank: int, root: float = math.sqrt(n * n), where: Any = os.environ["PATH"]) -> Any:
            return rank, root, where

        tasks.append(shard)
    for task, root in zip(tasks, (1.0, 2.0), strict=True):
        assert shipped(task)["shard"](1) == task(1) == (1, root, os.environ["PATH"])


def test_a_default_that_is_no_json_is_made_of_modules_alone() -> None:
    def shard(rank: int, pause: Any = dt.timedelta(days=1)) -> Any:
        return rank * pause

    assert shipped(shard)["shard"](2) == dt.timedelta(days=2)

    def doubtful(rank: int, pause: Any = dt.timedelta(days=N)) -> Any:
        return rank * pause

    with pytest.raises(ConfigError, match=r"default of 'pause' is evaluated on the node .*'N' in it may be another"):
        source(doubtful)


def test_a_default_that_cannot_be_shipped_is_refused_by_name() -> None:
    def shard(rank: int, lock: Any = LOCK) -> Any:
        return rank, lock

    with pytest.raises(ConfigError, match=r"lock|LOCK"):
        source(shard)


@pytest.mark.parametrize("kind", ["in itself", "too large"])
def test_values_without_an_end_are_refused_by_name(kind: str) -> None:
    endless: Any = []
    endless.append(endless)
    value: Any = endless if kind == "in itself" else 10**5000

    def shard(rank: int) -> Any:
        return rank, value

    with pytest.raises(ConfigError, match="value"):
        rank_task(nodes=1, volumes=["data-${NODE_RANK}:/data"])(shard)
