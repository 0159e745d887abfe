"""What the reaper removes, and everything that it must not."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.reap import ReapRules, RunState, reap, survey
from airflow_rankvol.errors import AuthDenied, LeakError
from airflow_rankvol.records import Observation, Tags, to_iso
from airflow_rankvol.testing import Ending, FakeBackend, SimulatedCrash, fails, hangs, is_lost, succeeds

from .engine_kit import Rig, a_rig

DAY_S = 86_400


def a_left_rig(*, collected: bool = False, **fields: Any) -> Rig:
    """Return a run that was left without a teardown: two volumes, one of them held by a node that runs."""
    backend = fields.pop("backend", None) or FakeBackend()
    rig = a_rig(2, backend=backend, **fields)
    backend.endings[("rank", 0)] = hangs()
    work = rig.begin(0)
    rig.launch(work)
    rig.until_attached(work)
    if collected:
        ids = [slot.volumes[0].id for slot in rig.slots]
        backend.tag_volumes(ids, {"rankvol:collected": rig.group.key})
    return rig


def names(rig: Rig) -> set[str]:
    return {slot.volumes[0].name for slot in rig.slots}


def test_of_a_live_run_nothing_is_ever_removed() -> None:
    rig = a_left_rig(collected=True)
    rig.backend.clock.sleep(30 * DAY_S)
    for rules in ({}, {"names": frozenset(names(rig))}, {"expired_only": True}):
        assert rig.reap(RunState.LIVE, **rules) == ([], {})
    assert len(rig.backend.volumes) == 2


def test_of_a_run_that_ended_nodes_and_collected_volumes_go() -> None:
    rig = a_left_rig(collected=True)
    gone, problems = rig.reap(RunState.ENDED)
    assert (len(gone), problems) == (3, {})
    assert rig.backend.is_empty


def test_of_a_run_cut_off_before_any_rank_ended_nothing_stays() -> None:
    """As after a ``dagrun_timeout``: one rank still computes, the other never started."""
    rig = a_left_rig()
    gone, problems = rig.reap(RunState.ENDED)
    assert (len(gone), problems) == (3, {})
    assert rig.backend.is_empty


@pytest.mark.parametrize("ending", [succeeds(), fails(3), is_lost()], ids=["finished", "failed", "lost"])
def test_what_a_rank_left_that_came_to_its_end_stays_until_its_expiry(ending: Ending) -> None:
    """However often it is reaped: the first time removes the nodes that tell of it."""
    backend = FakeBackend(endings={("rank", 0): ending, ("rank", 1): hangs()})
    rig = a_rig(3, backend=backend)
    for rank in (0, 1):
        rig.launch(rig.begin(rank))
    rig.until_end(rig.work(0))
    for _ in range(2):
        rig.reap(RunState.ENDED)
        assert not backend.nodes
        assert set(backend.volumes) == {rig.slots[0].volumes[0].name}
    backend.clock.sleep(DAY_S + 1)
    rig.reap(RunState.ENDED)
    assert backend.is_empty


def test_what_may_have_been_finished_by_an_earlier_try_stays() -> None:
    backend = FakeBackend(endings={("rank", 0, 2): hangs()})
    rig = a_rig(1, backend=backend)
    rig.run_rank(0)
    again = rig.begin(0, 2)
    rig.launch(again)
    rig.until_attached(again)
    rig.reap(RunState.ENDED)
    assert not backend.nodes
    assert set(backend.volumes) == names(rig)


@pytest.mark.parametrize("kill", ["teardown", "teardown cut off", "lifetime"])
def test_what_a_rank_left_stays_whoever_removed_its_node(kill: str) -> None:
    """A volume without a node looks as if no rank had ever used it."""
    backend = FakeBackend(endings={("rank", 0): hangs() if kill == "lifetime" else fails()})
    rig = a_rig(1, backend=backend, node={"lifetime": "10m"})
    rig.run_rank(0)
    if kill == "teardown cut off":
        backend.faults.fail("delete_node", SimulatedCrash(), when="after")
        with pytest.raises(SimulatedCrash):
            rig.teardown()
        backend.revive()
    elif kill == "teardown":
        rig.teardown()
    for _ in range(2):
        rig.reap(RunState.ENDED)
        assert not backend.nodes
        assert set(backend.volumes) == names(rig)


def test_without_the_mark_the_teardown_leaves_the_nodes_that_tell_of_results() -> None:
    backend = FakeBackend(endings={("rank", 0): fails()})
    rig = a_rig(1, backend=backend)
    rig.run_rank(0)
    backend.faults.fail("tag_volumes", AuthDenied, times=math.inf)
    with pytest.raises(LeakError, match="could not be marked as kept"):
        rig.teardown()
    backend.faults.clear()
    rig.reap(RunState.ENDED)
    assert set(backend.volumes) == names(rig)


def test_a_rank_that_ends_while_it_is_being_reaped_keeps_its_volume() -> None:
    rig = a_rig(2, backend=FakeBackend(endings={("rank", 0): succeeds(after_s=300)}))
    work = rig.begin(0)
    rig.launch(work)
    rig.until_attached(work)
    selector = Selector(owner="me")
    findings = survey(rig.backend, selector, lambda _dag, _run: RunState.ENDED)
    assert [finding.remove for finding in findings] == [True, True, True]
    rig.backend.clock.sleep(300)
    reap(rig.backend, selector, findings)
    assert set(rig.backend.volumes) == {rig.slots[0].volumes[0].name}


def test_where_ended_nodes_are_forgotten_a_volume_without_a_node_stays() -> None:
    rig = a_left_rig()
    rig.backend.keeps_ended_nodes = False
    rig.reap(RunState.ENDED)
    assert set(rig.backend.volumes) == {rig.slots[1].volumes[0].name}


def test_of_an_unknown_run_only_what_has_expired_goes() -> None:
    rig = a_left_rig(collected=True)
    assert rig.reap(RunState.UNKNOWN) == ([], {})
    rig.backend.clock.sleep(2 * DAY_S)
    rig.reap(RunState.UNKNOWN)
    assert rig.backend.is_empty


def test_an_expired_volume_that_an_unexpired_node_holds_stays() -> None:
    rig = a_left_rig(volume_template={"expiry": timedelta(minutes=10)})
    rig.backend.clock.sleep(3600)
    gone, problems = rig.reap(RunState.UNKNOWN)
    assert (gone, problems) == ([rig.slots[1].volumes[0].name], {})
    assert list(rig.backend.volumes) == [rig.slots[0].volumes[0].name]


def test_volumes_that_no_rank_could_use_go_with_their_run() -> None:
    backend = FakeBackend()
    backend.faults.fail("create_volume", SimulatedCrash(), when="after", call=2)
    rig = a_rig(3, backend=backend, created=False)
    with pytest.raises(SimulatedCrash):
        rig.create()
    backend.revive()
    assert rig.reap(RunState.UNKNOWN) == ([], {})
    rig.reap(RunState.ENDED)
    assert backend.is_empty


@pytest.mark.parametrize("state", [RunState.ENDED, RunState.UNKNOWN])
@pytest.mark.parametrize(
    "template",
    [{"scope": "dag"}, {"scope": "global"}, {"reclaim": "retain"}, {"reclaim": "snapshot"},
     {"scope": "dag", "reclaim": "delete"}],
    ids=str,
)  # fmt: skip
def test_what_is_kept_on_purpose_goes_only_when_named(template: dict[str, str], state: RunState) -> None:
    rig = a_rig(2, volume_template=template)
    rig.backend.clock.sleep(365 * DAY_S)
    assert rig.reap(state) == ([], {})
    one = rig.slots[1].volumes[0].name
    assert rig.reap(state, names=frozenset({one})) == ([one], {})
    assert list(rig.backend.volumes) == [rig.slots[0].volumes[0].name]


def test_delete_always_goes_with_its_run_whatever_was_collected() -> None:
    rig = a_rig(2, volume_template={"reclaim": "delete_always"})
    rig.reap(RunState.ENDED)
    assert rig.backend.is_empty


def test_what_another_owner_has_is_never_removed() -> None:
    backend = FakeBackend()
    theirs = a_left_rig(backend=backend, collected=True, owner="you")
    mine = a_left_rig(backend=backend, collected=True, owner="me")
    backend.clock.sleep(30 * DAY_S)
    rules = {"names": frozenset(names(theirs) | names(mine))}
    mine.reap(RunState.ENDED, **rules)
    assert set(backend.volumes) == names(theirs)


def test_what_a_careless_backend_lists_of_another_owner_is_not_even_judged() -> None:
    backend = FakeBackend()
    theirs = a_left_rig(backend=backend, collected=True, owner="you")
    backend.list_owned = lambda selector: theirs.observe()  # type: ignore[method-assign]
    assert survey(backend, Selector(owner="me"), lambda _dag, _run: RunState.ENDED) == []


def test_what_carries_no_tags_is_never_removed() -> None:
    backend = FakeBackend()
    backend.add_volume("data-volume-0")
    rig = a_rig(1, backend=backend, volume_template={"scope": "global"})
    rig.reap(RunState.ENDED, names=frozenset({"data-volume-0"}))
    assert list(backend.volumes) == ["data-volume-0"]


def test_what_is_younger_than_asked_for_stays() -> None:
    rig = a_left_rig(collected=True)
    rig.backend.clock.sleep(3600)
    assert rig.reap(RunState.ENDED, older_than=timedelta(hours=2)) == ([], {})
    rig.backend.clock.sleep(3700)
    rig.reap(RunState.ENDED, older_than=timedelta(hours=2))
    assert rig.backend.is_empty


def test_expired_only_leaves_what_ended_but_has_not_expired() -> None:
    rig = a_left_rig(collected=True)
    assert rig.reap(RunState.ENDED, expired_only=True) == ([], {})
    rig.backend.clock.sleep(2 * DAY_S)
    rig.reap(RunState.ENDED, expired_only=True)
    assert rig.backend.is_empty


def test_a_named_volume_that_a_live_run_uses_stays_whoever_made_it() -> None:
    backend = FakeBackend()
    old = a_rig(2, backend=backend, volume_template={"scope": "dag"})
    a_left_rig(backend=backend, run="run-2", volume_template={"scope": "dag"})  # a node holds one, none the other
    findings = survey(
        backend,
        Selector(owner="me"),
        lambda _dag, run: RunState.LIVE if run == "run-2" else RunState.ENDED,
        ReapRules(names=frozenset(names(old))),
    )
    gone, problems = reap(backend, Selector(owner="me"), findings)
    assert (gone, problems) == ([], {})
    assert set(backend.volumes) == names(old)


def test_a_selection_by_run_leaves_other_runs_alone() -> None:
    backend = FakeBackend()
    one = a_left_rig(backend=backend, collected=True)
    two = a_left_rig(backend=backend, collected=True, run="run-2")
    selector = Selector(owner="me", run="run-1")
    reap(backend, selector, survey(backend, selector, lambda _dag, _run: RunState.ENDED))
    assert set(backend.volumes) == names(two)
    assert not names(one) & set(backend.volumes)


def test_listing_removes_nothing_and_says_why_for_each() -> None:
    rig = a_left_rig()
    rig.backend.keeps_ended_nodes = False
    before = len(rig.backend.calls)
    findings = survey(rig.backend, Selector(owner="me"), lambda _dag, _run: RunState.ENDED)
    assert [(finding.kind, finding.remove) for finding in findings] == [
        ("node", True),
        ("volume", True),
        ("volume", False),
    ]
    assert all(finding.reason for finding in findings)
    assert [call.verb for call in rig.backend.calls[before:]] == ["list_owned"]


def test_each_run_is_asked_about_once() -> None:
    rig = a_left_rig()
    asked: list[str] = []

    def state(_dag: str, run: str) -> RunState:
        asked.append(run)
        return RunState.ENDED

    survey(rig.backend, Selector(owner="me"), state)
    assert asked == ["run-1"]


def test_what_cannot_be_removed_is_named_with_its_reason_and_the_rest_goes() -> None:
    rig = a_left_rig(collected=True)
    stuck = rig.slots[1].volumes[0].name
    rig.backend.faults.fail("delete_volume", AuthDenied, resource=stuck, times=math.inf)
    gone, problems = rig.reap(RunState.ENDED)
    assert len(gone) == 2
    assert [stuck in label and "fault script" in why for label, why in problems.items()] == [True]


def test_what_a_backend_only_says_it_deletes_is_a_problem() -> None:
    rig = a_rig(1, backend=FakeBackend(endings={("rank", 0): fails()}))
    rig.backend.clock.sleep(2 * DAY_S)
    rig.backend.faults.fail("delete_volume", when="ignored", times=math.inf)
    gone, problems = rig.reap(RunState.UNKNOWN)
    assert gone == []
    assert "after its deletion was accepted" in next(iter(problems.values()))


def test_a_resource_without_an_expiry_never_expires() -> None:
    backend = FakeBackend()
    tags = Tags(owner="me", dag="d", run="r", group="g", key="k", attempt=1)
    backend.add_volume("eternal", tags=tags)
    backend.add_volume("expired", tags=tags.with_(expiry=to_iso(backend.clock.now())))
    selector = Selector(owner="me")
    findings = survey(backend, selector, lambda _dag, _run: RunState.UNKNOWN)
    assert {finding.resource.name: finding.remove for finding in findings} == {
        "eternal": False,
        "expired": True,
    }
    assert isinstance(backend.list_owned(selector), Observation)
