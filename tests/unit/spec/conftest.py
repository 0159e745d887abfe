"""Property tests run few examples: they are here to be run often."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", max_examples=80, deadline=None)
settings.load_profile("unit")
