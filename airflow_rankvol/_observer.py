"""The observer that all triggers of one group in a triggerer share."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import random
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from airflow_rankvol.backends.base import Backend
from airflow_rankvol.errors import AuthDenied
from airflow_rankvol.records import Group, Observation

P = ParamSpec("P")
T = TypeVar("T")

#: While looks fail, they come more and more seldom, up to this many seconds apart (or the poll interval's).
MAX_PAUSE_S = 60.0
#: So much a pause differs from the next, as a part of it: groups that began together do not look together for ever.
JITTER = 0.1
#: The pause while there is no backend that tells its own, in seconds.
FIRST_PAUSE_S = 1.0
#: As many waiters are woken in a row before the event loop gets to do other things.
WOKEN_AT_ONCE = 50

# Not asyncio's own threads: there are only a few, and other triggers use them, too. And looks have theirs, so that a
# thousand ranks that end together do not keep other groups from being looked at.
_looking = ThreadPoolExecutor(16, thread_name_prefix="rankvol-look")
_stepping = ThreadPoolExecutor(32, thread_name_prefix="rankvol-step")


async def _in(pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    context = contextvars.copy_context()  # Airflow finds a trigger's log by it
    return await asyncio.get_running_loop().run_in_executor(pool, functools.partial(context.run, call))


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a call returns that may block, without blocking the event loop."""
    return await _in(_stepping, functools.partial(call, *args, **kwargs))


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    """Somebody who waits for an observation that ``wanted`` says yes to."""

    wanted: Callable[[Observation], bool]
    answer: asyncio.Future[Observation]

    def is_served_by(self, observation: Observation) -> bool:
        try:
            return self.wanted(observation)
        except Exception:  # noqa: BLE001 - whatever it is, it is the waiter's own affair
            return True


@dataclass(frozen=True, slots=True)
class _Look:
    observation: Observation
    served: list[_Waiter] = field(default_factory=list)
    others: list[_Waiter] = field(default_factory=list)


class GroupObserver:
    """One batched observation per interval for all triggers of one group, however many wait.

    Args:
        open_backend: returns the backend; asked again when credentials were refused: the connection may have new ones.
    """

    def __init__(self, group: Group, open_backend: Callable[[], Awaitable[Backend]]) -> None:
        self._group = group
        self._open_backend = open_backend
        self._opening: asyncio.Future[Backend] | None = None
        self._renewal: asyncio.Future[None] | None = None
        self._renewed_at = float("-inf")
        self._backend: Backend | None = None
        self._waiters: list[_Waiter] = []
        self._task: asyncio.Task[None] | None = None
        self._last = float("-inf")
        self._failures = 0

    async def backend(self) -> Backend:
        """Return the backend, which is opened once for all triggers of the group, who share an error as well."""
        if self._backend is None:
            if self._opening is None or self._opening.done():
                self._opening = asyncio.ensure_future(self._open())
            self._backend = await asyncio.shield(self._opening)  # who is cancelled takes it from nobody else
        return self._backend

    async def renew(self, refused: Backend, times: int = 1) -> None:
        """Read the connection again for somebody whose credentials were refused.

        That is done once for all who were refused with the same backend, and at most once for each look.

        Args:
            times: so often in a row they were; from the second time on a pause comes first, a longer one each time. It
                is the caller's own: looks and others go on.
        """
        if times > 1:
            await asyncio.sleep(self._pause_s(times - 1))
        # A connection that says the same may give the same backend again, so that this alone does not tell.
        under_way = self._renewal and not self._renewal.done()
        if self._backend is refused and self._renewed_at <= self._last and not under_way:
            self._renewed_at = asyncio.get_running_loop().time()
            self._renewal = asyncio.ensure_future(self._open_again())
        if self._renewal:
            await asyncio.shield(self._renewal)

    async def observe(self, wanted: Callable[[Observation], bool] = lambda _observation: True) -> Observation:
        """Return the next observation that is wanted, of those that began after this call.

        An older one may miss what the caller just made.

        Args:
            wanted: quick, and called in a thread: who only waits is not woken for each observation.

        Raises:
            Exception: whatever the next look ended with.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(wanted, loop.create_future())
        self._waiters.append(waiter)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._serve())
        return await waiter.answer

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiters:
            await asyncio.sleep(max(0.0, self._last + self._pause_s(self._failures) - loop.time()))
            asked = [waiter for waiter in self._waiters if not waiter.answer.done()]
            self._waiters = []
            self._last = loop.time()
            if asked:
                await self._serve_all(asked)

    async def _serve_all(self, asked: list[_Waiter]) -> None:
        backend: Backend | None = None
        try:
            backend = await self.backend()
            look = await _in(_looking, functools.partial(_look, backend, self._group, asked))
        except Exception as exc:  # noqa: BLE001 - every waiter gets it, whatever it is
            self._failures += 1
            if backend and isinstance(exc, AuthDenied):
                await self.renew(backend)
            error = exc
            await _tell(asked, lambda waiter: waiter.answer.set_exception(error))
            return
        self._failures = 0
        self._waiters += look.others
        await _tell(look.served, lambda waiter: waiter.answer.set_result(look.observation))

    def _pause_s(self, failures: int) -> float:
        interval_s = self._backend.poll_interval_s if self._backend else FIRST_PAUSE_S
        # The exponent is bounded, as powers of two are not.
        grown_s = min(interval_s * 2.0 ** min(failures, 16), max(MAX_PAUSE_S, interval_s))
        return grown_s * random.uniform(1 - JITTER, 1 + JITTER)

    async def _open(self) -> Backend:
        """Open the backend; while that fails, it is tried as seldom as looks are."""
        if self._failures:
            await asyncio.sleep(self._pause_s(self._failures))
        try:
            backend = await self._open_backend()
        except Exception:
            self._failures += 1
            raise
        self._failures = 0
        return backend

    async def _open_again(self) -> None:
        with suppress(Exception):  # whatever it is: it goes on with what it has, and who waits gets the look's error
            self._backend = await self._open_backend()


def _look(backend: Backend, group: Group, asked: list[_Waiter]) -> _Look:
    look = _Look(backend.observe(group))
    for waiter in asked:
        (look.served if waiter.is_served_by(look.observation) else look.others).append(waiter)
    return look


async def _tell(waiters: list[_Waiter], word: Callable[[_Waiter], None]) -> None:
    for count, waiter in enumerate(waiters, 1):
        if not waiter.answer.done():
            word(waiter)
        if count % WOKEN_AT_ONCE == 0:
            await asyncio.sleep(0)


_observers: weakref.WeakValueDictionary[tuple[int, str, str], GroupObserver] = weakref.WeakValueDictionary()


def observer_of(conn_id: str, group: Group, open_backend: Callable[[], Awaitable[Backend]]) -> GroupObserver:
    """Return the observer that every trigger of this group in this event loop shares."""
    key = (id(asyncio.get_running_loop()), conn_id, group.key)
    observer = _observers.get(key)
    if observer is None:
        observer = GroupObserver(group, open_backend)
        _observers[key] = observer
    return observer
