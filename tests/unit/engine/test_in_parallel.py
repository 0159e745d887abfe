"""Several calls at once: as many as the backend takes, none after the first error, and nothing left of a failure."""

from __future__ import annotations

import threading

import pytest

from airflow_rankvol.engine.calls import PATIENCE_S, all_patiently, in_parallel
from airflow_rankvol.errors import NotReady, QuotaExceeded
from airflow_rankvol.testing import FakeBackend

from .engine_kit import a_rig


def a_backend(concurrency: int) -> FakeBackend:
    backend = FakeBackend()
    backend.concurrency = concurrency
    return backend


def test_as_many_calls_as_the_backend_takes_are_under_way_at_once() -> None:
    together = threading.Barrier(4)  # passes only when four threads are in it

    def meet(_item: int) -> None:
        together.wait(timeout=10)

    in_parallel(a_backend(4), range(8), meet)


def test_one_at_a_time_stays_in_the_callers_thread_and_in_order() -> None:
    seen: list[tuple[int, int]] = []
    in_parallel(a_backend(1), range(3), lambda item: seen.append((item, threading.get_ident())))
    assert seen == [(item, threading.get_ident()) for item in range(3)]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_none_begins_after_the_first_error(concurrency: int) -> None:
    begun: list[int] = []
    failed = threading.Event()

    def call(item: int) -> None:
        begun.append(item)
        if item == 1:
            failed.set()
            raise QuotaExceeded("full")
        if item > 1:
            failed.wait(10)

    with pytest.raises(QuotaExceeded):
        in_parallel(a_backend(concurrency), range(100), call)
    assert len(begun) <= concurrency + 3


def test_volumes_are_created_and_deleted_by_several_threads_and_all_are_there() -> None:
    rig = a_rig(64, backend=a_backend(16), volume_template={"reclaim": "delete_always"})
    assert [slot.rank for slot in rig.slots] == list(range(64))
    assert rig.backend.count("create_volume") == len(rig.backend.volumes) == 64
    assert len(rig.teardown().deleted) == 64
    assert rig.backend.is_empty


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failure_among_several_threads_leaves_no_volume(when: str) -> None:
    backend = a_backend(8)
    backend.faults.fail("create_volume", QuotaExceeded, call=20, when=when)  # type: ignore[arg-type]
    rig = a_rig(64, backend=backend, created=False)
    with pytest.raises(QuotaExceeded):
        rig.create()
    assert backend.is_empty
    assert backend.count("create_volume") < 64


@pytest.mark.parametrize("concurrency", [1, 3])
def test_all_are_asked_before_any_is_asked_again(concurrency: int) -> None:
    """So however many have to wait, and however few are asked at once, they wait at the same time."""
    backend, asked = a_backend(concurrency), list[int]()
    begun = backend.clock.now()

    def call(item: int) -> None:
        asked.append(item)
        if (backend.clock.now() - begun).total_seconds() < 60:
            raise NotReady("later")

    all_patiently(backend, range(10), call)
    rounds = [sorted(asked[at : at + 10]) for at in range(0, len(asked), 10)]
    assert rounds == [list(range(10))] * len(rounds)
    assert 60 <= (backend.clock.now() - begun).total_seconds() <= 80


def test_patience_begins_anew_with_every_item_that_succeeds() -> None:
    backend, done = a_backend(1), list[int]()
    begun = backend.clock.now()

    def call(item: int) -> None:
        if (backend.clock.now() - begun).total_seconds() < 100 * item:
            raise NotReady(f"{item} is not ready")
        done.append(item)

    all_patiently(backend, range(5), call)
    assert done == list(range(5))
    with pytest.raises(NotReady, match="9 is not ready"):
        all_patiently(backend, [9], call)
    assert 400 + PATIENCE_S <= (backend.clock.now() - begun).total_seconds() < 900


def test_an_error_that_stays_ends_the_others_wait() -> None:
    def call(item: int) -> None:
        raise QuotaExceeded("full") if item == 1 else NotReady("later")

    with pytest.raises(QuotaExceeded):
        all_patiently(a_backend(1), range(3), call)
