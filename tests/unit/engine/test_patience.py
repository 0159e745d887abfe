"""A step waits out what may pass, gives up where it must, and asks no more often than it has to."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from airflow_rankvol.errors import (
    AuthDenied,
    DeadlineExceeded,
    NoCapacity,
    QuotaExceeded,
    Throttled,
)
from airflow_rankvol.spec.templates import NodeTemplate
from airflow_rankvol.testing import (
    FakeBackend,
    FakeClock,
    Timings,
    never_boots,
    succeeds,
)

from .engine_kit import a_rig


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("verb", "error"),
    [
        ("observe", Throttled),
        ("create_node", Throttled),
        ("create_node", NoCapacity),
        ("attach", Throttled),
        ("read_report", Throttled),
    ],
)
def test_errors_that_may_pass_are_waited_out(verb: str, error: type[Exception], when: str) -> None:
    backend = FakeBackend()
    rig = a_rig(backend=backend)
    for call in range(1, 6):
        backend.faults.fail(verb, error, when=when, call=call)  # type: ignore[arg-type]
    assert rig.run_rank(0).error is None


def test_no_verb_is_repeated_for_ever(backend: FakeBackend) -> None:
    backend.attach_at_launch = True
    backend.faults.fail("create_node", NoCapacity, times=math.inf)
    limits = NodeTemplate(boot_timeout=timedelta(minutes=2), lifetime=timedelta(minutes=5))
    rig = a_rig(backend=backend, node=limits)
    outcome = rig.run_rank(0)
    assert isinstance(outcome.error, NoCapacity)
    assert "within 120 s" in str(outcome.error)
    backend.faults.clear()
    backend.faults.fail("read_report", Throttled, times=math.inf)
    blind = rig.run_rank(1)
    assert isinstance(blind.error, DeadlineExceeded)
    assert "as the fault script says" in str(blind.error)


def test_an_error_that_stays_is_raised_at_once() -> None:
    backend = FakeBackend()
    rig = a_rig(backend=backend)
    backend.faults.fail("create_node", QuotaExceeded)
    with pytest.raises(QuotaExceeded):
        rig.run_rank(0)
    assert backend.count("create_node") == 1


def test_a_failure_keeps_its_own_message_when_its_node_cannot_be_ended() -> None:
    backend = FakeBackend(endings={("rank", 0): never_boots()})
    rig = a_rig(backend=backend)
    backend.faults.fail("delete_node", AuthDenied, times=math.inf)
    outcome = rig.run_rank(0)
    assert isinstance(outcome.error, DeadlineExceeded)
    assert "could not be ended" in outcome.error.__notes__[0]


def test_a_poll_is_one_observation() -> None:
    backend = FakeBackend(endings={("rank", 0): succeeds(after_s=1000)})
    rig = a_rig(backend=backend)
    work = rig.begin(0)
    rig.launch(work)
    rig.until_attached(work)
    backend.clock.sleep(20)
    calls = len(backend.calls)
    for _ in range(10):
        assert rig.step(work) is None
    assert [call.verb for call in backend.calls[calls:]] == ["observe"] * 10


def test_a_node_of_ours_expires_not_before_it_may_end() -> None:
    clock = FakeClock()
    backend = FakeBackend(clock=clock)
    rig = a_rig(backend=backend, node=NodeTemplate(lifetime=timedelta(hours=1)))
    work = rig.begin(0)
    rig.launch(work)
    expiry = backend.nodes[work.node_name].request.tags.expiry
    assert expiry == (work.deadline).isoformat(timespec="milliseconds")
    assert work.deadline >= clock.now() + timedelta(hours=1)


@pytest.mark.parametrize("scope", ["run", "dag", "global"])
def test_a_volume_may_show_its_node_before_the_node_is_listed(scope: str) -> None:
    backend = FakeBackend(attach_at_launch=True, timings=Timings(lag_s=30))
    rig = a_rig(backend=backend, volume_template={"scope": scope})
    assert rig.run_rank(0).error is None
