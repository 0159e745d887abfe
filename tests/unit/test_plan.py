"""From a job and a run's identity to names, slots and digests."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_rankvol.errors import ConfigError
from airflow_rankvol.plan import RunIdentity, job_digest, make_plan
from airflow_rankvol.spec.job import RankJob
from airflow_rankvol.spec.naming import Scope
from airflow_rankvol.spec.templates import ReclaimPolicy

RUN = RunIdentity(owner="team", dag_id="etl", run_id="manual__2026", group_id="shards")
VOLUMES = [
    "data-volume-${NODE_RANK}:/data",
    {"name": "s-${NODE_RANK}", "path": "/s", "size": "1TB", "type": "gp3"},
]
KEYS = ["4fc2fb56", "898f8bd2", "83b226bb"]  # of run, dag and global scope


def job(**fields: Any) -> RankJob:
    return RankJob.model_validate({"nodes": 3, "volumes": VOLUMES, **fields})


class TestIdentity:
    def test_a_key_is_eight_hex_digits_that_stay_the_same(self) -> None:
        # Literal, because volumes of earlier releases are found again by these names.
        assert [RUN.key(scope) for scope in Scope] == KEYS

    @pytest.mark.parametrize("field", ["owner", "dag_id", "run_id", "group_id", "map_index"])
    def test_each_part_changes_the_key_of_the_scopes_that_it_belongs_to(self, field: str) -> None:
        value: Any = 5 if field == "map_index" else "other"
        other = dataclasses.replace(RUN, **{field: value})
        changed = {scope for scope in Scope if other.key(scope) != RUN.key(scope)}
        expected = {"owner": set(Scope), "run_id": {Scope.RUN}}
        assert changed == expected.get(field, {Scope.RUN, Scope.DAG})

    def test_the_parts_do_not_run_into_each_other(self) -> None:
        assert RunIdentity("a", "bc", "d", "e").key() != RunIdentity("ab", "c", "d", "e").key()
        assert RunIdentity("a", 'b","c', "d", "e").key() != RunIdentity("a", "b", 'c","d', "e").key()

    def test_the_group_shows_its_map_index(self) -> None:
        assert RUN.group == "shards"
        assert dataclasses.replace(RUN, map_index=0).group == "shards[0]"

    @settings(max_examples=50, deadline=None)
    @given(st.builds(RunIdentity, *[st.text(min_size=1)] * 4, st.integers(-1, 1023)))
    def test_any_identity_has_keys(self, run: RunIdentity) -> None:
        assert all(re.fullmatch("[0-9a-f]{8}", run.key(scope)) for scope in Scope)

    @pytest.mark.parametrize("field", ["owner", "dag_id", "run_id", "group_id"])
    @pytest.mark.parametrize("value", ["", None, 5, b"x"])
    def test_each_name_of_an_identity_is_text_that_is_not_empty(self, field: str, value: Any) -> None:
        with pytest.raises(ConfigError) as caught:
            dataclasses.replace(RUN, **{field: value})
        assert str(caught.value) == f"identity: {field}: {value!r} was found; text that is not empty is expected"

    @pytest.mark.parametrize("value", ["x", "3", -2, -5, None, 1.0, True])
    def test_a_map_index_is_a_whole_number_or_minus_one(self, value: Any) -> None:
        with pytest.raises(ConfigError) as caught:
            dataclasses.replace(RUN, map_index=value)
        assert str(caught.value).startswith(f"identity: map_index: {value!r} was found; a whole number")


class TestPlan:
    def test_a_dict_is_no_job_and_the_error_says_what_makes_one_of_it(self) -> None:
        fields: Any = {"nodes": 3, "volumes": VOLUMES}
        with pytest.raises(ConfigError, match=r"job: dict was found; expected a RankJob; RankJob\.model_validate"):
            make_plan(fields, RUN)

    def test_a_plan_needs_an_identity(self) -> None:
        owner: Any = "team"
        with pytest.raises(ConfigError, match="run: str was found; expected a RunIdentity"):
            make_plan(job(), owner)

    def test_each_rank_has_its_volumes_in_the_order_of_the_mounts(self) -> None:
        key = RUN.key()
        assert make_plan(job(nodes=2), RUN).to_slots() == [
            {
                "rank": rank,
                "nodes": 2,
                "zone": None,
                "volumes": [
                    {"name": f"data-volume-{key}-{rank}", "path": "/data", "size_gib": 10, "type": None},
                    {"name": f"s-{key}-{rank}", "path": "/s", "size_gib": 1024, "type": "gp3"},
                ],
            }
            for rank in range(2)
        ]

    def test_the_slots_are_plain_values(self) -> None:
        slots = make_plan(job(volume_template={"size": "512MB", "scope": "dag"}), RUN).to_slots()
        assert json.loads(json.dumps(slots)) == slots

    def test_the_same_job_and_run_give_the_same_plan(self) -> None:
        assert make_plan(job(), RUN) == make_plan(job(), dataclasses.replace(RUN))

    def test_ranks_go_round_the_zones(self) -> None:
        plan = make_plan(job(nodes=5, node={"zones": ["a", "b"]}), RUN)
        assert [slot.zone for slot in plan.slots] == ["a", "b", "a", "b", "a"]

    def test_two_groups_and_two_runs_do_not_meet(self) -> None:
        runs = [RUN, dataclasses.replace(RUN, group_id="other"), dataclasses.replace(RUN, run_id="r2")]
        runs.append(dataclasses.replace(RUN, map_index=0))
        names = [volume.name for run in runs for volume in make_plan(job(), run).volumes()]
        assert len(set(names)) == len(names) == 4 * 3 * 2

    def test_dag_scope_has_the_same_names_in_every_run(self) -> None:
        kept = job(volume_template={"scope": "dag"})
        first, second = (make_plan(kept, dataclasses.replace(RUN, run_id=run)) for run in ("r1", "r2"))
        assert first.to_slots() == second.to_slots()
        assert first.keys == (RUN.key(Scope.DAG),)

    def test_keys_and_literal_names_are_those_of_the_volumes(self) -> None:
        volumes = [
            "a-${NODE_RANK}:/a",
            {"name": "b-${NODE_RANK}", "path": "/b", "scope": "global", "reclaim": "delete"},
            {"name": "c-${NODE_RANK}", "path": "/c", "scope": "dag"},
        ]
        plan = make_plan(job(nodes=2, volumes=volumes), RUN)
        assert plan.key == RUN.key()
        assert plan.keys == (RUN.key(), RUN.key(Scope.GLOBAL), RUN.key(Scope.DAG))
        assert plan.volume_names == ("b-0", "b-1")
        assert [v.reclaim for v in plan.slots[0].volumes] == [
            ReclaimPolicy.DELETE,
            ReclaimPolicy.DELETE,
            ReclaimPolicy.RETAIN,
        ]

    def test_a_literal_name_that_meets_a_hashed_one_is_refused(self) -> None:
        literal = {"name": f"a-{RUN.key()}-${{NODE_RANK}}", "path": "/b", "scope": "global"}
        clashing = job(volumes=["a-${NODE_RANK}:/a", literal])
        with pytest.raises(ConfigError, match=r"volumes\.1\.name: 'a-.*-0' of rank 0 is also the name of volumes\.0"):
            make_plan(clashing, RUN)

    def test_the_largest_job_has_all_its_names(self) -> None:
        plan = make_plan(job(nodes=1024), RUN)
        assert len({volume.name for volume in plan.volumes()}) == 2048


def test_the_description_shows_who_what_and_where() -> None:
    plan = make_plan(job(nodes=2, node={"zones": "eu-1a", "machine_type": "c7i.large"}), RUN)
    lines = plan.describe().splitlines()
    key = RUN.key()
    assert lines[0] == f"group shards of DAG etl, run manual__2026, owner team, key {key}"
    assert lines[1:3] == [
        "nodes: 2 of type c7i.large, connection rankvol_default",
        "volumes: 4, 2068GB in all",
    ]
    table = [line.split() for line in lines[4:]]
    assert table[0] == ["rank", "zone", "volume", "size", "type", "scope", "reclaim", "path"]
    assert table[1] == ["0", "eu-1a", f"data-volume-{key}-0", "10GB", "default", "run", "delete", "/data"]
    assert table[4] == ["1", "eu-1a", f"s-{key}-1", "1TB", "gp3", "run", "delete", "/s"]
    assert len({line.index("/") for line in lines[5:]}) == 1
    assert "ignored" not in plan.describe()


def test_the_description_says_that_gathers_zones_count_for_nothing() -> None:
    plan = make_plan(job(nodes=2, gather=["true"], gather_node={"zones": "mars-1"}), RUN)
    lines = plan.describe().splitlines()
    assert lines[3:5] == ["gather_node.zones: ignored, because gather lies where the volumes lie", ""]


class TestDigest:
    FILES = {"etl.py": b"print(1)"}  # noqa: RUF012 (never changed)

    def test_it_is_32_hex_digits_that_do_not_depend_on_order(self) -> None:
        one = job_digest(job(env={"A": "1", "B": "2"}), {"x": b"1", "y": b"2"})
        assert re.fullmatch("[0-9a-f]{32}", one)
        assert job_digest(job(env={"B": "2", "A": "1"}), {"y": b"2", "x": b"1"}) == one

    @pytest.mark.parametrize(
        "fields",
        [
            {"nodes": 4},
            {"commands": ["true"]},
            {"env": {"A": "1"}},
            {"secret_env": {"A": "id"}},
            {"volumes": VOLUMES[:1]},
            {"volumes": ["data-volume-${NODE_RANK}:/other", VOLUMES[1]]},
            {"volumes": ["other-${NODE_RANK}:/data", VOLUMES[1]]},
            {"rendezvous": True},
        ],
    )
    def test_what_decides_the_computation_changes_it(self, fields: dict[str, Any]) -> None:
        assert job_digest(job(**fields), self.FILES) != job_digest(job(), self.FILES)

    @pytest.mark.parametrize(
        "files", [{}, {"etl.py": b"print(2)"}, {"etl2.py": b"print(1)"}, {"etl.py": b"print(1)", "b": b""}]
    )
    def test_names_and_contents_of_files_change_it(self, files: dict[str, bytes]) -> None:
        assert job_digest(job(), files) != job_digest(job(), self.FILES)

    @pytest.mark.parametrize(
        "fields",
        [
            {"node": {"machine_type": "big", "lifetime": "1h", "zones": "a"}},
            {"volume_template": {"size": "99GB", "reclaim": "retain", "expiry": "1h"}},
            {"gather": ["true"]},
            {"allow_missing": True},
            {"conn_id": "aws_default", "group_id": "x"},
            {"staging": "s3://bucket"},
            {"destination": "s3://bucket", "collect": ["out/**"]},
        ],
    )
    def test_what_does_not_decide_it_leaves_it(self, fields: dict[str, Any]) -> None:
        assert job_digest(job(**fields), self.FILES) == job_digest(job(), self.FILES)
