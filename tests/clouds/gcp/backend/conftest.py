"""The backend's labs."""

from __future__ import annotations

import pytest

from tests.clouds.gcp.backend.kit import Lab, lab_on
from tests.clouds.gcp.client import Double


@pytest.fixture
def lab(double: Double) -> Lab:
    """A group on the Google Cloud backend; the double's clock goes, because calls wait for operations."""
    double.freeze(False)
    return lab_on(double)
