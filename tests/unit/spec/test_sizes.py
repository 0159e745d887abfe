"""Sizes and durations as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.spec.sizes import format_duration, format_size, parse_duration, parse_size_gib


@pytest.mark.parametrize(
    ("written", "gib"),
    [
        ("100GB", 100),
        ("20GiB", 20),
        ("1.5TB", 1536),
        ("1TB", 1024),
        ("1T", 1024),
        ("2PiB", 2 * 1024**2),
        ("512 MB", 0.5),
        ("1024MB", 1),
        (" 100 gb ", 100),
        ("7g", 7),
        (20, 20),
        ("20", 20),
        (20.0, 20),
        (0.25, 0.25),
        ("0.25", 0.25),
    ],
)
def test_a_size_is_read_in_binary_units(written: object, gib: float) -> None:
    found = parse_size_gib(written)
    assert found == gib
    assert isinstance(found, int) == float(gib).is_integer()


@pytest.mark.parametrize(
    "written",
    [
        0,
        "0GB",
        -1,
        "-5GB",
        float("nan"),
        float("inf"),
        "nan",
        True,
        False,
        None,
        "",
        "GB",
        "1e3GB",
        "1,5TB",
        "10 20",
        [10],
        {"size": 1},
        "1" * 400,
        "٣GB",
        10**400,
        "100KB",
        "0.5MB",
        2**31,
    ],
)
def test_what_is_no_size_is_refused_and_quoted(written: object) -> None:
    with pytest.raises(ConfigError, match="size") as caught:
        parse_size_gib(written)
    assert repr(written) in str(caught.value)


@pytest.mark.parametrize("unit", ["XB", "KB", "Gb/s", "GBB", "iB", "B"])
def test_an_unknown_unit_is_named_with_the_known_ones(unit: str) -> None:
    with pytest.raises(ConfigError, match="MB, GB, TB or PB") as caught:
        parse_size_gib(f"10{unit}")
    assert repr(f"10{unit}") in str(caught.value)


@pytest.mark.parametrize(
    ("gib", "written"),
    [(10, "10GB"), (0.5, "512MB"), (1536, "1.5TB"), (1024, "1TB"), (1000, "1000GB"), (2**20, "1PB")],
)
def test_a_size_is_written_in_the_largest_unit_that_keeps_it_short(gib: float, written: str) -> None:
    assert format_size(gib) == written


@given(st.one_of(st.integers(1, 2**30), st.floats(2**-10, 2**20)))
def test_a_written_size_reads_back_exactly(gib: float) -> None:
    assert parse_size_gib(format_size(gib)) == gib


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("24h", 86400),
        ("90m", 5400),
        ("1d12h", 129600),
        ("30s", 30),
        ("1.5h", 5400),
        ("1d 2h 3m 4s", 93784),
        (" 10M ", 600),
        (45, 45),
        ("45", 45),
        (0.5, 0.5),
        (timedelta(minutes=2), 120),
    ],
)
def test_a_duration_is_read(written: object, seconds: float) -> None:
    assert parse_duration(written) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "written",
    [
        0,
        "0h",
        -1,
        "-1h",
        "",
        " ",
        "h",
        "1w",
        "12h1d",
        "1h1h",
        True,
        None,
        float("nan"),
        float("inf"),
        "soon",
        timedelta(0),
        timedelta(seconds=-1),
        10**30,
        "999999999999d",
        [1],
    ],
)
def test_what_is_no_duration_above_zero_is_refused_and_quoted(written: object) -> None:
    with pytest.raises(ConfigError, match="duration") as caught:
        parse_duration(written)
    assert repr(written) in str(caught.value)


@given(st.timedeltas(timedelta(microseconds=1), timedelta(days=3650)))
def test_a_written_duration_reads_back_exactly(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration
