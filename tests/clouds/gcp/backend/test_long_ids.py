"""DAGs with ids that no labels hold: who has a volume is known all the same, or it counts as in use."""

from __future__ import annotations

from typing import Any, cast

import pytest

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.provision import provision
from airflow_rankvol.engine.reap import ReapRules, RunState, survey
from airflow_rankvol.errors import VolumeConflict
from tests.clouds.gcp.backend.kit import Lab
from tests.unit.engine.engine_kit import Rig, a_plan

#: Airflow takes 250 letters of any script.
DAGS = {
    "latin": "d" * 250,
    "cyrillic": "\N{CYRILLIC SMALL LETTER DE}" * 160,
    "han": "\N{CJK UNIFIED IDEOGRAPH-65E5}" * 120,
}


def a_run(lab: Lab, dag: str, run: str, scope: str = "dag") -> Rig:
    node = {"machine_type": lab.machine_type, "zones": lab.zone}
    fields: dict[str, Any] = {"node": node, "gather": [], "volume_template": {"scope": scope}}
    return Rig(cast("Any", lab.process()), a_plan(2, owner="lab", dag=dag, run=run, **fields))


@pytest.mark.parametrize("dag", DAGS.values(), ids=DAGS)
def test_a_dags_volumes_are_one_live_runs_at_a_time(lab: Lab, dag: str) -> None:
    """Of whichever run they are, the one that has made them or a later one."""
    states = {(dag, "run-1"): RunState.LIVE}

    def lives(dag_id: str, run_id: str) -> bool:
        return states.get((dag_id, run_id)) is RunState.LIVE

    first = a_run(lab, dag, "run-1")
    first.slots = provision(first.backend, first.plan, generation=1, handout="aaaaaaaa", lives=lives)
    second = a_run(lab, dag, "run-2")
    with pytest.raises(VolumeConflict, match=f"in use by run run-1 of DAG {dag}, which lives"):
        provision(second.backend, second.plan, generation=1, handout="bbbbbbbb", lives=lives)

    states.update({(dag, "run-1"): RunState.ENDED, (dag, "run-2"): RunState.LIVE})
    provision(second.backend, second.plan, generation=1, handout="bbbbbbbb", lives=lives)
    third = a_run(lab, dag, "run-3")
    with pytest.raises(VolumeConflict, match="in use by run run-2"):
        provision(third.backend, third.plan, generation=1, handout="cccccccc", lives=lives)
    named = ReapRules(names=frozenset(volume.name for volume in third.plan.volumes()))
    states_of = lambda dag_id, run_id: states.get((dag_id, run_id), RunState.UNKNOWN)  # noqa: E731
    found = survey(lab.process(), Selector(owner="lab"), states_of, named)
    assert [(finding.remove, finding.reason) for finding in found] == [(False, "its run lives")] * 2
    states[dag, "run-2"] = RunState.ENDED
    found = survey(lab.process(), Selector(owner="lab"), states_of, named)
    assert [(finding.remove, finding.reason) for finding in found] == [(True, "named")] * 2


def test_what_an_unreadable_dag_has_of_anothers_volumes_counts_as_in_use(lab: Lab) -> None:
    """Only its hash is there to read. Emptying the labels gives it back."""
    short, long = "short", DAGS["han"]
    first = a_run(lab, short, "run-1", "global")
    first.create()
    first.teardown()
    other = a_run(lab, long, "run-1", "global")
    other.create()
    third = a_run(lab, short, "run-2", "global")

    def create() -> None:
        provision(third.backend, third.plan, generation=1, handout="cccccccc", lives=lambda *_: False)

    with pytest.raises(VolumeConflict, match="whose id cannot be read"):
        create()
    named = ReapRules(names=frozenset(volume.name for volume in third.plan.volumes()))
    found = survey(lab.process(), Selector(owner="lab"), lambda *_: RunState.ENDED, named)
    assert [finding.remove for finding in found] == [False, False]
    ids = [volume.id for slot in other.slots for volume in slot.volumes]
    lab.process().tag_volumes(ids, {"rankvol:used_dag": "", "rankvol:used_run": ""})
    create()
