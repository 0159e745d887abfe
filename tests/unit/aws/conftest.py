"""Property tests run few examples: they are here to be run often. Some start bash, which takes its time."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit-aws", max_examples=60, deadline=None)
settings.load_profile("unit-aws")
