"""An in-memory cloud behind a connection of the environment, for the command line's tests."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

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
        self.silent_after: int | None = None
        self.live_after: int | None = None
        self.asked = 0

    def ask(self, dag: str, run: str) -> RunState:
        """Answer as Airflow's database would, until the test lets it fail, or lets every run live again."""
        self.asked += 1
        if self.silent_after is not None and self.asked > self.silent_after:
            raise OperationalError("select", {}, Exception("gone"))
        if self.live_after is not None and self.asked > self.live_after:
            return RunState.LIVE
        return self.runs.get((dag, run), RunState.UNKNOWN)

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
    monkeypatch.setattr(AirflowDatabase, "_ask", lambda self, dag, run: made.ask(dag, run))
    return made


def install_another(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Put another new cloud behind the connection `other`, and have both looked at; the first answers for Airflow."""
    made = Cloud()
    module: Any = SimpleNamespace(make=lambda extra: made.backend)
    monkeypatch.setitem(sys.modules, "another_fake_cloud", module)
    monkeypatch.setitem(hooks.BACKENDS, "rankvol_other", "another_fake_cloud:make")
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", '{"conn_type": "rankvol_other"}')
    monkeypatch.setenv("AIRFLOW__RANKVOL__CONN_IDS", "rankvol_default,other")
    return made


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found
