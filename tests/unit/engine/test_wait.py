"""A task that waits for its nodes itself waits out what a trigger waits out, and ends as that does."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from airflow_rankvol.engine.loop import Line, wait
from airflow_rankvol.engine.patience import DENIED_S
from airflow_rankvol.engine.step import Outcome
from airflow_rankvol.engine.work import Work
from airflow_rankvol.errors import (
    AuthDenied,
    BackendError,
    ConfigError,
    CredentialsRefused,
    DeadlineExceeded,
    FinalError,
    Throttled,
)
from airflow_rankvol.records import NodeState, from_iso
from airflow_rankvol.testing import FakeBackend, hangs, succeeds

from .engine_kit import Rig, a_gang, a_rig, all_launched


@dataclass
class Phone:
    """A line that notes what was said and how often it was asked for the backend again."""

    backends: list[FakeBackend | ConfigError] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    asked: int = 0

    def reopen(self) -> FakeBackend | None:
        self.asked += 1
        found = self.backends.pop(0) if self.backends else None
        if isinstance(found, ConfigError):
            raise found
        return found

    def line(self) -> Line:
        return Line("fake", self.reopen, self.told.append)


def launched(rig: Rig) -> Work:
    work = rig.begin(0)
    assert rig.launch(work) is None
    return work


def until_the_end(rig: Rig, *works: Work, phone: Phone | None = None) -> list[Outcome]:
    return wait(rig.backend, works, lambda _work: None, (phone or Phone()).line())


def test_a_cloud_that_does_not_answer_for_long_costs_a_rank_nothing() -> None:
    """Far longer than a single call is repeated; it is said seldom, and asked more and more seldom."""
    backend, phone = FakeBackend(endings={("rank", 0): succeeds({"rows": 5}, after_s=2000)}), Phone()
    rig = a_rig(1, backend=backend)
    work = launched(rig)
    rig.until_attached(work)
    begun = backend.clock.now()
    backend.faults.fail("observe", Throttled, times=30)
    (outcome,) = until_the_end(rig, work, phone=phone)
    assert (outcome.error, outcome.result.output) == (None, {"rows": 5})
    assert (backend.clock.now() - begun).total_seconds() > 1500
    assert 4 <= len(phone.told) <= 6
    assert "It is tried again, and the node runs on" in phone.told[0]
    assert phone.asked == 0


def test_credentials_that_are_renewed_in_time_cost_a_rank_nothing() -> None:
    """The connection is read again after each refusal; one that cannot be read for a moment counts as unchanged."""
    backend = FakeBackend(endings={("rank", 0): succeeds(after_s=100)}, attach_at_launch=True)
    rig = a_rig(1, backend=backend)
    work = launched(rig)
    refused = FakeBackend(clock=backend.clock)
    refused.faults.fail("observe", CredentialsRefused, times=math.inf)
    phone = Phone([ConfigError("being written"), refused, refused, backend])
    (outcome,) = wait(refused, [work], lambda _work: None, phone.line())
    assert outcome.error is None
    assert phone.asked == 4
    assert "Give connection fake valid credentials by 2026-01-01T00:" in phone.told[0]


def test_credentials_that_nobody_renews_fail_the_rank_in_the_end() -> None:
    backend = FakeBackend(endings={("rank", 0): hangs()}, attach_at_launch=True)
    rig = a_rig(1, backend=backend)
    work = launched(rig)
    begun = backend.clock.now()
    backend.faults.fail("observe", CredentialsRefused, times=math.inf)
    (outcome,) = until_the_end(rig, work)
    assert DENIED_S <= (backend.clock.now() - begun).total_seconds() <= DENIED_S + 60
    assert isinstance(outcome.error, DeadlineExceeded)
    assert "Give connection fake valid credentials, then clear the task" in str(outcome.error)
    assert backend.count("delete_node") == 0


@pytest.mark.parametrize("verb", ["attach", "read_report"])
def test_a_step_that_is_refused_waits_for_credentials_too(verb: str) -> None:
    backend = FakeBackend()
    rig = a_rig(1, backend=backend)
    work = launched(rig)
    backend.faults.fail(verb, CredentialsRefused, times=5)
    (outcome,) = until_the_end(rig, work)
    assert outcome.error is None


def test_steps_that_are_refused_are_tried_more_and_more_seldom_for_half_an_hour() -> None:
    """As looks are, and the connection is read again each time."""
    backend, phone = FakeBackend(attach_at_launch=True), Phone()
    rig = a_rig(1, backend=backend)
    work = launched(rig)
    backend.faults.fail("read_report", CredentialsRefused, times=math.inf)
    (outcome,) = until_the_end(rig, work, phone=phone)
    assert isinstance(outcome.error, DeadlineExceeded)
    assert 20 <= backend.count("read_report") <= 40
    assert phone.asked == backend.count("read_report")


def test_one_whose_steps_are_refused_makes_no_other_of_its_task_wait() -> None:
    """Two parts of a gather: one's report may not be read, the other one ends within minutes."""
    backend = FakeBackend(attach_at_launch=True, endings={("rank", 1): succeeds(after_s=300)})
    rig = a_rig(2, backend=backend)
    first, second = all_launched(rig)
    begun, pauses = backend.clock.now(), list[tuple[float, float]]()

    def note(seconds: float) -> None:
        pauses.append(((backend.clock.now() - begun).total_seconds(), seconds))

    backend.clock.on_sleep = note  # type: ignore[attr-defined]
    backend.faults.fail("read_report", CredentialsRefused, times=math.inf, resource=first.node_name)
    lost, outcome = until_the_end(rig, first, second)
    assert isinstance(lost.error, DeadlineExceeded)
    assert outcome.error is None
    assert {seconds for at, seconds in pauses if at < 300} == {backend.poll_interval_s}
    assert max(seconds for _, seconds in pauses) == 60


