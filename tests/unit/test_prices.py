"""The price table: what is known, what is unknown, and that an unknown price is never 0."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_rankvol.backends._aws_view import volume_of
from airflow_rankvol.errors import ConfigError
from airflow_rankvol.prices import HOURS_PER_MONTH, PriceTable, region_of
from airflow_rankvol.records import Volume, VolumeState

NOW = datetime(2026, 11, 1, tzinfo=UTC)
MONTH = timedelta(hours=HOURS_PER_MONTH)


def volume(kind: str, zone: str | None, size: float = 100, iops: int | None = None, mibps: int | None = None) -> Volume:
    """Return a volume that is a month old."""
    state = VolumeState.AVAILABLE
    return Volume("v", "v", state, size, kind, NOW - MONTH, zone=zone, iops=iops, throughput_mibps=mibps)


def usd(made: Volume, backend: str = "aws", table: PriceTable | None = None) -> float:
    """Return a month's cost, which has to be known."""
    cost = (table or PriceTable.load()).cost(made, backend, NOW)
    assert cost.gib_hours == pytest.approx(made.size_gib * HOURS_PER_MONTH)
    assert cost.usd is not None, cost.unknown
    return cost.usd


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (volume("gp3", "us-east-1a", iops=3000, mibps=125), 100 * 0.08),
        (volume("gp3", "us-east-1a", iops=6000, mibps=250), 100 * 0.08 + 3000 * 0.005 + 125 * 0.04),
        (volume("gp2", "eu-west-1c", iops=300), 100 * 0.11),
        (volume("st1", "us-west-2b"), 100 * 0.045),
        (volume("io1", "us-west-2b", iops=1000), 100 * 0.125 + 1000 * 0.065),
        (volume("io2", "us-west-2b", iops=32000), 100 * 0.125 + 32000 * 0.065),
        (
            volume("io2", "us-west-2b", iops=70000),
            100 * 0.125 + 32000 * 0.065 + 32000 * 0.0455 + 6000 * 0.03185,
        ),
    ],
    ids=["gp3", "gp3-provisioned", "gp2", "st1", "io1", "io2", "io2-tiers"],
)
def test_a_month_of_an_ebs_volume_costs_its_capacity_and_what_is_provisioned_beyond_the_included(
    made: Volume, expected: float
) -> None:
    assert usd(made) == pytest.approx(expected)


def test_what_ec2_describes_has_all_that_a_price_needs() -> None:
    described = {
        "VolumeId": "vol-1", "Size": 100, "VolumeType": "gp3", "State": "available", "AvailabilityZone": "us-east-1a",
        "Iops": 4000, "Throughput": 125, "CreateTime": NOW - MONTH,
    }  # fmt: skip
    assert usd(volume_of(described)) == pytest.approx(8 + 5)


def test_a_persistent_disk_costs_its_capacity() -> None:
    assert usd(volume("pd-ssd", "europe-west4-b"), "gcp") == pytest.approx(18.7)


def test_an_hour_costs_its_share_of_a_month() -> None:
    made = volume("gp2", "us-east-1a")
    cost = PriceTable.load().cost(made, "aws", made.created_at + timedelta(hours=1))
    assert cost.gib_hours == 100
    assert cost.usd == pytest.approx(10 / 730)


@pytest.mark.parametrize(
    ("made", "backend", "why"),
    [
        (volume("gp9", "us-east-1a"), "aws", "no price for gp9 on aws in us-east-1"),
        (volume("gp3", "xx-mars-1a", iops=3000, mibps=125), "aws", "no price for gp3 on aws in xx-mars-1"),
        (volume("gp3", "us-east-1-bos-1a", iops=3000, mibps=125), "aws", "in us-east-1-bos-1a"),
        (volume("gp3", "us-east-1a"), "aws", "no price for its IOPS (unknown)"),
        (volume("gp3", "us-east-1a", iops=3000), "aws", "no price for its throughput (unknown MiB/s)"),
        (volume("gp3", "eu-central-1a", iops=4000, mibps=125), "aws", "no price for its IOPS (4000)"),
        (volume("hyperdisk-balanced", "us-central1-a"), "gcp", "no price for hyperdisk-balanced"),
        (volume("directory", None), "local", "no price for directory on local"),
    ],
    ids=["type", "region", "local-zone", "iops", "throughput", "iops-price", "hyperdisk", "local"],
)
def test_what_is_unknown_is_said_and_is_no_zero(made: Volume, backend: str, why: str) -> None:
    cost = PriceTable.load().cost(made, backend, NOW)
    assert cost.usd is None
    assert why in cost.unknown
    assert cost.gib_hours == pytest.approx(73000)


def test_what_is_included_is_known_where_the_rest_has_no_price() -> None:
    assert usd(volume("gp3", "eu-central-1a", iops=3000, mibps=125)) == pytest.approx(9.52)


def test_a_file_comes_before_the_packages_prices_entry_by_entry(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "aws:\n  us-east-1: {gp2: {gib: 0.07}}\n  '*': {gp2: {gib: 0.2}}\n"
        "local: {'*': {'*': {gib: 0.01}}}\nother: {here: {fast: {gib: 1}}}\n"
    )
    table = PriceTable.load(path)
    assert usd(volume("gp2", "us-east-1a"), "aws", table) == pytest.approx(7)
    assert usd(volume("gp2", "us-west-2a"), "aws", table) == pytest.approx(10)
    assert usd(volume("gp2", "xx-mars-1a"), "aws", table) == pytest.approx(20)
    assert usd(volume("st1", "us-east-1a"), "aws", table) == pytest.approx(4.5)
    assert usd(volume("directory", None), "local", table) == pytest.approx(1)
    assert usd(volume("fast", "here"), "other", table) == pytest.approx(100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aws: {us-east-1: {gp2: {gb: 0.07}}}", "gib"),
        ("aws: {us-east-1: {gp2: {gib: -1}}}", "greater than or equal to 0"),
        ("aws: {us-east-1: {gp2: {gib: .nan}}}", "finite"),
        ("- gp2", "expected backend"),
        ("aws: [", "is not YAML"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"prices\.yaml") as raised:
        PriceTable.load(path)
    assert message in str(raised.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        PriceTable.load(tmp_path / "none.yaml")


def test_the_packages_table_says_where_each_cloud_s_prices_come_from_and_of_when() -> None:
    text = (Path(__file__).parents[2] / "airflow_rankvol" / "prices.yaml").read_text()
    head = text.partition("\naws:\n")[0]
    for part in ("https://pricing.us-east-1.amazonaws.com/", "2026-10-06", "https://cloud.google.com/", "2024-11-07"):
        assert part in head


@pytest.mark.parametrize(
    ("backend", "zone", "region"),
    [
        ("aws", "ap-northeast-1c", "ap-northeast-1"),
        ("aws", "us-gov-west-1b", "us-gov-west-1"),
        ("gcp", "us-central1-f", "us-central1"),
        ("local", None, ""),
    ],
)
def test_a_zone_tells_its_region(backend: str, zone: str | None, region: str) -> None:
    assert region_of(backend, zone) == region
