"""What needs no cloud to be known: names to look for, rate quotas, disk types."""

from __future__ import annotations

import re

import pytest

from airflow_rankvol.backends._gcp_calls import RATES, _action, _bucket, all_of, any_of
from airflow_rankvol.backends._gcp_names import filters_of
from airflow_rankvol.backends._gcp_types import FAMILIES, TYPES, boot_type_of, check_bounds, takes
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.templates import VolumeTemplate
from tests.clouds.gcp.bounds import KINDS
from tests.clouds.gcp.machines import TYPES as MACHINES


@pytest.mark.parametrize(
    ("names", "filters"),
    [
        ([f"data-{n}" for n in range(1000)], ['name eq "(data-[0-9a-f]+)"']),
        ([f"shard-{n:03d}-of-256" for n in range(256)], ['name eq "(shard-[0-9a-f]+-of-[0-9a-f]+)"']),
        (["a-1", "b-2"], ['name eq "(a-[0-9a-f]+|b-[0-9a-f]+)"']),
        (["dataset"], ['name eq "(dataset)"']),
        ([], []),
    ],
)
def test_names_that_differ_by_a_number_are_one_pattern(names: list[str], filters: list[str]) -> None:
    assert filters_of(names) == filters


def test_every_name_passes_its_filter() -> None:
    names = [f"{stem}-{rank:x}" for stem in ("data", "deadbeef", "f00d", "x1y2") for rank in range(40)]
    patterns = [re.findall(r'"(.*)"', text)[0] for text in filters_of(names)]
    assert all(any(re.fullmatch(pattern, name) for pattern in patterns) for name in names)


def test_filters_hold_their_parts_together() -> None:
    assert any_of("a", ["2", "1"]) == '(a = "1") OR (a = "2")'
    assert all_of(any_of("a", ["1"]), "", any_of("b", ["2"])) == '((a = "1")) AND ((b = "2"))'


@pytest.mark.parametrize(
    ("http", "path", "bucket", "action"),
    [
        ("POST", "zones/us-central1-a/disks", "changes in us-central1", "disks.insert"),
        ("DELETE", "zones/us-central1-a/disks/d", "changes in us-central1", "disks.delete"),
        ("POST", "zones/us-central1-a/disks/d/setLabels", "changes in us-central1", "disks.setLabels"),
        ("GET", "zones/us-central1-a/disks/d", "reads in us-central1", "disks.get"),
        ("GET", "zones/europe-west12-a/instances/i/serialPort", "reads in europe-west12", "instances.serialPort"),
        ("GET", "zones/us-central1-ai1a/disks/d", "reads in us-central1", "disks.get"),
        ("GET", "aggregated/disks", "lists in global", "disks.aggregatedList"),
        ("GET", "zones", "lists in global", "zones.list"),
        ("GET", "regions/us-central1", "reads in us-central1", "regions.get"),
        ("POST", "zones/us-central1-a/operations/o/wait", "operation reads in us-central1", "operations.wait"),
        ("GET", "/debian-cloud/global/images/family/debian-13", "reads in global", "images.family"),
    ],
)
def test_a_call_counts_against_its_quota_and_has_a_name(http: str, path: str, bucket: str, action: str) -> None:
    assert _bucket(http, path) == bucket
    assert _action(http, path) == action


def test_no_minute_holds_more_calls_than_google_takes() -> None:
    capacity, per_second = RATES.other
    assert capacity + 60 * per_second <= 1500


def test_types_have_the_doubles_bounds() -> None:
    """Written down twice, from the same pages."""
    assert TYPES.keys() == KINDS.keys()
    for name, kind in TYPES.items():
        other = KINDS[name]
        assert (kind.min_gib, kind.max_gib) == (other.min_gb, other.max_gb)
        for size in (kind.min_gib, 100 + kind.min_gib, kind.max_gib):
            for mine, theirs in ((kind.iops, other.iops), (kind.throughput, other.throughput)):
                assert (mine and mine(size)) == (theirs and theirs(size)), (name, size)


def test_what_a_machine_takes_is_what_the_double_says() -> None:
    wrong = [
        (machine.name, kind)
        for machine in MACHINES.values()
        for kind in TYPES
        if kind != "pd-extreme" and takes(machine.name, machine.cpus, kind) != machine.takes(kind)
    ]
    assert wrong == []


def test_a_machine_boots_from_a_disk_that_it_takes() -> None:
    assert all(boot_type_of(f"{family}-x") in kinds for family, kinds in FAMILIES.items())
    assert boot_type_of("z9-standard-2") == boot_type_of("n10x-standard-2") == "hyperdisk-balanced"
    assert boot_type_of("z1-standard-2") == boot_type_of("odd") == "pd-balanced"


def test_a_family_that_nobody_knows_is_left_to_compute_engine() -> None:
    assert takes("z9-standard-2", 2, "hyperdisk-extreme")


@pytest.mark.parametrize(
    "template",
    [
        {"type": "hyperdisk-balanced", "size": "4GB", "iops": 2000},
        {"type": "hyperdisk-balanced", "size": "1TB", "iops": 160_000, "throughput": 2400},
        {"type": "hyperdisk-throughput", "size": "4TB", "throughput": 300},
        {"type": "hyperdisk-extreme", "size": "64GB", "iops": 64_000},
        {"type": "pd-extreme", "size": "500GB", "iops": 120_000},
    ],
    ids=str,
)
def test_what_is_within_bounds_is_fine(template: dict[str, object]) -> None:
    check_bounds(VolumeTemplate.model_validate(template), "volume")


@pytest.mark.parametrize(
    "template",
    [
        {"type": "hyperdisk-balanced", "size": "4GB", "iops": 2001},
        {"type": "hyperdisk-throughput", "size": "2TB", "throughput": 181},
        {"type": "hyperdisk-throughput", "size": "1TB"},
        {"type": "hyperdisk-throughput", "size": "2TB", "iops": 3000},
        {"type": "pd-ssd", "throughput": 200},
    ],
    ids=str,
)
def test_what_is_out_of_bounds_is_refused(template: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        check_bounds(VolumeTemplate.model_validate(template), "volume")