def test_several_nodes_of_a_task_get_their_volumes_side_by_side() -> None:
    """As the parts of a gather do: a node waits for its devices only some minutes, and another may work for hours."""
    backend = FakeBackend(endings={("rank", 0): succeeds(after_s=7200)})
    rig = a_rig(2, backend=backend)
    begun = backend.clock.now()
    first, second = until_the_end(rig, *all_launched(rig))
    assert (first.error, second.error) == (None, None)
    started = from_iso(second.result.started_at)
    assert started is not None
    assert (started - begun).total_seconds() < 120


@pytest.mark.parametrize("error", [AuthDenied, FinalError])
def test_a_volume_that_may_not_be_attached_ends_its_rank_at_once(error: type[BackendError]) -> None:
    """Its node would wait for the device in vain, and then say no more than that it did not come."""
    backend = FakeBackend()
    rig = a_rig(1, backend=backend)
    work = launched(rig)
    begun = backend.clock.now()
    backend.faults.fail("attach", error, times=math.inf)
    (outcome,) = until_the_end(rig, work)
    assert type(outcome.error) is error
    assert "rank 0 of 1: node " in str(outcome.error)
    assert "the cloud refused to attach a volume, which is kept: " in str(outcome.error)
    assert "as the fault script says" in str(outcome.error)
    assert (backend.clock.now() - begun).total_seconds() < 60
    backend.clock.sleep(300)
    seen = rig.observe()
    assert [node for node in seen.nodes if node.state is not NodeState.ENDED] == []
    assert len(seen.volumes) == 1


def test_a_gang_ends_with_the_rank_whose_volume_may_not_be_attached() -> None:
    backend = FakeBackend()
    rig = a_gang(backend=backend)
    works = all_launched(rig)
    backend.faults.fail("attach", AuthDenied, times=math.inf)
    first, *others = rig.until_end(*works)
    assert isinstance(first.error, AuthDenied)
    assert [type(other.error).__name__ for other in others] == ["RankFailed", "RankFailed"]
    backend.clock.sleep(300)
    assert {node.state for node in rig.observe().nodes} <= {NodeState.ENDED}
