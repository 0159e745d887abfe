"""How a node that does not really run comes to its end."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ending:
    """How a recorded instance ends by itself: after a time, with that text on its console.

    The time begins when it runs or, if it ``waits``, when it has a volume as well.

    ``script`` names a function ``module:name`` that is called with the view of the instance and its user data, and
    returns the text; it may be what a test needs where each instance has another text. None stands for an instance that
    goes on: it is asked again after the same time.
    """

    after_s: float = 0.05
    waits: bool = False
    console: str = ""
    script: str = ""

    def outcome(self, view: dict[str, Any], user_data: bytes) -> Any:
        """Return what the script says, or the text where there is no script."""
        if not self.script:
            return self.console
        module, _, name = self.script.partition(":")
        return getattr(importlib.import_module(module), name)(view, user_data)

    def text(self, view: dict[str, Any], user_data: bytes) -> bytes | None:
        """Return what is on the console at the end, or None when it goes on."""
        found: str | None = self.outcome(view, user_data)
        return None if found is None else found.encode()
