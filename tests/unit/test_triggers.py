"""The trigger, and the one observer that all triggers of a group share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from airflow_rankvol import triggers
from airflow_rankvol.backends.base import Clock
from airflow_rankvol.engine.launch import Launcher
from airflow_rankvol.engine.loop import launch
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.engine.work import Work, group_of
from airflow_rankvol.plan import RunIdentity, make_plan
from airflow_rankvol.records import Group, Role, Slot, SlotVolume
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.testing import FakeBackend, fails, succeeds
from airflow_rankvol.triggers import GroupObserver, RankTrigger, observer_of

WORK = Work(
    role=Role.GATHER,
    rank=-1,
    attempt=7,
    group=Group("me", "dag", "run", "outer.shards[2]", "0a1b2c3d", "1a1b2c3d", "2a1b2c3d", ("lake-0",)),
    slots=(Slot(3, 9, "eu-1a", (SlotVolume("data-3", "/data", 20, "gp3", "vol-1", adopted=True),)),),
    begun="2026-01-02T03:04:05.678+00:00",
    lifetime_s=3600.5,
    boot_timeout_s=77.0,
    rendezvous=True,
)


def test_a_trigger_rebuilt_from_its_serialised_form_is_the_same() -> None:
    """Nothing is lost on the way through the database, with every field at a value that is no default."""
    trigger = RankTrigger(conn_id="aws_prod", work=WORK.to_dict(), succeeded=[0, 2], parts=[WORK.to_dict()])
    path, fields = trigger.serialize()
    assert path == "airflow_rankvol.triggers.RankTrigger"
    assert vars(RankTrigger(**fields)) == vars(trigger)
    assert Work.from_dict(fields["work"]) == WORK


class CountingBackend:
    """Observes slowly, and counts how often."""

    name = "counting"
    clock = Clock()
    poll_interval_s = 0.05

    def __init__(self, error: Exception | None = None) -> None:
        self.observations = 0
        self.error = error

    def observe(self, group: Group) -> int:
        self.observations += 1
        seen = self.observations
        time.sleep(0.02)  # a real API call blocks its thread
        if self.error:
            raise self.error
        return seen


def test_many_waiters_share_one_observation() -> None:
    """A hundred triggers of one group cost one batched read, not a hundred."""
    backend = CountingBackend()

    async def everybody() -> list[Any]:
        observer = GroupObserver(backend, WORK.group)  # type: ignore[arg-type]
        return await asyncio.gather(*(observer.observe() for _ in range(100)))

    assert set(asyncio.run(everybody())) == {1}
    assert backend.observations == 1


def test_who_asks_during_an_observation_gets_the_next_one() -> None:
    """An observation that began before the question may miss what the asker has just made."""
    backend = CountingBackend()

    async def two() -> tuple[Any, Any]:
        observer = GroupObserver(backend, WORK.group)  # type: ignore[arg-type]
        first = asyncio.ensure_future(observer.observe())
        while not backend.observations:  # noqa: ASYNC110 - the backend counts in a thread, which sets no event
            await asyncio.sleep(0)
        return await observer.observe(), await first

    assert asyncio.run(two()) == (2, 1)


def test_an_error_reaches_every_waiter_and_ends_nothing_else() -> None:
    """A failed observation is each waiter's own error; the observer goes on for the next question."""
    backend = CountingBackend(RuntimeError("no answer"))

    async def twice() -> list[Any]:
        observer = GroupObserver(backend, WORK.group)  # type: ignore[arg-type]
        failed = await asyncio.gather(*(observer.observe() for _ in range(3)), return_exceptions=True)
        backend.error = None
        return [*failed, await observer.observe()]

    *failed, good = asyncio.run(twice())
    assert [str(error) for error in failed] == ["no answer"] * 3
    assert good == 2


def test_the_event_loop_goes_on_while_a_backend_is_slow() -> None:
    """Observing happens in a thread: the loop is never held up for as long as one call takes."""
    backend = CountingBackend()
    lags = []

    async def measured() -> None:
        observer = GroupObserver(backend, WORK.group)  # type: ignore[arg-type]
        waiting = asyncio.ensure_future(observer.observe())
        while not waiting.done():
            before = time.perf_counter()
            await asyncio.sleep(0)
            lags.append(time.perf_counter() - before)

    asyncio.run(measured())
    assert len(lags) > 5  # a blocked loop would have turned once


def test_triggers_of_one_group_find_the_same_observer() -> None:
    """Same connection and group, same observer; another group or connection has its own."""
    backend = CountingBackend()
    other = Group("me", "dag", "run-2", "shards", "ffffffff", "1a1b2c3d", "2a1b2c3d")

    async def observers() -> list[GroupObserver]:
        places = [("c", WORK.group), ("c", WORK.group), ("c", other), ("d", WORK.group)]
        return [observer_of(conn_id, backend, group) for conn_id, group in places]  # type: ignore[arg-type]

    one, two, three, four = asyncio.run(observers())
    assert one is two
    assert len({id(one), id(three), id(four)}) == 3


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """A fake cloud that every connection leads to; its clock moves with each observation."""
    backend = FakeBackend(endings={("rank", 0): succeeds({"rows": 5}), ("rank", 1): fails(7)})
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


