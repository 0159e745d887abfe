"""Run an example DAG once against a double of a cloud whose nodes really run: what the demos of clouds share.

The double is a process of its own on 127.0.0.1, with a volume and an instance for every rank: a disk with a file
system, and a machine with root, processes and network of its own. Airflow's home and the double's state are below
``.airflow`` in the checkout; the result is fetched from the double's bucket to ``demo``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import duckdb
from rich.console import Console

from demo.run_demo import ROOT, Outcome, alone, explain, left_behind, output_to, run_dag, show
from tests.clouds.nodes.host import why_not
from tests.clouds.nodes.kit import leftovers

FILES = ("flights.parquet", "report.md", "flights.png")
CANNOT = 2


class Cloud(Protocol):
    """What is a cloud's own.

    Attributes:
        name: ``aws`` or ``gcp``.
        title: what people call it.
        most_nodes: so many volumes one gather node takes.
    """

    name: str
    title: str
    dag: str
    conn_id: str
    most_nodes: int

    def why_not(self) -> str:
        """Return what is missing on this machine, or nothing."""

    def double(self, state: Path) -> contextlib.AbstractContextManager[Any]:
        """Return the cloud's double, which is a context manager, with nodes that really run."""

    def make_account(self, double: Any) -> dict[str, Any]:
        """Make what the DAG's doc asks for, and return the params that name it."""

    def settings(self, home: Path, double: Any) -> dict[str, str]:
        """Return the settings of an Airflow whose cloud is the double."""

    def fetch(self, double: Any, folder: Path) -> None:
        """Download the result."""


def formatted(state: Path) -> int:
    """Return how many disks the nodes have made a file system on, by what they wrote on their consoles."""
    consoles = [path.read_text(encoding="utf-8", errors="replace") for path in state.glob("host/nodes/*/console.log")]
    return len(set(re.findall(r"formatting the new, blank volume \S+ \((\S+)\)", "".join(consoles))))


def differences(found: Path, home: Path) -> int:
    """Return how many rows of the statistics differ from those of one process that aggregates all flights."""
    direct = home / "direct"
    script = ROOT / "dags/include/flights_merge.py"
    command = [sys.executable, str(script), "--direct", "--out", str(direct)]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"MPLCONFIGDIR": str(home / "mpl")})
    with duckdb.connect() as database:
        for name, folder in (("found", found), ("direct", direct)):
            database.read_parquet(str(folder / FILES[0])).create(name)
        differ = "(FROM found EXCEPT ALL FROM direct) UNION ALL (FROM direct EXCEPT ALL FROM found)"
        return len(database.execute(differ).fetchall())


@contextlib.contextmanager
def running_double(cloud: Cloud, state: Path) -> Iterator[Any]:
    """Run the double, below a directory that is empty before and gone afterwards.

    Raises:
        RuntimeError: something of it stays.
    """
    shutil.rmtree(state, ignore_errors=True)
    with cloud.double(state) as double:
        yield double
    if left := leftovers(state):
        raise RuntimeError(f"left by the double: {', '.join(left)}")
    shutil.rmtree(state)


def run(console: Console, cloud: Cloud, home: Path, nodes: int, out: Path) -> bool:
    """Run the DAG; say what happened, and whether all is well."""
    log = home / "demo.log"
    started = time.monotonic()
    with running_double(cloud, home / "double") as double:
        os.environ.update(cloud.settings(home, double))
        params = {"nodes": nodes, **cloud.make_account(double)}
        with output_to(log):
            outcome = run_dag(cloud.dag, params, cloud.conn_id)
        show(console, cloud.dag, outcome, time.monotonic() - started)
        console.print(f"Disks that nodes formatted and mounted: {formatted(double.state_dir)}")
        console.print(f"Left behind: {left_behind(cloud.conn_id)}")
        if outcome.state != "success":
            explain(console, outcome, log)
            return False
        out.mkdir(parents=True, exist_ok=True)
        cloud.fetch(double, out)
    return told(console, home, out, outcome)


def told(console: Console, home: Path, out: Path, outcome: Outcome) -> bool:
    """Say where the result is, and whether it is right."""
    different = differences(out, home)
    console.print(f"Fetched from {outcome.gathered['parquet'].rpartition('/')[0]} to {out}", soft_wrap=True)
    if different:
        console.print(f"{different} rows differ from what one process computes from all flights: this is a bug.")
        return False
    console.print("The totals equal the local demo's, which are those of one process, to the last bit.")
    return True


def cannot(cloud: Cloud) -> str:
    """Return why this machine cannot run nodes, or nothing."""
    if os.geteuid() != 0:
        return "nodes with disks, mounts and a network of their own need root. `make demo` runs as anybody"
    return why_not() or cloud.why_not()


def main(cloud: Cloud) -> int:
    """Run the demo of a cloud."""
    text = f"Run the example DAG {cloud.dag} on a double."
    parser = argparse.ArgumentParser(prog=f"demo-{cloud.name}", description=text)
    parser.add_argument("--nodes", type=int, default=4, help=f"number of ranks, 1 to {cloud.most_nodes}")
    default = ROOT / "demo" / f"output-{cloud.name}"
    parser.add_argument("--out", type=Path, default=default, help="directory for the result")
    default = ROOT / ".airflow" / cloud.name
    parser.add_argument("--home", type=Path, default=default, help="Airflow's and the double's")
    args = parser.parse_args()
    if not 1 <= args.nodes <= cloud.most_nodes:
        parser.error(
            f"--nodes {args.nodes}: 1 to {cloud.most_nodes} are allowed; with more, gather would work in parts"
        )
    console = Console()
    console.width = max(console.width, 100)
    home = args.home.resolve()
    console.print(f"Running {cloud.dag} with {args.nodes} nodes; the log is in {home / 'demo.log'} …", soft_wrap=True)
    if reason := cannot(cloud):
        console.print(f"The demo of {cloud.title} cannot run here: {reason}.", markup=False, soft_wrap=True)
        return CANNOT
    home.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the double is ended
    try:
        with alone(home):
            return 0 if run(console, cloud, home, args.nodes, args.out.resolve()) else 1
    except Exception as exc:  # noqa: BLE001  # the log has the traceback; people need the reason
        console.print(f"The run did not come to an end: {exc}\nThe log is in {home / 'demo.log'}", markup=False)
        return 1
