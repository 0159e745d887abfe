"""What connections of one process share, and what a forked child does not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest

from airflow_rankvol.backends._per_process import PerProcess
from airflow_rankvol.backends.settings import Settings


def settings(**extra: str) -> Settings:
    return Settings("cloud", "aws", extra, "login", "password")


def test_equal_connections_share_a_backend_and_others_do_not() -> None:
    shared: PerProcess[object, object] = PerProcess()
    first = shared.backend(settings(), object)
    assert shared.backend(settings(), object) is first
    assert shared.backend(settings(owner="other"), object) is not first
    assert shared.limiter("here", object) is shared.limiter("here", object)
    assert shared.limiter("here", object) is not shared.limiter("there", object)


def test_a_forked_child_starts_anew_although_the_parent_was_at_it() -> None:
    """A lock that another thread holds at the fork nobody would ever open in the child."""
    shared: PerProcess[object, object] = PerProcess()
    backend, limiter = shared.backend(settings(), object), shared.limiter("here", object)
    held, done = threading.Event(), threading.Event()

    def make() -> object:
        held.set()
        assert done.wait(30)
        return object()

    at_it = threading.Thread(target=lambda: shared.limiter("slow", make))
    at_it.start()
    assert held.wait(30)
    child = os.fork()
    if not child:
        threading.Thread(target=lambda: (threading.Event().wait(10), os._exit(3)), daemon=True).start()
        same = shared.backend(settings(), object) is backend or shared.limiter("here", object) is limiter
        os._exit(1 if same else 0)
    done.set()
    at_it.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("asked", ["backend", "limiter"])
def test_a_signals_handler_gets_what_the_thread_that_it_interrupts_is_making(asked: str) -> None:
    """``on_kill`` runs in the very thread that holds the lock. In a thread: one that waits for itself never ends."""
    shared: PerProcess[object, object] = PerProcess()
    handlers: list[object] = []

    def ask(make: Callable[[], object]) -> object:
        return shared.backend(settings(), make) if asked == "backend" else shared.limiter("here", make)

    def interrupted() -> object:
        handlers.append(ask(object))
        return object()

    mine: list[object] = []
    task = threading.Thread(target=lambda: mine.append(ask(interrupted)), daemon=True)
    task.start()
    task.join(10)
    assert mine == handlers
    assert len(mine) == 1
    assert ask(object) is mine[0]