def _launched(backend: FakeBackend, rank: int) -> RankTrigger:
    return _deferred(backend, Role.RANK, lambda slots: (slots[rank],))


def _gathering(backend: FakeBackend, succeeded: list[int]) -> RankTrigger:
    return _deferred(backend, Role.GATHER, tuple, succeeded)


def _deferred(
    backend: FakeBackend, role: Role, pick: Callable[[list[Slot]], tuple[Slot, ...]], succeeded: Sequence[int] = ()
) -> RankTrigger:
    """Launch a node as the operator does, and return the trigger that it defers to."""
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
    assert launch(backend, work, Launcher(plan.job, {}, tuple(slots), backend.platform)) is None
    return RankTrigger(conn_id="fake", work=work.to_dict(), succeeded=list(succeeded))


def _events(trigger: RankTrigger) -> list[TriggerEvent]:
    async def collect() -> list[TriggerEvent]:
        return [event async for event in trigger.run()]

    return asyncio.run(collect())


@pytest.mark.parametrize(("rank", "event_type", "exit_code"), [(0, TaskSuccessEvent, 0), (1, TaskFailedEvent, 7)])
def test_in_a_triggerer_a_rank_ends_in_the_trigger(
    cloud: FakeBackend, monkeypatch: pytest.MonkeyPatch, rank: int, event_type: type, exit_code: int
) -> None:
    """No worker starts again: the trigger pushes the result itself and ends the task."""
    pushed: dict[str, Any] = {}

    async def aset(**fields: Any) -> None:
        pushed.update(fields)

    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom.aset", aset)
    trigger = _launched(cloud, rank)
    trigger.trigger_id = 1
    ti: Any = SimpleNamespace(dag_id="dag", task_id="job.run_rank", run_id="run", map_index=rank)
    trigger.task_instance = ti
    (event,) = _events(trigger)
    assert type(event) is event_type
    assert (pushed["key"], pushed["map_index"], pushed["value"]["exit_code"]) == ("return_value", rank, exit_code)


def test_in_a_triggerer_gather_ends_in_the_trigger_too(cloud: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its output and the collected ranks are pushed as a worker would push them, and the volumes are marked."""
    pushed: dict[str, Any] = {}

    async def aset(**fields: Any) -> None:
        pushed[fields["key"]] = fields["value"]

    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom.aset", aset)
    cloud.endings[("rank", 1)] = succeeds({"rows": 6})
    cloud.endings[("gather", -1)] = succeeds({"rows": 11})
    for rank in (0, 1):
        _events(_launched(cloud, rank))
    trigger = _gathering(cloud, [0, 1])
    trigger.trigger_id = 2
    ti: Any = SimpleNamespace(dag_id="dag", task_id="job.gather", run_id="run", map_index=-1)
    trigger.task_instance = ti
    (event,) = _events(trigger)
    assert type(event) is TaskSuccessEvent
    assert pushed == {"return_value": {"rows": 11}, "collected": [0, 1]}
    group = Work.from_dict(trigger.work).group
    assert {v.tags.collected for v in cloud.observe(group).volumes if v.tags} == {group.key}


@pytest.mark.parametrize(("succeeded", "advice"), [([0, 1], "Clear the whole task group"), ([0], "clear those ranks")])
def test_a_gather_without_records_says_what_to_clear(cloud: FakeBackend, succeeded: list[int], advice: str) -> None:
    """Ranks whose task had succeeded are another case than ranks that failed."""
    _events(_launched(cloud, 0))
    _events(_launched(cloud, 1))  # fails, so its volume has no record
    (event,) = _events(_gathering(cloud, succeeded))
    assert event.payload["missing"] == [1]
    assert advice in event.payload["error"]


def test_run_inline_a_rank_hands_its_ending_to_the_operator(cloud: FakeBackend) -> None:
    """dag.test() has no triggerer: the whole ending travels in a plain event."""
    (event,) = _events(_launched(cloud, 1))
    assert type(event) is TriggerEvent
    assert event.payload["result"]["exit_code"] == 7
    assert "rank 1 of 2" in event.payload["error"]


def test_killing_a_deferred_rank_stops_its_node_and_keeps_its_volume(cloud: FakeBackend) -> None:
    """on_kill ends exactly this attempt's node."""
    trigger = _launched(cloud, 0)
    group = Work.from_dict(trigger.work).group
    asyncio.run(trigger.on_kill())
    cloud.clock.sleep(300)  # ending a node takes time there
    seen = cloud.observe(group)
    assert [node for node in seen.nodes if node.state != "ended"] == []
    assert len(seen.volumes) == 2


def test_a_kill_is_carried_out_even_when_the_runner_cancels_it(cloud: FakeBackend) -> None:
    """The triggerer cancels on_kill again within a second; the deletion itself goes on."""
    trigger = _launched(cloud, 0)

    async def cancelled() -> None:
        killing = asyncio.ensure_future(trigger.on_kill())
        await asyncio.sleep(0)
        killing.cancel()
        await asyncio.gather(*triggers._stopping)

    asyncio.run(cancelled())
    assert cloud.count("delete_node") == 1
