"""What a connection tells a backend: plain values, because only ``hooks`` reads connections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_rankvol.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Settings:
    """One connection, read; what a backend's factory gets.

    Args:
        conn_id: the connection's name, for messages.
        conn_type: the connection's type, which picked the backend.
        extra: its extra, a JSON object; it may hold secrets, like the password.
    """

    conn_id: str
    conn_type: str
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    login: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def label(self) -> str:
        """How messages name the connection."""
        return f"{'an' if self.conn_type[:1] in 'aeiou' else 'a'} {self.conn_type} connection"

    def text(self, name: str) -> str:
        """Return a text field of the extra, empty where it is left out (the UI's form sends empty text or null).

        Raises:
            ConfigError: it is something else than text.
        """
        found = self.extra.get(name)
        if found is None or found == "":
            return ""
        if not isinstance(found, str) or not found.strip():
            raise ConfigError(f"{name} of {self.label}: found {found!r}; expected text that is not empty, or no {name}")
        return found

    def seconds(self, name: str, default: float) -> float:
        """Return a number of seconds above 0 of the extra, or the default where it is left out.

        Raises:
            ConfigError: it is something else.
        """
        found = self.extra.get(name)
        if found is None or found == "":
            return default
        try:
            # A connection written as a URI has text where one written as JSON has a number.
            number = math.nan if isinstance(found, bool) else float(found)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not (math.isfinite(number) and number > 0):
            raise ConfigError(
                f"{name} of {self.label}: found {found!r}; expected a number of seconds above 0, as in {default:g}"
            )
        return number
