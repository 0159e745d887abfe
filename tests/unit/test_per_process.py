"""What connections of one process share, and what a forked child does not."""

from __future__ import annotations

import os
import threading

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
