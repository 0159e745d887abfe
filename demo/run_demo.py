"""Run the example DAG ``flights_by_rank`` once, from nothing to a result: ``make demo``.

Airflow's home, with the volumes and nodes, is ``.airflow`` in the checkout; the result goes to
``demo/output``.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "demo" / "output"
NOBODY = 65534
UNPRIVILEGED = "RANKVOL_DEMO_UNPRIVILEGED"


@dataclass
class Outcome:
    """What is left of a DAG run to tell: its state, and its tasks' states and results."""

    run_id: str
    state: str
    tasks: dict[str, str] = field(default_factory=dict)
    ranks: dict[int, dict[str, Any]] = field(default_factory=dict)
    gathered: dict[str, Any] = field(default_factory=dict)


def environment(home: Path, mode: str) -> dict[str, str]:
    """Return the settings of an Airflow that lives in ``home`` alone."""
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        # The interpreter's neighbours come first on a node's PATH too, so python3 there has the demo's
        # packages.
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MPLCONFIGDIR": str(home / "matplotlib"),
    }
    if mode:
        connection = {
            "conn_type": "rankvol_local",
            "extra": {"mode": mode, "state_dir": str(home / "rankvol")},
        }
        settings["AIRFLOW_CONN_RANKVOL_DEFAULT"] = json.dumps(connection)
    return settings


@contextlib.contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Send all that is printed into a new file, also by libraries in C and by child processes."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in enumerate(kept, start=1):
            os.dup2(saved, number)
            os.close(saved)


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold ``home`` for this run: what another run has left unfinished there is nobody's any more."""
    with (home / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"Another demo is running in {home}; wait for its end.") from None
        yield


def run_dag(name: str, conf: dict[str, Any], conn_id: str = "rankvol_default") -> Outcome:
    """Run a DAG in this process with Airflow's own ``dag.test()``, and read what it left behind."""
    from airflow.utils.db import initdb

    initdb()
    sys.path.insert(0, str(ROOT / "dags"))
    dag = importlib.import_module(name).dag
    sweep(conn_id)
    try:
        return read_outcome(dag.test(run_conf=conf))
    finally:
        sweep(conn_id)  # a run that was interrupted


def sweep(conn_id: str) -> None:
    """Remove what runs left whose process was killed: to Airflow they would be running for ever."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from airflow.utils.state import DagRunState
    from sqlalchemy import select, update

    from airflow_rankvol.backends.base import Selector
    from airflow_rankvol.engine.reap import ReapRules, RunState, reap, survey
    from airflow_rankvol.hooks import get_backend, get_owner

    with create_session() as session:
        going = DagRun.state.in_([DagRunState.RUNNING, DagRunState.QUEUED])
        ids = list(session.scalars(select(DagRun.run_id).where(going)))
    backend = get_backend(conn_id)
    for run_id in ids:
        selector = Selector(get_owner(conn_id, backend), run=run_id)
        names = frozenset(volume.name for volume in backend.list_owned(selector).volumes)
        findings = survey(backend, selector, lambda *_: RunState.ENDED, ReapRules(names=names))
        _, problems = reap(backend, selector, findings)
        if problems:
            raise RuntimeError(f"what run {run_id} has left could not be removed: {problems}")
        with create_session() as session:  # last: who is interrupted before finds it again
            session.execute(update(DagRun).where(DagRun.run_id == run_id).values(state=DagRunState.FAILED))


def left_behind(conn_id: str = "rankvol_default") -> str:
    """Return the names of all volumes and nodes of this home's owner, or "none"."""
    from airflow_rankvol.backends.base import Selector
    from airflow_rankvol.hooks import get_backend, get_owner

    backend = get_backend(conn_id)
    found = backend.list_owned(Selector(get_owner(conn_id, backend)))
    names = [volume.name for volume in found.volumes] + [node.name for node in found.nodes]
    return ", ".join(names) or "none"


