"""The decide table is total and keeps its promises in every combination that can be thought of."""

from __future__ import annotations

from itertools import product

import pytest

from airflow_rankvol.engine.decide import (
    TABLE,
    Action,
    Gang,
    NodeView,
    Others,
    Overdue,
    Rule,
    Situation,
    VolumeView,
    decide,
)

ALL = [Situation(*values) for values in product(NodeView, VolumeView, Others, Overdue, Gang, (True, False))]
FAILURES = {action for action in Action if action.name.startswith("FAIL_")}


def those(action: Action) -> list[Situation]:
    return [situation for situation in ALL if decide(situation) is action]


def test_every_combination_has_an_action() -> None:
    assert len(ALL) == 5 * 7 * 3 * 3 * 5 * 2
    assert all(isinstance(decide(situation), Action) for situation in ALL)


@pytest.mark.parametrize("rule", TABLE, ids=lambda rule: f"{TABLE.index(rule)}-{rule.action.value}")
def test_each_rule_is_the_first_match_of_some_combination(rule: Rule) -> None:
    def first(situation: Situation) -> Rule:
        return next(rule for rule in TABLE if rule.matches(situation))

    assert any(first(situation) is rule for situation in ALL)


def test_each_action_is_taken_in_some_combination() -> None:
    assert {decide(situation) for situation in ALL} == set(Action)


def test_only_giving_way_is_possible_when_a_newer_attempt_exists() -> None:
    newer = [situation for situation in ALL if situation.others is Others.NEWER]
    assert {decide(situation) for situation in newer} == {Action.FAIL_SUPERSEDED}


def test_what_has_ended_is_collected_whatever_else_is_wrong() -> None:
    ended = [s for s in ALL if s.node is NodeView.ENDED and s.others is not Others.NEWER]
    assert {decide(situation) for situation in ended} == {Action.COLLECT}


def test_nothing_is_collected_that_has_not_ended() -> None:
    assert all(situation.node is NodeView.ENDED for situation in those(Action.COLLECT))


def test_a_node_is_launched_only_for_a_free_volume_or_a_gang_that_lacks_nodes() -> None:
    for situation in those(Action.LAUNCH):
        assert situation.volume is VolumeView.FREE or situation.gang is Gang.PARTIAL
        assert situation.may_launch and situation.others is Others.NONE and situation.overdue is Overdue.NO


def test_a_rank_of_its_own_is_never_launched_twice() -> None:
    alone = [situation for situation in those(Action.LAUNCH) if situation.gang is not Gang.PARTIAL]
    assert alone
    assert all(situation.node is NodeView.ABSENT for situation in alone)


def test_a_volume_never_gets_two_holders() -> None:
    held = {VolumeView.FOREIGN, VolumeView.STALE, VolumeView.PENDING, VolumeView.HERE}
    for situation in ALL:
        if situation.volume in held:
            assert decide(situation) is not Action.ATTACH
        if situation.volume in held and situation.node is NodeView.ABSENT and situation.gang is Gang.NONE:
            assert decide(situation) is not Action.LAUNCH


def test_a_volume_is_attached_only_to_a_running_node_with_no_older_one_left() -> None:
    for situation in those(Action.ATTACH):
        assert situation.node is NodeView.RUNNING
        assert situation.volume is VolumeView.FREE
        assert situation.others is Others.NONE


def test_a_gang_is_released_only_when_all_are_ready_and_this_one_has_its_volumes() -> None:
    for situation in those(Action.RELEASE):
        assert (situation.gang, situation.volume) == (Gang.READY, VolumeView.HERE)
        assert situation.node is NodeView.RUNNING


def test_a_ready_gang_is_released_even_when_nobody_looked_before_the_boot_limit() -> None:
    late = Situation(NodeView.RUNNING, VolumeView.HERE, overdue=Overdue.BOOT, gang=Gang.READY)
    assert decide(late) is Action.RELEASE


def test_an_older_attempt_is_removed_only_while_there_is_one_and_this_node_has_not_ended() -> None:
    for situation in those(Action.REMOVE_OLDER):
        assert situation.others is Others.OLDER
        assert situation.node is not NodeView.ENDED


def test_past_its_lifetime_no_node_is_waited_for() -> None:
    late = [s for s in ALL if s.overdue is Overdue.LIFETIME and s.node in (NodeView.PENDING, NodeView.RUNNING)]
    assert {decide(s) for s in late} == {Action.FAIL_LIFETIME, Action.FAIL_SUPERSEDED}


def test_without_a_node_no_wait_outlasts_the_limits() -> None:
    absent = [s for s in ALL if s.node is NodeView.ABSENT and s.overdue is not Overdue.NO]
    assert {decide(s) for s in absent} <= FAILURES | {Action.REMOVE_OLDER}


def test_the_trigger_which_cannot_launch_never_waits_for_an_absent_node() -> None:
    absent = [s for s in ALL if s.node is NodeView.ABSENT and not s.may_launch and s.others is Others.NONE]
    assert {decide(s) for s in absent} <= FAILURES


def test_a_broken_gang_ends_every_rank_that_has_not_ended() -> None:
    broken = [s for s in ALL if s.gang is Gang.BROKEN and s.node is not NodeView.ENDED]
    assert {decide(s) for s in broken} <= {Action.FAIL_GANG, Action.FAIL_LIFETIME, Action.FAIL_SUPERSEDED}


def test_a_volume_of_another_run_is_a_conflict_and_is_left_alone() -> None:
    foreign = [
        s for s in ALL
        if s.volume is VolumeView.FOREIGN and s.node is not NodeView.ENDED and s.others is Others.NONE
        and s.overdue is not Overdue.LIFETIME and s.gang is not Gang.BROKEN
    ]  # fmt: skip
    assert {decide(s) for s in foreign} == {Action.FAIL_CONFLICT}
