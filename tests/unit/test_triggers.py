"""The trigger: how a node's end becomes a task's, and what happens on the way."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.triggers.base import TaskFailedEvent, TaskSuccessEvent, TriggerEvent

from airflow_rankvol import triggers
from airflow_rankvol._endings import ending_of, error_of
from airflow_rankvol.engine.step import Outcome
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import (
    AuthDenied,
    BackendError,
    ConfigError,
    FinalError,
    NoCapacity,
    QuotaExceeded,
    RetryableError,
)
from airflow_rankvol.records import Group, RankResult, Role, Slot, SlotVolume
from airflow_rankvol.testing import FakeBackend, fails, hangs, is_lost, succeeds
from airflow_rankvol.triggers import RankTrigger
from tests.unit.trigger_kit import events_of, gathering, gathering_in_parts, launched, reached_by_triggers

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
    trigger = RankTrigger("aws_prod", WORK.to_dict(), [0, 2], [WORK.to_dict()], ["hunter2"], "aws eu-1")
    path, fields = trigger.serialize()
    assert path == "airflow_rankvol.triggers.RankTrigger"
    assert vars(RankTrigger(**fields)) == vars(trigger)
    assert [name for name, value in fields.items() if not value] == []
    assert Work.from_dict(fields["work"]) == WORK


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """A fake cloud that every connection leads to; its clock moves with each observation."""
    backend = FakeBackend(endings={("rank", 0): succeeds({"rows": 5}), ("rank", 1): fails(7)})
    return reached_by_triggers(backend, monkeypatch)


@pytest.mark.parametrize(("rank", "event_type", "exit_code"), [(0, TaskSuccessEvent, 0), (1, TaskFailedEvent, 7)])
def test_in_a_triggerer_a_rank_ends_in_the_trigger(
    cloud: FakeBackend, monkeypatch: pytest.MonkeyPatch, rank: int, event_type: type, exit_code: int
) -> None:
    """No worker starts again: the trigger pushes the result itself and ends the task."""
    pushed: dict[str, Any] = {}

    async def aset(**fields: Any) -> None:
        pushed.update(fields)

    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom.aset", aset)
    trigger = launched(cloud, rank)
    trigger.trigger_id = 1
    ti: Any = SimpleNamespace(dag_id="dag", task_id="job.run_rank", run_id="run", map_index=rank)
    trigger.task_instance = ti
    (event,) = events_of(trigger)
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
        events_of(launched(cloud, rank))
    trigger = gathering(cloud, [0, 1])
    trigger.trigger_id = 2
    ti: Any = SimpleNamespace(dag_id="dag", task_id="job.gather", run_id="run", map_index=-1)
    trigger.task_instance = ti
    (event,) = events_of(trigger)
    assert type(event) is TaskSuccessEvent
    assert pushed == {"return_value": {"rows": 11}, "collected": [0, 1]}
    group = Work.from_dict(trigger.work).group
    assert {v.tags.collected for v in cloud.observe(group).volumes if v.tags} == {group.key}


@pytest.mark.parametrize(
    "trouble", [ConfigError("not defined"), OSError("no route"), ValueError("no Fernet key")], ids=str
)
def test_a_gather_whose_result_is_stored_has_succeeded_whatever_comes_after(
    cloud: FakeBackend, monkeypatch: pytest.MonkeyPatch, trouble: Exception
) -> None:
    """As when the connection is deleted while gather's node runs: who is told to clear it would lose the result."""
    opened = 0

    async def once(_conn_id: str) -> FakeBackend:
        nonlocal opened
        opened += 1
        if opened > 1:
            raise trouble
        return cloud

    pushed: dict[str, Any] = {}

    async def aset(**fields: Any) -> None:
        pushed[fields["key"]] = fields["value"]

    monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom.aset", aset)
    cloud.endings = {("rank", 0): succeeds(), ("rank", 1): succeeds(), ("gather", -1): succeeds({"rows": 11})}
    for rank in (0, 1):
        events_of(launched(cloud, rank))
    trigger = gathering(cloud, [0, 1])
    trigger.trigger_id = 2
    ti: Any = SimpleNamespace(dag_id="dag", task_id="job.gather", run_id="run", map_index=-1)
    trigger.task_instance = ti
    monkeypatch.setattr(triggers, "aget_backend", once)
    (event,) = events_of(trigger)
    assert type(event) is TaskSuccessEvent
    assert pushed == {"return_value": {"rows": 11}, "collected": [0, 1]}
    assert opened == 2


@pytest.mark.parametrize(("succeeded", "advice"), [([0, 1], "Clear the whole task group"), ([0], "clear those ranks")])
def test_a_gather_without_records_says_what_to_clear(cloud: FakeBackend, succeeded: list[int], advice: str) -> None:
    """Ranks whose task had succeeded are another case than ranks that failed."""
    events_of(launched(cloud, 0))
    events_of(launched(cloud, 1))  # fails, so its volume has no record
    (event,) = events_of(gathering(cloud, succeeded))
    assert event.payload["missing"] == [1]
    assert advice in event.payload["error"]


