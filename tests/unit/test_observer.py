"""The one observer that all triggers of a group share: how often it looks, whom it wakes, and what errors do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from airflow_rankvol._observer import GroupObserver, in_thread, observer_of
from airflow_rankvol.backends.base import Backend, Clock
from airflow_rankvol.errors import AuthDenied, BackendError, ConfigError, Throttled
from airflow_rankvol.records import Group, Observation

T = TypeVar("T")

GROUP = Group("me", "dag", "run", "shards", "0a1b2c3d", "1a1b2c3d", "2a1b2c3d")
OTHER = Group("me", "dag", "run-2", "shards", "ffffffff", "1a1b2c3d", "2a1b2c3d")


class CountingBackend:
    """Observes slowly, and counts how often; its n-th observation is the number n."""

    name = "counting"
    clock = Clock()

    def __init__(self, error: Exception | None = None, poll_interval_s: float = 0.05) -> None:
        self.observations = 0
        self.error = error
        self.poll_interval_s = poll_interval_s

    def observe(self, group: Group) -> int:
        self.observations += 1
        seen = self.observations
        time.sleep(0.02)  # a real API call blocks its thread
        if self.error:
            raise self.error
        return seen


def opening(*backends: CountingBackend) -> Callable[[], Awaitable[Backend]]:
    """Return what opens one backend after the other, the last one again and again."""
    left = list(backends)

    async def next_one() -> Any:
        return left.pop(0) if len(left) > 1 else left[0]

    return next_one


class Turns:
    """A clock for the event loop's sleeps: nothing waits, and each pause is noted."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        if seconds:
            self.pauses.append(seconds)
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(coroutine)


def test_many_waiters_share_one_observation() -> None:
    """A hundred triggers of one group cost one batched read, not a hundred."""
    backend = CountingBackend()

    async def everybody() -> list[Any]:
        observer = GroupObserver(GROUP, opening(backend))
        return await asyncio.gather(*(observer.observe() for _ in range(100)))

    assert set(run(everybody())) == {1}
    assert backend.observations == 1


def test_who_asks_during_an_observation_gets_the_next_one() -> None:
    """An observation that began before the question may miss what the asker has just made."""
    backend = CountingBackend()

    async def two() -> tuple[Any, Any]:
        observer = GroupObserver(GROUP, opening(backend))
        first = asyncio.ensure_future(observer.observe())
        while not backend.observations:  # noqa: ASYNC110 - the backend counts in a thread, which sets no event
            await asyncio.sleep(0)
        return await observer.observe(), await first

    assert run(two()) == (2, 1)


def test_who_only_waits_is_not_woken_and_costs_no_look_of_its_own() -> None:
    """Each waiter gets the first observation that it wants."""
    backend = CountingBackend()

    async def three() -> list[Any]:
        observer = GroupObserver(GROUP, opening(backend))
        wanted = [lambda seen, n=n: seen >= n for n in (3, 1, 5)]
        return await asyncio.gather(*(observer.observe(each) for each in wanted))

    assert run(three()) == [3, 1, 5]
    assert backend.observations == 5


def test_a_waiter_whose_own_question_fails_is_woken_and_nobody_else() -> None:
    backend = CountingBackend()

    def broken(_seen: Observation) -> bool:
        raise ZeroDivisionError

    async def two() -> list[Any]:
        observer = GroupObserver(GROUP, opening(backend))
        second: Any = 2
        return [*await asyncio.gather(observer.observe(broken), observer.observe(lambda seen: seen == second))]

    assert run(two()) == [1, 2]


def test_nobody_is_looked_at_for_those_who_have_gone() -> None:
    """A killed task's trigger leaves no look behind."""
    backend = CountingBackend()

    async def leave() -> None:
        observer = GroupObserver(GROUP, opening(backend))
        waiting = asyncio.ensure_future(observer.observe(lambda _seen: False))
        while backend.observations < 2:  # noqa: ASYNC110 - the backend counts in a thread, which sets no event
            await asyncio.sleep(0.001)
        waiting.cancel()
        assert observer._task is not None
        await asyncio.wait_for(observer._task, 5)

    run(leave())
    assert backend.observations <= 3


