"""The fake clouds that the engine has to get along with."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_rankvol.testing import FakeBackend, Timings

BACKENDS: dict[str, dict[str, Any]] = {
    "attach by call": {},
    "attach at launch": {"attach_at_launch": True},
    "ended nodes hold volumes": {"attach_at_launch": True, "ended_nodes_hold_volumes": True},
    "seen late, listed long": {"timings": Timings(lag_s=7, linger_s=3600)},
    "seen late with its volume": {"attach_at_launch": True, "timings": Timings(lag_s=7)},
}


@pytest.fixture(params=list(BACKENDS.values()), ids=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> FakeBackend:
    return FakeBackend(**request.param)
