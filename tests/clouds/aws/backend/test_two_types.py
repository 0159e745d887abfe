"""A list of machine types, and launches whose answers nobody has got: a rank's work has one node all the same."""

from __future__ import annotations

from typing import Any, cast

import pytest

from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.backend.kit import ZONE, Lab, succeed
from tests.clouds.common.engine import collect, left
from tests.unit.engine.engine_kit import Rig

SUCCEED = f"{succeed.__module__}:{succeed.__name__}"
TEMPLATE = NodeTemplate(machine_type="m7i.large, m6i.large", zones=(ZONE,))


def rig_of(lab: Lab, nodes: int = 1, **job: Any) -> Rig:
    """Return a run whose first launch finds no room on the first type, on a cloud that lists what is new late."""
    rig = lab.rig(nodes, node=TEMPLATE, **job)
    rig.create()
    lab.double("no_capacity", type="m7i.large", times=1)
    lab.double.settings(visible_s=8.0)
    return rig


def types(lab: Lab) -> list[str]:
    return [call["params"]["InstanceType"] for call in lab.double.calls("RunInstances")]


def running(lab: Lab) -> list[str]:
    return [node_id for node_id, raw in lab.double.state()["instances"].items() if raw["State"]["Name"] == "running"]


@pytest.mark.parametrize("error", [{}, {"code": "InternalError", "message": "try again", "status": 500}], ids=str)
def test_a_type_that_was_asked_for_without_an_answer_comes_first(lab: Lab, error: dict[str, Any]) -> None:
    """EC2 answers the same token with the same instance, and a token is of one type."""
    rig = rig_of(lab)
    work = rig.begin(0)
    lab.double.fault("error" if error else "lose", "RunInstances", when="after", nth=2, **error)
    assert rig.launch(work) is None
    assert types(lab)[:3] == ["m7i.large", "m6i.large", "m6i.large"]
    assert len(lab.double.state()["instances"]) == 1


def test_a_type_without_an_answer_that_has_no_room_after_all_comes_first_no_more(lab: Lab) -> None:
    rig = rig_of(lab)
    lab.double("no_capacity", type="m6i.large", times=1)
    work = rig.begin(0)
    lab.double.fault("lose", "RunInstances", when="before", nth=2)
    assert rig.launch(work) is None
    assert types(lab)[:4] == ["m7i.large", "m6i.large", "m6i.large", "m7i.large"]
    assert len(lab.double.state()["instances"]) == 1


@pytest.mark.parametrize("reverse", [False, True])
def test_what_another_process_launches_beside_it_goes_once_one_has_the_volume(
    lab: Lab, reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows nothing of the first one's type, and cannot see its node yet."""
    lab.double("end_nodes", script=SUCCEED, after_s=30.0)
    rig = rig_of(lab)
    work = rig.begin(0)
    (request,) = rig.launcher().requests(work, rig.observe())
    first = rig.backend.create_node(request)
    lab.settle(2)
    rig.backend = cast("Any", lab.process())
    assert rig.launch(work) is None
    assert types(lab)[:3] == ["m7i.large", "m6i.large", "m7i.large"]
    assert len(lab.double.state()["instances"]) == 2
    rig.backend = backend = cast("Any", lab.process())
    listed = backend.ec2.nodes

    def nodes(*args: Any) -> list[Any]:
        return sorted(listed(*args), key=lambda raw: raw["LaunchTime"], reverse=reverse)

    monkeypatch.setattr(type(backend.ec2), "nodes", lambda _self, *args: nodes(*args))
    rig.until_attached(work)
    rig.backend.clock.sleep(5)
    assert rig.step(work) is None
    lab.settle(5)
    assert running(lab) == [first.id]
    (outcome,) = rig.until_end(work)
    assert (outcome.error, outcome.result.node_id) == (None, first.id)
    collect(rig)
    assert rig.teardown().kept == ()
    assert left(lab).nodes == ()


def test_a_gang_with_one_node_too_many_starts_and_ends_as_any(lab: Lab) -> None:
    lab.double("end_nodes", script=SUCCEED, after_s=120.0)
    rig = rig_of(lab, 2, rendezvous=True)
    (request,) = rig.launcher().requests(rig.work(0), rig.observe())
    rig.backend.create_node(request)
    rig.backend = cast("Any", lab.process())
    works = [rig.begin(rank) for rank in range(2)]
    assert [rig.launch(work) for work in works] == [None, None]
    assert len(lab.double.state()["instances"]) == 3
    rig.backend = cast("Any", lab.process())
    for _ in range(100):
        if len([node for node in rig.observe().nodes if node.released]) == 2:
            break
        assert [rig.step(work) for work in works] == [None, None]
        lab.settle(1)
    lab.settle(5)
    assert len(running(lab)) == 2
    assert [outcome.error for outcome in rig.until_end(*works)] == [None, None]
    collect(rig)
    rig.teardown()
    assert left(lab).nodes == ()