def test_a_gather_in_parts_that_ends_by_an_error_of_ours_leaves_no_wait_behind(cloud: FakeBackend) -> None:
    """Nobody looks at the other parts' nodes any more, which the teardown ends."""
    cloud.endings = {("gather", -2): hangs()}
    trigger = gathering_in_parts(cloud)
    cloud.faults.fail("read_report", ZeroDivisionError("ours"))

    async def left_behind() -> int:
        with pytest.raises(ZeroDivisionError):
            await anext(trigger.run())
        return sum("RankTrigger._wait" in str(task.get_coro()) for task in asyncio.all_tasks())

    assert asyncio.run(left_behind()) == 0


def test_run_inline_a_rank_hands_its_ending_to_the_operator(cloud: FakeBackend) -> None:
    """dag.test() has no triggerer: the whole ending travels in a plain event."""
    (event,) = events_of(launched(cloud, 1))
    assert type(event) is TriggerEvent
    assert event.payload["result"]["exit_code"] == 7
    assert "rank 1 of 2" in event.payload["error"]


@pytest.mark.parametrize("kind", [NoCapacity, QuotaExceeded])
def test_a_node_that_was_refused_after_its_launch_ends_a_deferred_rank_as_it_ends_one_that_waits(
    cloud: FakeBackend, kind: type[BackendError]
) -> None:
    cloud.endings[("rank", 1)] = is_lost(reason="no room", step="Name several machine types", error=kind)
    (event,) = events_of(launched(cloud, 1))
    error = error_of(event.payload)
    assert type(error) is kind
    assert "no room" in str(error)
    assert "Name several machine types. A retry" in str(error)


@pytest.mark.parametrize("kind", [BackendError, *BackendError.__subclasses__(), *RetryableError.__subclasses__(),
                                  *FinalError.__subclasses__()])  # fmt: skip
def test_no_error_of_the_cloud_loses_its_type_on_the_way_through_an_event(kind: type[BackendError]) -> None:
    result = RankResult(rank=0, exit_code=None)
    assert type(error_of(ending_of(Outcome(result, error=kind("why"))))) is kind


def test_killing_a_deferred_rank_stops_its_node_and_keeps_its_volume(cloud: FakeBackend) -> None:
    """on_kill ends exactly this attempt's node."""
    trigger = launched(cloud, 0)
    group = Work.from_dict(trigger.work).group
    asyncio.run(trigger.on_kill())
    cloud.clock.sleep(300)  # ending a node takes time there
    seen = cloud.observe(group)
    assert [node for node in seen.nodes if node.state != "ended"] == []
    assert len(seen.volumes) == 2


def test_killing_a_deferred_gather_in_parts_stops_every_node_that_can_be(cloud: FakeBackend) -> None:
    """One that cannot be ended keeps none of the others running; Airflow logs its error."""
    cloud.endings = {("gather", -1): hangs(), ("gather", -2): hangs()}
    trigger = gathering_in_parts(cloud)
    stuck = Work.from_dict(trigger.work).node_name
    cloud.faults.fail("delete_node", AuthDenied, resource=stuck)
    with pytest.raises(AuthDenied, match=stuck):
        asyncio.run(trigger.on_kill())
    cloud.clock.sleep(300)
    nodes = cloud.observe(Work.from_dict(trigger.work).group).nodes
    assert [node.name for node in nodes if node.state != "ended"] == [stuck]


@pytest.mark.parametrize(
    ("answer", "deleted"),
    [
        ({"run": {"job.run_rank_0": "deferred"}}, 0),
        ({"run": {"job.run_rank_0": "failed"}}, 1),
        ({}, 1),
        (OSError("no answer"), 1),
    ],
    ids=["deferred", "failed", "gone", "unknown"],
)
def test_a_kill_spares_the_node_only_where_the_task_still_waits(
    cloud: FakeBackend, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | OSError, deleted: int
) -> None:
    """Airflow calls on_kill in a triggerer that hung, too, when another one waits for the task by then."""
    asked: dict[str, Any] = {}

    def states(**fields: Any) -> dict[str, Any]:
        asked.update(fields)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr("airflow.sdk.execution_time.task_runner.RuntimeTaskInstance.get_task_states", states)
    trigger = launched(cloud, 0)
    trigger.trigger_id = 3
    ti: Any = SimpleNamespace(dag_id="dag", task_id="job.run_rank", run_id="run", map_index=0)
    trigger.task_instance = ti
    asyncio.run(trigger.on_kill())
    assert cloud.count("delete_node") == deleted
    assert asked == {"dag_id": "dag", "task_ids": ["job.run_rank"], "run_ids": ["run"], "map_index": 0}


def test_a_kill_is_carried_out_even_when_the_runner_cancels_it(cloud: FakeBackend) -> None:
    """The triggerer cancels on_kill again within a second; the deletion itself goes on."""
    trigger = launched(cloud, 0)

    async def cancelled() -> None:
        killing = asyncio.ensure_future(trigger.on_kill())
        await asyncio.sleep(0)
        killing.cancel()
        await asyncio.gather(*triggers._stopping)

    asyncio.run(cancelled())
    assert cloud.count("delete_node") == 1
