"""What has become somebody else's since it was looked at stays, whoever still has its id."""

from __future__ import annotations

import pytest

from airflow_rankvol.backends._aws_memory import FRESH_S
from airflow_rankvol.backends.base import Selector
from airflow_rankvol.engine.reap import RunState, reap, survey
from airflow_rankvol.errors import NotOurs
from tests.clouds.aws.backend.kit import Lab


def hand_over(lab: Lab, *ids: str) -> None:
    """Give resources to another owner, as somebody does by hand."""
    lab.double.boto3("ec2").create_tags(Resources=list(ids), Tags=[{"Key": "rankvol:owner", "Value": "somebody"}])
    lab.settle()


def test_neither_a_volume_nor_a_node_is_destroyed_for_its_owner_of_before(lab: Lab) -> None:
    volume, node = lab.volume(), lab.node(lab.volume(1), rank=1)
    assert lab.seen_volume(volume).tags and lab.seen_node(node).tags
    hand_over(lab, volume.id, node.id)
    lab.settle(FRESH_S)  # so long a look counts
    with pytest.raises(NotOurs, match="somebody"):
        lab.backend.delete_volume(volume.id, lab.guard)
    with pytest.raises(NotOurs, match="somebody"):
        lab.backend.delete_node(node.id, lab.guard)
    assert (lab.count("DeleteVolume"), lab.count("TerminateInstances")) == (0, 0)


def test_what_changes_hands_between_the_survey_and_the_reaping_stays(lab: Lab) -> None:
    selector = Selector(lab.owner)
    taken, ours = lab.volume(), lab.volume(1)
    node = lab.node(rank=2)
    findings = survey(lab.backend, selector, lambda _dag, _run: RunState.ENDED)
    assert {finding.resource.id for finding in findings if finding.remove} == {taken.id, ours.id, node.id}
    hand_over(lab, taken.id, node.id)
    lab.settle(FRESH_S)
    gone, problems = reap(lab.backend, selector, findings)
    assert gone == [ours.name]
    assert len(problems) == 2
    assert all("somebody" in problem for problem in problems.values())
    state = lab.double.state()
    assert {taken.id, ours.id} & set(state["volumes"]) == {taken.id}
    assert state["instances"][node.id]["State"]["Name"] == "running"
