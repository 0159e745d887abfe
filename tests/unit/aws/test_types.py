"""What each EBS volume type takes, at its bounds."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_rankvol.backends._aws_types import TYPES, check_bounds
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.templates import VolumeTemplate
from tests.clouds.aws import bounds as double


def check(**fields: Any) -> None:
    check_bounds(VolumeTemplate.model_validate(fields), "volume data-0")


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 1},
        {"size": 65_536},
        {"size": 1, "iops": 3_000, "throughput": 125},
        {"size": 160, "iops": 80_000, "throughput": 2_000},
        {"size": "500MB"},
        {"type": "gp2", "size": 16_384},
        {"type": "io1", "size": 4, "iops": 200},
        {"type": "io2", "size": 4, "iops": 4_000},
        {"type": "st1", "size": 125},
    ],
    ids=str,
)
def test_what_is_within_the_bounds_is_fine(fields: dict[str, Any]) -> None:
    check(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "gp1"}, "'gp1' .*expected one of gp3, gp2"),
        ({"size": 65_537}, "1 to 65,536 GiB"),
        ({"type": "gp2", "size": 16_385}, "1 to 16,384 GiB"),
        ({"type": "st1", "size": 124}, "125 to 16,384"),
        ({"type": "io1", "size": 3, "iops": 100}, "4 to 16,384"),
        ({"iops": 2_999}, "iops=2999; type gp3 takes 3,000 to 80,000"),
        ({"size": 1_000, "iops": 80_001}, "3,000 to 80,000"),
        ({"size": 7, "iops": 3_501}, "7 GiB takes at most 3,500"),
        ({"type": "io1", "size": 4, "iops": 201}, "at most 200"),
        ({"type": "io2", "size": 4}, "iops is not set; type io2 needs it"),
        ({"type": "gp2", "iops": 100}, "iops=100; type gp2 takes none"),
        ({"type": "gp2", "throughput": 125}, "throughput=125; type gp2 takes none"),
        ({"throughput": 124}, "125 to 2,000 MiB/s"),
        ({"throughput": 751}, "at most 750 MiB/s.*iops=3004"),
    ],
    ids=str,
)
def test_what_is_beyond_is_refused_with_the_bound(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"volume data-0: .*{message}"):
        check(**fields)


def test_the_double_has_the_same_bounds() -> None:
    """Both were taken from EC2's documents, one without the other."""
    ours = {
        name: (item.size_gib, item.iops, item.iops_per_gib, item.iops_needed, item.throughput_mibps)
        for name, item in TYPES.items()
    }
    theirs = {
        name: (item.size_gib, item.iops, item.iops_per_gib, item.iops_required, item.throughput_mibps)
        for name, item in double.TYPES.items()
    }
    assert ours == theirs
