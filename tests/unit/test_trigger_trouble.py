"""What becomes of a deferred rank when triggerers restart, clouds do not answer, and credentials expire."""

from __future__ import annotations

import asyncio
import copy
import math
from datetime import timedelta
from typing import Any

import pytest

from airflow_rankvol import triggers
from airflow_rankvol._endings import error_of
from airflow_rankvol._fake_faults import FaultScript
from airflow_rankvol.engine.patience import DENIED_S
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import AuthDenied, BackendError, NotReady, Throttled
from airflow_rankvol.records import NodeState
from airflow_rankvol.testing import FakeBackend, hangs, succeeds
from airflow_rankvol.triggers import RankTrigger
from tests.unit.trigger_kit import events_of, launched, reached_by_triggers


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """A fake cloud that every connection leads to; its clock moves with each observation."""
    # Of a failed look the pause is doubled up to a minute: half an hour takes no time here.
    monkeypatch.setattr("airflow_rankvol._observer.MAX_PAUSE_S", 0.001)
    # A node that has its volumes goes on by itself.
    endings = {("rank", 0): succeeds({"rows": 5}, after_s=100)}
    return reached_by_triggers(FakeBackend(endings=endings, attach_at_launch=True), monkeypatch)


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what triggers warn of."""
    told: list[str] = []

    class Log:
        def warning(self, text: str, *args: Any) -> None:
            told.append(text % args)

        def info(self, text: str, *args: Any) -> None:
            pass

        error = info

    monkeypatch.setattr(RankTrigger, "log", Log())
    return told


def rebuilt(trigger: RankTrigger) -> RankTrigger:
    """Return the trigger as another triggerer has it from the database."""
    _, fields = trigger.serialize()
    return RankTrigger(**fields)


def payload(trigger: RankTrigger) -> dict[str, Any]:
    (event,) = events_of(trigger)
    found: dict[str, Any] = event.payload
    return found


async def begin(trigger: RankTrigger, cloud: FakeBackend) -> asyncio.Task[Any]:
    """Let a trigger run until it has looked at its node a few times."""
    looked = cloud.count("observe")
    task = asyncio.ensure_future(anext(trigger.run()))
    while cloud.count("observe") < looked + 5:  # noqa: ASYNC110 - looks are counted in a thread
        await asyncio.sleep(0.001)
    return task


def without_reports(cloud: FakeBackend) -> FakeBackend:
    """Return the same cloud by credentials that may not read what nodes report."""
    narrow = copy.copy(cloud)
    narrow.faults, narrow.calls = FaultScript(), []
    narrow.faults.fail("read_report", AuthDenied, times=math.inf)
    return narrow


def test_a_triggerer_that_restarts_goes_on_with_the_same_node(cloud: FakeBackend) -> None:
    """It is cancelled, not killed, and begun again from the database: nothing is stopped or launched."""
    trigger = launched(cloud, 0)

    async def restart() -> None:
        task = await begin(trigger, cloud)
        task.cancel()
        await asyncio.wait([task])
        await trigger.cleanup()

    asyncio.run(restart())
    assert cloud.count("delete_node") == 0
    ending = payload(rebuilt(trigger))
    assert (ending["error"], ending["output"]) == ("", {"rows": 5})
    assert (cloud.count("create_node"), cloud.count("delete_node")) == (1, 0)


def test_two_triggerers_that_have_the_same_rank_for_a_while_end_it_alike(cloud: FakeBackend) -> None:
    """A triggerer that was only paused wakes after another took over: both see the end, neither disturbs it."""
    one = launched(cloud, 0)
    two = rebuilt(one)

    async def both() -> list[Any]:
        return [*await asyncio.gather(anext(one.run()), anext(two.run()))]

    first, second = asyncio.run(both())
    assert first.payload == second.payload
    assert first.payload["output"] == {"rows": 5}
    assert (cloud.count("create_node"), cloud.count("delete_node")) == (1, 0)


def test_a_rank_past_its_deadline_fails_its_node_is_ended_and_its_volume_kept(cloud: FakeBackend) -> None:
    """Also when its node ignores its own lifetime."""
    cloud.endings[("rank", 0)] = hangs()
    trigger = launched(cloud, 0)
    work = Work.from_dict(trigger.work)
    machine = cloud.nodes[work.node_name]
    machine.request = type(machine.request)(**{**_fields(machine.request), "lifetime_s": 1e9})
    cloud.clock.sleep((work.deadline - cloud.clock.now()).total_seconds() + 1)
    ending = payload(trigger)
    assert ending["error_type"] == "DeadlineExceeded"
    assert "outlived its lifetime" in ending["error"]
    cloud.clock.sleep(300)
    assert [node for node in cloud.observe(work.group).nodes if node.state is not NodeState.ENDED] == []
    assert len(cloud.volumes) == 2


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__dataclass_fields__}


def test_a_cloud_that_does_not_answer_for_long_costs_a_rank_nothing(cloud: FakeBackend, warnings: list[str]) -> None:
    """A node runs whether or not anybody looks: the rank ends as it would have, and says seldom why it waits."""
    cloud.faults.fail("observe", Throttled, call=8, times=1500)
    ending = payload(launched(cloud, 0))
    assert (ending["error"], ending["output"]) == ("", {"rows": 5})
    assert 4 <= len(warnings) <= 6
    assert "It is tried again, and the node runs on" in warnings[0]


def test_a_cloud_that_never_answers_again_fails_the_rank_after_its_deadline(
    cloud: FakeBackend, warnings: list[str]
) -> None:
    """Nothing waits for ever; and the error says what was asked last and what becomes of the node."""
    trigger = launched(cloud, 0)
    work = Work.from_dict(trigger.work)
    cloud.faults.fail("observe", Throttled, times=math.inf)
    cloud.clock.sleep((work.deadline - cloud.clock.now()).total_seconds() - 1000)
    ending = payload(trigger)
    assert ending["error_type"] == "DeadlineExceeded"
    assert "nothing could be seen of node" in ending["error"]
    assert "as the fault script says" in ending["error"]
    assert work.deadline < cloud.clock.now() < work.deadline + timedelta(seconds=200)


def test_a_deadline_that_passed_while_no_triggerer_ran_throws_no_result_away(cloud: FakeBackend) -> None:
    """The first looks fail, long after the deadline; the node had ended well."""
    trigger = launched(cloud, 0)
    cloud.clock.sleep(3 * 24 * 3600)
    cloud.faults.fail("observe", Throttled, times=60)
    ending = payload(trigger)
    assert (ending["error"], ending["output"]) == ("", {"rows": 5})


def test_credentials_that_are_renewed_in_time_cost_a_rank_nothing(
    cloud: FakeBackend, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is read again each time, and the new credentials are used for looks and for steps."""
    trigger = launched(cloud, 0)
    refused = FakeBackend(clock=cloud.clock)
    refused.poll_interval_s = 0.001
    refused.faults.fail("observe", AuthDenied, times=math.inf)
    opened = 0

    async def here(_conn_id: str) -> FakeBackend:
        nonlocal opened
        opened += 1
        cloud.clock.sleep(60)
        return cloud if opened > 20 else refused

    monkeypatch.setattr(triggers, "aget_backend", here)
    ending = payload(trigger)
    assert (ending["error"], ending["output"]) == ("", {"rows": 5})
    assert opened == 21
    assert refused.count("read_report") == 0
    assert "Give connection fake valid credentials by 2026-01-01T00:" in warnings[0]


