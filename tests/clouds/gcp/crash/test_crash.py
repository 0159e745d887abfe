"""The process dies by SIGKILL at any call of a run with four ranks on Compute Engine, before or after its effect."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from tests.clouds.common.crash.bodies import CrashTests, retried
from tests.clouds.common.crash.scene import Point, Scene
from tests.clouds.gcp.crash.ground import GROUND


class TestOnGce(CrashTests):
    ground = GROUND
    sampled = ("disks.insert", "zoneOperations.wait", "instances.insert", "disks.setLabels",
               "instances.getGuestAttributes", "disks.delete")  # fmt: skip
    calls = MappingProxyType(
        {
            "disks.insert": 4, "instances.insert": 5, "disks.setLabels": 8, "zoneOperations.wait": 22,
            "instances.getGuestAttributes": 5, "instances.get": 9, "instances.delete": 9,
            "disks.get": 4, "disks.delete": 4,
            "disks.aggregatedList": 23, "instances.aggregatedList": 23,
        }
    )  # fmt: skip

    @pytest.mark.root
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("point", "when"),
        [
            (Point("compute", "instances.insert", 3), "after"),
            (Point("compute", "zoneOperations.wait", 8), "before"),
            (Point("compute", "instances.getGuestAttributes", 3), "before"),
            (Point("compute", "instances.insert", 5), "after"),
            (Point("compute", "disks.delete", 2), "after"),
        ],
        ids=str,
    )
    def test_after_a_crash_real_nodes_go_on_with_what_lies_on_their_volumes(
        self, real: Scene, point: Point, when: str
    ) -> None:
        retried(real, point, when)
