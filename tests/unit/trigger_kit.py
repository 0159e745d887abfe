"""Triggers on a fake cloud: what it takes to have one, and to let it run to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from airflow.triggers.base import TriggerEvent

from airflow_rankvol import triggers
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.loop import launch
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.engine.work import Work, group_of
from airflow_rankvol.plan import RunIdentity, make_plan
from airflow_rankvol.records import Group, Role, Slot
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.testing import FakeBackend
from airflow_rankvol.triggers import RankTrigger


def reached_by_triggers(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """Let every connection lead to a fake cloud, whose clock moves with each observation by a trigger."""
    backend.poll_interval_s = 0.001
    observe = backend.observe

    def moving(group: Group) -> Any:
        backend.clock.sleep(1)
        return observe(group)

    monkeypatch.setattr(backend, "observe", moving)

    async def here(_conn_id: str) -> FakeBackend:
        return backend

    monkeypatch.setattr(triggers, "aget_backend", here)
    return backend


def launched(backend: FakeBackend, rank: int) -> RankTrigger:
    """Return the trigger of a rank whose node is launched."""
    return _deferred(backend, Role.RANK, lambda slots: (slots[rank],))


def gathering(backend: FakeBackend, succeeded: list[int]) -> RankTrigger:
    """Return the trigger of gather, whose node is launched."""
    return _deferred(backend, Role.GATHER, tuple, succeeded)


def gathering_in_parts(backend: FakeBackend) -> RankTrigger:
    """Return the trigger of a gather that two nodes share, which are launched."""
    return _deferred(backend, Role.GATHER, tuple, [0, 1], volumes_per_node=1)


def _deferred(
    backend: FakeBackend,
    role: Role,
    pick: Callable[[list[Slot]], tuple[Slot, ...]],
    succeeded: Sequence[int] = (),
    volumes_per_node: int | None = None,
) -> RankTrigger:
    """Launch nodes as the operator does, and return the trigger that it defers to."""
    fields = {"nodes": 2, "volumes": ["data-${NODE_RANK}:/data"], "commands": ["compute"], "gather": ["merge"]}
    plan = make_plan(RankJob.model_validate(fields), RunIdentity("me", "dag", "run", "job"))
    slots = provision(backend, plan, generation=1)
    work = Work.begin(
        role=role,
        attempt=1,
        group=group_of(plan),
        slots=pick(slots),
        template=plan.job.node,
        now=backend.clock.now(),
    )
    works = work.in_parts(volumes_per_node) if volumes_per_node else [work]
    for each in works:
        assert launch(backend, each, Launcher(plan.job, {}, tuple(slots), backend.platform)) is None
    first, *parts = [each.to_dict() for each in works]
    return RankTrigger(conn_id="fake", work=first, succeeded=list(succeeded), parts=parts)


def events_of(trigger: RankTrigger) -> list[TriggerEvent]:
    """Let a trigger run to its end in an event loop of its own."""

    async def collect() -> list[TriggerEvent]:
        return [event async for event in trigger.run()]

    return asyncio.run(collect())