def read_outcome(dag_run: Any) -> Outcome:
    """Collect the states and results of a finished run's tasks."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session

    outcome = Outcome(dag_run.run_id, str(dag_run.state))
    with create_session() as session:
        for ti in dag_run.get_task_instances(session=session):
            name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
            outcome.tasks[name] = str(ti.state)
        results = XComModel.get_many(key="return_value", run_id=dag_run.run_id, dag_ids=dag_run.dag_id)
        for row in session.scalars(cast("Any", results)):
            value = XComModel.deserialize_value(row)
            if row.task_id == "shards.run_rank":
                outcome.ranks[row.map_index] = value
            elif row.task_id == "shards.gather":
                outcome.gathered = value
    return outcome


def show(console: Console, dag: str, outcome: Outcome, seconds: float) -> None:
    """Print a line per rank, and what was gathered."""
    table = Table(title=f"{dag} · {outcome.state}")
    for name in ("rank", "volume", "node", "rows", "seconds", "exit code"):
        named = name in ("volume", "node")
        table.add_column(name, no_wrap=not named, overflow="fold", justify="left" if named else "right")
    for rank, result in sorted(outcome.ranks.items()):
        output = result.get("output") or {}
        volumes = ", ".join(volume["name"] for volume in result.get("volumes") or [])
        table.add_row(
            str(rank),
            volumes,
            str(result.get("node_id")),
            f"{output.get('rows', 0):,}",
            f"{output.get('seconds', 0):.2f}",
            str(result.get("exit_code")),
        )
    console.print(table)
    found = outcome.gathered
    if found:
        console.print(
            f"{found['rows']:,} flights of {found['carriers']} carriers in {found['months']} months, "
            f"mean delay {found['mean_arr_delay']:.2f} minutes; {seconds:.0f} s"
        )
        for kind in ("parquet", "report", "plot"):
            console.print(f"  {kind:8} {found[kind]}", soft_wrap=True)


def explain(console: Console, outcome: Outcome, log: Path) -> None:
    """Print which tasks failed and why, and where to read more."""
    failed = sorted(task for task, state in outcome.tasks.items() if state not in ("success", "skipped"))
    console.print(f"The run is {outcome.state}. Not successful: {', '.join(failed) or 'none'}.")
    text = log.read_text(encoding="utf-8", errors="replace")
    for reason in dict.fromkeys(re.findall(r"^airflow_rankvol\.errors\.(\w+: .*)", text, re.MULTILINE)):
        console.print(f"  {reason}", markup=False, soft_wrap=True)
    for rank, result in sorted(outcome.ranks.items()):
        if result.get("exit_code"):
            console.print(f"Rank {rank} ended with {result['exit_code']}:\n{result.get('log_tail', '')}", markup=False)
    console.print(f"The log is in {log}", soft_wrap=True)


def unprivileged(folders: list[Path]) -> int:
    """Run the demo again as nobody, who owns ``folders``: directory mode is for those who are not root."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", folder], check=True)
    print("Directory mode as root: going on as the user nobody.", flush=True)
    home = str(folders[0])
    setpriv = [
        # A checkout and a Python below a private directory can be read, and nothing else is allowed.
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
        *("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"),
        "--bounding-set=-all,+dac_read_search",
    ]
    changes = {"HOME": home, "TMPDIR": home, "PYTHONPYCACHEPREFIX": f"{home}/pycache", UNPRIVILEGED: "1"}
    command = [*setpriv, sys.executable, *sys.argv]
    return subprocess.run(command, env=os.environ | changes, check=False).returncode


def main() -> int:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="Run the example DAG flights_by_rank on this machine.")
    parser.add_argument("--nodes", type=int, default=4, help="number of ranks, 1 to 256")
    parser.add_argument("--mode", choices=["", "auto", "image", "directory"], default="", help="kind of volumes")
    parser.add_argument("--out", type=Path, default=OUTPUT, help="directory for the result")
    args = parser.parse_args()
    console = Console()
    console.width = max(console.width, 100)  # of a pipe or a small terminal: names matter more than the frame
    home = ROOT / ".airflow"
    if UNPRIVILEGED in os.environ:
        home /= "unprivileged"
    elif args.mode == "directory" and os.geteuid() == 0:
        if shutil.which("setpriv"):
            return unprivileged([home / "unprivileged", args.out])
        console.print("setpriv (util-linux) is not installed: going on as root.")
    home.mkdir(parents=True, exist_ok=True)
    log = home / "demo.log"
    console.print(f"Running flights_by_rank with {args.nodes} nodes; the log is in {log} …", soft_wrap=True)
    os.environ.update(environment(home, args.mode))
    started = time.monotonic()
    try:
        with alone(home), output_to(log):
            outcome = run_dag("flights_by_rank", {"nodes": args.nodes, "out": str(args.out.resolve())})
    except Exception as exc:  # noqa: BLE001  # the log has the traceback; people need the reason
        console.print(f"The run did not come to an end: {exc}\nThe log is in {log}", markup=False, soft_wrap=True)
        return 1
    show(console, "flights_by_rank", outcome, time.monotonic() - started)
    where = os.path.relpath(home)
    console.print(f"Left behind: {left_behind()}  (AIRFLOW_HOME=$PWD/{where} .venv/bin/rankvol ls)", soft_wrap=True)
    if outcome.state != "success":
        explain(console, outcome, log)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
