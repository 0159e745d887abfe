"""The asset of a job's destination, in real DAG runs: what Airflow has in its database afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.models.asset import AssetEvent, AssetModel
from airflow.utils.session import create_session
from sqlalchemy import select

from tests.airflow.grounds import LocalGround
from tests.airflow.harness import DagBench

WRITE = ["echo $NODE_RANK >$VOLUME_PATH/part"]


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalGround:
    return LocalGround(tmp_path, monkeypatch)


def events(uri: str) -> list[dict[str, Any]]:
    """Return what the events of an asset carry."""
    with create_session() as session:
        found = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id).where(AssetModel.uri == uri)
        return [event.extra for event in session.scalars(found)]


def test_a_job_that_copied_files_is_an_event_of_their_asset(bench: DagBench, tmp_path: Path) -> None:
    """The event names the run and says what is there."""
    dag = bench.job(nodes=2, commands=WRITE, destination=f"{tmp_path}/x", collect="part")
    run = bench.run(dag)
    assert run.state == "success", run.log
    facts = {"dag": dag.dag_id, "run": run.run_id, "group": "job", "destination": f"{tmp_path}/x", "ranks": [0, 1]}
    assert events(f"file://{tmp_path}/x") == [{**facts, "files": 2, "bytes": 4}]


def test_a_destination_of_the_run_is_an_event_of_the_groups_asset(bench: DagBench, tmp_path: Path) -> None:
    """No asset for each run; the event says where the files are. What the commands give is not taken for sums."""
    where = f"{tmp_path}/{{{{ run_id }}}}"
    dag = bench.job(nodes=1, commands=WRITE, gather="echo 7 >$RANKVOL_RESULT", destination=where)
    run = bench.run(dag)
    assert run.state == "success", run.log
    (event,) = events(f"rankvol://{dag.dag_id}/job")
    assert event["destination"] == f"{tmp_path}/{run.run_id}"
    assert set(event) == {"dag", "run", "group", "destination", "ranks"}


def test_a_gather_that_failed_is_no_event(bench: DagBench, tmp_path: Path) -> None:
    """Whoever is scheduled by the asset is not started by half a result."""
    dag = bench.job(nodes=1, commands=WRITE, gather="false", destination=f"{tmp_path}/x")
    run = bench.run(dag)
    assert (run.state, run.states()["done"]) == ("failed", "upstream_failed")
    assert events(f"file://{tmp_path}/x") == []
    assert len(bench.left(dag).volumes) == 1
