"""What the shared bodies find is told in full."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.clouds.common.crash.bodies")
