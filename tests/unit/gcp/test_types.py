"""The bounds of disk types, in figures of Compute Engine's documentation that no formula here has made."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_rankvol.backends._gcp_types import (
    ARM,
    FAMILIES,
    TYPES,
    WITH_ACCELERATORS,
    WITHOUT_ACCELERATORS,
    boot_type_of,
    check_bounds,
    family_of,
    moves,
    takes,
)
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.templates import VolumeTemplate
from tests.clouds.gcp.machines import TYPES as MACHINES

BALANCED, EXTREME, THROUGHPUT = "hyperdisk-balanced", "hyperdisk-extreme", "hyperdisk-throughput"


def bounds(kind: str, size: int, fields: dict[str, int]) -> None:
    template: dict[str, Any] = {"type": kind, "size": f"{size}GiB", **fields}
    check_bounds(VolumeTemplate.model_validate(template), "volume")


@pytest.mark.parametrize(
    ("kind", "size", "fields"),
    [
        (BALANCED, 4, {"iops": 2000, "throughput": 140}),
        (BALANCED, 6, {"iops": 3000, "throughput": 750}),
        (BALANCED, 100, {"throughput": 750}),
        (BALANCED, 200, {"iops": 40_000, "throughput": 157}),
        (BALANCED, 320, {"iops": 160_000, "throughput": 2400}),
        ("pd-extreme", 500, {"iops": 120_000}),
        (EXTREME, 64, {"iops": 64_000}),
        (EXTREME, 350, {"iops": 350_000}),
        (THROUGHPUT, 2048, {"throughput": 180}),
        (THROUGHPUT, 32_768, {"throughput": 2400}),
    ],
)
def test_what_lies_within_the_bounds_is_taken(kind: str, size: int, fields: dict[str, int]) -> None:
    bounds(kind, size, fields)


@pytest.mark.parametrize(
    ("kind", "size", "fields"),
    [
        (BALANCED, 3, {}),
        (BALANCED, 4, {"iops": 2001}),
        (BALANCED, 4, {"throughput": 501}),
        (BALANCED, 100, {"throughput": 751}),
        (BALANCED, 200, {"iops": 40_000, "throughput": 156}),
        (BALANCED, 319, {"iops": 160_000}),
        (BALANCED, 1000, {"iops": 160_001}),
        ("pd-extreme", 499, {}),
        ("pd-extreme", 500, {"iops": 2499}),
        (EXTREME, 64, {"iops": 76_801}),
        (EXTREME, 64, {"iops": 127}),
        (THROUGHPUT, 2048, {"throughput": 19}),
        (THROUGHPUT, 2048, {"throughput": 181}),
    ],
)
def test_what_lies_beyond_is_refused(kind: str, size: int, fields: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=kind):
        bounds(kind, size, fields)


def test_large_disks_take_large_machines() -> None:
    assert not takes("n2-standard-48", 48, "pd-extreme")
    assert takes("n2-standard-64", 64, "pd-extreme")


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (("n2-standard-64", 64), ("n2-standard-80", 80)),
        (("c3d-standard-30", 30), ("c3d-standard-60", 60)),
        (("c4d-standard-48", 48), ("c4d-standard-64", 64)),
        (("m1-ultramem-40", 40), ("m1-ultramem-80", 80)),
        (("m4-megamem-56", 56), ("m4-megamem-112", 112)),
        (("g4-standard-48", 48), ("g4-standard-96", 96)),
        (("a3-highgpu-2g", 52), ("a3-highgpu-4g", 104)),
    ],
)
def test_hyperdisk_extreme_takes_large_machines(small: tuple[str, int], large: tuple[str, int]) -> None:
    """As Compute Engine's page of Hyperdisk Extreme lists them; the double of it says the same."""
    assert not takes(*small, EXTREME)
    assert takes(*large, EXTREME)
    assert not MACHINES[small[0]].takes(EXTREME)
    assert MACHINES[large[0]].takes(EXTREME)


@pytest.mark.parametrize(
    "machine",
    ["a4x-highgpu-4g", "c4d-standard-8", "g4-standard-48", "h4d-standard-192", "m4-megamem-56", "n4a-standard-2",
     "n4d-standard-2", "x4-megamem-960-metal", "z4m-standard-8"],
)  # fmt: skip
def test_families_of_the_fourth_generation_take_hyperdisk_only(machine: str) -> None:
    assert boot_type_of(machine) == BALANCED
    assert takes(machine, 960, BALANCED)
    assert not any(takes(machine, 960, kind) for kind in TYPES if kind.startswith("pd-"))


def test_a_type_that_is_not_known_is_compute_engines_to_judge() -> None:
    """An adopted disk may have one."""
    assert takes("a3-highgpu-8g", 208, "hyperdisk-ml")
    assert not takes("a3-highgpu-8g", 208, "pd-standard")


def test_what_is_known_of_a_family_is_known_of_its_disks_too() -> None:
    """An image of the right architecture is refused where it is not, and a boot disk guessed."""
    assert set(FAMILIES) >= ARM | WITH_ACCELERATORS


@pytest.mark.parametrize(
    ("machine", "known"),
    [("n1-highmem-8", False), ("custom-4-16384", False), ("g2-standard-4", False), ("new-standard-4", False),
     ("n2-standard-4", True), ("c4-standard-4", True), ("f1-micro", True), ("g1-small", True)],
)  # fmt: skip
def test_no_accelerator_is_refused_for_a_machine_that_may_take_it(machine: str, known: bool) -> None:
    """N1 takes them, but for its shared cores, whose families are others; what has its own is not sent any."""
    assert (family_of(machine) in WITHOUT_ACCELERATORS) == known


@pytest.mark.parametrize(
    ("machine", "can"),
    [("n2-standard-2", True), ("c3-standard-192-metal", False), ("g2-standard-4", False), ("h4d-standard-192", False)],
)
def test_neither_metal_nor_accelerators_move_to_another_host(machine: str, can: bool) -> None:
    assert moves(machine) == can
