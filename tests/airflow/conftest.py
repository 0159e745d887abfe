"""Fixtures for tests that run real DAGs on the local backend."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.airflow.harness import DagBench, initialise


@pytest.fixture(scope="session")
def dags_folder() -> Path:
    """The DAGs folder of an initialised Airflow."""
    return initialise()


@pytest.fixture
def bench(
    dags_folder: Path,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[DagBench]:
    """A bench with a state directory of its own; its DAG files go with the test, and no resource may stay."""
    extra = {"state_dir": str(tmp_path / "state"), "mode": "directory", "poll_interval": 0.05}
    monkeypatch.setenv("AIRFLOW_CONN_RANKVOL_DEFAULT", json.dumps({"conn_type": "rankvol_local", "extra": extra}))
    name = re.sub(r"\W+", "_", request.node.name)[:60]
    yield DagBench(dags_folder, name, lambda: "".join(capfd.readouterr()))
    for path in dags_folder.glob(f"{name}_*.py"):
        path.unlink()
