"""What a trigger carries comes back whole, and names and limits are what they should be."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import timedelta

import pytest

from airflow_rankvol.engine.work import Work, group_of, node_name, record_identity
from airflow_rankvol.records import Role, utc_now
from airflow_rankvol.spec.templates import NodeTemplate

from .engine_kit import a_plan, a_rig


def a_work() -> Work:
    rig = a_rig(3, rendezvous=True, volume_template={"scope": "global"})
    return replace(rig.work(2, attempt=3), lifetime_s=1.5, boot_timeout_s=2.5, parts=2)


def test_every_field_survives_the_way_through_json() -> None:
    work = a_work()
    again = Work.from_dict(json.loads(json.dumps(work.to_dict())))
    assert again == work
    assert {item.name for item in fields(Work)} == set(work.to_dict())


def test_the_round_trip_is_tested_with_no_field_at_a_default() -> None:
    work = a_work()
    for item in fields(Work):
        assert getattr(work, item.name) not in (item.default, "", (), 0, None), item.name
    assert work.group.names
    assert work.slots[0].volumes[0].id


def test_the_group_survives_too() -> None:
    group = group_of(a_plan(2, volume_template={"scope": "global"}))
    assert type(group).from_dict(json.loads(json.dumps(group.to_dict()))) == group


def test_the_deadline_leaves_time_to_boot_and_to_live() -> None:
    now = utc_now()
    template = NodeTemplate(lifetime=timedelta(hours=2), boot_timeout=timedelta(minutes=5))
    rig = a_rig(1)
    work = Work.begin(role=Role.RANK, attempt=1, group=rig.group, slots=tuple(rig.slots), template=template, now=now)
    assert work.deadline - now >= timedelta(hours=2, minutes=5) - timedelta(milliseconds=1)
    assert work.deadline - now < timedelta(hours=2, minutes=10)


@pytest.mark.parametrize("role", list(Role))
def test_node_names_fit_every_cloud_and_differ_by_rank_attempt_and_handout(role: Role) -> None:
    group, handouts = group_of(a_plan()), ("0a1b2c3d", "4e5f6071")
    names = {node_name(group, role, rank, attempt, h) for rank in (0, 1023) for attempt in (1, 99) for h in handouts}
    assert len(names) == (8 if role is Role.RANK else 4)
    assert all(len(name) <= 63 and name.islower() for name in names)


def test_records_of_other_runs_groups_and_owners_never_count() -> None:
    groups = [
        group_of(a_plan()),
        group_of(a_plan(run="run-2")),
        group_of(a_plan(dag="other")),
        group_of(a_plan(owner="you")),
    ]
    assert len({record_identity(group) for group in groups}) == 4


def test_gather_is_never_part_of_the_gang() -> None:
    work = a_rig(2, rendezvous=True).gather_work()
    assert (work.rendezvous, work.gang, work.rank, work.label) == (False, (), -1, "gather")


def gathering(*zones: str | None, volumes: int = 1) -> Work:
    """Return the gathering of one rank per zone, with so many volumes each."""
    rig = a_rig(len(zones), volumes=[f"v{i}-${{NODE_RANK}}:/v{i}" for i in range(volumes)])
    slots = tuple(replace(slot, zone=zone) for slot, zone in zip(rig.slots, zones, strict=True))
    return replace(rig.gather_work(), slots=slots)


@pytest.mark.parametrize(
    ("zones", "volumes", "limit", "parts"),
    [
        ([None] * 5, 1, None, [[0, 1, 2, 3, 4]]),
        ([None] * 5, 1, 5, [[0, 1, 2, 3, 4]]),
        ([None] * 5, 1, 2, [[0, 1], [2, 3], [4]]),
        ([None] * 3, 2, 5, [[0, 1], [2]]),  # the volumes of a rank stay together
        (["b", "a", "b", "a"], 1, None, [[1, 3], [0, 2]]),
        (["b", "a", "b", "a", "b"], 1, 2, [[1, 3], [0, 2], [4]]),
    ],
)
def test_gather_is_split_by_zone_and_by_what_a_node_can_hold(
    zones: list[str | None], volumes: int, limit: int | None, parts: list[list[int]]
) -> None:
    works = gathering(*zones, volumes=volumes).in_parts(limit)
    assert [[slot.rank for slot in work.slots] for work in works] == parts
    assert [(work.part, work.parts) for work in works] == [(part, len(parts)) for part in range(len(parts))]
    assert len({work.node_name for work in works}) == len(parts)


def test_gather_in_one_part_is_the_gather_that_it_was() -> None:
    work = gathering(None, None)
    assert work.in_parts(2) == [work]
    assert work.node_name.endswith("-gather-a1")
    assert work.label == "gather"
