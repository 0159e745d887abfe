"""What tests say to a double besides the cloud's own calls: JSON by POST to ``/_double/<verb>``."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import asdict
from threading import RLock
from typing import Any, Protocol

from tests.clouds.common.clock import Agenda, Clock
from tests.clouds.common.faults import Faults, Rule
from tests.clouds.common.knobs import Knobs
from tests.clouds.common.recorder import Recorder

Json = dict[str, Any]
_HEADERS = [("Content-Type", "application/json")]
CONTROL = "/_double/"


class Timed(Protocol):
    """What every double's world has."""

    lock: RLock
    clock: Clock
    agenda: Agenda

    @property
    def settings(self) -> Knobs:
        """What tests turn."""

    def now(self) -> float:
        """Return the double's time."""


class BaseControl:
    """The verbs that all doubles have; the keywords of each method are the fields of its JSON."""

    #: What a scripted fault is made of.
    rule: type[Rule] = Rule

    def __init__(self, world: Timed, recorder: Recorder, faults: Faults) -> None:
        self._timed = world
        self._recorder = recorder
        self._faults = faults
        self._verbs: dict[str, Callable[..., Any]] = {
            name.removeprefix("do_"): getattr(self, name) for name in dir(self) if name.startswith("do_")
        }

    def answer(self, verb: str, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        """Do one verb. What goes wrong is told in the answer: the caller is a test."""
        try:
            found = self._verb(verb)(**json.loads(body or b"{}"))
        except Exception:  # noqa: BLE001 -- whatever it is belongs to the test that asked
            return 400, _HEADERS, json.dumps({"error": traceback.format_exc()}).encode()
        return 200, _HEADERS, json.dumps(found, default=str).encode()

    def _verb(self, name: str) -> Callable[..., Any]:
        if name not in self._verbs:
            raise KeyError(f"unknown verb {name!r}, expected one of {', '.join(sorted(self._verbs))}")
        return self._verbs[name]

    def do_fault(self, **rule: Any) -> int:
        """Script a fault (the fields of its rule), and return its number."""
        return self._faults.add(self.rule(**rule))

    def do_settings(self, **changes: Any) -> Json:
        """Change settings, and return all."""
        with self._timed.lock:
            self._timed.settings.update(changes)
            return asdict(self._timed.settings)

    def do_clock(self, advance_s: float = 0.0, freeze: bool | None = None, rate: float | None = None) -> float:
        """Warp, freeze or speed up the time, and return it; all that has fallen due then has happened."""
        with self._timed.lock:
            if rate is not None:
                self._timed.clock.run_at(rate)
            if freeze is not None:
                self._timed.clock.freeze(freeze)
            self._timed.clock.advance(advance_s)
            self._timed.agenda.settle()
        self._timed.agenda.poke()
        return self._timed.now()

    def do_faults(self) -> list[Json]:
        """Return the scripted faults with their counts."""
        return self._faults.rules()

    def do_clear_faults(self) -> None:
        """Forget the scripted faults; drop what hangs."""
        self._faults.clear()

    def do_held(self) -> list[Json]:
        """Return the calls that hang."""
        return self._faults.held()

    def do_release(self, answer: bool = True) -> int:
        """Let what hangs go on, or drop it without an answer."""
        return self._faults.release(answer)

    def do_calls(self, since: int = 0, action: str = "") -> list[Json]:
        """Return the recorded calls."""
        return self._recorder.calls(since, action)

    def do_counts(self, since: int = 0) -> dict[str, int]:
        """Return how many calls of each action there were."""
        return self._recorder.counts(since)

    def do_bugs(self) -> list[str]:
        """Return what the double did wrong itself, before resets as well, and which promises calls broke; each once."""
        return self._recorder.bugs()

    def do_clear_calls(self) -> None:
        """Forget the recorded calls."""
        self._recorder.clear()
