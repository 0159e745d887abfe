"""What the reaper removes, and everything that it must not."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.reap import ReapRules, RunState, reap, survey
from airflow_rankvol.errors import AuthDenied
from airflow_rankvol.records import Observation, Tags, to_iso
from airflow_rankvol.testing import FakeBackend, SimulatedCrash, fails, hangs

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


def states(asked: list[str], *answers: RunState) -> Callable[[str, str], RunState]:
    """Return who answers one after the other, and notes each run that it is asked for."""
    left = list(answers)

    def state_of(_dag: str, run: str) -> RunState:
        asked.append(run)
        return left.pop(0)

    return state_of


def test_a_run_that_lives_again_before_anything_went_keeps_its_nodes_and_volumes() -> None:
    """Somebody has cleared a task of it between the list and the deletion."""
    rig, asked = a_left_rig(collected=True), list[str]()
    selector, nodes = Selector(owner="me"), set(rig.backend.nodes)
    findings = survey(rig.backend, selector, lambda _dag, _run: RunState.ENDED)
    assert {finding.kind for finding in findings if finding.remove} == {"node", "volume"}
    answer = reap(rig.backend, selector, findings, states(asked, RunState.LIVE, RunState.LIVE))
    assert answer == ([], {})
    assert set(rig.backend.nodes) == nodes
    assert set(rig.backend.volumes) == names(rig)


def test_a_run_that_lives_again_while_its_nodes_go_keeps_its_volumes() -> None:
    rig, asked = a_left_rig(collected=True), list[str]()
    selector = Selector(owner="me")
    findings = survey(rig.backend, selector, lambda _dag, _run: RunState.ENDED)
    reap(rig.backend, selector, findings, states(asked, RunState.ENDED, RunState.LIVE))
    assert not rig.backend.nodes
    assert set(rig.backend.volumes) == names(rig)


def test_before_nodes_go_and_before_volumes_go_each_run_is_asked_about_once() -> None:
    rig, asked = a_left_rig(collected=True), list[str]()
    selector = Selector(owner="me")
    findings = survey(rig.backend, selector, lambda _dag, _run: RunState.ENDED)
    reap(rig.backend, selector, findings, states(asked, RunState.ENDED, RunState.ENDED))
    assert asked == ["run-1", "run-1"]
    assert rig.backend.is_empty


def test_where_nobody_can_look_into_a_volume_it_stays_until_its_expiry() -> None:
    rig = a_left_rig()
    rig.backend.looks_inside = False
    rig.reap(RunState.ENDED)
    assert not rig.backend.nodes
    assert set(rig.backend.volumes) == names(rig)


def test_a_named_volume_that_a_live_run_of_another_dag_uses_stays() -> None:
    """That run's id is the same as the maker's."""
    backend = FakeBackend()
    a_rig(1, backend=backend, dag="x", run="same", volume_template={"scope": "global"})
    a_rig(1, backend=backend, dag="y", run="same", volume_template={"scope": "global"})
    findings = survey(
        backend,
        Selector(owner="me"),
        lambda dag, _run: RunState.LIVE if dag == "y" else RunState.ENDED,
        ReapRules(names=frozenset({"data-volume-0"})),
    )
    assert reap(backend, Selector(owner="me"), findings) == ([], {})
    assert list(backend.volumes) == ["data-volume-0"]


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


@pytest.mark.parametrize("template", [{}, {"scope": "dag"}, {"scope": "global"}, {"reclaim": "retain"}], ids=str)
def test_volumes_that_no_rank_could_use_go_with_their_run(template: dict[str, str]) -> None:
    """Whatever their scope and policy: they hold nothing, and other runs may not format them."""
    backend = FakeBackend()
    backend.faults.fail("create_volume", SimulatedCrash(), when="after", call=2)
    rig = a_rig(3, backend=backend, created=False, volume_template=template)
    with pytest.raises(SimulatedCrash):
        rig.create()
    backend.revive()
    for state, rules in ((RunState.LIVE, {}), (RunState.UNKNOWN, {}), (RunState.ENDED, {"expired_only": True})):
        assert rig.reap(state, **rules) == ([], {})
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
    assert rig.reap(RunState.ENDED, older_than=timedelta(hours=2), names=frozenset(names(rig))) == ([], {})
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
    rig.backend.looks_inside = False
    before = len(rig.backend.calls)
    findings = survey(rig.backend, Selector(owner="me"), lambda _dag, _run: RunState.ENDED)
    assert [(finding.kind, finding.remove) for finding in findings] == [
        ("node", True),
        ("volume", True),  # unless it turns out, once the node is gone, that its rank had finished
        ("volume", False),
    ]
    assert all(finding.reason for finding in findings)
    assert [call.verb for call in rig.backend.calls[before:]] == ["list_owned", "holds_result", "holds_result"]


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
