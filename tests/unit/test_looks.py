"""Threads share looks at a group; nobody gets one that began before the question."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from airflow_rankvol.backends._looks import Looks
from airflow_rankvol.errors import Throttled


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def now(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def looks(time: Time, sleep: Callable[[float], None] | None = None) -> Looks[int]:
    return Looks(10.0, now=time.now, sleep=sleep or time.sleep)


def test_a_caller_alone_looks_twice_in_a_poll_interval() -> None:
    time = Time()
    shared = looks(time)
    at = [shared.look("group", lambda: int(time.now())) for _ in range(5)]
    assert at == [0, 0, 10, 10, 20]
    assert shared.look("another group", lambda: int(time.now())) == 20


def test_a_turn_comes_back_an_interval_after_its_look_ended() -> None:
    time = Time()
    shared = looks(time)
    calls: list[float] = []

    def slow() -> int:
        calls.append(time.now())
        time.sleep(3)
        calls.append(time.now())
        return 0

    for _ in range(5):
        shared.look("group", slow)
    assert calls == [0, 3, 3, 6, 13, 16, 16, 19, 26, 29]
    assert max(sum(begin <= call < begin + 10 for call in calls) for begin in calls) == 4


def test_what_completes_a_look_takes_a_turn_of_its_own() -> None:
    time = Time()
    shared = looks(time)
    asked: list[int] = []

    def complete(seen: int) -> int:
        with shared.turn("group"):
            asked.append(int(time.now()))
        return seen + 100

    at = [shared.look("group", lambda: int(time.now()), complete) for _ in range(3)]
    assert (at, asked) == ([100, 110, 120], [0, 10, 20])


def test_two_looks_that_are_completed_do_not_wait_for_each_others_turn() -> None:
    shared = looks(Time())
    both = threading.Barrier(2, timeout=10)

    def complete(seen: int) -> int:
        with shared.turn("group"):
            return seen + 1

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shared.look, "group", both.wait, complete)
        until(lambda: bool(both.n_waiting))
        second = pool.submit(shared.look, "group", both.wait, complete)
        assert sorted([first.result(10), second.result(10)]) == [1, 2]


def test_no_turn_is_free_while_two_looks_are_under_way() -> None:
    shared = looks(Time())
    go = threading.Event()
    began = [threading.Event(), threading.Event()]

    def slow(number: int) -> int:
        began[number].set()
        assert go.wait(10)
        return number

    with ThreadPoolExecutor(3) as pool:
        under_way = []
        for number in range(2):
            under_way.append(pool.submit(shared.look, "group", partial(slow, number)))
            assert began[number].wait(10)
        third = pool.submit(shared.look, "group", go.is_set)
        until(lambda: len(shared._changed._waiters) == 1)  # type: ignore[attr-defined]  # threading.Condition's own
        go.set()
        assert [look.result(10) for look in under_way] == [0, 1]
        assert third.result(10) is True


def test_who_asks_while_one_waits_for_its_turn_shares_it() -> None:
    time = Time()
    asked, go = threading.Event(), threading.Event()

    def sleep(_seconds: float) -> None:
        asked.set()
        assert go.wait(10)

    shared = looks(time, sleep)
    numbers = itertools.count()
    for _ in range(2):
        shared.look("group", lambda: next(numbers))
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(shared.look, "group", lambda: next(numbers))
        assert asked.wait(10)
        others = [pool.submit(shared.look, "group", lambda: next(numbers)) for _ in range(8)]
        until_waiting(shared, 8)
        go.set()
        assert [first.result(10), *(other.result(10) for other in others)] == [2] * 9


def until_waiting(shared: Looks[int], callers: int) -> None:
    """Wait until so many threads wait for the look to come."""
    look = shared._to_come["group"]
    until(lambda: len(look.ended._cond._waiters) == callers)  # type: ignore[attr-defined]  # threading.Event's own


def until(holds: Callable[[], bool]) -> None:
    for _ in range(1_000_000):
        if holds():
            return
    raise AssertionError("they do not wait")


def test_who_asks_while_a_look_is_under_way_gets_the_next() -> None:
    shared = looks(Time())
    began, go = threading.Event(), threading.Event()

    def slow() -> int:
        began.set()
        assert go.wait(10)
        return 1

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shared.look, "group", slow)
        assert began.wait(10)
        assert shared.look("group", lambda: 2) == 2
        go.set()
        assert first.result(10) == 1


def test_an_error_is_told_and_forgotten() -> None:
    shared = looks(Time())

    def throttled() -> int:
        raise Throttled("later")

    with pytest.raises(Throttled):
        shared.look("group", throttled)
    assert shared.look("group", lambda: 1) == 1


def test_who_shared_the_look_of_one_that_was_interrupted_looks_itself() -> None:
    asked, go = threading.Event(), threading.Event()

    def interrupted(_seconds: float) -> None:
        if asked.is_set():
            return
        asked.set()
        assert go.wait(10)
        raise KeyboardInterrupt

    shared = looks(Time(), interrupted)
    for _ in range(2):
        shared.look("group", lambda: 0)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shared.look, "group", lambda: 1)
        assert asked.wait(10)
        second = pool.submit(shared.look, "group", lambda: 2)
        until_waiting(shared, 1)
        go.set()
        assert second.result(10) == 2
        with pytest.raises(KeyboardInterrupt):
            first.result(10)
