"""What the settings of a double are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass
class Knobs:
    """A dataclass of settings that tests turn by name."""

    def update(self, changes: Mapping[str, Any]) -> None:
        """Take changes over; an unknown name is an error."""
        known = {f.name: f for f in fields(self)}
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"unknown setting {name!r}, expected one of {', '.join(known)}")
            setattr(self, name, type(getattr(self, name))(value))
