"""Volumes that outlive runs: adopted, claimed, and handed to one live run at a time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.engine.reap import ReapRules, RunState, reap, survey
from airflow_rankvol.errors import (
    NotReady,
    VolumeConflict,
)
from airflow_rankvol.plan import RunIdentity, make_plan
from airflow_rankvol.tags import UNREADABLE
from airflow_rankvol.testing import FakeBackend

from .engine_kit import Rig, a_plan, a_rig

NODES = 4


def test_global_scope_adopts_what_exists_and_creates_the_rest() -> None:
    backend = FakeBackend()
    backend.add_volume("data-volume-1", size_gib=50)
    rig = a_rig(3, backend=backend, volume_template={"scope": "global"})
    assert [slot.volumes[0].adopted for slot in rig.slots] == [False, True, False]
    assert rig.slots[1].volumes[0].size_gib == 50
    assert backend.volumes["data-volume-1"].tags is None
    assert backend.count("create_volume") == 2


def test_a_global_volume_of_another_run_of_ours_is_adopted_and_claimed_but_stays_the_makers() -> None:
    backend = FakeBackend()
    a_rig(1, backend=backend, run="run-1", volume_template={"scope": "global"})
    before = backend.volumes["data-volume-0"].tags
    other = a_rig(1, backend=backend, run="run-2", volume_template={"scope": "global"})
    assert other.slots[0].volumes[0].adopted
    after = backend.volumes["data-volume-0"].tags
    assert before is not None
    assert after == before.with_(used_by=other.group.key, used_run="run-2")


def test_a_global_volume_that_another_run_creates_meanwhile_is_adopted_by_the_slower_one() -> None:
    backend = FakeBackend()
    slower = Rig(backend, a_plan(1, run="run-2", volume_template={"scope": "global"}))
    observe = backend.observe
    beaten: list[bool] = []

    def too_late(group: Any) -> Any:
        seen = observe(group)
        if not beaten:
            beaten.append(True)
            a_rig(1, backend=backend, run="run-1", volume_template={"scope": "global"})
        return seen

    backend.observe = too_late  # type: ignore[method-assign]
    slower.create()
    assert slower.slots[0].volumes[0].adopted
    tags = backend.volumes["data-volume-0"].tags
    assert tags is not None
    assert tags.run == "run-1"


def test_a_name_that_two_volumes_have_is_not_adopted() -> None:
    """The second may have come after the plan; one that is on its way out does not count."""
    backend = FakeBackend()
    first, second = backend.add_volume("data-volume-0"), backend.add_volume("data-volume-0")
    template = {"size": "1GB", "scope": "global"}
    rig = a_rig(2, backend=backend, created=False, volume_template=template)
    with pytest.raises(VolumeConflict, match=rf"2 volumes have the name \({first.id}, {second.id}\).*Rename or delete"):
        rig.create()
    assert set(backend.volumes) == {"data-volume-0"}
    second.gone_at = backend.clock.now() + timedelta(seconds=60)
    slots = rig.create()
    assert [(slot.volumes[0].id == first.id, slot.volumes[0].adopted) for slot in slots] == [
        (True, True),
        (False, False),
    ]


@pytest.mark.parametrize("scope", ["dag", "global"])
def test_a_volume_that_outlives_runs_serves_one_live_run_at_a_time(scope: str) -> None:
    backend = FakeBackend()
    first = a_rig(2, backend=backend, run="a", volume_template={"scope": scope})
    second = Rig(backend, a_plan(2, run="b", volume_template={"scope": scope}))
    before = {name: disk.tags for name, disk in backend.volumes.items()}
    asked: list[tuple[str, str]] = []

    def lives(dag: str, run: str) -> bool:
        asked.append((dag, run))
        return True

    with pytest.raises(VolumeConflict, match="in use by run a of DAG dag, which lives"):
        provision(backend, second.plan, generation=1, lives=lives)
    assert asked == [("dag", "a")]
    assert {name: disk.tags for name, disk in backend.volumes.items()} == before
    assert provision(backend, first.plan, generation=2, lives=lives)  # its own claim is no conflict
    assert provision(backend, second.plan, generation=1)  # and that of a run that has ended neither


@pytest.mark.parametrize("tag", ["used_dag", "used_run"])
def test_a_volume_whose_user_cannot_be_read_is_in_use(tag: str) -> None:
    """Nobody can ask whether that run lives; what to do if it does not is said."""
    backend = FakeBackend()
    rig = a_rig(2, backend=backend, run="a", volume_template={"scope": "dag"})
    ids = [volume.id for slot in rig.slots for volume in slot.volumes]
    backend.tag_volumes(ids, {f"rankvol:{tag}": f"{UNREADABLE}_h12"})
    second = a_plan(2, run="b", volume_template={"scope": "dag"})
    with pytest.raises(VolumeConflict, match="empty the tags rankvol:used_dag and rankvol:used_run"):
        provision(backend, second, generation=1, lives=lambda _dag, _run: False)
    named = ReapRules(names=frozenset(backend.volumes))
    found = survey(backend, Selector(owner="me"), lambda _dag, _run: RunState.ENDED, named)
    shown = [(finding.run_state, finding.remove, "empty the tags" in finding.reason) for finding in found]
    assert shown == [(RunState.LIVE, False, True)] * 2
    backend.tag_volumes(ids, {"rankvol:used_dag": "", "rankvol:used_run": ""})
    assert provision(backend, second, generation=1, lives=lambda _dag, _run: False)


def test_what_a_run_takes_whose_id_cannot_be_read_is_not_reaped_meanwhile() -> None:
    backend = FakeBackend()
    rig = a_rig(2, backend=backend, run="a", volume_template={"scope": "dag"})
    rules = ReapRules(names=frozenset(backend.volumes))
    found = survey(backend, Selector(owner="me"), lambda _dag, _run: RunState.ENDED, rules)
    assert [finding.remove for finding in found] == [True] * 2
    backend.tag_volumes([rig.slots[0].volumes[0].id], {"rankvol:used_run": f"{UNREADABLE}_h12"})
    gone, problems = reap(backend, Selector(owner="me"), found, lambda _dag, _run: RunState.ENDED)
    assert (gone, problems) == ([rig.slots[1].volumes[0].name], {})


def test_of_two_runs_that_come_at_the_same_moment_one_gets_the_volumes() -> None:
    """Both have looked, and seen no claim; the one that marks first has them all."""
    backend = FakeBackend()
    template = {"scope": "dag"}
    a_rig(2, backend=backend, run="earlier", volume_template=template).teardown()
    slow, quick = (Rig(backend, a_plan(2, run=run, volume_template=template)) for run in ("slow", "quick"))
    tag_volumes = backend.tag_volumes

    def late(*args: Any, **kwargs: Any) -> frozenset[str]:
        backend.tag_volumes = tag_volumes  # type: ignore[method-assign]
        quick.create()
        return tag_volumes(*args, **kwargs)

    backend.tag_volumes = late  # type: ignore[method-assign]
    with pytest.raises(VolumeConflict, match="at this very moment"):
        slow.create()
    assert {disk.tags.used_by for disk in backend.volumes.values() if disk.tags} == {quick.group.key}
    assert len(backend.volumes) == 2
    slow.teardown()
    assert {disk.tags.used_by for disk in backend.volumes.values() if disk.tags} == {quick.group.key}


def test_another_group_of_the_same_run_waits_for_its_turn() -> None:
    backend = FakeBackend()
    first = a_rig(1, backend=backend, volume_template={"scope": "global"})
    plan = make_plan(first.plan.job, RunIdentity("me", "dag", "run-1", "others"))
    with pytest.raises(NotReady, match="another group of this run"):
        provision(backend, plan, generation=1, lives=lambda _dag, _run: True)
    first.teardown()
    assert provision(backend, plan, generation=1, lives=lambda _dag, _run: True)


def test_a_volume_that_an_ended_node_of_another_run_still_holds_is_a_conflict_that_says_so() -> None:
    backend = FakeBackend(ended_nodes_hold_volumes=True)
    one = a_rig(1, backend=backend, volume_template={"scope": "dag"})
    assert one.run_rank(0).error is None
    two = Rig(backend, a_plan(1, run="run-2", volume_template={"scope": "dag"}))
    with pytest.raises(VolumeConflict, match=r"of run run-1 of DAG dag that has ended and still holds it.*reap"):
        two.create()
    one.reap(RunState.ENDED)
    backend.clock.sleep(60)
    assert two.create()