def test_an_error_reaches_every_waiter_and_ends_nothing_else() -> None:
    """A failed observation is each waiter's own error; the observer goes on for the next question."""
    backend = CountingBackend(RuntimeError("no answer"))

    async def twice() -> list[Any]:
        observer = GroupObserver(GROUP, opening(backend))
        failed = await asyncio.gather(*(observer.observe() for _ in range(3)), return_exceptions=True)
        backend.error = None
        return [*failed, await observer.observe()]

    *failed, good = run(twice())
    assert [str(error) for error in failed] == ["no answer"] * 3
    assert good == 2


@pytest.mark.parametrize("interval_s", [0.5, 10.0, 300.0])
def test_looks_that_fail_come_more_and_more_seldom_and_the_first_good_one_ends_that(
    monkeypatch: pytest.MonkeyPatch, interval_s: float
) -> None:
    turns, backend = Turns(), CountingBackend(Throttled("later"), interval_s)
    monkeypatch.setattr(asyncio, "sleep", turns.sleep)

    async def fail_then_recover() -> None:
        observer = GroupObserver(GROUP, opening(backend))
        for _ in range(12):
            with pytest.raises(Throttled):
                await observer.observe()
        backend.error = None
        for _ in range(3):
            await observer.observe()

    run(fail_then_recover())
    expected = [min(interval_s * 2**n, max(60.0, interval_s)) for n in range(1, 13)] + [interval_s] * 2
    assert len(turns.pauses) == len(expected)
    for pause, about in zip(turns.pauses, expected, strict=True):
        assert about * 0.85 - 0.1 < pause <= about * 1.1, (turns.pauses, expected)


def test_pauses_differ_so_that_groups_do_not_look_together_for_ever() -> None:
    observer = GroupObserver(GROUP, opening(CountingBackend(poll_interval_s=10.0)))
    run(observer.backend())
    pauses = {observer._pause_s(0) for _ in range(50)}
    assert len(pauses) == 50
    assert min(pauses) >= 9
    assert max(pauses) <= 11


@pytest.mark.parametrize(
    "fresh",
    ["new credentials", ConfigError("no JSON"), BackendError("no such place"), RuntimeError("the supervisor has gone")],
    ids=str,
)
def test_refused_credentials_are_read_again_before_the_next_look(fresh: str | Exception) -> None:
    """Who renews a connection need not restart anything; who breaks it loses nothing either."""
    old, new = CountingBackend(AuthDenied("expired")), CountingBackend()
    opened: list[object] = []

    async def open_backend() -> Any:
        opened.append(fresh)
        if len(opened) > 1 and isinstance(fresh, Exception):
            raise fresh
        return old if len(opened) == 1 else new

    async def twice() -> Any:
        observer = GroupObserver(GROUP, open_backend)
        with pytest.raises(AuthDenied):
            await observer.observe()
        return await observer.backend()

    assert run(twice()) is (old if isinstance(fresh, Exception) else new)
    assert len(opened) == 2


@pytest.mark.parametrize("fresh", ["new credentials", "the same", BackendError("no such place")], ids=str)
def test_of_many_whose_steps_are_refused_the_connection_is_read_for_one(fresh: str | Exception) -> None:
    """It may give new credentials, the same, or none; then it is read again after the next look at the earliest."""
    old: Any = CountingBackend()
    new = CountingBackend()
    opened = 0

    async def open_backend() -> Any:
        nonlocal opened
        opened += 1
        await asyncio.sleep(0)
        if opened > 1 and isinstance(fresh, Exception):
            raise fresh
        return new if opened > 1 and fresh == "new credentials" else old

    async def two_looks() -> list[int]:
        observer, readings = GroupObserver(GROUP, open_backend), []
        for _ in range(2):
            await observer.observe()
            await asyncio.gather(*(observer.renew(old) for _ in range(100)))
            await observer.renew(old)
            readings.append(opened)
        assert (await observer.backend() is old) is (fresh != "new credentials")
        return readings

    assert run(two_looks()) == ([2, 2] if fresh == "new credentials" else [2, 3])