@pytest.mark.parametrize("trouble", [NotReady, Throttled, AuthDenied])
def test_a_backend_that_cannot_be_opened_as_a_trigger_begins_costs_a_rank_nothing(
    cloud: FakeBackend, warnings: list[str], monkeypatch: pytest.MonkeyPatch, trouble: type[BackendError]
) -> None:
    """As while secrets are silent, or the cloud does not sign in, when another triggerer takes over."""
    monkeypatch.setattr("airflow_rankvol._observer.FIRST_PAUSE_S", 0.001)
    trigger = launched(cloud, 0)
    opened = 0

    async def here(_conn_id: str) -> FakeBackend:
        nonlocal opened
        opened += 1
        if opened < 5:
            raise trouble("no answer", backend="fake", verb="sign_in")
        return cloud

    monkeypatch.setattr(triggers, "aget_backend", here)
    ending = payload(trigger)
    assert (ending["error"], ending["output"], opened) == ("", {"rows": 5}, 5)
    assert len(warnings) == 1


def test_a_step_that_is_refused_waits_for_credentials_too(cloud: FakeBackend, warnings: list[str]) -> None:
    """Whichever call it is that meets the expired token first."""
    cloud.faults.fail("read_report", AuthDenied, times=5)
    ending = payload(launched(cloud, 0))
    assert (ending["error"], ending["output"]) == ("", {"rows": 5})
    assert len(warnings) == 1


