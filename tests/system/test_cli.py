"""The `rankvol` command as a process: the local backend, a fresh AIRFLOW_HOME, Airflow's real database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_SCRIPT = Path(sys.executable).with_name("rankvol")
COMMAND = [str(_SCRIPT)] if _SCRIPT.exists() else [sys.executable, "-m", "airflow_rankvol.cli"]

# Volumes as the runs of a DAG would make them, by a process that then dies: {run: expiry}.
MAKE_VOLUMES = """
    import json, sys
    from airflow_rankvol.engine.provision import provision
    from airflow_rankvol.hooks import get_backend, get_owner
    from airflow_rankvol.plan import RunIdentity, make_plan
    from airflow_rankvol.spec.job import RankJob

    backend = get_backend()
    for run, expiry in json.loads(sys.argv[1]).items():
        job = RankJob.model_validate({
            "nodes": 2,
            "volumes": "data-${NODE_RANK}:/data",
            "volume_template": {"size": "32MB", "reclaim": "delete_always", "expiry": expiry},
        })
        identity = RunIdentity(get_owner("rankvol_default", backend), "etl", run, "ranks")
        provision(backend, make_plan(job, identity), generation=1)
"""

# Two runs and a connection, in a database that Airflow itself has made.
MAKE_DATABASE = """
    import sys
    from datetime import UTC, datetime
    from airflow.models import Connection, DagModel
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.dagrun import DagRun
    from airflow.utils import db
    from airflow.utils.session import create_session
    from airflow.utils.types import DagRunTriggeredByType

    db.initdb()
    now = datetime.now(UTC)
    with create_session() as session:
        session.merge(DagBundleModel(name="cli"))
        session.flush()
        session.add(DagModel(dag_id="etl", bundle_name="cli", fileloc="etl.py"))
        session.flush()
        for run_id, state in (("ended", "failed"), ("live", "running")):
            session.add(DagRun(dag_id="etl", run_id=run_id, run_type="manual", state=state, run_after=now,
                               start_date=now, triggered_by=DagRunTriggeredByType.TEST))
        session.add(Connection(conn_id="stored", conn_type="rankvol_local", extra={"state_dir": sys.argv[2]}))
"""


@dataclass
class Home:
    """A fresh AIRFLOW_HOME, and processes that run in it."""

    path: Path
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
        self.env = {**kept, "AIRFLOW_HOME": str(self.path), "PYTHONPATH": str(Path(__file__).parents[2])}

    def rankvol(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command; its answer must hold no traceback."""
        result = self._run([*COMMAND, *arguments])
        assert "Traceback" not in result.stderr
        return result

    def airflow(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Airflow's own command."""
        return self._run([sys.executable, "-m", "airflow", *arguments])

    def rows(self, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        """Run the command and return its JSON."""
        result = self.rankvol(*arguments, "--output", "json")
        assert result.returncode == code, result.stderr
        found = json.loads(result.stdout)
        assert isinstance(found, list)
        return found

    def python(self, code: str, *arguments: str) -> None:
        """Run Python code that must succeed."""
        result = self._run([sys.executable, "-c", textwrap.dedent(code), *arguments])
        assert result.returncode == 0, result.stderr

    def reap(self, *arguments: str, code: int) -> dict[str, str]:
        """Reap, and return what became of each run's volumes."""
        return {row["run"]: row["action"] for row in self.rows("reap", *arguments, code=code)}

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            env=self.env,
            cwd=self.path.parent,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "airflow")


def test_where_airflow_was_never_set_up_nothing_is_found_and_nothing_is_made(home: Home) -> None:
    job = home.path.parent / "job.yaml"
    job.write_text("{nodes: 2, volumes: 'data-${NODE_RANK}:/data', commands: [echo]}")
    result = home.rankvol("ls")
    assert (result.returncode, result.stdout) == (0, "none\n"), result.stderr
    assert len(home.rows("plan", str(job))[0]["slots"]) == 2
    # Airflow's own import makes the folder of its logs; there is no database, no configuration and no state.
    assert {path.name for path in home.path.iterdir()} <= {"logs", "airflow.cfg"}


def test_leftovers_of_dead_processes_are_listed_and_then_removed(home: Home) -> None:
    home.python(MAKE_VOLUMES, json.dumps({"expired": "1s", "unknown": "24h"}))
    listed = home.rankvol("reap")
    assert listed.returncode == 3
    assert "2 to remove, 2 stay" in listed.stderr
    assert "Airflow's database cannot be asked" in listed.stderr
    assert home.reap("--yes", code=0) == {"expired": "removed", "unknown": "keep"}
    assert home.reap("--run", "unknown", "--yes", code=0) == {"unknown": "removed"}
    assert home.rankvol("ls").stdout == "none\n"
    assert [path for path in (home.path / "rankvol").rglob("*") if "vol-" in path.name] == []


def test_airflows_database_tells_which_runs_live_and_which_connections_there_are(home: Home) -> None:
    elsewhere = home.path.parent / "elsewhere"
    runs = {"live": "1s", "ended": "24h", "unheard-of": "24h"}
    # One process, because importing Airflow takes longest.
    home.python(MAKE_DATABASE + MAKE_VOLUMES, json.dumps(runs), str(elsewhere))
    refused = home.rankvol("reap", "--run", "live", "--yes")
    assert refused.returncode == 1
    assert "run live of DAG etl lives" in refused.stderr
    assert {row["run"]: row["run_state"] for row in home.rows("ls")} == {
        "live": "live",
        "ended": "ended",
        "unheard-of": "unknown",
    }
    assert home.reap("--yes", code=0) == {"live": "keep", "ended": "removed", "unheard-of": "keep"}
    # This connection is in the database alone, and leads to another state directory.
    assert home.rankvol("ls", "--conn-id", "stored").stdout == "none\n"


@pytest.mark.parametrize(
    ("database", "code", "said"),
    [
        ("postgresql+psycopg2://u:p@127.0.0.1:1/airflow", 1, "Airflow's database does not answer (OperationalError"),
        ("postgresql+pg8000://u:p@127.0.0.1:1/airflow", 2, "No module named 'pg8000'"),
    ],
    ids=["refused", "no-driver"],
)
def test_a_database_that_fails_is_no_word_that_a_run_has_ended(home: Home, database: str, code: int, said: str) -> None:
    """Neither a connection that is refused, nor a driver that is missing."""
    home.python(MAKE_VOLUMES, json.dumps({"live": "1s"}))
    down = Home(home.path)
    down.env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database
    if code == 1:  # the default connection might be defined there
        nobody_knows = down.rankvol("ls")
        assert (nobody_knows.returncode, nobody_knows.stdout) == (2, ""), nobody_knows.stderr
    down.env["AIRFLOW_CONN_RANKVOL_DEFAULT"] = json.dumps({"conn_type": "rankvol_local"})
    for arguments in (["--yes"], ["--yes", "--run", "live"]):
        refused = down.rankvol("reap", *arguments)
        assert (refused.returncode, refused.stdout) == (code, ""), refused.stderr
        assert said in refused.stderr
    if code == 1:
        assert {row["run_state"] for row in down.rows("ls")} == {"unknown"}
        inside = down.airflow("rankvol", "reap", "--yes")
        assert (inside.returncode, said in inside.stderr) == (1, True), inside.stderr
    assert {row["action"] for row in home.rows("reap", code=3)} == {"remove"}
    assert down.rankvol("reap", "--yes", "--without-airflow").returncode == (0 if code == 1 else 2)
    assert bool(home.rows("ls")) is (code == 2)
