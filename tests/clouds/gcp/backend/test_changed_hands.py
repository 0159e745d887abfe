"""What has become somebody else's since it was looked at stays, whoever still has its id."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_rankvol.backends._gcp_labels import label_key
from airflow_rankvol.backends._gcp_memory import FRESH_S
from airflow_rankvol.backends.base import Guard, Selector
from airflow_rankvol.engine.reap import RunState, reap, survey
from airflow_rankvol.engine.teardown import teardown
from airflow_rankvol.errors import NotOurs, VolumeConflict
from tests.clouds.gcp.backend.kit import ZONE, Lab


def hand_over(lab: Lab, *paths: str) -> None:
    """Give resources to another owner, as somebody does by hand; the description cannot be changed."""
    api = lab.double.rest()
    for path in paths:
        raw = api.get(f"zones/{ZONE}/{path}")
        labels = {**raw["labels"], label_key("owner"): "somebody"}
        api.post(f"zones/{ZONE}/{path}/setLabels", {"labels": labels, "labelFingerprint": raw["labelFingerprint"]})
    lab.settle()


def test_neither_a_volume_nor_a_node_is_destroyed_for_its_owner_of_before(lab: Lab) -> None:
    volume, node = lab.volume(), lab.node(lab.volume(1), rank=1)
    assert lab.seen_volume(volume).tags and lab.seen_node(node).tags
    hand_over(lab, f"disks/{volume.name}", f"instances/{node.name}")
    with pytest.raises(NotOurs):  # of a node this counts at once
        lab.backend.delete_node(node.id, lab.guard)
    lab.settle(FRESH_S)  # so long a look at a volume counts
    with pytest.raises(NotOurs):
        lab.backend.delete_volume(volume.id, lab.guard)
    assert (lab.count("disks.delete"), lab.count("instances.delete")) == (0, 0)


def test_what_changes_hands_between_the_survey_and_the_reaping_stays(lab: Lab) -> None:
    selector = Selector(lab.owner)
    taken, ours = lab.volume(), lab.volume(1)
    node = lab.node(lab.volume(2), rank=2)
    findings = survey(lab.backend, selector, lambda _dag, _run: RunState.ENDED)
    assert {taken.id, ours.id, node.id} <= {finding.resource.id for finding in findings if finding.remove}
    hand_over(lab, f"disks/{taken.name}", f"instances/{node.name}")
    lab.settle(FRESH_S)
    gone, problems = reap(lab.backend, selector, findings)
    assert gone == [ours.name]
    assert {taken.label, node.label} <= set(problems)
    state = lab.double.state()
    assert taken.id in state["disks"]
    assert state["instances"][node.id]["status"] == "RUNNING"


@pytest.mark.parametrize("later_s", [0.0, FRESH_S + 1], ids=["by a look of just now", "by an older look"])
def test_a_disk_that_has_the_name_of_ours_by_now_gets_no_tags(lab: Lab, later_s: float) -> None:
    """They would say that it may be deleted, or that it never is to be."""
    volume, other = lab.volume(name="data-0"), lab.other()
    lab.see()
    lab.double.rest().delete(f"zones/{ZONE}/disks/{volume.name}")
    lab.settle()
    assert other.process().create_volume(other.request(name=volume.name)).id == volume.id
    before = lab.disk(volume)["labels"]
    lab.settle(later_s)
    with pytest.raises(NotOurs, match="since it was looked at"):
        lab.backend.tag_volumes([volume.id], {"rankvol:collected": lab.key, "rankvol:expiry": ""})
    assert lab.disk(volume)["labels"] == before


@pytest.mark.parametrize("later_s", [0.0, FRESH_S + 1], ids=["by a look of just now", "by an older look"])
def test_a_disk_that_replaced_an_adopted_one_is_not_deleted_in_its_place(lab: Lab, later_s: float) -> None:
    """Neither carries tags of ours; once it was looked at, it may go as the one that is adopted."""
    group = replace(lab.group, names=("keep-0",))
    guard = Guard(lab.owner, lab.key, adopted_name="keep-0")
    lab.foreign_disk("keep-0")
    (adopted,) = lab.backend.observe(group).volumes
    lab.double.rest().delete(f"zones/{ZONE}/disks/keep-0")
    lab.settle()
    lab.foreign_disk("keep-0")
    lab.settle(later_s)
    lab.backend.delete_volume(adopted.id, guard)
    lab.settle()
    (left,) = lab.backend.observe(group).volumes
    assert left.id == adopted.id
    lab.backend.delete_volume(adopted.id, guard)
    lab.settle()
    assert lab.backend.observe(group).volumes == ()


@pytest.mark.parametrize("replaced", [True, False])
def test_a_teardown_tells_the_disk_that_was_adopted_from_one_that_has_its_name_by_now(lab: Lab, replaced: bool) -> None:
    """Both have the same id: a zone and a name."""
    template = {"size": "10GB", "scope": "global", "reclaim": "delete_always", "delete_adopted": True}
    lab.foreign_disk("keep-0")
    rig = lab.rig(1, volumes="keep-${NODE_RANK}:/data", volume_template=template)
    rig.create()
    if replaced:
        lab.double.rest().delete(f"zones/{ZONE}/disks/keep-0")
        lab.settle()
        lab.foreign_disk("keep-0")
    report = teardown(lab.process(), rig.group, rig.plan, slots=rig.slots)  # each task is a process of its own
    assert (report.deleted, len(report.kept)) == (((), 1) if replaced else (("keep-0",), 0))
    assert list(lab.double.state()["disks"]) == ([f"{ZONE}/keep-0"] if replaced else [])


def test_a_disk_that_has_the_name_of_ours_by_now_gets_no_node(lab: Lab) -> None:
    """Names alone tell the disks of global scope apart."""
    rig = lab.rig(1, volumes="data-${NODE_RANK}:/data", volume_template={"size": "10GB", "scope": "global"})
    rig.create()
    lab.double.rest().delete(f"zones/{ZONE}/disks/data-0")
    lab.settle()
    theirs = replace(lab, owner="somebody-else")
    assert theirs.process().create_volume(theirs.request(name="data-0")).name == "data-0"
    with pytest.raises(VolumeConflict, match="is owner 'somebody-else''s, of run run-1 of DAG dag; expected the one"):
        rig.run_rank(0)
    assert lab.double.state()["instances"] == {}


def test_the_next_disk_of_the_same_run_does_not_get_the_tags_that_were_meant_for_the_last_one(lab: Lab) -> None:
    """Its results were not collected; once it was looked at, it is tagged as any."""
    volume = lab.volume()
    lab.see()
    other = lab.process()
    other.delete_volume(volume.id, lab.guard)
    lab.settle()
    other.create_volume(lab.request(token="again"))
    lab.settle(FRESH_S + 1)
    with pytest.raises(NotOurs, match="since it was looked at"):
        lab.backend.tag_volumes([volume.id], {"rankvol:collected": lab.key})
    lab.see()
    lab.backend.tag_volumes([volume.id], {"rankvol:collected": lab.key})
    assert (tags := lab.seen_volume(volume).tags) and tags.collected == lab.key


def test_a_node_that_has_the_name_of_ours_by_now_is_not_told(lab: Lab) -> None:
    node, other = lab.node(lab.volume()), lab.other()
    lab.see()
    lab.double.rest().delete(f"zones/{ZONE}/instances/{node.name}")
    lab.settle()
    theirs = other.process().create_node(replace(other.node_request(other.volume()), name=node.name))
    assert theirs.id == node.id
    with pytest.raises(NotOurs, match="since it was looked at"):
        lab.backend.tell_nodes([node.id], {"NODES_IPS": "10.0.0.1"})
    assert lab.count("instances.setMetadata") == 0
