"""Scripted faults: throttle, fail, hang or lose the answer of any call, before or after its effect."""

from __future__ import annotations

import fnmatch
import itertools
import json
import threading
from dataclasses import asdict, dataclass
from typing import Any

from tests.clouds.common.recorder import Call

KINDS = ("throttle", "error", "hang", "lose")


@dataclass
class Rule:
    """One fault, and which calls it strikes.

    ``action`` and ``service`` are globs; ``resource`` is a text (an id, a token, a tag's value) that the parameters
    must hold. The rule strikes the ``nth`` such call and the ``times - 1`` after it (times < 0: all after it).
    ``when`` is "before" or "after" the call's effect: a call that fails after it did what it was asked for.
    """

    kind: str
    action: str = "*"
    service: str = "*"
    resource: str = ""
    nth: int = 1
    times: int = 1
    when: str = "before"
    code: str = "InternalError"
    message: str = "An internal error has occurred"
    status: int = 500
    id: int = 0
    seen: int = 0
    struck: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.when not in ("before", "after"):
            raise ValueError(f"kind is one of {KINDS} and when before or after, found {self.kind!r}, {self.when!r}")
        if self.kind == "throttle":
            self.when = "before"

    def strikes(self, call: Call) -> bool:
        """Return whether this call is to fail; counts it."""
        if not (fnmatch.fnmatchcase(call.action, self.action) and fnmatch.fnmatchcase(call.service, self.service)):
            return False
        if self.resource and self.resource not in json.dumps(call.params, default=repr):
            return False
        self.seen += 1
        hit = self.seen >= self.nth and (self.times < 0 or self.seen < self.nth + self.times)
        self.struck += hit
        return hit


class Dropped(Exception):
    """The connection is to be closed without an answer."""


@dataclass
class _Held:
    call: Call
    when: str
    released: threading.Event
    answer: bool = False


class Faults:
    """The rules, and the calls that hang."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._held: dict[int, _Held] = {}
        self._ids = itertools.count(1)

    def add(self, rule: Rule) -> int:
        """Take a rule, and return its number."""
        with self._lock:
            rule.id = next(self._ids)
            self._rules.append(rule)
            return rule.id

    def pick(self, call: Call) -> Rule | None:
        """Return the first rule that strikes a call that has come in; every rule counts it."""
        with self._lock:
            struck = [rule for rule in self._rules if rule.strikes(call)]
            return struck[0] if struck else None

    def hold(self, call: Call, when: str) -> None:
        """Let a call hang until a test releases it.

        Raises:
            Dropped: It was released without an answer.
        """
        held = _Held(call, when, threading.Event())
        with self._lock:
            self._held[call.n] = held
        held.released.wait()
        if not held.answer:
            raise Dropped

    def held(self) -> list[dict[str, Any]]:
        """Return the calls that hang now."""
        with self._lock:
            return [{**asdict(h.call), "when": h.when} for h in self._held.values()]

    def release(self, answer: bool) -> int:
        """Let all that hang go on (or drop them), and return how many there were."""
        with self._lock:
            gone, self._held = self._held, {}
        for held in gone.values():
            held.answer = answer
            held.released.set()
        return len(gone)

    def rules(self) -> list[dict[str, Any]]:
        """Return the rules with their counts."""
        with self._lock:
            return [asdict(rule) for rule in self._rules]

    def clear(self) -> None:
        """Forget all rules, drop what hangs."""
        with self._lock:
            self._rules.clear()
        self.release(answer=False)
