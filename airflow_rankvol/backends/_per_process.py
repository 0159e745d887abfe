"""What the connections of one process share: a backend for each of them, a rate limiter for each place they lead to."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from airflow_rankvol.backends.settings import Settings

B = TypeVar("B")
L = TypeVar("L")


class PerProcess(Generic[B, L]):
    """Backends and limiters of one kind of connection; a forked child starts anew."""

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def backend(self, settings: Settings, make: Callable[[], B]) -> B:
        """Return the backend of a connection, the same as long as the connection says the same."""
        # Hashed, so that no password and no key stays here.
        text = json.dumps([settings.conn_id, settings.login, settings.password, dict(settings.extra)], default=str)
        key = hashlib.sha256(text.encode()).hexdigest()
        with self._lock:
            if key not in self._backends:
                made = make()
                self._backends.setdefault(key, made)  # a signal's handler may have been here meanwhile
            return self._backends[key]

    def limiter(self, place: str, make: Callable[[], L]) -> L:
        """Return the limiter of a place, the same for all connections that lead there."""
        with self._lock:
            if place not in self._limiters:
                made = make()
                self._limiters.setdefault(place, made)  # a signal's handler may have been here meanwhile
            return self._limiters[place]

    def forget(self) -> None:
        """Start anew: in a forked child locks, sockets and what the parent saw are the parent's."""
        # Anew, since the parent may have held it when it forked; reentrant, since a signal's handler may need it in the
        # very thread that holds it.
        self._lock = threading.RLock()
        self._backends: dict[str, B] = {}
        self._limiters: dict[str, L] = {}
