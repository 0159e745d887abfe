"""Nodes that EC2 does not list for a moment: they are not lost, whoever waits for them."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, cast

import pytest

from airflow_rankvol import triggers
from airflow_rankvol.engine.loop import Watch, run
from airflow_rankvol.engine.step import advance, stop_own
from airflow_rankvol.errors import RankFailed, RetryableError
from airflow_rankvol.records import NodeState, VolumeState
from airflow_rankvol.triggers import RankTrigger
from tests.clouds.aws.backend.kit import Lab, succeed
from tests.unit.engine.engine_kit import Rig

SUCCEED = f"{succeed.__module__}:{succeed.__name__}"


def node_of(lab: Lab, rank: int = 0) -> str:
    """Return the id of a rank's node."""
    instances = lab.double.state()["instances"].items()
    return str(next(node_id for node_id, found in instances if found["Tags"]["rankvol:rank"] == str(rank)))


def wait(rig: Rig, monkeypatch: pytest.MonkeyPatch, *, deferrable: bool) -> str:
    """Wait for a launched rank 0 as its task or its trigger does, and return the error."""
    work = rig.work(0)
    if not deferrable:
        outcome = run(rig.backend, work, rig.launcher())
        return str(outcome.error or "")

    async def the_backend(_conn_id: str) -> Any:
        return rig.backend

    monkeypatch.setattr(triggers, "aget_backend", the_backend)

    async def first() -> dict[str, Any]:
        return cast("dict[str, Any]", (await anext(RankTrigger("aws_test", work.to_dict()).run())).payload)

    return str(asyncio.run(first())["error"])


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_node_that_is_not_listed_for_a_moment_is_not_lost(
    lab: Lab, deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the process that launched it, nor by one that has never seen it."""
    lab.double.freeze(False)
    lab.double("end_nodes", script=SUCCEED, after_s=1.5)
    rig = lab.rig(1)
    rig.backend.poll_interval_s = 0.1
    rig.create()
    assert rig.launch(rig.begin(0)) is None
    if deferrable:
        rig.backend = cast("Any", lab.process())
        rig.backend.poll_interval_s = 0.1
    lab.double("unlist", resource=node_of(lab), seconds=0.7)
    assert wait(rig, monkeypatch, deferrable=deferrable) == ""
    assert lab.count("RunInstances") == 1
    assert lab.count("TerminateInstances") == 0


@pytest.mark.parametrize("known", [True, False])
def test_a_node_that_stays_unlisted_is_lost_after_a_minute(lab: Lab, known: bool) -> None:
    rig = lab.rig(1)
    rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    lab.settle(70)  # what a process launched counts for a while of its own
    watch = Watch(rig.backend if known else lab.process(), work)
    lab.double("unlist", resource=node_of(lab), seconds=1e9)
    before = lab.backend.clock.now()
    while (outcome := watch.step(rig.observe())) is None:
        lab.settle(5)
    assert isinstance(outcome.error, RankFailed)
    assert "is gone before it reported" in str(outcome.error)
    assert timedelta(seconds=60) <= lab.backend.clock.now() - before < timedelta(seconds=90)


def test_a_gang_goes_on_when_a_peer_is_not_listed_for_a_moment(lab: Lab) -> None:
    rig = lab.rig(2, rendezvous=True)
    rig.create()
    works = [rig.begin(rank) for rank in range(2)]
    watches = [Watch(rig.backend, work) for work in works]
    assert [rig.launch(work) for work in works] == [None, None]
    for _ in range(30):
        assert [watch.step(rig.observe()) for watch in watches] == [None, None]
        lab.settle(5)
    assert all(node.released for node in rig.observe().nodes)
    lab.double("unlist", resource=node_of(lab, 1), seconds=20.0)
    for _ in range(10):
        assert [watch.step(rig.observe()) for watch in watches] == [None, None]
        lab.settle(5)
    assert lab.count("TerminateInstances") == 0


ALWAYS = {"volume_template": {"size": "1GB", "reclaim": "delete_always"}}


def alive(lab: Lab) -> list[str]:
    """Return the states of the nodes that still cost money."""
    states = [found["State"]["Name"] for found in lab.double.state()["instances"].values()]
    return [state for state in states if state not in ("shutting-down", "terminated")]


def other_process(lab: Lab, **job: Any) -> Rig:
    """Return the same run in a process that has seen nothing of it."""
    rig = lab.rig(1, **job)
    rig.backend = cast("Any", lab.process())
    return rig


def test_a_node_that_ec2_lists_but_says_not_to_know_is_terminated_nevertheless(lab: Lab) -> None:
    """By a teardown in a process that did not launch it."""
    rig = lab.rig(1, **ALWAYS)
    rig.create()
    assert rig.launch(rig.begin(0)) is None
    lab.settle(1)
    unknown = {"code": "InvalidInstanceID.NotFound", "message": "The instance ID does not exist", "status": 400}
    lab.double.fault("error", "TerminateInstances", **unknown)
    assert len(other_process(lab, **ALWAYS).teardown().nodes) == 1
    lab.settle(120)
    assert (alive(lab), lab.double.state()["volumes"]) == ([], {})
    assert lab.count("TerminateInstances") == 2


def test_a_teardown_finds_what_is_unlisted_when_it_begins(lab: Lab) -> None:
    rig = lab.rig(1, **ALWAYS)
    slots = rig.create()
    assert rig.launch(rig.begin(0)) is None
    lab.settle(30)
    for resource in (slots[0].volumes[0].id, node_of(lab)):
        lab.double("unlist", resource=resource, seconds=3.0)
    report = other_process(lab, **ALWAYS).teardown()
    assert (len(report.nodes), len(report.deleted)) == (1, 1)
    lab.settle(300)
    assert (alive(lab), lab.double.state()["volumes"]) == ([], {})


@pytest.mark.parametrize("scope", ["run", "dag"])
def test_a_teardown_waits_for_a_node_that_holds_what_ec2_shows_as_free(lab: Lab, scope: str) -> None:
    """The node was given its volume a moment before, by another process; whoever comes next may have it at once."""
    rig = lab.rig(1, volume_template={"scope": scope, "reclaim": "delete_always" if scope == "run" else "retain"})
    rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    lab.double.settings(visible_s=8.0, shut_down_s=90.0)
    lab.settle(8)
    while not lab.count("AttachVolume"):
        assert rig.step(work) is None
        lab.settle(1)
    rig.backend = cast("Any", lab.process())
    assert [volume.state for volume in rig.observe().volumes] == [VolumeState.AVAILABLE]
    assert len(rig.teardown().nodes) == 1
    left = [volume["State"] for volume in lab.double.state()["volumes"].values()]
    assert (left, lab.count("DeleteVolume")) == (([], 1) if scope == "run" else (["available"], 0))


@pytest.mark.parametrize("at_once", [False, True])
def test_a_rank_that_is_killed_right_after_its_launch_leaves_no_node(lab: Lab, at_once: bool) -> None:
    rig = lab.rig(1)
    rig.create()
    lab.double.settings(visible_s=8.0)
    lab.settle(8)
    work = rig.begin(0)
    advance(rig.backend, work, rig.observe(), rig.launcher())
    assert lab.count("RunInstances") == 1
    assert stop_own(rig.backend, work, at_once=at_once) is not None
    lab.settle(120)
    assert alive(lab) == []


def test_a_node_that_has_ended_since_a_killed_process_launched_it_is_shown_as_ended(lab: Lab) -> None:
    """The same call, to the last value: EC2 then answers that the token's instance has been terminated."""
    request = lab.node_request(lab.volume())
    lab.double.fault("lose", "RunInstances", when="after")
    with pytest.raises(RetryableError):
        lab.backend.create_node(request)
    (made,) = lab.double.state()["instances"]
    lab.settle()
    lab.double.boto3("ec2").terminate_instances(InstanceIds=[made])
    lab.settle()
    again = lab.process().create_node(request)
    assert (again.id, again.state) == (made, NodeState.ENDED)
