"""An in-memory cloud behind a connection of the environment, for the command line's tests."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_rankvol import hooks
from airflow_rankvol._cli_airflow import AirflowDatabase
from airflow_rankvol.backends.base import NodeRequest, Selector
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.plan import RunIdentity, make_plan
from airflow_rankvol.records import Attachment, Tags, to_iso
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.spec.templates import NodeTemplate
from airflow_rankvol.testing import FakeBackend

OWNER = "fake-owner"
CONNECTION = '{"conn_type": "rankvol_fake"}'


class Cloud:
    """The in-memory cloud, and what Airflow would answer about its runs."""

    def __init__(self) -> None:
        self.backend = FakeBackend()
        self.runs: dict[tuple[str, str], RunState] = {}

    def volumes(self, dag: str = "etl", run: str = "r1", *, nodes: int = 2, **template: Any) -> list[str]:
        """Make one volume per rank as a run would; return their names."""
        fields = {"nodes": nodes, "volumes": "data-${NODE_RANK}:/data", "volume_template": template}
        plan = make_plan(RankJob.model_validate(fields), RunIdentity(OWNER, dag, run, "ranks"))
        return [v.name for slot in provision(self.backend, plan, generation=1) for v in slot.volumes]

    def node(self, name: str, dag: str = "etl", run: str = "r1", *, waits_for: str = "") -> None:
        """Make a node that runs for an hour, once it has the volume that it waits for."""
        expiry = to_iso(self.backend.clock.now() + timedelta(hours=1))
        tags = Tags(owner=OWNER, dag=dag, run=run, group="ranks", key="k", rank=0, expiry=expiry, role="rank")
        wanted = (Attachment(waits_for, "data", "/data", 0),) if waits_for else ()
        request = NodeRequest(name, None, NodeTemplate(), tags, wanted, script="", lifetime_s=3600, token=name)
        self.backend.create_node(request)

    @property
    def names(self) -> set[str]:
        """What is there now."""
        seen = self.backend.list_owned(Selector(owner=OWNER))
        return {volume.name for volume in seen.volumes} | {node.name for node in seen.nodes}


def install(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Put a new cloud behind the default connection, and let it answer for Airflow's database."""
    made = Cloud()
    module: Any = SimpleNamespace(make=lambda extra: made.backend)
    monkeypatch.setitem(sys.modules, "a_fake_cloud", module)
    monkeypatch.setitem(hooks.BACKENDS, "rankvol_fake", "a_fake_cloud:make")
    monkeypatch.setenv("AIRFLOW_CONN_RANKVOL_DEFAULT", CONNECTION)
    monkeypatch.setattr(AirflowDatabase, "_ask", lambda self, dag, run: made.runs.get((dag, run), RunState.UNKNOWN))
    return made


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found
