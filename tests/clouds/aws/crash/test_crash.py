"""The process dies by SIGKILL at any call of a run with four ranks on EC2, before or after the call's effect."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from tests.clouds.aws.crash.ground import GROUND
from tests.clouds.common.crash.bodies import CrashTests, retried
from tests.clouds.common.crash.scene import Point, Scene


class TestOnEc2(CrashTests):
    ground = GROUND
    sampled = ("CreateVolume", "CreateTags", "RunInstances", "AttachVolume", "GetConsoleOutput", "DeleteVolume")
    calls = MappingProxyType(
        {
            "CreateVolume": 4, "CreateTags": 2, "RunInstances": 5, "AttachVolume": 8, "GetConsoleOutput": 5,
            "DeleteVolume": 4, "DescribeInstances": 24, "DescribeVolumes": 24, "DescribeInstanceTypes": 5,
            "GetParameter": 5, "DescribeImages": 5,
        }
    )  # fmt: skip

    @pytest.mark.root
    @pytest.mark.parametrize(
        ("point", "when"),
        [
            (Point("ec2", "AttachVolume", 3), "after"),
            pytest.param(Point("ec2", "RunInstances", 2), "after", marks=pytest.mark.slow),
            pytest.param(Point("ec2", "GetConsoleOutput", 3), "before", marks=pytest.mark.slow),
            pytest.param(Point("ec2", "AttachVolume", 6), "after", marks=pytest.mark.slow),
            pytest.param(Point("ec2", "DeleteVolume", 2), "after", marks=pytest.mark.slow),
        ],
        ids=str,
    )
    def test_after_a_crash_real_nodes_go_on_with_what_lies_on_their_volumes(
        self, real: Scene, point: Point, when: str
    ) -> None:
        retried(real, point, when)
