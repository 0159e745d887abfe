"""The backend's labs."""

from __future__ import annotations

import pytest

from tests.clouds.aws.backend.kit import Lab, lab_on
from tests.clouds.aws.client import Double


@pytest.fixture
def lab(double: Double) -> Lab:
    """A group on the AWS backend; time passes only when something sleeps."""
    return lab_on(double)