def test_a_reading_that_hangs_is_not_begun_once_more_beside_it() -> None:
    old: Any = CountingBackend()
    opened = 0

    async def hanging() -> list[int]:
        answer = asyncio.Event()

        async def open_backend() -> Any:
            nonlocal opened
            opened += 1
            if opened == 2:
                await answer.wait()
            return old

        observer, readings = GroupObserver(GROUP, open_backend), []
        waits = []
        for _ in range(3):
            await observer.observe()
            waits.append(asyncio.ensure_future(observer.renew(old)))
            for _ in range(5):  # as often as it takes to begin
                await asyncio.sleep(0)
            readings.append(opened)
        answer.set()
        await asyncio.gather(*waits)
        await observer.observe()
        await observer.renew(old)
        return [*readings, opened]

    assert run(hanging()) == [2, 2, 2, 3]


def test_who_is_refused_again_and_again_waits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer and longer, up to a minute, and others' looks come as often as before."""
    turns = Turns()
    backend: Any = CountingBackend(poll_interval_s=10.0)
    monkeypatch.setattr(asyncio, "sleep", turns.sleep)

    async def refused() -> list[list[float]]:
        observer, pauses = GroupObserver(GROUP, opening(backend)), []
        for times in range(1, 6):
            turns.pauses = []
            await observer.observe()
            await observer.renew(backend, times)
            pauses.append(turns.pauses)
        return pauses

    first, *others = run(refused())
    assert first == []
    for (look, own), about in zip(others, [20, 40, 60, 60], strict=True):
        assert 8.4 < look <= 11
        assert about * 0.9 <= own <= about * 1.1


def test_a_backend_that_cannot_be_opened_is_every_waiters_error() -> None:
    async def nowhere() -> Backend:
        raise BackendError("no such place")

    async def two() -> list[Any]:
        observer = GroupObserver(GROUP, nowhere)
        return [*await asyncio.gather(observer.observe(), observer.observe(), return_exceptions=True)]

    assert [str(error) for error in run(two())] == ["no such place"] * 2


def test_a_thousand_triggers_open_the_connection_once() -> None:
    opened = 0

    async def open_backend() -> Any:
        nonlocal opened
        opened += 1
        await asyncio.sleep(0)
        return CountingBackend()

    async def everybody() -> None:
        observers = [observer_of("c", GROUP, open_backend) for _ in range(1000)]
        await asyncio.gather(*(observer.backend() for observer in observers))

    run(everybody())
    assert opened == 1


def test_triggers_of_one_group_find_the_same_observer() -> None:
    """Same connection and group, same observer; another group or connection has its own."""
    backend = CountingBackend()

    async def observers() -> list[GroupObserver]:
        places = [("c", GROUP), ("c", GROUP), ("c", OTHER), ("d", GROUP)]
        return [observer_of(conn_id, group, opening(backend)) for conn_id, group in places]

    one, two, three, four = run(observers())
    assert one is two
    assert len({id(one), id(three), id(four)}) == 3


def test_the_event_loop_goes_on_while_a_backend_is_slow() -> None:
    """Observing happens in a thread: the loop is never held up for as long as one call takes."""
    backend = CountingBackend()
    turns = 0

    async def measured() -> None:
        nonlocal turns
        observer = GroupObserver(GROUP, opening(backend))
        waiting = asyncio.ensure_future(observer.observe())
        while not waiting.done():
            turns += 1
            await asyncio.sleep(0)

    run(measured())
    assert turns > 5  # a blocked loop would have turned once


def test_a_hundred_blocked_steps_keep_nobody_from_looking() -> None:
    """Looks have threads of their own, and neither takes asyncio's few ones."""
    backend, free = CountingBackend(), threading.Event()

    async def blocked() -> Any:
        observer = GroupObserver(GROUP, opening(backend))
        steps = [asyncio.ensure_future(in_thread(free.wait, 20)) for _ in range(100)]
        seen = await asyncio.wait_for(observer.observe(), 10)
        other = await asyncio.wait_for(asyncio.to_thread(lambda: "other triggers"), 10)
        free.set()
        assert all(await asyncio.gather(*steps))
        return seen, other

    assert run(blocked()) == (1, "other triggers")
