"""The engine on the AWS backend: whole jobs, what they leave, and what they cost in calls."""

from __future__ import annotations

from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.reap import RunState
from airflow_rankvol.engine.step import mark_collected
from airflow_rankvol.errors import RankFailed
from airflow_rankvol.records import NodeState, Observation
from airflow_rankvol.spec.templates import NodeTemplate
from tests.clouds.aws.backend.kit import ZONE, Lab, console_of, report
from tests.unit.engine.engine_kit import Rig

SUCCEED = "tests.clouds.aws.backend.kit:succeed"


def left(lab: Lab) -> Observation:
    """Return what somebody who knows nothing of this process finds a while later."""
    lab.settle(120)
    return lab.process().list_owned(Selector(lab.owner))


def collect(rig: Rig) -> None:
    """Mark every rank's results as stored, as gather does."""
    mark_collected(rig.backend, rig.gather_work(), range(rig.plan.job.nodes))


def test_a_job_runs_and_leaves_nothing(lab: Lab) -> None:
    lab.double("end_nodes", script=SUCCEED, after_s=30.0)
    rig = lab.rig(3)
    rig.create()
    outcomes = [rig.run_rank(rank) for rank in range(3)]
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert [outcome.result.output for outcome in outcomes] == [{"rank": rank} for rank in range(3)]
    collect(rig)
    assert rig.teardown().kept == ()
    assert left(lab) == Observation()
    counts = lab.double.counts()
    once = ("CreateVolume", "RunInstances", "AttachVolume", "GetConsoleOutput", "DeleteVolume")
    assert {name: counts[f"ec2:{name}"] for name in once} == dict.fromkeys(once, 3)
    assert "ec2:TerminateInstances" not in counts
    assert lab.double.state()["volumes"] == {}


def test_a_job_on_an_image_with_a_data_disk_leaves_nothing(lab: Lab) -> None:
    """No tag would lead to that disk once its node has ended."""
    lab.double("end_nodes", script=SUCCEED, after_s=30.0)
    node = NodeTemplate(machine_type="m7i.large", zones=(ZONE,), image=lab.image_with_disk())
    rig = lab.rig(2, node=node)
    rig.create()
    assert [rig.run_rank(rank).error for rank in range(2)] == [None, None]
    collect(rig)
    rig.teardown()
    assert left(lab) == Observation()
    assert lab.double.state()["volumes"] == {}


def test_slow_listings_change_nothing(lab: Lab) -> None:
    """What was just made shows up only half a minute later."""
    lab.double.settings(visible_s=30.0)
    lab.double("end_nodes", script=SUCCEED, after_s=120.0)
    rig = lab.rig(2)
    rig.create()
    assert [rig.run_rank(rank).error for rank in range(2)] == [None, None]
    collect(rig)
    rig.teardown()
    assert left(lab) == Observation()
    assert (lab.count("CreateVolume"), lab.count("RunInstances")) == (2, 2)


def test_a_rank_that_is_launched_is_there_for_the_triggerer(lab: Lab) -> None:
    """A task hands over to another process only what EC2 lists."""
    lab.double.settings(visible_s=8.0)
    lab.double("end_nodes", script=SUCCEED, after_s=60.0)
    rig = lab.rig(1)
    rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    triggerer = lab.rig(1)
    triggerer.backend, triggerer.slots = lab.process(), rig.slots  # type: ignore[assignment]
    (outcome,) = triggerer.until_end(work)
    assert outcome.error is None
    assert lab.count("RunInstances") == 1


def test_a_rank_whose_node_was_lost_goes_on_with_the_same_volume(lab: Lab) -> None:
    rig = lab.rig(1)
    (slot,) = rig.create()
    work = rig.begin(0)
    assert rig.launch(work) is None
    rig.until_attached(work)
    (node,) = lab.double.state()["instances"]
    lab.double("die", instance=node)
    (lost,) = rig.until_end(work)
    assert isinstance(lost.error, RankFailed)
    assert "internal error" in str(lost.error)
    lab.double("end_nodes", script=SUCCEED, after_s=30.0)
    again = rig.run_rank(0, 2)
    assert again.error is None
    assert again.result.volumes[0].id == slot.volumes[0].id
    assert lab.count("CreateVolume") == 1


def test_a_gang_starts_together_and_fails_as_one(lab: Lab) -> None:
    rig = lab.rig(2, rendezvous=True)
    rig.create()
    works = [rig.begin(rank) for rank in range(2)]
    for work in works:
        assert rig.launch(work) is None
    assert lab.count("RunInstances") == 2
    for _ in range(100):
        if all(node.released for node in rig.observe().nodes):
            break
        assert [rig.step(work) for work in works] == [None, None]
        lab.settle(1)
    assert lab.count("CreateTags") == 2  # volumes handed out, nodes told
    nodes = {node.tags.rank: node for node in rig.observe().nodes if node.tags}
    lab.double("power_off", instance=nodes[1].id, console=console_of(report(1, exit_code=9)))
    lab.settle()
    first, second = rig.until_end(*works)
    assert "rank 1 ended with exit code 9" in str(first.error)
    assert second.result.exit_code == 9
    assert {node.state for node in rig.observe().nodes} == {NodeState.ENDED}


def test_an_interrupted_run_is_found_by_its_tags_alone(lab: Lab) -> None:
    rig = lab.rig(2)
    rig.create()
    for rank in range(2):
        assert rig.launch(rig.begin(rank)) is None
    elsewhere = lab.rig(2)
    elsewhere.backend = lab.process()  # type: ignore[assignment]
    lab.settle(25 * 3600)
    gone, problems = elsewhere.reap(RunState.ENDED)
    assert problems == {}
    assert len(gone) == 4
    assert left(lab) == Observation()
    assert elsewhere.reap(RunState.ENDED) == ([], {})


def test_creation_is_rolled_back_as_a_whole(lab: Lab) -> None:
    lab.double.settings(volume_quota=2)
    rig = lab.rig(4)
    try:
        rig.create()
    except Exception as exc:  # noqa: BLE001 - whatever it is, nothing may be left
        assert "Service Quotas" in str(exc)  # noqa: PT017 - what matters comes after it
    assert left(lab) == Observation()