def test_a_step_that_is_refused_has_the_connection_read_again(
    cloud: FakeBackend, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for all ranks of a group: some credentials may list, and not read what a node reports."""
    cloud.endings["rank", 1] = succeeds(after_s=150)
    ranks = [launched(cloud, rank) for rank in (0, 1)]
    backends = [narrow := without_reports(cloud), cloud]

    async def here(_conn_id: str) -> FakeBackend:
        return backends.pop(0)

    monkeypatch.setattr(triggers, "aget_backend", here)

    async def both() -> list[Any]:
        return [*await asyncio.gather(*(anext(rank.run()) for rank in ranks))]

    first, second = asyncio.run(both())
    assert (first.payload["error"], first.payload["output"], second.payload["error"]) == ("", {"rows": 5}, "")
    assert narrow.count("read_report") == 1
    assert backends == []
    assert len(warnings) == 1


def test_steps_that_are_refused_are_tried_more_and_more_seldom_for_half_an_hour(
    warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As looks are, and the connection is read each time; then the rank fails, and the node is left alone."""
    cloud = FakeBackend(endings={("rank", 0): succeeds(after_s=100)}, attach_at_launch=True)
    real, opened = asyncio.sleep, 0

    async def sleep(seconds: float) -> None:
        cloud.clock.sleep(seconds)
        await real(0)

    async def here(_conn_id: str) -> FakeBackend:
        nonlocal opened
        opened += 1
        return cloud

    monkeypatch.setattr(triggers, "aget_backend", here)
    trigger = launched(cloud, 0)
    cloud.clock.sleep(200)
    begun = cloud.clock.now()
    cloud.faults.fail("read_report", AuthDenied, times=math.inf)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    ending = payload(trigger)
    assert DENIED_S <= (cloud.clock.now() - begun).total_seconds() <= DENIED_S + 180
    assert "Give connection fake valid credentials, then clear the task" in ending["error"]
    assert 20 <= cloud.count("read_report") <= 40
    assert opened == cloud.count("read_report")
    assert cloud.count("delete_node") == 0


def test_a_volume_that_may_not_be_attached_ends_its_rank_at_once(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    """Waiting for somebody to give the right would end in a node that says no more than that no device came."""
    cloud = reached_by_triggers(FakeBackend(), monkeypatch)
    trigger = launched(cloud, 0)
    cloud.faults.fail("attach", AuthDenied, times=math.inf)
    ending = payload(trigger)
    assert ending["error_type"] == "AuthDenied"
    assert isinstance(error_of(ending), AuthDenied)
    assert "the cloud refused to attach a volume, which is kept: fake attach" in ending["error"]
    assert cloud.count("delete_node") == 1
    assert warnings == []


def test_credentials_that_nobody_renews_fail_the_rank_in_the_end(cloud: FakeBackend, warnings: list[str]) -> None:
    """After half an hour, with what to do; the node goes on, and its result stays on its volume."""
    trigger = launched(cloud, 0)
    begun = cloud.clock.now()
    cloud.faults.fail("observe", AuthDenied, times=math.inf)
    ending = payload(trigger)
    assert DENIED_S <= (cloud.clock.now() - begun).total_seconds() <= DENIED_S + 60
    assert "Give connection fake valid credentials, then clear the task" in ending["error"]
    assert ending["result"]["exit_code"] is None
    assert cloud.count("delete_node") == 0
    assert 5 <= len(warnings) <= 7
