"""How often a rank's task looks at its group before it defers: on a cloud, each rank's task is a process of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from airflow_rankvol._base_operator import RankVolumes
from airflow_rankvol.operators import RunRank
from airflow_rankvol.triggers import RankTrigger
from tests.unit.engine.engine_kit import Rig, a_rig


def looks_until_deferred(rig: Rig, rank: int, monkeypatch: pytest.MonkeyPatch) -> int:
    job: dict[str, Any] = {"nodes": rig.plan.job.nodes, "volumes": ["data:/data"]}
    task = RunRank(task_id="run_rank", slot=rig.slots[rank].to_dict(), **job)
    opened = RankVolumes(backend=rig.backend, identity=rig.plan.identity, valid_job=rig.plan.job)
    monkeypatch.setattr(RunRank, "open", lambda _self, _context: opened)
    monkeypatch.setattr(RunRank, "read_files", lambda _self: {})
    before = rig.backend.count("observe")
    with pytest.raises(TaskDeferred) as deferred:
        task.execute({"ti": SimpleNamespace(try_number=1)})  # type: ignore[typeddict-item]
    trigger = deferred.value.trigger
    assert isinstance(trigger, RankTrigger)
    assert trigger.where == "fake"  # a trigger goes over to no other backend
    return rig.backend.count("observe") - before


def test_a_rank_is_launched_by_two_looks_and_its_node_is_found_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has looked at to choose its attempt, it launches by; then it sees the node listed."""
    rig = a_rig(2)
    assert looks_until_deferred(rig, 1, monkeypatch) == 2
    assert looks_until_deferred(rig, 1, monkeypatch) == 1
    assert rig.backend.count("create_node") == 1
