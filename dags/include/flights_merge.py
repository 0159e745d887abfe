"""The statistics of all flights, from the volumes of all ranks: a Parquet file, a Markdown report and a plot.

Run on the gather node of the DAG ``flights_by_rank``; it runs as well without Airflow:

    python3 flights_merge.py volume-* --out report
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flights_etl import (
    DELAYS_FILE,
    connect,
    data_file,
    load_flights,
    report_result,
    row_count,
    statistics,
    write_parquet,
)
from flights_plot import draw

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

PARQUET_FILE = "flights.parquet"
REPORT_FILE = "report.md"
PLOT_FILE = "flights.png"


def load_ranks(database: duckdb.DuckDBPyConnection, folders: Sequence[Path]) -> int:
    """Create the table ``flights`` from the ranks' counts, one row per flight again, and return its length.

    With the rows back, mean and percentile come from the same query as in one process, to the last bit.
    """
    files = [folder / DELAYS_FILE for folder in folders]
    if missing := [str(file) for file in files if not file.is_file()]:
        raise SystemExit(f"flights_merge: expected {DELAYS_FILE} of every rank, missing: {', '.join(missing)}")
    database.execute(
        """
        CREATE TABLE flights AS
        SELECT carrier, month, arr_delay, cancelled
        FROM (SELECT *, unnest(range(flights)) FROM read_parquet($files))
        """,
        {"files": [str(file) for file in files]},
    )
    return row_count(database, "flights")


def load_airlines(database: duckdb.DuckDBPyConnection) -> None:
    """Create the table ``airlines``: the carriers' names."""
    database.execute(
        "CREATE TABLE airlines AS SELECT carrier, name FROM read_csv($csv)",
        {"csv": str(data_file("airlines.csv"))},
    )


def by_carrier() -> str:
    """The query for the statistics of the year per carrier, most punctual first."""
    return f"SELECT * FROM ({statistics('carrier')}) JOIN airlines USING (carrier) ORDER BY mean_arr_delay"


def cell(value: object) -> str:
    """Render a value, a number that is no integer with one decimal."""
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def markdown_table(database: duckdb.DuckDBPyConnection, query: str) -> str:
    """Render a query's rows as a Markdown table."""
    relation = database.sql(query)
    lines = [" | ".join(relation.columns), " | ".join("---" for _ in relation.columns)]
    lines += [" | ".join(cell(value) for value in row) for row in relation.fetchall()]
    return "\n".join(f"| {line} |" for line in lines)


def report(database: duckdb.DuckDBPyConnection, ranks: int) -> str:
    """Write the report's Markdown."""
    rows = row_count(database, "flights")
    year = """SELECT name AS carrier, flights, mean_arr_delay AS "mean delay [min]",
              p95_arr_delay AS "95 % within [min]", cancelled FROM ({query})"""
    month = """SELECT month, flights, mean_arr_delay AS "mean delay [min]",
               p95_arr_delay AS "95 % within [min]", cancelled FROM ({query}) ORDER BY month"""
    return f"""# Flights from New York City, 2013

{rows:,} flights, read from the volumes of {ranks} ranks. Delays are on arrival; a negative one is early.
All carriers by month are in `{PARQUET_FILE}`.

![Mean delay on arrival by carrier and month]({PLOT_FILE})

## By carrier

{markdown_table(database, year.format(query=by_carrier()))}

## By month

{markdown_table(database, month.format(query=statistics("month")))}
"""


def merge(database: duckdb.DuckDBPyConnection, out: Path, ranks: int) -> dict[str, object]:
    """Write the three files from the table ``flights``, and summarise them."""
    out.mkdir(parents=True, exist_ok=True)
    load_airlines(database)
    write_parquet(database, statistics(), out / PARQUET_FILE)
    (out / REPORT_FILE).write_text(report(database, ranks), encoding="utf-8")
    draw(
        cells=database.sql(statistics()).fetchall(),
        carriers=database.sql(
            f"SELECT carrier, name, flights, mean_arr_delay, p95_arr_delay FROM ({by_carrier()})"
        ).fetchall(),
        file=out / PLOT_FILE,
    )
    totals = "count(DISTINCT carrier), count(DISTINCT month), count(*) FILTER (WHERE cancelled), avg(arr_delay)"
    carriers, months, cancelled, mean = database.execute(f"SELECT {totals} FROM flights").fetchall()[0]
    return {
        "ranks": ranks,
        "rows": row_count(database, "flights"),
        "carriers": carriers,
        "months": months,
        "cancelled": cancelled,
        "mean_arr_delay": mean,
        "parquet": str(out / PARQUET_FILE),
        "report": str(out / REPORT_FILE),
        "plot": str(out / PLOT_FILE),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Merge the ranks' statistics of the flights.")
    parser.add_argument("folders", nargs="*", type=Path, help="the directories that the ranks wrote")
    parser.add_argument("--out", type=Path, default=os.environ.get("FLIGHTS_OUT"), help="directory [$FLIGHTS_OUT]")
    parser.add_argument("--direct", action="store_true", help="aggregate all flights in this process instead")
    args = parser.parse_args(argv)
    if args.out is None:
        parser.error("--out or FLIGHTS_OUT must name the directory for the results")
    if args.direct == bool(args.folders):
        parser.error("give either the ranks' directories or --direct")
    with connect() as database:
        if args.direct:
            load_flights(database, rank=0, nodes=1)
        else:
            load_ranks(database, args.folders)
        report_result(merge(database, args.out.resolve(), ranks=max(1, len(args.folders))))


if __name__ == "__main__":
    main()
