"""What was made a moment ago and is in no listing yet: whoever ends things finds it nevertheless."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_rankvol.engine.step import advance, mark_collected, stop_own
from airflow_rankvol.engine.teardown import teardown
from airflow_rankvol.records import Group, Observation
from airflow_rankvol.testing import FakeBackend, SimulatedCrash, Timings, hangs

from .engine_kit import Rig, a_rig

LAG_S = 8.0


def a_slow_rig(**fields: Any) -> Rig:
    """Return a run whose volumes are listed, on a cloud that lists what is new only after a while."""
    backend = FakeBackend(timings=replace(Timings(), lag_s=LAG_S))
    backend.listing_lag_s = 60.0
    return a_rig(1, backend=backend, **fields)


def launched_only(rig: Rig) -> None:
    """Launch rank 0, and see nothing of it: its task was killed right after the call."""
    rig.backend.clock.sleep(LAG_S)
    advance(rig.backend, rig.work(0), rig.observe(), rig.launcher())
    assert rig.backend.count("create_node") == 1
    assert not rig.observe().nodes


@pytest.mark.parametrize("at_once", [False, True])
def test_a_killed_task_ends_the_node_that_it_has_just_launched(at_once: bool) -> None:
    rig = a_slow_rig()
    launched_only(rig)
    node = stop_own(rig.backend, rig.work(0), at_once=at_once)
    assert node is not None
    rig.backend.clock.sleep(600)
    assert all(machine.state == "ended" for machine in rig.observe().nodes)
    assert rig.backend.count("delete_node") == 1


def test_where_listings_are_up_to_date_a_killed_task_does_not_wait_for_a_node() -> None:
    rig = a_rig(1)
    before = rig.backend.clock.now()
    assert stop_own(rig.backend, rig.work(0)) is None
    assert rig.backend.clock.now() == before


def test_a_teardown_ends_a_node_that_was_launched_a_moment_ago() -> None:
    rig = a_slow_rig(volume_template={"reclaim": "delete_always"})
    launched_only(rig)
    report = teardown(rig.backend, rig.group, rig.plan, collected=())
    assert len(report.nodes) == 1
    assert report.deleted == (rig.slots[0].volumes[0].name,)
    assert rig.backend.is_empty


def test_a_teardown_deletes_volumes_that_were_created_a_moment_ago() -> None:
    rig = a_slow_rig(created=False, volume_template={"reclaim": "delete_always"})
    rig.backend.faults.fail("create_volume", SimulatedCrash(), when="after")
    with pytest.raises(SimulatedCrash):
        rig.create()
    rig.backend.revive()
    assert not rig.observe().volumes
    report = teardown(rig.backend, rig.group, rig.plan, collected=())
    assert report.deleted == (f"data-volume-{rig.plan.key}-0",)
    assert rig.backend.is_empty


def test_where_every_rank_was_collected_the_teardown_does_not_wait() -> None:
    """Then every node was seen to its end."""
    rig = a_slow_rig()
    rig.run_rank(0)
    assert rig.gather().error is None
    rig.backend.clock.sleep(LAG_S)
    looks, before = rig.backend.count("observe"), rig.backend.clock.now()
    assert teardown(rig.backend, rig.group, rig.plan, collected=[0]).deleted
    waited_s = (rig.backend.clock.now() - before).total_seconds()
    assert waited_s < rig.backend.listing_lag_s
    assert rig.backend.count("observe") - looks <= 8
    assert rig.backend.is_empty


class HidesTheFirst(FakeBackend):
    """A cloud that lists the first try's nodes later than those of the others."""

    listing_lag_s = 60.0
    hidden_until: datetime = datetime.max.replace(tzinfo=UTC)

    def observe(self, group: Group) -> Observation:
        seen = super().observe(group)
        if self.clock.now() >= self.hidden_until:
            return seen
        return replace(seen, nodes=tuple(node for node in seen.nodes if node.tags and node.tags.attempt > 1))


@pytest.mark.parametrize(("later_s", "waits"), [(0.0, True), (3600.0, False)], ids=["at once", "an hour later"])
def test_where_a_rank_was_tried_again_the_teardown_waits_for_the_node_of_the_try_before(
    later_s: float, waits: bool
) -> None:
    """Its task was killed right after the launch, and everything else was over before any listing showed that node."""
    backend = HidesTheFirst(endings={("rank", 0, 1): hangs()})
    rig = a_rig(1, backend=backend, gather=[])
    backend.hidden_until = backend.clock.now() + timedelta(seconds=50)
    advance(backend, rig.work(0), rig.observe(), rig.launcher())
    assert rig.run_rank(0, 2).error is None
    mark_collected(backend, rig.gather_work(), [0])
    backend.clock.sleep(later_s)
    before = backend.clock.now()
    report = teardown(backend, rig.group, rig.plan, collected=[0])
    assert len(report.nodes) == 2
    assert backend.is_empty
    assert (backend.clock.now() - before > timedelta(seconds=30)) is waits
