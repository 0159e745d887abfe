"""Patience with a backend: retries and waits, in one place, on the backend's own clock."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import timedelta
from typing import ParamSpec, TypeVar

import tenacity

from airflow_rankvol.backends.base import Backend
from airflow_rankvol.errors import RetryableError

P = ParamSpec("P")
T = TypeVar("T")

# How long one call is repeated while the cloud answers "later", in seconds. EC2's slowest bucket for volumes
# (5 calls a second, 100 at once) needs about 31 s for 256 ranks; volumes whose tokens EC2 calls used up are made anew
# within 120 s, at the next call after that.
PATIENCE_S = 180.0


def patiently(backend: Backend, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what the call returns, repeating it for up to PATIENCE_S while it raises a retryable error.

    Raises:
        RetryableError: the last one, when patience has run out.
    """
    deadline = backend.clock.now() + timedelta(seconds=PATIENCE_S)
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(RetryableError),
        wait=tenacity.wait_random_exponential(multiplier=max(backend.poll_interval_s, 0.05), max=20),
        stop=lambda _state: backend.clock.now() >= deadline,
        sleep=backend.clock.sleep,
        reraise=True,
    )
    return retrying(call, *args, **kwargs)


def in_parallel(backend: Backend, items: Iterable[T], call: Callable[[T], None]) -> None:
    """Call it for every item, up to ``backend.concurrency`` at once; begin none after the first error.

    Raises:
        BaseException: the first error, once the calls that were under way have ended.
    """
    if backend.concurrency == 1:
        for item in items:
            call(item)
        return
    stop = threading.Event()

    def one(item: T) -> None:
        if stop.is_set():
            return
        try:
            call(item)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(backend.concurrency, thread_name_prefix="rankvol") as pool:
        try:
            for done in as_completed([pool.submit(one, item) for item in items]):
                done.result()
        finally:  # also when this thread is interrupted, by a task's timeout for example
            stop.set()


def all_patiently(backend: Backend, items: Iterable[T], call: Callable[[T], None]) -> None:
    """Call it for every item, and repeat that for those that raise a retryable error, as long as others succeed.

    All are asked before any is asked again: where they have to wait, they wait at the same time.

    Raises:
        RetryableError: the first one, when none succeeded for PATIENCE_S.
    """
    left = list(items)

    def ask_all() -> None:
        asked, errors = left.copy(), []
        left.clear()

        def ask(item: T) -> None:
            try:
                call(item)
            except RetryableError as exc:
                left.append(item)
                errors.append(exc)

        in_parallel(backend, asked, ask)
        if len(errors) == len(asked):
            raise errors[0]

    while left:
        patiently(backend, ask_all)
        if left:
            backend.clock.sleep(backend.poll_interval_s)


def wait_until(backend: Backend, done: Callable[[], bool], *, timeout_s: float, first_s: float = 0.0) -> bool:
    """Look again until it is done; False when the time ran out first.

    Args:
        first_s: how long it takes as a rule: nobody looks before. Then the pauses double, up to the poll interval.
    """
    deadline = backend.clock.now() + timedelta(seconds=timeout_s)
    pause_s = min(first_s, backend.poll_interval_s)
    if pause_s:
        backend.clock.sleep(pause_s)
    while not done():
        if backend.clock.now() >= deadline:
            return False
        pause_s = min(2 * pause_s or backend.poll_interval_s, backend.poll_interval_s)
        backend.clock.sleep(pause_s)
    return True
