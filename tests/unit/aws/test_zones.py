"""Which zone a job gets that names none, as far as it is pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, cast

import pytest

from airflow_rankvol.backends._aws_places import Subnet
from airflow_rankvol.backends._aws_zones import choose_zone
from tests.unit.engine.engine_kit import a_plan


@dataclass
class Region:
    """Zones by name, with the machine types that each offers and the free addresses of its default subnet."""

    types: dict[str, str]
    free: dict[str, int]

    def usual_zones(self) -> list[str]:
        return [*self.types]

    def subnet_zones(self, _ids: Collection[str]) -> dict[str, str]:
        return {}

    def subnets(self, _ids: Collection[str]) -> list[Subnet]:
        return [Subnet(f"subnet-{zone}", zone, free) for zone, free in self.free.items()]

    def offers(self, types: Collection[str]) -> dict[str, frozenset[str]]:
        return {name: frozenset(zone for zone, there in self.types.items() if name in there) for name in types}


def chosen(region: Region, dags: int = 30, **job: Any) -> set[str]:
    plans = [a_plan(4, dag=f"dag-{number}", **{"gather": [], **job}) for number in range(dags)]
    return {choose_zone(plan, cast("Any", region)) for plan in plans}


@pytest.mark.parametrize(
    ("types", "free", "expected"),
    [
        pytest.param({"a": "xy", "b": "xy", "c": "x"}, {"a": 9, "b": 9, "c": 9}, "ab", id="the most types"),
        pytest.param({"a": "xy", "b": "xy", "c": "x"}, {"a": 3, "b": 4, "c": 9}, "b", id="an address for each node"),
        pytest.param({"a": "xy", "b": "xy", "c": "x"}, {"a": 3, "b": 3, "c": 9}, "ab", id="too few everywhere"),
        pytest.param({"a": "", "b": ""}, {}, "ab", id="nothing anywhere, which check tells"),
    ],
)
def test_the_best_zones_share_the_groups(types: dict[str, str], free: dict[str, int], expected: str) -> None:
    assert chosen(Region(types, free), node={"machine_type": "x, y"}) == set(expected)


def test_a_zone_that_has_a_machine_for_each_node_comes_before_one_with_more_types() -> None:
    region = Region({"a": "xyz", "b": "xg"}, {"a": 9, "b": 9})
    fields = {"node": {"machine_type": "x, y, z"}, "gather_node": {"machine_type": "g"}}
    job: dict[str, Any] = {**fields, "gather": ["merge"]}
    assert chosen(region, **job) == {"b"}
    assert chosen(region, **{**job, "gather": []}) == {"a"}


def test_a_group_gets_the_same_zone_in_each_of_its_runs() -> None:
    region = Region({"a": "x", "b": "x", "c": "x"}, {"a": 9, "b": 9, "c": 9})
    plans = [a_plan(run=f"run-{number}", node={"machine_type": "x"}) for number in range(9)]
    assert len({choose_zone(plan, cast("Any", region)) for plan in plans}) == 1
