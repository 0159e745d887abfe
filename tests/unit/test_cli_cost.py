"""`rankvol cost`: GiB-hours and USD, by volume, group, run or DAG."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_rankvol.cli import main
from airflow_rankvol.errors import AuthDenied
from tests.unit.cli_kit import Cloud, install, rows

HOUR = 3600


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    return install(monkeypatch)


@pytest.fixture
def prices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a GiB of the fake's `gold` cost 7.30 USD a month: a cent an hour."""
    path = tmp_path / "prices.yaml"
    path.write_text("fake: {'*': {gold: {gib: 7.3}}}\n")
    monkeypatch.setenv("AIRFLOW__RANKVOL__PRICES", str(path))


def test_a_groups_cost_is_that_of_its_volumes_since_each_was_created(
    cloud: Cloud, prices: None, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.volumes("etl", "r1", nodes=2, size="10GB", type="gold")
    cloud.backend.clock.sleep(2 * HOUR)
    cloud.volumes("etl", "r2", nodes=1, size="20GB", type="gold")
    cloud.backend.clock.sleep(HOUR)
    assert main(["cost", "-o", "json"]) == 0
    first, second = rows(capsys)
    assert first == {
        "conn_id": "rankvol_default",
        "dag": "etl",
        "run": "r1",
        "group": "ranks",
        "volumes": 2,
        "size_gib": 20,
        "gib_hours": pytest.approx(60, rel=0.01),
        "usd": pytest.approx(0.6, rel=0.01),
        "unknown": [],
    }
    assert (second["run"], second["gib_hours"]) == ("r2", pytest.approx(20, rel=0.01))


@pytest.mark.parametrize(("by", "count"), [("volume", 5), ("group", 3), ("run", 3), ("dag", 2)])
def test_by_says_what_a_row_is(cloud: Cloud, capsys: pytest.CaptureFixture[str], by: str, count: int) -> None:
    cloud.volumes("etl", "r1", nodes=2)
    cloud.volumes("etl", "r2", nodes=2)
    cloud.volumes("train", "r1", nodes=1)
    assert main(["cost", "--by", by, "-o", "json"]) == 0
    found = rows(capsys)
    assert len(found) == count
    assert sum(row["volumes"] for row in found) == 5
    assert ("name" in found[0]) is (by == "volume")


def test_an_unknown_price_makes_the_sum_unknown_and_is_named(
    cloud: Cloud, prices: None, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.volumes("etl", "r1", nodes=1, size="10GB", type="gold")
    cloud.volumes("etl", "r2", nodes=1, size="10GB", type="lead")
    cloud.backend.clock.sleep(HOUR)
    assert main(["cost", "--by", "dag", "-o", "json"]) == 0
    (row,) = rows(capsys)
    assert row["usd"] is None
    assert "no price for lead on fake" in row["unknown"][0]
    assert main(["cost"]) == 0
    answer = capsys.readouterr()
    header, _, gold, lead = answer.out.splitlines()
    assert header.split()[-3:] == ["size", "GiB-hours", "USD"]
    assert (gold.split()[-1], lead.split()[-1]) == ("0.10", "unknown")
    assert "2 volumes, 20.0" in answer.err
    assert "USD 0.10 for 1 of them" in answer.err
    assert "unknown for 1: no price for lead on fake" in answer.err


def test_cost_selects_as_ls_does(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.volumes("etl", "r1", nodes=1)
    cloud.volumes("train", "r1", nodes=1)
    assert main(["cost", "--dag", "train", "-o", "json"]) == 0
    assert [row["dag"] for row in rows(capsys)] == ["train"]
    assert main(["cost", "--owner", "someone-else"]) == 0
    assert capsys.readouterr().out == "none\n"


def test_a_price_file_that_cannot_be_read_is_a_usage_error(
    cloud: Cloud, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__RANKVOL__PRICES", "/nowhere/prices.yaml")
    assert main(["cost"]) == 2
    assert "[rankvol] prices: cannot read /nowhere/prices.yaml" in capsys.readouterr().err


def test_a_backend_that_fails_is_named_and_no_cost_is_claimed(cloud: Cloud, capsys: pytest.CaptureFixture[str]) -> None:
    cloud.volumes(nodes=1)
    cloud.backend.faults.fail("list_owned", AuthDenied)
    assert main(["cost"]) == 1
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "rankvol_default: fake list_owned" in answer.err
